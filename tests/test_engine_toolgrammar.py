"""Tool calls under a constraint: whatever the model, they parse, name a declared tool and carry arguments that fit."""

import json
from types import SimpleNamespace

import pytest
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.toolgrammar import tool_constraint
from seekling.text.grammar import HERMES, LLAMA3, QWEN_CODER, ReplyGrammar

pytest.importorskip("llguidance")

ADD = {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"],
    "additionalProperties": False,
}}  # fmt: skip
TOOLS = [{"type": "function", "function": ADD}, {"type": "function", "function": {"name": "now"}}]
BLANKS = {TOKENIZER.encode(c)[0]: -100.0 for c in " \n\t\r"}  # a random model could write them for ever


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_lm(max_position_embeddings=400))


def answer(engine, constraint, seed):
    s = Sampling(constraint=constraint, max_tokens=300, temperature=1.0, seed=seed, logit_bias=BLANKS)
    return engine.generate("abc", s)[0]


def check(calls):
    for name, arguments in calls:
        assert name in ("add", "now")
        assert (set(arguments) == {"a"} and 0 <= arguments["a"] <= 9) if name == "add" else arguments == {}


@pytest.mark.parametrize("seed", range(4))
def test_required_calls_are_read_back_by_the_family_s_own_parser(engine, seed):
    out = answer(engine, tool_constraint(TOKENIZER, TOOLS, "required"), seed)
    parser = TOKENIZER.reply_parser(tools=TOOLS)
    for token in out.token_ids:
        parser.push_token(token)
    parser.finish()
    message = parser.message()
    assert out.finish_reason == "stop" and message["tool_calls"] and not message.get("content")
    check([(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]])


def test_one_tool_and_no_second_call_can_be_asked_for(engine):
    constraint = tool_constraint(TOKENIZER, TOOLS, "add", parallel=False)
    for seed in range(4):
        text = answer(engine, constraint, seed).text
        assert text.count("add") == 1 and "now" not in text


def test_auto_lets_the_model_say_what_it_likes(engine):
    out = answer(engine, tool_constraint(TOKENIZER, TOOLS), 0)
    assert out.text and "tool▁call" not in out.text


@pytest.mark.parametrize("style", [HERMES, LLAMA3])
def test_calls_that_are_json_objects(engine, style):
    family = SimpleNamespace(special=TOKENIZER.special, chat=SimpleNamespace(grammar=ReplyGrammar("json", calls=(style,))))
    constraint = tool_constraint(family, TOOLS, "required", parallel=False)
    for seed in range(4):
        text = answer(engine, constraint, seed).text
        assert text.startswith(style.begin) and text.endswith(style.end)
        call = json.loads(text[len(style.begin) : len(text) - len(style.end)])
        check([(call["name"], call[style.arguments])])


def test_what_cannot_be_enforced_is_refused_by_name():
    bad = [{"function": {"name": "a b", "parameters": {"type": "array", "uniqueItems": True}}}]
    with pytest.raises(SeeklingError, match=r"(?s)'a b' is no name.*uniqueItems.*object's schema"):
        tool_constraint(TOKENIZER, bad)
    with pytest.raises(SeeklingError, match=r"'auto', 'required' or one of add, now"):
        tool_constraint(TOKENIZER, TOOLS, "sub")
    with pytest.raises(SeeklingError, match="there are none"):
        tool_constraint(TOKENIZER, [])
    for style, message in ((QWEN_CODER, "cannot be enforced"), (HERMES, "only choice='required'")):
        family = SimpleNamespace(special={}, chat=SimpleNamespace(grammar=ReplyGrammar("f", calls=(style,))))
        with pytest.raises(SeeklingError, match=message):
            tool_constraint(family, TOOLS)
