"""Answers with a form: always valid, whatever the model would rather say, and free while it reasons."""

import json
import random
import re

import pytest
from engine_tiny import END_THINK, EOS, THINK, TOKENIZER, one_thread, scripted_lm, tiny_lm  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.constrain import Constraint, Grammars, _told_apart

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_lm(max_position_embeddings=256))


def bound(constraint, **kw):
    return Sampling(**({"max_tokens": 200, "temperature": 1.0, "seed": 0, "constraint": constraint} | kw))


# ---- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_random_model_writes_json_that_fits_its_schema(engine, seed):
    # whitespace may go on for ever in a random model's JSON: a schema says what comes, not how short
    out = engine.generate("abc", bound(Constraint.json_schema(PERSON), seed=seed, logit_bias={i: -100 for i in BLANKS}))[0]
    assert out.finish_reason == "stop"
    person = json.loads(out.text)
    assert person.keys() == {"name", "age"} and 0 <= person["age"] <= 150 and len(person["name"]) <= 5


BLANKS = [TOKENIZER.encode(c)[0] for c in " \n\t\r"]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_regular_expression_is_matched_from_end_to_end(engine, temperature):
    pattern = r"[a-c]{3}-\d{2}"
    out = engine.generate("abc", bound(Constraint.regex(pattern), temperature=temperature))[0]
    assert re.fullmatch(pattern, out.text) and out.finish_reason == "stop"


def test_a_choice_is_one_of_its_texts(engine):
    seen = {
        engine.generate("abc", bound(Constraint.choice(["yes", "n.o"]), seed=i, temperature=5.0))[0].text for i in range(20)
    }
    assert seen == {"yes", "n.o"}


def test_a_grammar_is_followed(engine):
    out = engine.generate("abc", bound(Constraint.lark('start: "(" start ")" | "x"'), seed=2))[0]
    assert re.fullmatch(r"\(*x\)*", out.text) and out.text.count("(") == out.text.count(")")


def test_text_that_is_forced_costs_no_step_of_its_own(engine):
    steps = engine.stats()["steps"]
    out = engine.generate("abc", bound(Constraint.regex("a very long text that leaves no choice [ab]")))[0]
    assert out.text[:-1] == "a very long text that leaves no choice "
    assert engine.stats()["steps"] - steps < 5
    assert out.accepted > 30


def test_constrained_and_free_answers_run_side_by_side(engine):
    each = [bound(Constraint.regex("[ab]{5}")), Sampling(max_tokens=12, seed=1, temperature=1.0, ignore_eos=True)]
    alone = [engine.generate("abc", s)[0].token_ids for s in each]
    assert [c.token_ids for c in engine.generate(["abc"] * 2, each)] == alone


def test_a_form_wins_over_a_bias_that_forbids_all_of_it(engine):
    x = TOKENIZER.encode("x")[0]
    assert engine.generate("abc", bound(Constraint.regex("x"), logit_bias={x: -100}))[0].text == "x"


def test_the_answer_may_be_cut_by_max_tokens(engine):
    out = engine.generate("abc", bound(Constraint.regex("a{50}"), max_tokens=7))[0]
    assert (out.text, out.finish_reason) == ("a" * 7, "length")


LEAF = st.sampled_from([{"type": "integer"}, {"type": "boolean"}, {"enum": ["a", 1, None]}])


def larger(inner):
    return st.one_of(
        st.builds(lambda s: {"type": "array", "items": s, "maxItems": 2}, inner),
        st.builds(
            lambda s: {"type": "object", "properties": {"k": s}, "required": ["k"], "additionalProperties": False}, inner
        ),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
    )


@settings(max_examples=25)
@given(st.recursive(LEAF, larger, max_leaves=4), st.integers(0, 99))
def test_every_path_through_a_grammar_ends_in_json_that_fits(schema, seed):
    matcher = GRAMMARS.matcher(Constraint.json_schema(schema))
    draws, ids = random.Random(seed), []
    while not matcher.finished and len(ids) < 300:
        allowed = [i for i in matcher.allowed().nonzero()[:, 0].tolist() if i not in BLANKS]
        digits = [i for i in allowed if i not in DIGITS]
        ids.append(draws.choice(digits or allowed))
        if ids[-1] == 1:
            break
        matcher.push(ids[-1])
    assert fits(json.loads(TOKENIZER.decode(ids)), schema)


GRAMMARS = Grammars(TOKENIZER, TOKENIZER.vocab_size, [1])
DIGITS = [TOKENIZER.encode(c)[0] for c in "0123456789"]


