"""The chat encoding: its very string, its agreement with the Jinja template, its refusals."""

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import DataError
from seekling.text import CHAT_TEMPLATE, chat_pieces, train_tokenizer
from seekling.text.special import CONTROL

QUESTION = [{"role": "user", "content": "Who are you?"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
    {"role": "user", "content": "你好"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Be brief. one and one is two. Who are you?\n\n你好"] * 3, 300)


def rendered(messages, **options) -> str:
    return "".join(chat_pieces(messages, **options))


def test_a_question_ends_where_the_answer_begins():
    assert rendered(QUESTION) == "<｜begin▁of▁sentence｜><｜User｜>Who are you?<｜Assistant｜></think>"
    assert rendered(QUESTION, thinking=True) == "<｜begin▁of▁sentence｜><｜User｜>Who are you?<｜Assistant｜><think>"
    assert rendered(QUESTION, add_generation_prompt=False) == "<｜begin▁of▁sentence｜><｜User｜>Who are you?"


def test_reasoning_of_earlier_turns_is_dropped():
    assert rendered(TALK) == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1?<｜Assistant｜></think>2<｜end▁of▁sentence｜>"
        "<｜User｜>你好<｜Assistant｜></think>"
    )


def test_reasoning_of_the_last_answer_is_kept():
    assert rendered(TALK[:3], add_generation_prompt=False).endswith(
        "<｜User｜>1+1?<｜Assistant｜><think>one and one</think>2<｜end▁of▁sentence｜>"
    )


def test_system_messages_are_joined_in_front():
    talk = [*QUESTION, {"role": "system", "content": "A"}, {"role": "system", "content": "B"}]
    assert rendered(talk).startswith("<｜begin▁of▁sentence｜>A\n\nB<｜User｜>")


content = st.text(st.sampled_from("ab \n你🙂{}%"), max_size=8)
turns = st.lists(
    st.tuples(st.sampled_from(["user", "system", "assistant"]), content, st.none() | content), min_size=1, max_size=7
)


def valid(drawn) -> list[dict]:
    """The drawn turns that may stand in a conversation."""
    talk, previous = [], None
    for role, text, reasoning in drawn:
        if role == "assistant" and previous != "user":
            continue
        talk.append({"role": role, "content": text})
        if role == "assistant" and reasoning is not None:
            talk[-1]["reasoning_content"] = reasoning
        previous = previous if role == "system" else role
    return talk or [{"role": "user", "content": "x"}]


@settings(max_examples=100)
@given(drawn=turns, thinking=st.booleans())
def test_the_jinja_template_says_the_same(drawn, thinking):
    talk = valid(drawn)
    last = next((m["role"] for m in reversed(talk) if m["role"] != "system"), None)
    prompt = last == "user"
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    assert template.render(messages=talk, add_generation_prompt=prompt, thinking=thinking) == rendered(
        talk, add_generation_prompt=prompt, thinking=thinking
    )


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("talk", [QUESTION, TALK, TALK[:2]])
def test_transformers_gives_the_same_ids(tokenizer, tmp_path, talk, thinking):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(talk, add_generation_prompt=True, thinking=thinking, tokenize=True, return_dict=False)
    assert ids == tokenizer.encode_chat(talk, thinking=thinking)


def test_marks_in_a_message_are_text(tokenizer):
    nasty = "".join(CONTROL)
    ids = tokenizer.encode_chat([{"role": "user", "content": nasty}])
    marks = [i for i in ids if i < len(CONTROL)]
    assert marks == [tokenizer.special[m] for m in (CONTROL[0], "<｜User｜>", "<｜Assistant｜>", "</think>")]
    assert nasty in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("talk", "complaint"),
    [
        ([], "empty"),
        ("hello", "must be a list"),
        (["hello"], "message 0 is a str"),
        ([{"role": "robot", "content": "x"}], "message 0 has role 'robot'"),
        ([*QUESTION, {"role": "user"}], "message 1 has no text"),
        ([{"role": "user", "content": "x", "name": "Bob"}], "message 0 has keys .*: name"),
        ([{"role": "assistant", "content": "x"}, *QUESTION], "message 0 is an answer without a question"),
        (TALK[:3], "message 2 is not the user's"),
        ([{"role": "user", "content": "x", "reasoning_content": "y"}], "message 0: 'reasoning_content'"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_index(talk, complaint):
    with pytest.raises(DataError, match=complaint):
        chat_pieces(talk)


def test_every_bad_message_is_listed():
    with pytest.raises(DataError, match="2 problems"):
        chat_pieces([{"role": "robot", "content": "x"}, {"role": "user", "content": 3}])
