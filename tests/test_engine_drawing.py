"""Tokens drawn natively against the sampler's plain arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.engine.drawing import Ask, Drawn, drawn
from seekling.engine.request import Request
from seekling.engine.sampler import adjusted, as_rows, draw, logprob
from seekling.engine.sampling import Sampling
from seekling.engine.watermark import Watermark
from seekling.errors import SeeklingError
from seekling.kernels import sampling as native

pytestmark = pytest.mark.skipif(not native.available(), reason="no native library is built here")


def request(s: Sampling, size: int) -> Request:
    return Request([0], s, room=100, end_ids=(), decoder=None, vocab_size=size)


def rows(count: int, size: int, seed: int, spread: float = 3.0):
    return as_rows(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * spread)


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 7, 600, 10**6]),
    top_p=st.sampled_from([1.0, 1.0, 0.95, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([{}, {3: -100.0}, {1: 2.0}]),
    seed=st.integers(0, 10**6),
    watermark=st.sampled_from([None, Watermark(b"a key of 32 bytes for this test.")]),
)


@settings(max_examples=50)
@given(st.lists(SETTINGS, min_size=1, max_size=5), st.integers(0, 10**6), st.sampled_from([9, 256, 700, 3001]))
def test_a_row_s_token_and_log_probability_are_those_of_the_plain_sampler(many, seed, size):
    for spread in (0.1, 3.0):
        x_BV = rows(len(many), size, seed, spread)
        requests = [request(s, size) for s in many]
        for r, x_V, one in zip(requests, x_BV, drawn([Ask(*pair) for pair in zip(requests, x_BV, strict=True)]), strict=True):
            assert isinstance(one, Drawn)
            changed_V = adjusted(x_V, r.sampling, r.seen_V, r.counts_V)
            u = 0.0 if r.sampling.greedy else r.uniform()
            # Sums are rounded otherwise here: a uniform number next to a token's edge may fall on either side of it.
            s = r.sampling
            marked = s.watermark.weights(changed_V, s, r.ids, set()) if s.watermark and not s.greedy else None
            near = {draw(changed_V, s, min(max(u + d, 0.0), 1 - 1e-12), marked) for d in (0.0, -1e-6, 1e-6)}
            assert one.token in near
            assert one.logprob == pytest.approx(logprob(x_V, one.token), abs=2e-6)


@settings(max_examples=30)
@given(st.lists(SETTINGS, min_size=2, max_size=6), st.integers(0, 10**6))
def test_a_row_is_drawn_bit_for_bit_the_same_alone_and_beside_others(many, seed):
    x_BV = rows(len(many), 1000, seed)
    together = drawn([Ask(request(s, 1000), x_V) for s, x_V in zip(many, x_BV, strict=True)], threads=2)
    assert together == [drawn([Ask(request(s, 1000), x_V)])[0] for s, x_V in zip(many, x_BV, strict=True)]


@pytest.mark.parametrize("more", [{}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.02}])
def test_a_mark_leads_to_the_tokens_of_the_plain_sampler(more):
    """Over a vocabulary of many blocks, and once a context: the second time the same one comes it leaves no mark."""
    key = Watermark(b"a key of 32 bytes for this test.")
    changed = 0
    for seed, x_V in enumerate(rows(40, 49_152, 5, spread=2.0)):
        s = Sampling(temperature=1.0, seed=seed, watermark=key, **more)
        r = Request([seed, 2, 3, 4], s, room=100, end_ids=(), decoder=None, vocab_size=len(x_V))
        first, again = (drawn([Ask(r, x_V)])[0].token for _ in range(2))
        seen = set()
        assert [first, again] == [draw(x_V, s, r.uniform(), key.weights(x_V, s, r.ids, seen)) for _ in range(2)]
        changed += first != again
    assert changed > 5


def test_a_flat_distribution_is_cut_to_its_nucleus_without_a_sort():
    x_V = rows(1, 40_000, 1, spread=0.2)[0]
    for p in (0.2, 0.9):
        kept = torch.tensor(x_V).double().softmax(0).sort(descending=True)
        count = int((kept.values.cumsum(0) - kept.values < p).sum())
        inside = set(kept.indices[: count + 1].tolist())
        for seed in range(20):
            one = drawn([Ask(request(Sampling(temperature=1.0, top_p=p, seed=seed), len(x_V)), x_V)])[0]
            assert isinstance(one, Drawn) and one.token in inside


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_the_ends_of_the_uniform_range_give_tokens_that_are_possible(u, more, monkeypatch):
    x_V = as_rows(torch.tensor([[-math.inf, 1.0, -math.inf, 0.9, -math.inf, *[-200.0] * 600]]))[0]
    r = request(Sampling(temperature=1.0, **more), len(x_V))
    monkeypatch.setattr(r, "uniform", lambda ahead=0: u)
    one = drawn([Ask(r, x_V)])[0]
    assert isinstance(one, Drawn) and one.token == (1 if u == 0 else 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_only_the_damaged_row_fails(bad):
    x_BV = rows(2, 300, 0)
    x_BV[0, 77] = bad
    first, second = drawn([Ask(request(Sampling(), 300), x_V) for x_V in x_BV])
    assert isinstance(first, SeeklingError) and "diverged" in str(first)
    assert isinstance(second, Drawn)


def test_of_equal_logits_the_first_is_greedy_s_choice():
    x_V = as_rows(torch.zeros(1, 1000))[0].copy()
    x_V[[300, 301, 999]] = 5.0
    one = drawn([Ask(request(Sampling(temperature=0), 1000), x_V)])[0]
    assert isinstance(one, Drawn) and one.token == 300