def fits(value, schema):
    if "anyOf" in schema:
        return any(fits(value, inner) for inner in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "array":
        return isinstance(value, list) and len(value) <= 2 and all(fits(v, schema["items"]) for v in value)
    if schema["type"] == "object":
        return isinstance(value, dict) and set(value) == {"k"} and fits(value["k"], schema["properties"]["k"])
    return type(value) is {"integer": int, "boolean": bool}[schema["type"]]


# ---- reasoning -------------------------------------------------------------------------------------------------------


def test_reasoning_is_free_and_the_answer_after_it_is_bound():
    question = [{"role": "user", "content": "hi"}]
    prompt = TOKENIZER.encode_chat(question, thinking=True)
    thought = [*TOKENIZER.encode("no json here"), END_THINK]
    engine = Engine(scripted_lm([*thought, *TOKENIZER.encode("nor here" * 20)], prompt_length=len(prompt)))
    out = engine.generate(question, bound(Constraint.regex("[0-9]{3}"), temperature=0), thinking=True)[0]
    assert re.fullmatch(r"no json here</think>\d{3}", out.text)
    assert out.finish_reason == "stop"


def test_reasoning_may_not_end_an_answer_that_would_lack_its_form():
    engine, prompt = Engine(scripted_lm([20, 21])), [10, 11, THINK]  # ends in the midst of its reasoning
    assert engine.generate([prompt], Sampling(max_tokens=9, temperature=0))[0].token_ids == [20, 21, EOS]
    s = bound(Constraint.choice(["yes"]), temperature=0, max_tokens=40, thinking_budget=8)
    out = engine.generate([prompt], s)[0]
    assert out.finish_reason == "stop" and out.text.endswith("</think>yes") and EOS not in out.token_ids[:-1]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema, named",
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}, "/properties/a: the keyword if"),
        ({"type": "string", "contentEncoding": "base64"}, "contentEncoding"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "string", "format": "no such format"}, "no such format"),
        ({"items": [{"type": "string"}]}, "prefixItems"),
        ({"type": "strin"}, "strin"),
        ({"anyOf": []}, "anyOf"),
        ({"$ref": "http://example.org/x"}, "example.org"),
        ({"$ref": "#"}, "refers to nothing but itself"),
        ("{", "no JSON"),
        ([1], "is an object"),
    ],
)
def test_what_a_schema_asks_for_in_vain_is_refused_by_name(schema, named):
    with pytest.raises(SeeklingError, match=re.escape(named)):
        Constraint.json_schema(schema)


def test_all_keywords_that_cannot_be_enforced_are_named_at_once():
    with pytest.raises(SeeklingError, match=r"(?s)2 problems.*contains.*uniqueItems"):
        Constraint.json_schema({"type": "array", "contains": {}, "uniqueItems": True})


def test_notes_and_names_in_a_schema_are_no_keywords():
    Constraint.json_schema({"title": "T", "type": "object", "properties": {"not": {"type": "string", "default": {"if": 1}}}})


def pets(**dog):
    """What pydantic makes of a union of two classes told apart by a field."""
    kinds = {
        "Cat": {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
        "Dog": {"properties": {"kind": {"const": "dog"}, "loud": {"type": "boolean"}}, "required": ["kind", "loud"]} | dog,
    }
    return {
        "$defs": {name: {"type": "object", "additionalProperties": False, **one} for name, one in kinds.items()},
        "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    }


def test_a_union_told_apart_by_a_field_is_enforced(engine):
    constraint = Constraint.json_schema(pets())
    for seed in range(6):
        s = bound(constraint, seed=seed, logit_bias={i: -100 for i in BLANKS})
        answer = engine.generate("abc", s)[0]
        if answer.finish_reason == "stop":  # its number may go on for ever
            assert json.loads(answer.text).keys() in ({"kind", "lives"}, {"kind", "loud"})


@pytest.mark.parametrize(
    "dog",
    [
        {"required": ["loud"]},
        {"required": None},
        {"properties": {"kind": {"const": "cat"}}},
        {"properties": {}},
        {"properties": []},
        {"properties": {"kind": True}},
        {"properties": {"kind": {"enum": 3}}},
        {"properties": {"kind": {"enum": ["dog", "wolf"]}}},
        {"type": ["object", "string"]},  # a string would fit it whatever the field says
    ],
)
def test_a_union_whose_field_does_not_tell_it_apart_keeps_its_oneof(dog):
    assert "oneOf" in _told_apart(pets(**dog), pets(**dog))
    assert "oneOf" not in _told_apart(pets(), pets())


def test_a_oneof_that_nothing_tells_apart_is_refused_with_a_remedy():
    with pytest.raises(SeeklingError, match="give a discriminator, or write anyOf"):
        Constraint.json_schema({"oneOf": [{"type": "string", "maxLength": 5}, {"type": "string", "minLength": 3}]})


@pytest.mark.parametrize("make, bad", [(Constraint.regex, "a(b"), (Constraint.lark, "start: x"), (Constraint.choice, [])])
def test_a_broken_grammar_is_refused(make, bad):
    with pytest.raises(SeeklingError):
        make(bad)


def test_a_model_without_tokenizer_and_a_thing_that_is_no_constraint_are_refused():
    with pytest.raises(SeeklingError, match="needs a tokenizer"):
        Engine(tiny_lm(tokenizer=False)).generate([5], bound(Constraint.regex("a")))
    with pytest.raises(SeeklingError, match="constraint is a dict"):
        Sampling(constraint={"type": "object"})


def test_a_constraint_that_fails_on_the_way_ends_its_own_answer_only(engine, monkeypatch):
    from seekling.engine import constrain

    real = constrain.Matcher.push

    def push(self, token_id):
        if self._broken:
            raise SeeklingError("the constraint failed: too complex")
        real(self, token_id)

    monkeypatch.setattr(constrain.Matcher, "push", push)
    monkeypatch.setattr(constrain.Matcher, "_broken", True, raising=False)
    broken = engine._intake.requests(["abc"], bound(Constraint.regex("[ab]{9}")))[0]
    free = engine._intake.requests(["abc"], Sampling(max_tokens=5, ignore_eos=True))[0]
    handles = engine._loop.submit(broken), engine._loop.submit(free)
    with pytest.raises(SeeklingError, match="too complex"):
        handles[0].result()
    assert len(handles[1].result().token_ids) == 5
