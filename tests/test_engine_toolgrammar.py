"""Tool calls under a constraint: whatever the model, they parse, name a declared tool and carry arguments that fit."""

import json
from types import SimpleNamespace

import pytest
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.constrain import Grammars
from seekling.engine.toolgrammar import _parameters, tool_constraint
from seekling.text.deepseek.encode import _element_calls
from seekling.text.grammar import HERMES, LLAMA3, MINIMAX_M2, QWEN_CODER, ElementCalls, ReplyGrammar, dsml
from seekling.text.messages import Call
from seekling.text.reply import ReplyParser

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


@pytest.mark.parametrize("style", [HERMES, LLAMA3])
def test_definitions_of_a_tool_are_found_where_its_call_stands_in_an_object(style):
    family = SimpleNamespace(special=TOKENIZER.special, chat=SimpleNamespace(grammar=ReplyGrammar("json", calls=(style,))))
    tool = {"name": "move", "parameters": {
        "type": "object", "properties": {"to": {"$ref": "#/$defs/Side"}}, "required": ["to"], "additionalProperties": False,
        "$defs": {"Side": {"enum": ["left", "right"]}},
    }}  # fmt: skip
    matcher = Grammars(TOKENIZER, TOKENIZER.vocab_size, [1]).matcher(tool_constraint(family, [{"function": tool}], "required"))
    call = style.begin + json.dumps({"name": "move", style.arguments: {"to": "left"}}, separators=(",", ":"))
    for token in TOKENIZER.encode_pieces([call]):
        assert matcher.allowed()[token]
        matcher.push(token)
    other = call.replace("left", "back")
    matcher = Grammars(TOKENIZER, TOKENIZER.vocab_size, [1]).matcher(tool_constraint(family, [{"function": tool}], "required"))
    with pytest.raises(AssertionError):
        for token in TOKENIZER.encode_pieces([other]):
            assert matcher.allowed()[token]
            matcher.push(token)


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "parameters, style, said",
    [
        (True, HERMES, "parameters is True: give an object's schema"),
        ({"properties": [1]}, HERMES, r"properties is \[1\]: give names with schemas"),
        ({"required": None}, QWEN_CODER, "required is None: give a list of names"),
        ({"type": "array"}, HERMES, "must be an object's schema"),
        (OBJECT | {"properties": {"a": {"$ref": "#"}}}, HERMES, r"move it to \$defs"),
        (OBJECT | {"minProperties": 1}, QWEN_CODER, "so minProperties cannot be enforced over all of them"),
        (OBJECT | {"anyOf": [{"required": ["a"]}]}, dsml("tool_calls"), "so anyOf cannot be enforced"),
        (OBJECT | {"required": ["a", "z"]}, MINIMAX_M2, "required names z, which properties does not describe"),
        (OBJECT | {"properties": {"a": {"$ref": "#/$defs/none"}}}, HERMES, r"grammar: Pointer '/\$defs/none' does not exist$"),
    ],
)
def test_parameters_that_cannot_be_enforced_are_refused_by_name(parameters, style, said):
    family = SimpleNamespace(special=TOKENIZER.special, chat=SimpleNamespace(grammar=ReplyGrammar("x", calls=(style,))))
    with pytest.raises(SeeklingError, match=said):
        tool_constraint(family, [{"function": {"name": "f", "parameters": parameters}}], "required")


@pytest.mark.parametrize("style", [QWEN_CODER, MINIMAX_M2])
def test_a_listed_text_is_read_as_text_though_its_schema_names_no_type(style):
    parameters = {"type": "object", "properties": {"a": {"enum": ["1", "true", "x"]}}, "required": ["a"]}
    value = [style.parameter, "a", style.key_end, style.pad, "1", style.pad, style.parameter_end]
    call = [style.begin, "\n", style.call, "f", style.name_end, "\n", *value, "\n", style.call_end, "\n", style.end]
    parser = ReplyParser(ReplyGrammar("x", calls=(style,)), None, tools=[{"function": {"name": "f", "parameters": parameters}}])
    parser.push("".join(call))
    parser.finish()
    assert json.loads(parser.message()["tool_calls"][0]["function"]["arguments"]) == {"a": "1"}


