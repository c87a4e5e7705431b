"""Sampling settings, the sampler's arithmetic, and stop strings."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.engine import sampler_oracle as oracle
from seekling.engine.request import uniform
from seekling.engine.sampler import probabilities, sample, token_logprobs, top_logprobs
from seekling.engine.sampling import Sampling
from seekling.engine.stop import StopFilter
from seekling.engine.thinking import ThinkingGuard, in_a_loop
from seekling.errors import SeeklingError


def normal(logits, **kw):
    p = probabilities(torch.tensor([logits]), [Sampling(**kw)])[0]
    return (p / p.sum()).tolist()


# ---- settings --------------------------------------------------------------------------------------------------------


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="temprature"):
        Sampling(temprature=1.0)


def test_every_wrong_setting_is_named_in_one_error():
    with pytest.raises(SeeklingError) as error:
        Sampling(
            max_tokens=0,
            temperature=-1,
            top_p=0,
            top_k=-1,
            min_p=2,
            repetition_penalty=0,
            seed=-1,
            stop=["a", ""],
            stop_token_ids=["x"],
            ignore_eos=1,
            presence_penalty=3,
            logit_bias={"a": 1},
            n=0,
            thinking_budget=-1,
        )
    for name in (
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop is",
        "stop_token_ids",
        "ignore_eos",
        "presence_penalty",
        "logit_bias",
        "n is",
        "thinking_budget",
    ):
        assert name in str(error.value)
    assert "14 problems" in str(error.value)


@pytest.mark.parametrize("penalty", [1e-40, 1e3])
def test_a_repetition_penalty_that_would_leave_no_numbers_is_refused(penalty):
    with pytest.raises(SeeklingError, match=r"from 0\.01 to 100"):
        Sampling(repetition_penalty=penalty)


@pytest.mark.parametrize("temperature", [None, "1", math.nan, math.inf, True])
def test_a_temperature_that_is_not_a_finite_number_is_refused(temperature):
    with pytest.raises(SeeklingError, match="temperature"):
        Sampling(temperature=temperature)


def test_temperature_zero_is_greedy_and_not_the_default():
    assert Sampling(temperature=0).greedy
    assert not Sampling().greedy


def test_one_stop_string_and_a_list_of_one_mean_the_same():
    assert Sampling(stop="ab") == Sampling(stop=["ab"]) == Sampling(stop=("ab",))


# ---- the distribution ------------------------------------------------------------------------------------------------

LOGITS = [2.0, 1.0, 0.0, -1.0]


def test_plain_sampling_is_softmax():
    assert normal(LOGITS, temperature=1.0) == pytest.approx(torch.tensor(LOGITS).double().softmax(0).tolist())


def test_temperature_divides_the_logits():
    assert normal(LOGITS, temperature=0.5) == pytest.approx((torch.tensor(LOGITS).double() * 2).softmax(0).tolist())


def test_a_tiny_temperature_is_greedy_and_finite():
    assert normal([1e4, 1e4 - 1, 3.0], temperature=1e-9) == [1.0, 0.0, 0.0]


def test_top_k_keeps_exactly_k_even_among_ties():
    assert normal([1.0, 1.0, 1.0, 0.0], temperature=1.0, top_k=2) == [0.5, 0.5, 0.0, 0.0]


def test_top_k_larger_than_the_vocabulary_keeps_all():
    assert normal(LOGITS, temperature=1.0, top_k=99) == pytest.approx(normal(LOGITS, temperature=1.0))


def test_top_p_keeps_the_fewest_tokens_that_reach_the_sum():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert normal(logits, temperature=1.0, top_p=0.49) == pytest.approx([1, 0, 0, 0])
    assert normal(logits, temperature=1.0, top_p=0.51) == pytest.approx([0.625, 0.375, 0, 0])
    assert normal(logits, temperature=1.0, top_p=0.94)[3] == 0


def test_top_p_counts_what_top_k_left():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    assert normal(logits, temperature=1.0, top_k=2, top_p=0.49) == pytest.approx([1, 0, 0, 0])
    assert normal(logits, temperature=1.0, top_p=0.5) == pytest.approx([4 / 7, 3 / 7, 0, 0])


def test_a_very_small_top_p_still_leaves_one_token():
    assert normal(LOGITS, temperature=1.0, top_p=1e-9) == [1.0, 0.0, 0.0, 0.0]


def test_min_p_is_relative_to_the_most_likely_token():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert normal(logits, temperature=1.0, min_p=0.2) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0])


def test_forbidden_tokens_with_minus_infinity_are_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]])
    for u in (0.0, 0.25, 0.5, 0.999999999999):
        assert sample(logits, [Sampling(temperature=1.0)], [u]).item() in (1, 3)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_uniform_range_give_tokens_that_were_kept(u):
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    kept = probabilities(logits, [Sampling(temperature=1.0, top_k=3)])[0].nonzero()[:, 0].tolist()
    assert sample(logits, [Sampling(temperature=1.0, top_k=3)], [u]).item() in kept


def test_drawn_shares_follow_the_distribution():
    logits = torch.tensor([LOGITS]).expand(4000, -1)
    u = [(i + 0.5) / 4000 for i in range(4000)]
    drawn = sample(logits, [Sampling(temperature=1.0)] * 4000, u).bincount(minlength=4) / 4000
    assert drawn.tolist() == pytest.approx(torch.tensor(LOGITS).softmax(0).tolist(), abs=1e-3)


def test_a_row_is_sampled_the_same_alone_and_beside_rows_with_other_settings():
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 50, generator=g)
    rows = [
        Sampling(temperature=0),
        Sampling(temperature=1.3),
        Sampling(temperature=1.0, top_k=4),
        Sampling(temperature=0.9, top_p=0.7, min_p=0.01),
        Sampling(temperature=2.0, repetition_penalty=3.0),
    ]
    seen = [None, None, None, None, torch.arange(50) % 2 == 0]
    u = torch.rand(5, generator=g).tolist()
    together = sample(logits, rows, u, seen).tolist()
    alone = [sample(logits[i : i + 1], [rows[i]], [u[i]], [seen[i]]).item() for i in range(5)]
    assert together == alone


def test_repetition_penalty_makes_seen_tokens_less_likely_on_both_sides_of_zero():
    logits = torch.tensor([[2.0, -1.0, 1.5, -1.5]])
    s = [Sampling(temperature=0, repetition_penalty=2.0)]
    seen = [torch.tensor([True, True, False, False])]
    assert sample(logits, s, [0.0], seen).item() == 2
    only_negative = torch.tensor([[-1.0, -1.5, -9.0, -9.0]])
    assert sample(only_negative, s, [0.0]).item() == 0
    assert sample(only_negative, s, [0.0], [torch.tensor([True, False, False, False])]).item() == 1


def test_sampling_leaves_the_logits_as_they_were():
    logits = torch.randn(1, 9)
    before = logits.clone()
    sample(logits, [Sampling(top_k=2, repetition_penalty=2.0)], [0.5], [torch.ones(9, dtype=torch.bool)])
    assert torch.equal(logits, before)


def test_logprobs_are_of_the_raw_distribution():
    logits = torch.tensor([LOGITS, LOGITS])
    expected = torch.tensor(LOGITS).log_softmax(0)
    assert torch.allclose(token_logprobs(logits, torch.tensor([0, 3])), expected[[0, 3]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error_and_not_a_token(bad):
    logits = torch.tensor([[0.0, bad, 1.0]])
    with pytest.raises(SeeklingError, match="diverged"):
        sample(logits, [Sampling(temperature=0)], [0.5])


# ---- stop strings ----------------------------------------------------------------------------------------------------


def run_filter(stops, pieces):
    f = StopFilter(stops)
    out = [f.push(piece) for piece in pieces]
    stopped = f.stopped
    return "".join(out) + ("" if stopped else f.flush()), stopped, out


def test_text_before_the_stop_string_is_kept_and_the_rest_is_gone():
    assert run_filter(["END"], ["one EN", "D two"])[:2] == ("one ", True)


def test_what_may_become_a_stop_string_is_held_back_until_it_cannot():
    _, _, pieces = run_filter(["END"], ["aE", "N", "x"])
    assert pieces == ["a", "", "ENx"]


def test_a_begun_stop_string_comes_out_at_the_end_of_the_answer():
    assert run_filter(["END"], ["abcEN"])[:2] == ("abcEN", False)


def test_the_stop_string_that_completes_first_counts():
    assert run_filter(["abc", "b"], ["abc"])[:2] == ("a", True)
    assert run_filter(["bc", "abc"], ["xabc"])[:2] == ("x", True)


@settings(max_examples=200)
@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 20), max_size=6),
)
def test_how_text_is_cut_into_pieces_does_not_change_where_it_stops(text, stops, cuts):
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    by_piece = run_filter(stops, pieces)[:2]
    assert by_piece == run_filter(stops, list(text))[:2] == run_filter(stops, [text])[:2]
    shown, stopped = by_piece
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)


# ---- penalties, bias, constraint, against the oracle -----------------------------------------------------------------

ROW = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 1.7]),
        "top_k": st.integers(0, 6),
        "top_p": st.sampled_from([1.0, 0.9, 0.4]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "repetition_penalty": st.sampled_from([1.0, 1.5, 0.5]),
        "presence_penalty": st.sampled_from([0.0, 1.0, -2.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "logit_bias": st.dictionaries(st.integers(0, 7), st.sampled_from([-100.0, 3.0, -0.5]), max_size=2),
    }
)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(ROW, st.lists(st.integers(0, 7), max_size=5), st.floats(0, 0.999), st.booleans()), min_size=1, max_size=4
    ),
    st.integers(0, 10**6),
)
def test_rows_together_are_drawn_as_the_slow_sampler_draws_each(rows, seed):
    logits = torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    samplings, seen, counts, allowed, expected = [], [], [], [], []
    for (kw, answer, u, bound), row in zip(rows, logits, strict=True):
        s = Sampling(**kw)
        samplings.append(s)
        count = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=8).double()
        seen.append(count > 0 if s.repetition_penalty != 1 else None)
        counts.append(count if s.presence_penalty or s.frequency_penalty else None)
        some = [1, 3, 4] if bound else None
        allowed.append(None if some is None else torch.isin(torch.arange(8), torch.tensor(some)))
        p = oracle.distribution(row.tolist(), s, seen=answer, answer=answer, allowed=some)
        expected.append(oracle.draw(p, u))
    assert sample(logits, samplings, [r[2] for r in rows], seen, counts, allowed).tolist() == expected


def test_a_bias_of_a_hundred_decides_and_of_minus_a_hundred_forbids():
    logits = torch.tensor([LOGITS])
    assert sample(logits, [Sampling(logit_bias={3: 100})], [0.1]).item() == 3
    for u in (0.0, 0.5, 0.99):
        assert sample(logits, [Sampling(temperature=1.0, logit_bias={0: -100, 1: -100})], [u]).item() in (2, 3)


def test_frequency_counts_and_presence_does_not():
    logits = torch.tensor([[1.0, 0.5]])
    once, twice = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0])
    greedy = dict(temperature=0)
    assert sample(logits, [Sampling(**greedy, frequency_penalty=0.3)], [0], counts_BV=[once]).item() == 0
    assert sample(logits, [Sampling(**greedy, frequency_penalty=0.3)], [0], counts_BV=[twice]).item() == 1
    assert sample(logits, [Sampling(**greedy, presence_penalty=0.3)], [0], counts_BV=[twice]).item() == 0


def test_top_logprobs_are_the_likeliest_of_the_raw_distribution():
    logits = torch.tensor([LOGITS, [0.0, 0.0, 0.0, 5.0]])
    found = top_logprobs(logits, [2, 1])
    expected = torch.tensor(LOGITS).log_softmax(0)
    assert [t for t, _ in found[0]] == [0, 1] and [t for t, _ in found[1]] == [3]
    assert [v for _, v in found[0]] == pytest.approx(expected[:2].tolist())


# ---- the counter -----------------------------------------------------------------------------------------------------


def test_a_place_s_number_depends_on_seed_and_place_only_and_is_uniform():
    values = [uniform(seed, i) for seed in range(40) for i in range(50)]
    assert len(set(values)) == 2000 and all(0 <= v < 1 for v in values)
    assert uniform(7, 3) == uniform(7, 3)
    shares = torch.tensor(values).histc(10, 0, 1) / 2000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.03)


# ---- loops and reasoning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [[5], [1, 2, 3], list(range(20))])
def test_text_that_only_repeats_itself_is_a_loop(block):
    ids = [*range(100, 110), *block * 60]
    assert any(in_a_loop(ids[:n]) for n in range(len(ids)))
    first = next(n for n in range(len(ids)) if in_a_loop(ids[:n]))
    assert first >= 10 + 48 - len(block)


def test_ordinary_text_is_no_loop():
    ids = torch.randint(0, 50, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert not any(in_a_loop(ids[:n]) for n in range(len(ids)))
    assert not any(in_a_loop(([1, 2, 3, 4] * 3 + [i, i + 1]) * 3) for i in range(9))


def test_reasoning_is_closed_softly_at_the_end_of_a_sentence_and_firmly_at_the_budget():
    guard = ThinkingGuard(9, budget=100)
    for i in range(89):
        guard.push(1, "." if i == 50 else "a", [])
    assert guard.forced() is None  # a sentence ended, but long before
    guard.push(1, ". ", [])
    assert guard.forced() == 9
    guard = ThinkingGuard(9, budget=100)
    for _ in range(100):
        assert guard.forced() is None
        guard.push(1, "a", [])
    assert guard.forced() == 9
    guard.push(9, "", [])
    assert not guard.active and guard.forced() is None


def test_reasoning_in_a_loop_is_closed():
    guard, ids = ThinkingGuard(9, loops=True), []
    while guard.forced() is None and len(ids) < 200:
        ids.append(1)
        guard.push(1, "a", ids)
    assert len(ids) == 48
