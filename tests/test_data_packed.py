"""Packing: every pair of tokens once an epoch, whatever the lengths; any row by its number alone."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.data.packed import Packed, epoch_order
from seekling.data.stream import bits_per_byte, stream_of
from seekling.errors import DataError


def documents(lengths):
    """Documents of ever new ids, so that a token names its place."""
    ends = np.cumsum(lengths)
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=12).filter(lambda xs: sum(xs) > 1)


def pairs(batch, ahead: int, T: int):
    """(token, target) pairs that count, ``ahead`` tokens apart."""
    keep = batch.doc_BS[:, :T] == batch.doc_BS[:, ahead : T + ahead]
    if batch.mask_BS is not None:
        keep &= batch.mask_BS[:, ahead : T + ahead]
    return list(zip(batch.tokens_BS[:, :T][keep].tolist(), batch.tokens_BS[:, ahead : T + ahead][keep].tolist(), strict=True))


@settings(max_examples=150)
@given(lengths=lengths, T=st.integers(1, 9), extra=st.integers(0, 2), seed=st.integers(0, 2**64), n=st.integers(1, 7))
def test_two_epochs_meet_every_pair_twice_for_every_depth(lengths, T, extra, seed, n):
    packed = Packed(stream_of(documents(lengths)), T, extra, seed)
    seen = [collections.Counter() for _ in range(1 + extra)]
    for first in range(0, 2 * packed.n_rows, n):  # batches of n go over the epochs' edges
        batch = packed.batch(first, min(n, 2 * packed.n_rows - first))
        for depth in range(1 + extra):
            seen[depth].update(pairs(batch, 1 + depth, T))
    for depth in range(1 + extra):
        expected = [(a, a + 1 + depth) for doc in documents(lengths) for a in doc if a + 1 + depth in doc]
        assert seen[depth] == collections.Counter(expected * 2)


@settings(max_examples=50)
@given(lengths=lengths, T=st.integers(1, 9))
def test_without_document_mask_no_pair_of_the_stream_is_lost(lengths, T):
    packed = Packed(stream_of(documents(lengths)), T, document_mask=False)
    assert sorted(pairs(packed.batch(0, packed.n_rows), 1, T)) == [(i, i + 1) for i in range(sum(lengths) - 1)]


@settings(max_examples=50)
@given(lengths=lengths, T=st.integers(1, 9), first=st.integers(0, 50), n=st.integers(1, 8))
def test_a_row_does_not_depend_on_the_batch_it_is_read_in(lengths, T, first, n):
    packed = Packed(stream_of(documents(lengths)), T, 1, 7)
    together = packed.batch(first, n)
    for i in range(n):
        alone = packed.batch(first + i, 1)
        assert torch.equal(alone.tokens_BS[0], together.tokens_BS[i])
        assert torch.equal(alone.doc_BS[0], together.doc_BS[i])


@settings(max_examples=50)
@given(lengths=lengths, T=st.integers(1, 9))
def test_document_numbers_rise_from_zero_and_change_with_the_document(lengths, T):
    packed = Packed(stream_of(documents(lengths)), T, 1)
    owner = [n for n, doc in enumerate(documents(lengths)) for _ in doc]
    batch = packed.batch(0, packed.n_rows)
    assert bool((batch.doc_BS[:, 0] == 0).all()) and bool((batch.doc_BS.diff(dim=1) >= 0).all())
    real = torch.ones_like(batch.tokens_BS, dtype=torch.bool) if batch.mask_BS is None else batch.mask_BS
    for tokens, docs, keep in zip(batch.tokens_BS, batch.doc_BS, real, strict=True):
        owners = torch.tensor([owner[t] for t in tokens[keep].tolist()])
        assert torch.equal(docs[keep], (owners - owners[0]).int())


def test_types_and_shapes():
    batch = Packed(stream_of(documents([50])), 8, 2).batch(0, 3)
    assert batch.tokens_BS.shape == batch.doc_BS.shape == (3, 11)
    assert (batch.tokens_BS.dtype, batch.doc_BS.dtype) == (torch.int64, torch.int32)


def test_epochs_have_orders_of_their_own():
    packed = Packed(stream_of(documents([400])), 4, seed=3)
    epochs = [packed.batch(e * packed.n_rows, packed.n_rows).tokens_BS[:, 0].tolist() for e in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])
    other_seed = Packed(stream_of(documents([400])), 4, seed=4)
    assert other_seed.batch(0, packed.n_rows).tokens_BS[:, 0].tolist() != epochs[0]


def test_the_order_is_the_same_for_ever():
    """A resumed run must meet the same rows under any numpy: these are recorded."""
    assert epoch_order(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert epoch_order(2**64 - 1, 5, 8).tolist() == [0, 2, 1, 5, 7, 6, 4, 3]


def test_evaluation_reads_in_order():
    packed = Packed(stream_of(documents([10])), 3, seed=None)
    assert packed.batch(0, 3).tokens_BS[:, 0].tolist() == [0, 3, 6]


def test_a_stream_without_a_pair_is_refused():
    with pytest.raises(DataError, match="fewer than two tokens"):
        Packed(stream_of([[5]]), 4)


def test_a_uniform_model_over_bytes_has_eight_bits_a_byte():
    assert bits_per_byte(100 * np.log(256), 100) == pytest.approx(8)