def test_a_root_that_refers_to_a_definition_is_that_definition():
    parameters = {"$ref": "#/$defs/A", "$defs": {"A": OBJECT | {"required": ["a"]}}}
    assert _parameters({"parameters": parameters}) == OBJECT | {"required": ["a"], "$defs": parameters["$defs"]}


RICH = {"name": "note", "parameters": {
    "type": "object",
    "properties": {
        "text": {"type": "string"}, "kind": {"enum": ["idea", "task"]}, "size": {"type": "integer", "minimum": 0, "maximum": 9},
        "tag": {"$ref": "#/$defs/tag"},
    },
    "required": ["text", "kind", "tag"],
    "$defs": {"tag": {"type": "boolean"}},
}}  # fmt: skip


# A family whose ends hold a token, as DSML's do in the vocabularies of V3.2 and V4.
WITH_TOKEN = ElementCalls(
    "<calls>", "</calls>", '<call "', '">', "</call>", "<p ", ">", "</<think>p>", middle=" string=", pad=""
)


@pytest.mark.parametrize(
    "style", [QWEN_CODER, MINIMAX_M2, dsml("tool_calls"), WITH_TOKEN], ids=["qwen", "minimax", "dsml", "token"]
)
def test_calls_that_are_elements(style):
    family = SimpleNamespace(special=TOKENIZER.special, chat=SimpleNamespace(grammar=ReplyGrammar("e", calls=(style,))))
    grammars = Grammars(TOKENIZER, TOKENIZER.vocab_size, [1])

    def fits(choice, *calls):
        calls = [Call(name=name, arguments=json.dumps(arguments)) for name, arguments in calls]
        constraint = tool_constraint(family, [{"function": RICH}, *TOOLS], choice)
        matcher = grammars.matcher(constraint)
        pieces = [p if p in TOKENIZER.special else "".join([p]) for p in _element_calls(style, calls)[1:]]  # without the lead
        for token in TOKENIZER.encode_pieces(pieces):
            if not matcher.allowed()[token]:
                return False
            matcher.push(token)
        return matcher.finished

    note = {"text": "if a < b: </p> \n", "kind": "task", "size": 3, "tag": True}
    assert fits("required", ("note", note))
    assert fits("required", ("note", {k: v for k, v in note.items() if k != "size"}), ("now", {}), ("add", {"a": 4}))
    assert fits("note", ("note", note)) and not fits("note", ("now", {}))
    assert not fits("required", ("note", note | {"kind": "other"}))
    assert not fits("required", ("note", note | {"size": 10}))
    assert not fits("required", ("note", note | {"tag": "yes"}))
    assert not fits("required", ("note", {"text": "without the others"}))
    assert not fits("required", ("other", {}))


def test_what_cannot_be_enforced_is_refused_by_name():
    bad = [{"function": {"name": "a b", "parameters": {"type": "array", "uniqueItems": True}}}]
    with pytest.raises(SeeklingError, match=r"(?s)'a b' is no name.*uniqueItems.*object's schema"):
        tool_constraint(TOKENIZER, bad)
    with pytest.raises(SeeklingError, match=r"'auto', 'required' or one of add, now"):
        tool_constraint(TOKENIZER, TOOLS, "sub")
    with pytest.raises(SeeklingError, match="there are none"):
        tool_constraint(TOKENIZER, [])
    short = {"function": {"name": "f", "parameters": {"properties": {"a": {"type": "string", "maxLength": 3}}}}}
    for calls, message in (
        ((), "cannot be enforced"),
        ((HERMES,), "only choice='required'"),
        ((QWEN_CODER,), "f: f writes texts bare, so a cannot be held to maxLength"),
    ):
        family = SimpleNamespace(special={}, chat=SimpleNamespace(grammar=ReplyGrammar("f", calls=calls)))
        with pytest.raises(SeeklingError, match=message):
            tool_constraint(family, [short])
