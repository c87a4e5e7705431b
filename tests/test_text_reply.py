"""Answers taken apart while they arrive: the same however the text is cut, whole again from what was encoded, never fooled."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tiny import deepseek, tokenizer

from seekling.text import grammar as g
from seekling.text.deepseek import GENERATIONS, encode
from seekling.text.reply import CallEnd, Content, Note, Reasoning, ReplyParser, merged, parse_reply, to_message
from seekling.text.special import CONTROL, DSML, EOS

CHANNELS = g.ReplyGrammar("gpt-oss", channels=g.Channels())
HERMES = g.ReplyGrammar("hermes", g.LINES, (g.HERMES,))
MINIMAX = g.ReplyGrammar("minimax", g.LINES, (g.MINIMAX_M2,))
CODER = g.ReplyGrammar("coder", g.LINES, (g.QWEN_CODER, g.HERMES))
LLAMA = g.ReplyGrammar("llama", None, (g.LLAMA3,), ends=("<|eot_id|>",))
THINK = g.ReplyGrammar("think", g.LINES)
TOOLS = [{"type": "function", "function": {"name": "get", "parameters": {"properties": {"zip": {"type": "string"}}}}}]
WITH_CALLS = [name for name, generation in GENERATIONS.items() if generation.reply.calls]


def events(grammar, parts, **options):
    parser = ReplyParser(grammar, **options)
    found = [event for part in parts for event in parser.push(part)]
    return merged(found + parser.finish())


def call(name: str, arguments: str) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


ANSWERS = [
    (HERMES, '<think>\nhm\n</think>\n\nYes.\n<tool_call>\n{"name": "get", "arguments": {"a": {"b": "}"}}}\n</tool_call>', {}),
    (HERMES, 'a\n<tool_call>\n{"name": "get", "arguments": [1]}\n</tool_call>\n<tool_call>\n{"name": "x"', {}),
    (HERMES, "<tool_call> is a mark </tool_call>, \n\n<think>", {}),
    (MINIMAX, '<think>\nx\n</think>\n\n<minimax:tool_call>\n<invoke name="get">\n<parameter name="zip">01</parameter>\n'
     '<parameter name="n">[1, 2]</parameter>\n</invoke>\n</minimax:tool_call>', {"tools": TOOLS}),
    (CODER, "Look:\n\n<tool_call>\n<function=get>\n<parameter=zip>\n01\n</parameter>\n</function>\n</tool_call>",
     {"tools": TOOLS}),
    (CODER, '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>', {}),
    (LLAMA, '{"name": "get", "parameters": {"a": "x"}}; {"name": "get", "parameters": {}}<|eot_id|>', {"tools": TOOLS}),
    (LLAMA, '<|python_tag|>{"name": "other", "parameters": {}}', {"tools": TOOLS}),
    (LLAMA, ' {"an": "answer"}', {"tools": TOOLS}),
    (CHANNELS, "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.get "
     '<|constrain|>json<|message|>{"a": 1}<|call|>', {}),
    (CHANNELS, "<|channel|>commentary<|message|>So:<|end|><|start|>assistant to=functions.get<|channel|>commentary<|message|>"
     "{oh<|end|><|start|>assistant<|channel|>final<|message|>Done. <b><|return|>", {}),
    (THINK, " <think>a</think> b </think> c", {}),
    (GENERATIONS["v4"].reply, f'I\n</think>Hi\n\n<{DSML}tool_calls>\n<{DSML}invoke name="get">\n<{DSML}parameter name="a" '
     f'string="true">x"\n</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>{EOS}more', {"in_reasoning": True}),
    (GENERATIONS["v3.1"].reply, "ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>get{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", {}),
]  # fmt: skip


@settings(max_examples=150)
@given(data=st.data())
def test_any_split_of_the_text_gives_the_same_events(data):
    grammar, text, options = data.draw(st.sampled_from(ANSWERS))
    options = {**options, "early_calls": data.draw(st.booleans())}
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert events(grammar, parts, **options) == events(grammar, [text], **options)


@settings(max_examples=80)
@given(
    parts=st.lists(
        st.sampled_from(["<", ">", "think", "<think>", "</think>", "tool_call", '"', "{", "}", "\n", "a"]), max_size=20
    )
)
def test_no_text_is_lost_or_invented_where_there_is_no_call(parts):
    text = "".join(parts)
    for grammar in (HERMES, CODER):
        said = events(grammar, [text])
        assert "".join(event.text for event in said if isinstance(event, Content)) in text
        if "<think>" not in text and "<tool_call>" not in text:
            assert said == ([Content(text)] if text else [])


words = st.text(st.sampled_from('ab \n"\\{}你🙂<>'), min_size=1, max_size=8)
values = words | st.integers() | st.booleans() | st.lists(st.none())
arguments = st.dictionaries(st.sampled_from(["a", "zip", "名"]), values, max_size=3)
calls = st.builds(lambda n, a: call(n, json.dumps(a, ensure_ascii=False)), st.sampled_from(["get", "f.2"]), arguments)
answers = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.just("") | words,
        "reasoning_content": st.none() | words,
        "tool_calls": st.lists(calls, max_size=3),
    }
)


def tidy(message: dict) -> dict:
    return {key: value for key, value in message.items() if value or key in ("role", "content")}


@settings(max_examples=150)
@given(message=answers, name=st.sampled_from(sorted(GENERATIONS)), early=st.booleans())
def test_what_was_encoded_is_parsed_to_the_same_message(message, name, early):
    """In text and token by token: the prompt is what the answer follows."""
    generation = GENERATIONS[name]
    if generation.thinks == "never" or (name == "v3.1" and message["tool_calls"]):
        message["reasoning_content"] = None
    if not generation.reply.calls:
        message["tool_calls"] = []
    message, question = tidy(message), {"role": "user", "content": "q"}
    thinking = "reasoning_content" in message
    prompt = encode(generation, [question], thinking=thinking)
    whole = encode(generation, [question, message], thinking=thinking, add_generation_prompt=False)
    if generation.flow == "plain":
        prompt[-1] += " "
    if name == "r1" and not thinking:  # its history has no empty thought
        prompt = prompt[: prompt.index("<think>")]
    assert "".join(whole).startswith("".join(prompt))
    reply = "".join(whole)[len("".join(prompt)) :]
    begun = {"in_reasoning": thinking, "lead_done": True}
    assert parse_reply(reply, generation.reply, early_calls=early, **begun) == message
    ids, first = deepseek().encode_pieces(whole), len(deepseek().encode_pieces(prompt))
    if deepseek().encode_pieces(prompt) == ids[:first]:  # the cut may lie within a token
        parser = ReplyParser(generation.reply, deepseek(), early_calls=early, **begun)
        parser.push_tokens(ids[first:])
        parser.finish()
        assert parser.message() == message


@pytest.mark.parametrize("name", WITH_CALLS)
def test_text_that_imitates_marks_stays_text(name):
    """A model that writes a mark with ordinary tokens, because a user asked it to, calls nothing and ends nothing."""
    calling = {"role": "assistant", "content": "", "tool_calls": [call("get", "{}")]}
    fake = "".join(encode(GENERATIONS[name], [{"role": "user", "content": "q"}, calling], add_generation_prompt=False))
    fake += "<think>x</think>" + "".join(CONTROL)
    parser = ReplyParser(GENERATIONS[name].reply, deepseek())
    parser.push_tokens(deepseek().encode(fake))
    parser.finish()
    assert parser.message() == {"role": "assistant", "content": fake}


def test_a_call_with_a_parameters_end_in_its_value_is_told_apart_by_its_tokens():
    value = f"</{DSML}parameter>{EOS}"
    message = {"role": "assistant", "content": "", "tool_calls": [call("get", json.dumps({"a": value}, ensure_ascii=False))]}
    pieces = encode(GENERATIONS["v4"], [{"role": "user", "content": "q"}, message], add_generation_prompt=False)
    parser = ReplyParser(GENERATIONS["v4"].reply, deepseek())
    parser.push_tokens(deepseek().encode_pieces(pieces[pieces.index("</think>") + 1 :]))
    parser.finish()
    assert parser.message() == message


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (HERMES, 'x\n<tool_call>\n{"name": "get", "arguments": {"a": }}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"arguments": {}}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "get", "arguments": {"a": NaN}}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "a b", "arguments": {}}\n</tool_call>'),
        (HERMES, '<tool_call>\n{"name": "get", "argum'),
        (MINIMAX, '<minimax:tool_call>\n<invoke name="get">\noh <parameter name="a">1</parameter></invoke>'),
        (MINIMAX, '<minimax:tool_call>\n<invoke name="get">\n<parameter name="a">1</parameter><parameter name="a">'),
        (MINIMAX, "<minimax:tool_call></minimax:tool_call>"),
        (GENERATIONS["v4"].reply, f'<{DSML}tool_calls>\n<{DSML}invoke name="get">\n<{DSML}parameter name="a" '
         f'string="false">x</{DSML}parameter>'),
        (GENERATIONS["v3"].reply, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{}\n"),
        (GENERATIONS["v3.1"].reply, "<｜tool▁calls▁begin｜>nothing"),
    ],
)  # fmt: skip
def test_a_broken_call_becomes_text_with_a_note(grammar, text):
    said = events(grammar, [text])
    assert to_message(said) == {"role": "assistant", "content": text}
    assert sum(isinstance(event, Note) for event in said) == 1


def test_a_value_that_json_does_not_have_is_a_text():
    text = '<minimax:tool_call>\n<invoke name="get">\n<parameter name="a">NaN</parameter>\n</invoke>\n</minimax:tool_call>'
    assert to_message(events(MINIMAX, [text]))["tool_calls"] == [call("get", '{"a": "NaN"}')]


def test_early_calls_are_told_as_they_come_and_end_with_what_is_wrong():
    parser = ReplyParser(HERMES, early_calls=True)
    parser.push('<tool_call>\n{"name": "get", "arguments": {"text": "some')
    assert parser.message()["tool_calls"] == [call("get", '{"text": "some')]
    parser.push(' more"')
    assert parser.finish()[-1] == CallEnd(0, "it is cut off")
    assert "tool_calls" not in parser.message()


def test_a_dsml_value_streams_as_json_text():
    parser = ReplyParser(GENERATIONS["v4"].reply, early_calls=True)
    parser.push(f'<{DSML}tool_calls>\n<{DSML}invoke name="get">\n<{DSML}parameter name="a" string="true">line "1"\nli')
    assert parser.message()["tool_calls"] == [call("get", '{"a": "line \\"1\\"\\nli')]


def test_untyped_values_are_read_as_the_tools_schema_says():
    text = (
        '<minimax:tool_call><invoke name="get"><parameter name="zip">01</parameter><parameter name="n">7</parameter></invoke>'
    )
    assert parse_reply(text, MINIMAX, tools=TOOLS)["tool_calls"] == [call("get", '{"zip": "01", "n": 7}')]
    assert parse_reply(text, MINIMAX)["tool_calls"] == [call("get", '{"zip": "01", "n": 7}')]  # 01 is no JSON
    other = text.replace("01", "12")
    assert parse_reply(other, MINIMAX, tools=TOOLS)["tool_calls"] == [call("get", '{"zip": "12", "n": 7}')]
    assert parse_reply(other, MINIMAX)["tool_calls"] == [call("get", '{"zip": 12, "n": 7}')]


def test_llama_calls_only_tools_that_were_declared():
    text = '{"name": "get", "parameters": {"a": 1}}'
    assert parse_reply(text, LLAMA, tools=TOOLS)["tool_calls"] == [call("get", '{"a": 1}')]
    assert parse_reply(text, LLAMA) == {"role": "assistant", "content": text}
    other = text.replace("get", "rm")
    assert parse_reply(other, LLAMA, tools=TOOLS) == {"role": "assistant", "content": other}


def test_harmony_channels_become_reasoning_answer_and_calls():
    text = ANSWERS[9][1]
    assert parse_reply(text, CHANNELS) == {
        "role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call("get", '{"a": 1}')],
    }  # fmt: skip
    assert parse_reply(text.removesuffix("<|call|>"), CHANNELS) == parse_reply(text, CHANNELS)  # engines keep end tokens back
    assert parse_reply("Hello", CHANNELS, channel="final") == {"role": "assistant", "content": "Hello"}


def test_thinking_begins_in_the_prompt_or_in_the_answer():
    assert parse_reply("a\n</think>\n\nb", THINK, in_reasoning=True, lead_done=True)["reasoning_content"] == "a"
    assert parse_reply("<think>\na\n</think>\n\nb", THINK) == {"role": "assistant", "content": "b", "reasoning_content": "a"}
    assert parse_reply("b <think>a</think>", THINK) == {"role": "assistant", "content": "b <think>a</think>"}


def test_reasoning_that_never_ends_is_reasoning():
    assert events(THINK, ["<think>\na </thi"]) == [Reasoning("a </thi")]


def test_a_mark_that_is_no_token_of_the_vocabulary_is_known_by_its_text():
    tiny = tokenizer("<|end|>")
    parser = ReplyParser(THINK, tiny)
    parser.push_tokens(tiny.encode("<think>a</think>b"))
    parser.finish()
    assert parser.message() == {"role": "assistant", "content": "b", "reasoning_content": "a"}


def test_characters_of_several_tokens_come_whole():
    parser = ReplyParser(THINK, deepseek())
    parts = [event.text for token in deepseek().encode("🙂𠮷ü") for event in parser.push_token(token)]
    assert "".join(parts) == "🙂𠮷ü" and "\ufffd" not in parts
