"""Conversations from files: every usual shape, every problem with its line, the loss mask, rows of whole conversations."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.data.conversations import conversation_of, read_conversations
from seekling.data.packed_conversations import Example, PackedConversations, encode_each, examples_of, fill_bins, held_out
from seekling.errors import DataError
from seekling.text.bpe import train_tokenizer

TOKENIZER = train_tokenizer(["hello you, what is it? it is a small test of the thing that was told " * 20], 300)


def said(conversation):
    return [(m["role"], m.get("content")) for m in conversation.messages]


def write(tmp_path, *records):
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), "utf-8")
    return path


QUESTION = {"role": "user", "content": "what is it?"}
ANSWER = {"role": "assistant", "content": "it is a test"}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [QUESTION, ANSWER]},
        {"conversations": [{"from": "human", "value": "what is it?"}, {"from": "gpt", "value": "it is a test"}]},
        {"instruction": "what is it?", "input": "", "output": "it is a test"},
        {"prompt": "what is it?", "completion": "it is a test"},
        {"prompt": [QUESTION], "completion": [ANSWER]},
    ],
)
def test_every_usual_shape_gives_the_same_conversation(record):
    assert said(conversation_of(record)) == [("user", "what is it?"), ("assistant", "it is a test")]


def test_alpaca_input_follows_the_instruction():
    talk = conversation_of({"instruction": "add", "input": "1 2", "output": "3"})
    assert said(talk)[0] == ("user", "add\n\n1 2")


TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}
SHAPES = [
    {"messages": [QUESTION, ANSWER]},
    {"conversations": [{"from": "human", "value": "what is it?"}, {"from": "gpt", "value": "it is a test"}]},
    {"instruction": "what is it?", "output": "it is a test"},
    {"prompt": "what is it?", "completion": "it is a test"},
]


@pytest.mark.parametrize("record", SHAPES, ids=lambda record: next(iter(record)))
def test_a_system_text_and_tools_beside_any_shape_are_part_of_the_conversation(record):
    for tools in ([TOOL], json.dumps([TOOL]), [TOOL["function"]]):
        talk = conversation_of({**record, "system": "be rude", "tools": tools})
        assert said(talk) == [("system", "be rude"), ("user", "what is it?"), ("assistant", "it is a test")]
        assert talk.tools == (TOOL,)


def test_a_system_text_is_said_once_and_never_against_another():
    system = {"role": "system", "content": "be rude"}
    record = {"messages": [system, QUESTION, ANSWER], "system": "be rude"}
    assert [role for role, _ in said(conversation_of(record))] == ["system", "user", "assistant"]
    with pytest.raises(ValueError, match="keep one"):
        conversation_of({**record, "system": "be kind"})


def test_alpaca_history_comes_before_the_instruction():
    talk = conversation_of({"instruction": "c", "output": "d", "history": [["a", "b"]]})
    assert said(talk) == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


@pytest.mark.parametrize("record", SHAPES, ids=lambda record: next(iter(record)))
def test_what_could_be_content_is_refused_and_notes_are_passed_over(record):
    notes = {"id": 3, "source": "x", "score": 0.1, "prompt_id": "p", "metadata": {"a": 1}, "images": [], "system": None}
    assert conversation_of({**record, **notes}) == conversation_of(record)
    for key, value in {"weight": 0, "images": ["a.png"], "label": False, "functions": [{}], "system_prompt": "x"}.items():
        with pytest.raises(ValueError, match=f"cannot be learned from: {key}"):
            conversation_of({**record, **notes, key: value})


def test_a_turn_with_more_than_its_speaker_and_text_is_refused():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]
    with pytest.raises(ValueError, match=r"turn 1 .*weight"):
        conversation_of({"conversations": turns})
    with pytest.raises(ValueError, match="turn 0 is from"):
        conversation_of({"conversations": [{"from": ["human"], "value": "a"}]})


def test_all_bad_lines_are_named_in_one_error(tmp_path):
    path = write(
        tmp_path,
        {"messages": [QUESTION, ANSWER]},
        "{broken",
        {"messages": [{"role": "wizard", "content": "x"}, ANSWER]},
        {"messages": [QUESTION]},
        {"text": "no shape"},
        {"messages": [QUESTION, {"role": "assistant", "content": ["parts"]}]},
    )
    with pytest.raises(DataError) as caught:
        read_conversations([path])
    message = str(caught.value)
    for line, word in [(2, "not valid JSON"), (3, "'wizard'"), (4, "nothing to learn"), (5, "(it has text)"), (6, "list")]:
        assert any(f":{line}:" in part and word in part for part in message.splitlines()), (line, word, message)
    assert ":1:" not in message


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
def test_json_that_is_nested_without_end_is_named(tmp_path, name):
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(DataError, match=rf"{name}.* is not valid JSON"):
        read_conversations([tmp_path / name])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*absent\.jsonl"):
        read_conversations([tmp_path / "absent.jsonl"])


def test_the_loss_is_on_the_assistants_words_and_its_end_mark():
    talk = conversation_of({"messages": [{"role": "system", "content": "small"}, QUESTION, ANSWER, QUESTION, ANSWER]})
    (example,) = examples_of(TOKENIZER, talk)
    learned = [TOKENIZER.decode(example.ids[lo:hi], skip_special=False) for lo, hi in spans(example.targets)]
    assert learned == ["it is a test<｜end▁of▁sentence｜>"] * 2
    whole = TOKENIZER.encode_chat(list(talk.messages), add_generation_prompt=False)
    assert example.ids.tolist() == whole


def spans(mask):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


class Forgetful:
    """A template that rewrites history: only the last answer keeps its thoughts, as Qwen3's does."""

    pad_id, eos_id = 0, 1

    def encode_chat(self, messages, *, add_generation_prompt=True, thinking=False):
        ids = []
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        for i, m in enumerate(messages):
            thoughts = [7] * 2 if m["role"] == "assistant" and i == last and not add_generation_prompt else []
            ids += [2 if m["role"] == "user" else 3, *thoughts, *([9] * len(m["content"])), 1]
        return [*ids, 3] if add_generation_prompt else ids


