"""Bits per byte against a by-hand sum, budgets, determinism, and that nothing of the model moves."""

import math

import pytest
import torch
from pretrain_tiny import PREPARED, VOCAB
from train_tiny import one_thread, tiny_config  # noqa: F401

from seekling.data import stream_of
from seekling.errors import DataError
from seekling.model import Decoder
from seekling.train.evaluate import byte_lengths, cut, evaluate

BYTES_V = byte_lengths(PREPARED.tokenizer)


@pytest.fixture
def model():
    return Decoder.build(tiny_config(vocab_size=VOCAB), seed=1).eval()


def by_hand(model, stream):
    """One document at a time, each a row of its own: (cross-entropy sum, right guesses, targets)."""
    ce, right, n = 0.0, 0, 0
    for i in range(stream.documents):
        ids = torch.tensor(stream.document(i).astype(int))[None]
        logits = model(ids[:, :-1])[0].double()
        ce += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        right += int((logits.argmax(-1) == ids[0, 1:]).sum())
        n += ids.shape[1] - 1
    return ce, right, n


@torch.no_grad()
def test_bits_per_byte_accuracy_and_bytes_equal_the_sum_over_documents(model):
    """Rows of 60 tokens hold these documents whole only when cut at the right places: use one long row."""
    heldout = {"geese": PREPARED.heldout["geese"]}
    length = len(heldout["geese"]) - 1
    model = Decoder.build(tiny_config(vocab_size=VOCAB, max_position_embeddings=1000), seed=1).eval()
    got = evaluate(model, heldout, length, BYTES_V).total
    ce, right, n = by_hand(model, heldout["geese"])
    assert (got.targets, got.right) == (n, right)
    assert got.text_bytes == heldout["geese"].bytes
    assert got.ce_sum == pytest.approx(ce, rel=1e-5)
    assert got.bits_per_byte == pytest.approx(ce / math.log(2) / heldout["geese"].bytes, rel=1e-5)


def test_every_target_is_counted_once_whatever_the_row_length(model):
    for length in (7, 16, 64):
        total = evaluate(model, PREPARED.heldout, length, BYTES_V).total
        assert total.targets == sum(len(s) - s.documents for s in PREPARED.heldout.values())
        assert total.text_bytes == sum(s.bytes for s in PREPARED.heldout.values())


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token(model):
    with torch.no_grad():
        model.lm_head.weight.zero_()
    total = evaluate(model, PREPARED.heldout, 16, BYTES_V).total
    assert total.bits_per_byte == pytest.approx(total.targets * math.log2(VOCAB) / total.text_bytes, rel=1e-5)


def test_a_budget_uses_the_beginning_of_each_source_and_states_the_share(model):
    result = evaluate(model, PREPARED.heldout, 16, BYTES_V, tokens=50)
    stream = PREPARED.heldout["ducks"]
    assert result.sources["ducks"].share == pytest.approx(50 / len(stream))
    whole, part = list(stream.tokens[:50]), cut(stream, 50)
    assert list(part.tokens) == whole and part.offsets[-1] == 50 and part.documents == len(part.offsets) - 1
    assert result.sources["ducks"].text_bytes == int(BYTES_V[whole].sum())
    assert 0 < result.total.share < 1 and evaluate(model, PREPARED.heldout, 16, BYTES_V).total.share == 1


def test_evaluation_is_deterministic_and_moves_nothing(model):
    model.train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    random_state = torch.get_rng_state()
    a = evaluate(model, PREPARED.heldout, 16, BYTES_V).to_dict()
    b = evaluate(model, PREPARED.heldout, 16, BYTES_V).to_dict()
    assert a == b and model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), "routers are frozen in evaluation"
    assert torch.equal(torch.get_rng_state(), random_state)


def test_expert_balance_counts_text_tokens_only(model):
    """Two experts a token in one main router; the row's filling is left out, the MTP router does not run."""
    stream = stream_of([[0, 30, 31, 1], [0, 32, 1]])
    total = evaluate(model, {"a": stream}, 64, BYTES_V).total
    assert total.loads_LE.sum(1).tolist() == [2 * len(stream), 0]
    assert evaluate(model, {"a": stream}, 64, BYTES_V).to_dict()["maxvio"][1] is None


def test_no_heldout_text_is_an_error_with_its_remedy(model):
    with pytest.raises(DataError, match="--heldout"):
        evaluate(model, {"a": stream_of([])}, 16, BYTES_V)


def test_control_tokens_stand_for_no_bytes():
    tokenizer = PREPARED.tokenizer
    assert BYTES_V[tokenizer.bos_id] == BYTES_V[tokenizer.eos_id] == 0
    ids = tokenizer.encode("Füße 漢", bos=True, eos=True)
    assert int(BYTES_V[ids].sum()) == len("Füße 漢".encode())
