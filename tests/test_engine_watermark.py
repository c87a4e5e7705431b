"""The watermark: distribution and determinism stay, the key's owner finds it, and nobody else's text is accused."""

import math

import numpy as np
import pytest
from engine_tiny import one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.sampler import kept
from seekling.engine.watermark import CONTEXT, LAYERS, Watermark, binomial_tail, detect

KEY = Watermark(b"a key of 32 bytes for this test.")
MARKED = Sampling(max_tokens=60, temperature=1.0, seed=1, ignore_eos=True, watermark=KEY)


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_lm(), prefix_cache=False)


def test_over_keys_every_token_keeps_its_probability():
    x_V = np.linspace(3, -3, 40).astype(np.float32)
    for s in (Sampling(temperature=0.9), Sampling(temperature=1.0, top_k=12), Sampling(top_p=0.9)):
        ids_K, plain_K = kept(x_V, s)
        total = np.zeros(len(plain_K))
        keys = 1500
        for number in range(keys):
            marked_ids, marked_K = Watermark(number.to_bytes(16, "big")).weights(x_V, s, [1, 2, 3, 4], set())
            assert (ids_K is None and marked_ids is None) or (ids_K == marked_ids).all()
            assert marked_K.min() >= 0 and marked_K.sum() == pytest.approx(plain_K.sum())
            total += marked_K / marked_K.sum() / keys
        p_K = plain_K / plain_K.sum()
        assert np.abs(total - p_K).max() < 5 * math.sqrt(p_K.max() / keys)


def test_the_reweighting_is_the_tournament_of_the_paper():
    """One layer: two tokens are drawn, the one with the larger bit wins, equal bits toss a coin."""
    x_V = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    g = KEY.bits([1, 2, 3, 4], np.arange(3))
    p = np.array([0.5, 0.3, 0.2])
    for layer in range(LAYERS):
        won = np.zeros(3)
        for a in range(3):
            for b in range(3):
                ga, gb = g[a, layer], g[b, layer]
                won[a] += p[a] * p[b] * (1.0 if ga > gb else 0.5 if ga == gb else 0.0)
                won[b] += p[a] * p[b] * (1.0 if gb > ga else 0.5 if ga == gb else 0.0)
        p = won
    _, weights = KEY.weights(x_V, Sampling(temperature=1.0), [1, 2, 3, 4], set())
    assert weights / weights.sum() == pytest.approx(p, abs=1e-6)


def test_bits_are_fair_and_do_not_depend_on_each_other():
    g_KL = KEY.bits([7, 7, 7, 7], np.arange(20000)).astype(float)
    assert np.abs(g_KL.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(g_KL.T) - np.eye(LAYERS)).max() < 0.04


def test_a_context_is_marked_once_an_answer(engine):
    x_V, seen = np.zeros(20, np.float32), set()
    first = KEY.weights(x_V, MARKED, [1, 2, 3, 4], seen)[1]
    again = KEY.weights(x_V, MARKED, [9, 1, 2, 3, 4], seen)[1]
    assert len(set(first.tolist())) > 1 and len(set(again.tolist())) == 1


def test_marked_answers_are_found_and_unmarked_ones_and_other_keys_are_not(engine):
    marked, plain = (
        engine.generate([[5, 6, 7, 8, 9]], s)[0].token_ids for s in (MARKED, Sampling(**{**vars(MARKED), "watermark": None}))
    )
    assert detect(KEY, marked).p_value < 1e-6
    assert detect(KEY, plain).p_value > 1e-3
    assert detect(Watermark(b"another key of the same length.."), marked).p_value > 1e-3


def test_a_marked_answer_does_not_depend_on_its_company_and_repeats_by_its_seed(engine):
    alone = engine.generate([[5, 6, 7]], MARKED)[0]
    many = engine.generate([[5, 6, 7], [8] * 9, [5, 6, 7]], [MARKED, MARKED, Sampling(**{**vars(MARKED), "seed": 2})])
    assert many[0].token_ids == alone.token_ids != many[2].token_ids


def test_speculation_draws_the_same_marked_tokens():
    lm = tiny_lm()
    prompt = [[5, 6, 7, 8] * 4]
    plain = Engine(lm, prefix_cache=False).generate(prompt, MARKED)[0].token_ids
    assert Engine(lm, prefix_cache=False, speculate="ngram").generate(prompt, MARKED)[0].token_ids == plain


def test_greedy_answers_are_unchanged(engine):
    greedy = Sampling(max_tokens=20, temperature=0, ignore_eos=True)
    assert (
        engine.generate([[5, 6]], greedy)[0].token_ids
        == engine.generate([[5, 6]], Sampling(**{**vars(greedy), "watermark": KEY}))[0].token_ids
    )


def test_p_values_of_texts_without_the_key_are_as_rare_as_they_say():
    rng = np.random.default_rng(0)
    found = [detect(KEY, rng.integers(0, 50000, 100).tolist()).p_value for _ in range(400)]
    for level in (0.01, 0.1, 0.5):
        share = np.mean([p <= level for p in found])
        assert share <= level + 4 * math.sqrt(level * (1 - level) / 400)


def test_the_tail_is_the_exact_one():
    for n, k in ((1, 0), (1, 1), (10, 3), (10, 5), (17, 17), (40, 12), (300, 190)):
        exact = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
        assert binomial_tail(n, k) == pytest.approx(exact, rel=1e-9)
    assert binomial_tail(5, 6) == 0.0


def test_repeated_text_counts_once():
    ids = list(range(20))
    assert detect(KEY, ids * 5).tokens <= 20 + CONTEXT
    assert detect(KEY, []).p_value == 1.0


def test_a_short_key_is_refused_and_no_key_is_shown():
    with pytest.raises(SeeklingError, match="16 bytes"):
        Watermark(b"short")
    assert "key of 32" not in repr(KEY) and KEY.name not in KEY.key.decode()
    with pytest.raises(SeeklingError, match="watermark is a bytes"):
        Sampling(watermark=b"0" * 32)
