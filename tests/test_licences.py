"""SPDX ids, expressions, licence texts, and whether a text is the licence it claims to be."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.release.licence_match import compare, identify
from seekling.release.licence_template import render, words_of
from seekling.release.licences import LicenceError, canonical, expression, is_open, is_osi_approved, known, suits, templates

MINIMAX = (
    "Our only modification is that, if the Software (or any derivative works thereof) is used for any of your commercial "
    'products or services, you shall prominently display "MiniMax M2.5" on the user interface of such product or service.'
)


@pytest.mark.parametrize("id", templates())
def test_each_licence_text_is_recognised_as_itself(id):
    found = identify(render(id, "Somebody & Sons", 2026))
    assert (found.id, found.exact) == (id, True)


def test_layout_case_quotes_bullets_and_spelling_do_not_matter():
    text = render("BSD-3-Clause", "The X Authors", 2020).replace('"', "“").replace("1.", "  *").replace("2.", "(b)")
    found = identify(
        "> # BSD 3-Clause License\n>\n> " + text.upper().replace("\n", "\r\n> ").replace("DISCLAIMED", "Disclaimed")
    )
    assert (found.id, found.exact) == ("BSD-3-Clause", True)


def test_a_clause_added_to_mit_is_shown_with_its_line():
    lines = render("MIT", "MiniMax", 2026).splitlines()
    at = next(i for i, line in enumerate(lines) if "THE SOFTWARE IS PROVIDED" in line)
    found = identify("\n".join([*lines[:at], MINIMAX, "", *lines[at:]]))
    assert (found.id, found.exact) == ("MIT", False)
    assert [(c.line, c.added, c.removed) for c in found.changes] == [(at + 1, MINIMAX.removesuffix("."), "")]


def test_a_right_taken_out_of_mit_is_shown():
    found = compare(render("MIT").replace("sublicense, and/or", "and/or"), "MIT")
    assert not found.exact
    assert [c.removed for c in found.changes] == ["sublicense"]


def test_no_clause_fits_into_a_free_place_a_title_or_a_notice():
    mit = render("MIT", "X", 2026)
    for text in (
        mit.replace("AUTHORS OR", "MILITARY USE THIS NOR SHALL THE AUTHORS OR"),
        "MIT License for noncommercial purposes only\n" + mit,
        "Copyright (c) 2026 X, who must be paid\n" + mit,
    ):
        assert not identify(text).exact


def test_texts_that_are_no_licence_resemble_none():
    assert identify("All rights belong to us. Ask before you do anything.").id is None
    assert identify("").id is None


@given(st.text(max_size=400))
@settings(max_examples=60)
def test_any_text_has_an_answer(text):
    assert identify(text).exact is False


@given(st.text(alphabet="ab-'©&\u4e0e \n\u2019", max_size=60))
def test_words_keep_their_places(text):
    for word in words_of(text):
        assert 0 <= word.start < word.end <= len(text)


def test_a_hostile_text_takes_no_time_to_speak_of():
    began = time.perf_counter()
    for text in ("the software " * 14_000, "x" * 199_000, render("MIT") + "-the " * 20_000):
        identify(text)
    assert time.perf_counter() - began < 60


def test_ids_are_found_whatever_their_spelling():
    assert [canonical(x) for x in ("apache-2.0", "MIT", "cc-by-4.0", "gpl-3.0", "odc-by")] == [
        "Apache-2.0", "MIT", "CC-BY-4.0", "GPL-3.0-only", "ODC-By-1.0",
    ]  # fmt: skip
    assert canonical("LicenseRef-Public-Domain") == "LicenseRef-Public-Domain"
    assert canonical("llama3.1") is None


def test_expressions_are_read_with_and_binding_closer_than_or():
    found = expression("mit or (apache-2.0 and cc-by-sa-4.0)")
    assert str(found) == "MIT OR Apache-2.0 AND CC-BY-SA-4.0"
    assert list(found.ids()) == ["MIT", "Apache-2.0", "CC-BY-SA-4.0"]
    assert found.holds(lambda id: id == "MIT")
    assert not expression("MIT AND CC-BY-NC-4.0").holds(is_open)


@pytest.mark.parametrize(
    "text", ["", "MIT AND", "MIT Apache-2.0", "(MIT", "MIT; rm", "(" * 30 + "MIT" + ")" * 30, "MIT " * 600]
)
def test_what_is_no_expression_is_an_error(text):
    with pytest.raises(LicenceError):
        expression(text)


def test_an_unknown_id_is_named_with_the_nearest():
    with pytest.raises(LicenceError, match=r"'Apache-2\.1' is no SPDX licence id: did you mean Apache-2\.0\?"):
        expression("Apache-2.1")


def test_which_licences_are_open_and_for_what():
    assert is_osi_approved("MIT") and is_osi_approved("MulanPSL-2.0") and not is_osi_approved("CC-BY-4.0")
    assert all(map(is_open, ("CC-BY-4.0", "CDLA-Permissive-2.0", "OpenMDW-1.0", "ODC-By-1.0", "LicenseRef-Public-Domain")))
    assert not any(map(is_open, ("CC-BY-NC-4.0", "CC-BY-ND-4.0", "LicenseRef-Llama", "BUSL-1.1")))
    assert suits("MIT", "code") and not suits("MIT", "data") and not suits("MIT", "document")
    assert suits("CC-BY-4.0", "document") and suits("CC-BY-4.0", "data") and not suits("CC-BY-4.0", "code")
    assert len(known()) > 700
