"""Declared sources: the built-in ones are complete, what is wrong in others is said at once."""

import pytest

from seekling.data.sources import catalogue, corpora, corpus_named, own_sources, parse_sources
from seekling.errors import DataError

GOOD = {
    "kind": "package",
    "where": "some-text",
    "version": "1.0",
    "sha256": "0" * 64,
    "files": ["a.txt"],
    "licence": "CC0-1.0",
    "attribution": "somebody",
}


def test_the_built_in_sources_and_corpora_are_valid():
    assert {"default", "zh", "shakespeare", "generated"} == set(corpora())
    for source in catalogue().values():
        assert source.licence and source.attribution and source.about and source.language
        assert source.kind == "generated" or (len(source.sha256) == 64 and source.files)


def test_no_index_host_is_named_anywhere():
    from importlib import resources

    text = "".join(
        p.read_text("utf-8") for p in resources.files("seekling.data").iterdir() if p.name.endswith((".toml", ".py"))
    )
    assert "://" not in text


def test_a_package_is_downloaded_once_for_all_its_sources():
    known = catalogue()
    assert known["andersen"].archive == known["novels"].archive


def test_every_problem_is_listed():
    bad = {
        "a": {**GOOD, "licens": "MIT", "sha256": "xyz", "weight": -1},
        "b": {"kind": "magic"},
        "c": {**GOOD, "files": "a.txt", "filters": [{"name": "unwarp"}, {"name": "chunk", "size": 3}]},
        "d": {"kind": "generated", "where": "poems", "licence": "MIT", "attribution": "x"},
        "e": 3,
        "f": {**GOOD, "where": "--index-url=x", "version": ">=1"},
        "g": {**GOOD, "registry": "cargo"},
    }
    with pytest.raises(DataError) as caught:
        parse_sources(bad)
    text = str(caught.value)
    for complaint in (
        "[a] unknown key 'licens'; did you mean licence?",
        "[a] sha256 must be 64",
        "[a] weight -1",
        "[b] kind 'magic'",
        "[c] files has the wrong type",
        "[c] unknown filter 'unwarp'",
        "[c] filter chunk has no option 'size'",
        "[c] filter chunk needs chars",
        "[d] there is no generator 'poems'",
        "[e] must be a table",
        "[f] '--index-url=x' is no package name",
        "[f] '>=1' is no version",
        "[g] registry 'cargo'",
    ):
        assert complaint in text


@pytest.mark.parametrize("key", ["version", "sha256", "files", "licence", "attribution", "where"])
def test_a_package_source_needs_what_identifies_it(key):
    with pytest.raises(DataError, match=f"needs {key}"):
        parse_sources({"a": {k: v for k, v in GOOD.items() if k != key}})


def test_an_unknown_corpus_names_the_nearest():
    with pytest.raises(DataError, match="did you mean shakespeare"):
        corpus_named("shakespear")


def test_own_data_are_folders_files_and_declarations(tmp_path):
    (tmp_path / "my.toml").write_text(
        '[poems]\nkind = "file"\nwhere = "poems.txt"\nlicence = "CC0-1.0"\nattribution = "me"\nweight = 2\n'
    )
    found = own_sources([tmp_path / "texts", tmp_path / "my.toml", tmp_path / "other" / "texts"])
    assert [(source.name, source.kind, source.weight) for source in found] == [
        ("texts", "file", 1.0), ("poems", "file", 2), ("texts-2", "file", 1.0)
    ]  # fmt: skip


def test_a_broken_declaration_is_refused(tmp_path):
    (tmp_path / "my.toml").write_text("[poems\n")
    with pytest.raises(DataError, match=r"my\.toml cannot be read"):
        own_sources([tmp_path / "my.toml"])
