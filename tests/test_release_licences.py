"""Licence ids and expressions, and the shape of a release's manifest."""

import pytest

from seekling.release.layout import COMPONENTS, manifest_problems
from seekling.release.licences import LicenceError, ids_of, is_osi_approved, problems_of, text_of


@pytest.mark.parametrize(
    "good", ["MIT", "MIT OR Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-Mine AND (MIT)"]
)
def test_expression_is_accepted(good):
    assert problems_of(good, "weights") == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("MITT", "did you mean MIT?"),
        ("", "states no licence"),
        ("NOASSERTION", "states no licence"),
        ("MIT Apache-2.0", "join ids with AND"),
        ("(MIT", "join ids with AND"),
        ("MIT AND", "join ids with AND"),
    ],
)
def test_bad_expression_is_named_with_its_place(bad, said):
    (line,) = problems_of(bad, "source novels")
    assert line.startswith("source novels") and said in line


def test_ids_of_an_expression_come_once_in_order():
    assert ids_of("MIT OR (Apache-2.0 AND MIT)") == ["MIT", "Apache-2.0"]


def test_texts_are_spdx_texts_and_a_folder_wins(tmp_path):
    assert "Permission is hereby granted, free of charge" in text_of("MIT")
    assert "CC0" in text_of("CC0-1.0") and "public domain" in text_of("LicenseRef-Public-Domain")
    (tmp_path / "LicenseRef-House.txt").write_text("Our terms.\n")
    assert text_of("LicenseRef-House", (tmp_path,)) == "Our terms.\n"
    with pytest.raises(LicenceError, match=r"put it into .*LicenseRef-Other\.txt"):
        text_of("LicenseRef-Other", (tmp_path,))


def test_osi_approval():
    assert is_osi_approved("Apache-2.0") and not is_osi_approved("CC-BY-4.0") and not is_osi_approved("LicenseRef-Mine")


def test_the_openness_framework_has_seventeen_components_in_order():
    assert [c.number for c in COMPONENTS] == list(range(1, 18))
    needed = [sum(1 for c in COMPONENTS if c.first_class >= level and not c.optional) for level in (3, 2, 1)]
    assert needed == [6, 10, 14]


def test_manifest_problems_name_their_place():
    found = manifest_problems({"format": "seekling-release/1", "name": "", "files": [{"path": "a"}]})
    assert any("'version' is a required property" in line for line in found)
    assert any(line.startswith("release.json: files.0") for line in found)
