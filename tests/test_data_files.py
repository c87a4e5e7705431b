"""Text on this machine: what is read, in which order, and what is refused how."""

import json
from pathlib import Path

import pytest

from seekling.data.files import read_file, text_files
from seekling.errors import DataError

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(root: Path):
    paths, _ = text_files(root)
    return [document for path in paths for document in read_file(path)]


def test_a_folder_is_read_recursively_in_path_order(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.txt", "c.jsonl"):
        put(tmp_path / name, json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert documents(tmp_path) == ["a/b/c.txt", "a/z.md", "b.txt", "c.jsonl"]


def test_one_file_may_be_named(tmp_path):
    assert documents(put(tmp_path / "x.txt", "text")) == ["text"]


def test_hidden_files_are_skipped_and_other_kinds_counted(tmp_path):
    for name in ("a.txt", ".hidden.txt", ".git/b.txt", "c.pdf", "d"):
        put(tmp_path / name, "x")
    paths, notes = text_files(tmp_path)
    assert [path.name for path in paths] == ["a.txt"]
    assert notes == [f"{tmp_path}: 2 files of other kinds were not read"]


def test_links_do_not_lead_out_of_the_folder_nor_in_circles(tmp_path):
    root, outside = tmp_path / "data", put(tmp_path / "secret.txt", "secret")
    put(root / "a.txt", "a")
    (root / "out.txt").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    (root / "loop").symlink_to(root)
    (root / "inside.txt").symlink_to(root / "a.txt")
    (root / "broken.txt").symlink_to(root / "gone.txt")
    paths, notes = text_files(root)
    assert [path.name for path in paths] == ["a.txt", "inside.txt"]
    assert any("1 links that lead out" in note for note in notes)


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path):
    put(tmp_path / "n\udcff.txt", "x")
    with pytest.raises(DataError, match=r"n.udcff\.txt' has a name that is not UTF-8.*rename"):
        text_files(tmp_path)


def test_line_ends_and_byte_order_marks_are_normalised(tmp_path):
    assert documents(put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree")) == ["one\ntwo\nthree"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r'{"text": "half a \ud800 pair"}', "half a surrogate pair"),
        (r'{"messages": [{"role": "user", "content": "\udc00"}]}', "half a surrogate pair"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_lines_that_no_text_can_be_made_of_are_named(tmp_path, line, said):
    with pytest.raises(DataError, match=rf"a\.jsonl:2 .*{said}"):
        documents(put(tmp_path / "a.jsonl", '{"text": "whole \\ud83e\\udd86"}\n' + line))


def test_jsonl_rows_are_texts_or_conversations(tmp_path):
    rows = [{"text": "one", "id": 7}, {"messages": TALK}, {"text": "  "}, {"text": "two"}]
    put(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert documents(tmp_path) == ["one", TALK, "two"]


def test_zstandard_and_parquet_hold_the_same_rows(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = "\n".join(json.dumps({"text": text}) for text in ("one", "two"))
    put(tmp_path / "a.jsonl.zst", zstandard.compress(rows.encode()))
    parquet.write_table(pyarrow.table({"text": ["three", "four"]}), tmp_path / "b.parquet")
    parquet.write_table(pyarrow.table({"messages": [TALK]}), tmp_path / "c.parquet")
    assert documents(tmp_path) == ["one", "two", "three", "four", TALK]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 \(byte 0xe9 at 3\).*iconv"),
        ("a.jsonl", '{"text": "ok"}\n{"text": ', r"a\.jsonl:2 is no JSON"),
        ("a.jsonl", '{"body": "x", "id": 1}', r"a\.jsonl:1 needs a \"text\" string.*its fields: body, id"),
        ("a.jsonl", "[1]", r"a\.jsonl:1 is a list"),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1 is not UTF-8"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', r"a\.jsonl:1: message 0 has no text"),
        ("a.jsonl", '{"text": 3}', r"a\.jsonl:1 needs"),
        ("a.parquet", b"not parquet", r"a\.parquet cannot be read"),
        ("a.jsonl.zst", b"not zstandard", r"a\.jsonl\.zst cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_by_place(tmp_path, name, content, complaint):
    put(tmp_path / name, content)
    with pytest.raises(DataError, match=complaint):
        documents(tmp_path)


def test_a_truncated_zstandard_file_is_refused(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    rows = "\n".join(json.dumps({"text": f"row {n} " * 20}) for n in range(2000))
    put(tmp_path / "a.jsonl.zst", zstandard.compress(rows.encode())[:-50])
    with pytest.raises(DataError, match=r"a\.jsonl\.zst"):
        documents(tmp_path)


def test_a_parquet_file_without_text_names_its_columns(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no \"text\" or \"messages\" column \(it has body\)"):
        documents(tmp_path)


def test_a_folder_without_text_and_no_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no text: put \.txt"):
        text_files(tmp_path)
    with pytest.raises(DataError, match="no folder or file"):
        text_files(tmp_path / "gone")
    with pytest.raises(DataError, match="of a kind that is not read"):
        text_files(put(tmp_path / "a.pdf", "x"))
