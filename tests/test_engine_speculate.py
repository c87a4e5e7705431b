"""Speculation changes when tokens come, never which: greedy and sampled, whoever guesses; it stops where it does not pay."""

import itertools

import pytest
import torch
from engine_tiny import EOS, TOKENIZER, VOCAB, one_thread, scripted_lm, tiny_lm  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.draft_model import ModelDrafter
from seekling.engine.draft_mtp import MTPDrafter
from seekling.engine.native_burst import Drafts, Outcome, Round
from seekling.engine.runner import PAGE
from seekling.engine.speculate import PLAIN_STEPS, Gate, Gated, NgramDrafter, RoundCost, StepCost
from seekling.engine.torch_runner import TorchRunner


def greedy(**kw):
    return Sampling(**({"max_tokens": 60, "temperature": 0, "ignore_eos": True} | kw))


def sampled(seed, **kw):
    return Sampling(**({"max_tokens": 40, "temperature": 0.6, "seed": seed, "ignore_eos": True} | kw))


MEASURE = StepCost.learn


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """What drafts cost is not measured: on a busy machine it could be anything."""
    monkeypatch.setattr(StepCost, "learn", lambda self, drafts, cost: None)
    monkeypatch.setattr(RoundCost, "of", lambda self, drafts: 1 + 0.1 * drafts)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(num_nextn_predict_layers=1)


def drafter_for(kind, lm):
    return (
        tiny_lm(seed=1, num_hidden_layers=1, first_k_dense_replace=1) if kind == "model" else lm if kind == "itself" else kind
    )


