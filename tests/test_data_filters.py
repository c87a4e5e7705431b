"""The steps from a file's text to documents."""

import json

import pytest

from seekling.data.filters import apply, first_sentence, step_problems
from seekling.errors import DataError


def run(text, *steps):
    return apply(steps, text, "here")


def test_lines_keeps_a_range():
    assert run("a\nb\nc\nd", {"name": "lines", "first": 2, "last": 3}) == ["b\nc"]


def test_split_begins_documents_at_headings():
    text = "front\nCHAPTER I\none\nCHAPTER II\ntwo"
    assert run(text, {"name": "split", "at": "^CHAPTER [IV]+$"}) == ["front", "CHAPTER I\none", "CHAPTER II\ntwo"]
    assert run(text, {"name": "split", "at": "^CHAPTER [IV]+$", "keep": False}) == ["front", "one", "two"]


def test_unwrap_joins_lines_of_a_paragraph_and_keeps_verse():
    assert run("one\ntwo  three\n\n\nfour\nfive\n\n  roses red\n  violets blue", {"name": "unwrap"}) == [
        "one two three\n\nfour five\n\nroses red\nviolets blue"
    ]


def test_chunk_cuts_where_something_ends_and_loses_nothing_but_blanks():
    text = "\n\n".join(f"Paragraph {n} is here. It has two sentences." for n in range(40))
    parts = run(text, {"name": "chunk", "chars": 200})
    assert len(parts) > 5 and all(len(part) <= 300 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part.endswith(".") for part in parts)


def test_chunk_cuts_even_where_nothing_ends():
    assert "".join(run("x" * 1000, {"name": "chunk", "chars": 100})) == "x" * 1000


def test_drop_and_at_least():
    steps = ({"name": "json_values"}, {"name": "drop", "matching": "□"}, {"name": "at_least", "chars": 3})
    assert run(json.dumps(["good", "b□d text", "no"]), *steps) == ["good"]


def test_play_turns_markdown_into_dialogue():
    text = "# Hamlet\n\n**BERNARDO**  \nWho's there?\n\n_Exit_\n\n**A** & **B:**  \nYes."
    assert run(text, {"name": "play"}) == ["Hamlet\n\nBERNARDO:\nWho's there?\n\n[Exit]\n\nA & B:\nYes."]


def test_a_python_file_is_read_and_not_run():
    assert run('raise SystemExit\nx = """the text"""\n', {"name": "triple_quoted"}) == ["the text"]


def test_json_values_and_lines_take_a_field():
    assert run('{"a": {"t": "one"}, "b": {"t": "two"}}', {"name": "json_values", "field": "t"}) == ["one", "two"]
    assert run('{"t": "one"}\n\n{"t": "two"}\n{"t": "one"}', {"name": "json_lines", "field": "t"}) == ["one", "two"]


def test_verses_are_title_poet_and_lines():
    poem = [{"rhythmic": "导引", "author": "和岘", "paragraphs": ["气和玉烛。", "缇管一阳生。"]}]
    step = {"name": "verses", "title": "rhythmic", "by": "author", "rows": "paragraphs"}
    assert run(json.dumps(poem), {"name": "json_values"}, step) == ["导引 和岘\n气和玉烛。\n缇管一阳生。"]


def test_entries_become_questions_and_first_sentences():
    entries = [
        {"title": "Coast", "extract": "A coast is land. It is wet.", "topic": "Geography"},
        {"title": "Ada Lovelace", "extract": "Ada King was a mathematician.", "topic": "People"},
        {"title": "Alps", "extract": "The Alps are mountains.", "topic": "Geography"},
        {"title": "Optical illusion", "extract": "In vision, an optical illusion is seen.", "topic": "Biology"},
        {"title": "Nothing", "extract": "no sentence", "topic": "Arts"},
    ]
    step = {"name": "questions", "title": "title", "text": "extract", "topic": "topic", "people": "People"}
    talks = run(json.dumps(entries), {"name": "json_values"}, step)
    assert [[m["content"] for m in talk] for talk in talks] == [
        ["What is a coast?", "A coast is land."],
        ["Who was Ada Lovelace?", "Ada King was a mathematician."],
        ["Tell me about the Alps.", "The Alps are mountains."],
        ["Do you know what optical illusion is?", "In vision, an optical illusion is seen."],
    ]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("J. S. Bach was a composer. He", "J. S. Bach was a composer."),
        ("Rome (c. 753 BC. Old) is a city. More", "Rome (c. 753 BC. Old) is a city."),
        ("Mr. Holmes, e.g. Sherlock! Yes", "Mr. Holmes, e.g. Sherlock!"),
        ("no end", ""),
    ],
)
def test_the_first_sentence_ends_at_no_abbreviation(text, first):
    assert first_sentence(text) == first


def test_empty_documents_are_left_out():
    assert run('["a", "", "  "]', {"name": "json_values"}) == ["a"]


def test_what_a_step_cannot_read_is_named():
    with pytest.raises(DataError, match=r"here: step 'json_values'"):
        run("{broken", {"name": "json_values"})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("unwrap", "table with a name"),
        ({"name": "unwarp"}, "unknown filter 'unwarp'"),
        ({"name": "chunk", "size": 3}, "no option 'size'"),
        ({"name": "chunk"}, "needs chars"),
    ],
)
def test_a_bad_step_is_explained(options, complaint):
    assert any(complaint in line for line in step_problems(options))


def test_a_good_step_has_no_problems():
    assert not list(step_problems({"name": "lines", "first": 1, "last": 2}))
