"""Generated text: the same for ever, right where it can be checked, and fit to be read."""

import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.data.generate import VERSION, Dice, generate
from seekling.data.numbers import in_words, problem
from seekling.data.plots import PLOTS
from seekling.data.stories import ANIMALS, Tale, article, opening, story
from seekling.data.talk import WHO, WHO_BACK, tell_story
from seekling.text import chat_pieces

KINDS = ("stories", "numbers", "talk")
SUM = re.compile(r"\b(\d+) ([-+x]) (\d+) = (\d+)")


def text_of(document) -> str:
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("stories", "24b14bf74a0a676b"),
        ("numbers", "ce6c4e51e01e836c"),
        ("talk", "3dc92ada8f7eb4f7"),
    ],
)
def test_the_text_of_a_version_never_changes(kind, expected):
    """Whoever changes a generator raises VERSION and these digests: caches and manifests name the version."""
    documents = [generate(kind, 3, index) for index in range(200)]
    assert (VERSION, hashlib.sha256(json.dumps(documents).encode()).hexdigest()[:16]) == (1, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_indices_give_documents_of_their_own(kind):
    documents = {text_of(generate(kind, seed, index)) for seed in range(2) for index in range(150)}
    assert len(documents) > 220


@pytest.mark.parametrize("kind", ["numbers", "talk"])
def test_every_sum_is_right(kind):
    found = SUM.findall("\n".join(text_of(generate(kind, 1, index)) for index in range(600)))
    assert len(found) > 100
    for a, sign, b, c in found:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign] == int(c)


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6))
def test_the_answer_of_a_word_problem_follows_from_its_numbers(seed):
    question, answer = problem(Dice(seed))
    given_numbers = sorted(map(int, re.findall(r"\d+", question)))
    a, _, b, c = SUM.search(answer).groups()
    assert sorted((int(a), int(b))) == given_numbers and answer.endswith(f"The answer is {c}.")


@settings(max_examples=100)
@given(index=st.integers(0, 10**9), plot=st.sampled_from(PLOTS))
def test_a_story_is_finished_prose(index, plot):
    tale = Tale(Dice(index))
    opening(tale)
    plot(tale)
    text = tale.text()
    assert not re.search(r"[{}|]|  |\b[Aa] [aeiou]|\ban (?!honest)[^aeiou]", text), text
    for sentence in re.split(r"(?<=\.)\s+", text.replace('"', "")):
        assert sentence[0].isupper(), (sentence, text)
    assert text.count('"') % 2 == 0 and text[-1] in '.!"'
    assert 2 <= text.count("\n\n") <= 6 and 300 < len(text) < 1200


@pytest.mark.parametrize("kind", [*ANIMALS, "girl", "boy"])
def test_a_story_about_somebody_has_them_as_its_hero(kind):
    assert kind in story(Dice(5), kind).split(".")[0] + story(Dice(5), kind).split(".")[1]


def test_an_asked_for_story_is_about_what_was_asked():
    for seed in range(40):
        question, answer = tell_story(Dice(seed))
        wanted = re.search(r"about an? (\w+)", question)
        if wanted:
            assert wanted[1] in " ".join(answer.split(".")[:2])


def test_every_conversation_can_be_encoded():
    for index in range(300):
        talk = generate("talk", 0, index)
        assert "".join(chat_pieces(talk, add_generation_prompt=False)).endswith("<｜end▁of▁sentence｜>")


def test_every_question_about_itself_has_an_answer():
    assert all(WHO_BACK[asked[0].upper() + asked[1:]] for asked in WHO)


def test_numbers_and_articles_in_english():
    assert [in_words(n) for n in (0, 13, 20, 42, 99)] == ["zero", "thirteen", "twenty", "forty-two", "ninety-nine"]
    assert (article("owl"), article("fox")) == ("an owl", "a fox")


def test_an_unknown_generator_is_refused():
    with pytest.raises(ValueError, match="poems"):
        generate("poems", 0, 0)