KINDS = ["ngram", "mtp", "model", "itself"]
PROMPTS = [[5, 6, 7] * 5, [8], list(range(20, 70)), [9, 9, 9, 9]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_the_one_without_speculation(lm, kind):
    each = [greedy(), sampled(1), sampled(2, top_p=0.9, frequency_penalty=0.5), greedy(repetition_penalty=1.3)]
    plain = Engine(lm).generate(PROMPTS, each)
    engine = Engine(lm, speculate=drafter_for(kind, lm), draft_tokens=3)
    fast = engine.generate(PROMPTS, each)
    assert [c.token_ids for c in fast] == [c.token_ids for c in plain]
    assert fast[0].logprobs == pytest.approx(plain[0].logprobs, abs=1e-5)
    stats = engine.stats()
    assert stats["drafted"] > 0 and stats["drafted"] == sum(c.drafted for c in fast)
    assert stats["accepted"] == sum(c.accepted for c in fast)
    engine._loop.cache.tree.clear()
    assert engine.stats()["pages_used"] == 0


def test_a_draft_by_the_model_itself_is_always_right_and_saves_most_steps(lm):
    engine = Engine(lm, speculate=lm, draft_tokens=4)
    out = engine.generate([5, 6, 7], greedy())[0]
    assert out.accepted == out.drafted > 40
    assert engine.stats()["steps"] <= 15
    assert engine.stats()["tokens_per_step"] > 4


def test_prompt_look_up_finds_what_followed_before():
    text = "the cat sat on the mat, and the cat sat on the mat, and the cat sat on the mat, and again"
    prompt = TOKENIZER.encode("?!")
    engine = Engine(scripted_lm(text, prompt_length=2), speculate="ngram")
    out = engine.generate(prompt)[0]
    assert out.text == text
    assert out.accepted > 40
    assert engine.stats()["steps"] < 60 < len(text)


def test_the_distribution_stays_that_of_the_model(lm):
    """Chi-square of the second token against exact probabilities, with a draft that is right about half the time."""
    prompt, rounds = [5, 6], 400
    engine = Engine(lm, speculate=lm, draft_tokens=1, max_rows=100)
    each = [Sampling(max_tokens=3, temperature=1.0, top_k=3, ignore_eos=True, seed=i) for i in range(rounds)]
    answers = engine.generate([prompt] * rounds, each)
    assert 0.2 < engine.stats()["accepted"] / engine.stats()["drafted"] < 0.8

    def truncated(rows):
        with torch.no_grad():
            logits = lm.model(torch.tensor(rows))[:, -1]
        best = logits.topk(3).indices
        return torch.zeros_like(logits).scatter(1, best, logits.gather(1, best).softmax(-1))

    first = truncated([prompt])[0]
    starts = first.nonzero()[:, 0].tolist()
    second = (truncated([[*prompt, t] for t in starts]) * first[starts][:, None]).sum(0)
    seen = torch.tensor([c.token_ids[1] for c in answers]).bincount(minlength=VOCAB)
    assert not seen[second == 0].any()
    kinds = second > 0
    chi = ((seen - rounds * second)[kinds] ** 2 / (rounds * second[kinds])).sum().item()
    assert 5 <= kinds.sum() <= 9 and chi < 26.1  # at most 8 degrees of freedom: 0.1 %


def test_mtp_drafts_are_what_its_layer_foretells(lm, monkeypatch):
    """The oracle: Decoder.mtp_states over the whole row."""
    monkeypatch.setattr(Gated, "gate", lambda self, request: Gate())
    monkeypatch.setattr(Gated, "least", 0.0)
    engine = Engine(lm, speculate="mtp", draft_tokens=1)
    proposals = []
    real = MTPDrafter.propose

    def spy(self, requests):
        drafts = real(self, requests)
        proposals.extend((list(r.ids), d) for r, d in zip(requests, drafts, strict=True) if d)
        return drafts

    engine._loop.drafter.propose = spy.__get__(engine._loop.drafter)
    engine.generate([5, 6, 7, 8], greedy(max_tokens=30))
    assert len(proposals) > 10
    for ids, draft in proposals:
        with torch.no_grad():
            x_BTD = lm.model.states(torch.tensor([ids[:-1]]))
            h = lm.model.mtp_states(x_BTD, torch.tensor([ids[1:]])[..., None])[0]
            assert draft == [lm.model.head(h[0, -1]).argmax().item()]


def test_mtp_follows_the_config_on_norms_and_order():
    lm = tiny_lm(num_nextn_predict_layers=1, mtp_after_norm=True, mtp_hidden_first=True)
    plain = Engine(lm).generate([5, 6, 7], greedy())[0].token_ids
    assert Engine(lm, speculate="mtp").generate([5, 6, 7], greedy())[0].token_ids == plain


def test_a_model_without_mtp_and_a_draft_of_another_vocabulary_are_refused(lm):
    with pytest.raises(SeeklingError, match="no MTP layer"):
        Engine(tiny_lm(), speculate="mtp")
    with pytest.raises(SeeklingError, match="same vocabulary"):
        Engine(lm, speculate=tiny_lm(vocab_size=VOCAB + 1))
    with pytest.raises(SeeklingError, match="does not exist"):
        Engine(lm, speculate="no/such/model")


@pytest.mark.parametrize("kind", ["mtp", "itself"])
def test_speculation_in_a_small_cache_with_preemption_changes_nothing(lm, kind):
    prompts = [[i] * 31 for i in (10, 20, 30)]
    each = [sampled(1, max_tokens=36), greedy(max_tokens=36), sampled(3, max_tokens=36)]
    expected = [Engine(lm).generate(p, s)[0].token_ids for p, s in zip(prompts, each, strict=True)]
    engine = Engine(lm, speculate=drafter_for(kind, lm), cache_tokens=4 * PAGE)
    assert [c.token_ids for c in engine.generate(prompts, each)] == expected
    assert engine.stats()["preempted"] > 0


def test_stop_strings_and_end_tokens_inside_a_draft_end_the_answer():
    text = "abcabcabcabcabc.END of it"
    prompt = TOKENIZER.encode("?!")
    engine = Engine(scripted_lm(text, prompt_length=2), speculate="ngram")
    out = engine.generate(prompt, Sampling(stop="c.E"))[0]
    assert (out.text, out.finish_reason) == ("abcabcabcabcab", "stop") and out.accepted > 0
    script = [*TOKENIZER.encode("xyz"), 65, EOS, 65, 66, EOS] * 3
    out = Engine(scripted_lm(script, prompt_length=2), speculate="ngram").generate(prompt)[0]
    assert out.token_ids == script[:5]


# ---- the gate --------------------------------------------------------------------------------------------------------


def test_the_gate_closes_where_guesses_are_wrong_and_tries_again_ever_later():
    gate, tries = Gate(), []
    for step in range(3000):
        if gate.open():
            tries.append(step)
            gate.learn(4, 0, 1.4)
    assert len(tries) < 40
    assert 200 < tries[-1] - tries[-2] <= 512 or tries[-1] - tries[-2] == 1
    gaps = [b - a for a, b in itertools.pairwise(tries) if b - a > 1]
    assert gaps == sorted(gaps)


def test_the_gate_stays_open_where_guesses_are_right():
    gate = Gate()
    for _ in range(500):
        assert gate.open()
        gate.learn(4, 3, 1.4)


def where_drafts_did_not_pay(drafter):
    for _ in range(200):
        drafter.learn(object(), 1, 0)
    assert drafter.gain < 0.92
    return drafter


def test_a_look_up_is_tried_shortly_where_it_did_not_pay_for_others_and_goes_on_where_it_does():
    drafter, useless, useful, tries = where_drafts_did_not_pay(NgramDrafter()), object(), object(), 0
    for _ in range(120):
        if drafter.gate(useless).open():
            tries += 1
            drafter.learn(useless, 1, 0)
    assert 1 <= tries <= 15  # each loses a tenth of a step
    for step in range(120):
        assert drafter.gate(useful).open()
        drafter.learn(useful, 1, step % 2)  # half of them right: 1.5 tokens for a step that costs 1.1


def test_one_request_in_32_is_tried_where_dearer_drafts_did_not_pay():
    drafter = where_drafts_did_not_pay(Gated())
    assert sum(drafter.gate(object()).open() for _ in range(320)) == 10


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 1.0), (0.5, 0.2), (0.3, 0.02), (0.0, 0.1)])
def test_what_a_step_with_drafts_costs_is_measured(fixed, each, monkeypatch):
    monkeypatch.setattr(StepCost, "learn", MEASURE)
    drafter = Gated()
    assert not drafter.settled(2)
    for step in range(300):
        drafts = 1 + step % 4
        drafter.timed(2, 0, 0.01)
        drafter.timed(2, 2 * drafts, 0.01 * (1 + fixed + each * drafts))
    assert drafter.settled(2) and not drafter.settled(3)
    assert drafter.cost.fixed == pytest.approx(fixed, abs=0.01) and drafter.cost.each == pytest.approx(each, abs=0.01)


