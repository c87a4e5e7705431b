"""Bursts: several tokens of the only request in one native call, the same tokens as step by step, and nobody waits for them."""

import numpy as np
import pytest
import torch
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from test_engine_speculate import greedy, sampled

from seekling import Engine, SeeklingError
from seekling.engine.loop import Loop
from seekling.engine.native_burst import Drafts, burst
from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import PAGE, Chunk
from seekling.engine.speculate import Gate, Gated, NgramDrafter, RoundCost
from seekling.kernels import infer

pytestmark = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
HURRY, CALM = np.ones(1, np.int32), np.zeros(1, np.int32)
PROMPT = [5, 6, 7] * 5


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)


@pytest.fixture
def always(monkeypatch):
    """Draft whether it pays or not."""
    monkeypatch.setattr(Gated, "gate", lambda self, request: Gate())
    monkeypatch.setattr(Gated, "drafts_now", lambda self, request: True)
    monkeypatch.setattr(RoundCost, "of", lambda self, drafts: 1.0)


def computed(lm, pages, drafts=False):
    runner = NativeRunner(lm.model, "f32", threads=1, drafts=drafts)
    runner.allocate(pages)
    runner.step([Chunk(PROMPT[:-1], 0, list(range(pages)))])
    return runner


def seen(completion):
    return completion.token_ids, completion.logprobs, completion.text, completion.finish_reason


@pytest.mark.parametrize("speculate", [None, "ngram", "mtp"])
@pytest.mark.parametrize("quant", [None, "int8"])
def test_answers_are_bit_for_bit_those_of_single_steps(lm, quant, speculate, always, monkeypatch):
    asks = [greedy(max_tokens=90), sampled(1), sampled(2, top_p=0.9, top_k=20, min_p=0.01), greedy(logprobs=False)]
    asks += [greedy(stop_token_ids=(greedy_token(lm, quant),)), greedy(frequency_penalty=0.5), greedy(top_logprobs=2)]
    engine = Engine(lm, quant, runner="native", speculate=speculate)
    fast = [seen(engine.generate(PROMPT, s)[0]) for s in asks for _ in range(2)]
    bursts = engine.stats()
    monkeypatch.setattr(Loop, "_alone", lambda self, works: None)
    plain = Engine(lm, quant, runner="native")
    assert fast == [seen(plain.generate(PROMPT, s)[0]) for s in asks for _ in range(2)]
    assert bursts["tokens"] == plain.stats()["tokens"] and bursts["steps"] <= plain.stats()["steps"]
    assert speculate is None or bursts["drafted"] > 50
    engine._loop.cache.tree.clear()
    assert engine.stats()["pages_used"] == 0


def greedy_token(lm, quant):
    """One that the greedy answer holds, not at its start."""
    return Engine(lm, quant, runner="native").generate(PROMPT, greedy(max_tokens=12))[0].token_ids[-1]


def test_a_round_looks_up_what_the_drafter_in_python_would(lm):
    runner, drafter = computed(lm, 2), NgramDrafter()
    outcome = burst(runner, PROMPT, [0, 1], 1, 9, greedy(), CALM, drafts=Drafts(8, look=True))

    class Request:
        ids = PROMPT

    draft = drafter._look_up(Request, 8)
    assert outcome.rounds[0].drafted == len(draft) == 8
    right = next((place for place, (token, guess) in enumerate(zip(outcome.tokens, draft, strict=False)) if token != guess), 8)
    assert outcome.rounds[0].right == right and len(outcome.tokens) == right + 1


def test_it_ends_after_the_round_in_which_somebody_came(lm):
    runner = computed(lm, 2)
    assert len(burst(runner, PROMPT, [0, 1], 12, 12, greedy(), HURRY).rounds) == 1
    assert len(burst(runner, PROMPT, [0, 1], 12, 12, greedy(), CALM).tokens) == 12


def test_drafts_end_with_the_pages(lm):
    runner = computed(lm, 1, drafts=True)
    room = PAGE - len(PROMPT)
    outcome = burst(
        runner, PROMPT, [0], room + 1, room + 1, greedy(), CALM, drafts=Drafts(5, states=np.zeros((1, runner.state_floats)))
    )
    assert len(outcome.tokens) == room + 1
    with pytest.raises(SeeklingError, match="page 1"):
        burst(runner, PROMPT, [0, 1], 2, 2, greedy(), CALM)


def test_whoever_comes_or_cancels_makes_it_hurry(lm):
    engine = Engine(lm, runner="native")
    loop = engine._loop
    handle = engine._submit(engine._intake.requests([PROMPT], greedy())[0])
    assert loop.driver.hurry[0]
    loop.step()
    assert not loop.driver.hurry[0]
    loop.step()
    handle.cancel()
    assert loop.driver.hurry[0]
    assert handle.result().finish_reason == "cancelled"


def test_damaged_logits_end_it_with_what_came_before(lm):
    broken = tiny_lm(dtype=torch.float32)
    runner = computed(broken, 2)
    ids = burst(runner, PROMPT, [0, 1], 3, 3, greedy(), CALM).tokens
    with torch.no_grad():
        broken.model.model.embed_tokens.weight[ids[1]] = float("nan")
    outcome = burst(computed(broken, 2), PROMPT, [0, 1], 9, 9, greedy(), CALM)
    assert outcome.damaged and outcome.tokens == ids[:2]
    with pytest.raises(SeeklingError, match="damaged"):
        Engine(broken, runner="native").generate(PROMPT, greedy())


def test_a_round_has_as_many_drafts_as_pay_by_what_each_number_was_measured_to_cost():
    cost = RoundCost()
    assert not cost.settled
    for drafts, seconds in ((0, 1.0), (0, 1.0), (1, 1.2), (2, 2.5)):
        cost.learn(drafts, seconds)
    assert cost.settled and cost.of(1) == pytest.approx(1.2) and cost.of(2) == pytest.approx(2.5)
    assert cost.of(3) == pytest.approx(1 + 1.5 * 3 / 2)  # not measured yet: as dear as the second
    assert cost.length(3, 0.9) == 1
    cost.learn(2, 0.5)
    assert cost.of(2) == pytest.approx(1.5) and cost.length(2, 0.9) == 2