def test_a_template_that_rewrites_history_gives_one_example_a_reply():
    talk = conversation_of({"messages": [QUESTION, ANSWER, QUESTION, ANSWER]})
    first, second = examples_of(Forgetful(), talk)
    assert len(first) < len(second)
    assert spans(first.targets) == [(len(first) - 15, len(first))]
    assert spans(second.targets) == [(len(second) - 15, len(second))]  # two thoughts, twelve letters, the end mark


class Fickle(Forgetful):
    """A template whose question changes once it is answered."""

    def encode_chat(self, messages, *, add_generation_prompt=True, thinking=False):
        ids = super().encode_chat(messages, add_generation_prompt=add_generation_prompt)
        return [5, *ids] if add_generation_prompt else ids


def test_a_template_that_changes_the_question_is_refused():
    with pytest.raises(DataError, match="keeps a conversation's beginning"):
        examples_of(Fickle(), conversation_of({"messages": [QUESTION, ANSWER]}, "here:1"))


def test_a_model_that_can_encode_nothing_is_not_asked_for_every_line():
    asked = []

    def encode(number):
        asked.append(number)
        raise DataError(f"f:{number}: no chat format")

    with pytest.raises(DataError, match=r"f:7: no chat format\n.*no other was tried"):
        encode_each(range(10000), encode, "conversations")
    assert len(asked) == 8


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60)


@given(LENGTHS)
@settings(max_examples=60)
def test_every_example_lies_in_one_row_and_no_row_overflows(lengths):
    rows = fill_bins(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 10) + 1


def examples(lengths):
    return [Example(np.arange(n) + 10 * i, np.arange(n) % 2 == 1, f"f:{i}") for i, n in enumerate(lengths)]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.sampled_from([0.05, 0.2, 0.5]))
def test_what_is_held_out_is_never_also_trained_on(keys, share):
    order = list(np.random.default_rng(0).permutation(len(keys)))
    out = held_out(order, keys, share)
    assert not {keys[i] for i in out} & {keys[i] for i in set(order) - out}
    wanted, largest = round(share * len(keys)), max(map(keys.count, keys))
    if len(set(keys)) == 1 or not wanted:
        assert out == set()
    else:
        assert 1 <= len(out) <= max(wanted, len(keys) // 2) and len(out) > wanted - largest


def test_without_equals_exactly_the_share_is_held_out_first_of_the_order_first():
    assert held_out([3, 1, 4, 0, 2, 5, 9, 7, 8, 6], "abcdefghij", 0.2) == {3, 1}


def test_a_row_keeps_examples_apart_and_fills_up_with_padding_that_is_no_target():
    batch = PackedConversations(examples([4, 3]), 8, pad=0, extra=1, seed=None).batch(0, 1)
    assert batch.tokens_BS.tolist() == [[0, 1, 2, 3, 10, 11, 12, 0, 0, 0]]
    assert batch.doc_BS.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2, 2]]
    assert batch.mask_BS.tolist() == [[False, True, False, True, False, True, False, False, False, False]]


def test_an_epoch_meets_every_row_once_in_an_order_of_its_own():
    packed = PackedConversations(examples([8] * 12), 8, pad=0, seed=3)
    first = [tuple(packed.batch(r, 1).tokens_BS[0].tolist()) for r in range(12)]
    second = [tuple(packed.batch(12 + r, 1).tokens_BS[0].tolist()) for r in range(12)]
    assert sorted(first) == sorted(second) and len(set(first)) == 12
    assert first != second
    together = packed.batch(3, 5).tokens_BS
    assert torch.equal(together, torch.cat([packed.batch(r, 1).tokens_BS for r in range(3, 8)]))


def test_conversations_longer_than_a_row_are_listed_and_never_cut():
    with pytest.raises(DataError, match=r"f:1 takes 12 tokens") as caught:
        PackedConversations(examples([4, 12, 9]), 8, pad=0)
    assert "--seq-len" in str(caught.value) and "f:2" not in str(caught.value)