def test_guesses_go_as_far_as_they_pay():
    cheap, dear, gate = StepCost(), StepCost(), Gate()
    cheap.each, dear.each = 0.02, 0.9
    for right, far, near in ((4, 12, 12), (3, 9, 2), (1, 5, 1)):
        for _ in range(60):
            gate.learn(4, right, 1.1)
        assert gate.length(12, cheap) >= gate.length(12, dear)
        assert abs(gate.length(12, cheap) - far) <= 2 and abs(gate.length(12, dear) - near) <= 1


@given(st.lists(st.floats(1e-4, 1e-2), min_size=1, max_size=9), st.integers(1, 64), st.floats(0, 1))
def test_a_round_is_as_long_as_yields_most_tokens_in_a_time(seconds, most, chance):
    cost = RoundCost()
    for drafts, took in enumerate(seconds):
        cost.learn(drafts, took)
    yields = [sum(chance**right for right in range(k + 1)) / cost.of(k) for k in range(1, most + 1)]
    assert yields[cost.length(most, chance) - 1] == pytest.approx(max(yields))


def test_a_second_model_leaves_bursts_alone_while_its_drafts_do_not_pay():
    drafter, request = ModelDrafter(TorchRunner(tiny_lm().model, tiny_lm().config), 4), object()
    assert drafter.burst(request) == Drafts()  # what a token costs without drafts is not known yet
    rounds = [Round(0, 0, 0.001)] * (1 + PLAIN_STEPS)  # the first is not counted
    drafter.heard(request, Outcome([5] * len(rounds), None, rounds, False, None, None))
    assert drafter.burst(request) is None  # a step at a time, each with drafts
    drafter.gate(request).wait = 5
    assert drafter.burst(request) == Drafts()


def test_a_useless_draft_is_switched_off(lm):
    engine = Engine(lm, speculate=tiny_lm(seed=1, num_hidden_layers=1, first_k_dense_replace=1), draft_tokens=4)
    out = engine.generate([5], Sampling(max_tokens=90, temperature=3.0, seed=1, ignore_eos=True))[0]
    assert out.drafted < 90
