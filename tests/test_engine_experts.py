"""Which experts computed a token: both runners tell what the routers of the whole row chose there."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from family_v4 import hf_v4, ids_of

from seekling import Engine, Sampling, SeeklingError
from seekling.formats import load_model
from seekling.kernels import infer
from seekling.model.moe import Trace

ASKING = Sampling(max_tokens=9, temperature=1.0, seed=3, ignore_eos=True, experts=True)
PROMPT = list(range(10, 50))
V2 = {
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
}
RUNNERS = ["torch", pytest.param("native", marks=pytest.mark.skipif(not infer.available(), reason="no kernels"))]

Completed = namedtuple("Completed", "experts token_ids")


def whole_row(lm, ids):
    """The oracle: for every position of a row its experts by layer, rising, with their weights."""
    trace = Trace()
    with torch.no_grad():
        lm.model.hidden(torch.tensor([ids]), trace=trace)
    return [
        [sorted(zip(r.indices_NK[place].tolist(), r.weights_NK[place].tolist(), strict=True)) for r in trace.routings]
        for place in range(len(ids))
    ]


def check(lm, answer, prompt=PROMPT):
    want = whole_row(lm, [*prompt, *answer.token_ids])[len(prompt) - 1 : -1]
    assert len(answer.experts) == len(answer.token_ids)
    for got_layers, want_layers in zip(answer.experts, want, strict=True):
        assert [[e for e, _ in layer] for layer in got_layers] == [[e for e, _ in layer] for layer in want_layers]
        for got, expected in zip(got_layers, want_layers, strict=True):
            assert [w for _, w in got] == pytest.approx([w for _, w in expected], abs=0.02)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("changes", [{}, V2])
def test_they_are_those_that_computed_the_logits_the_token_was_drawn_from(runner, changes):
    lm = tiny_lm(dtype=torch.float32, hidden_size=64, **changes)
    with Engine(lm, runner=runner, step_tokens=16) as engine:
        check(lm, engine.generate(PROMPT, ASKING)[0])
        check(lm, engine.generate(PROMPT, ASKING)[0])  # the prompt is cached now


@pytest.mark.parametrize("runner", RUNNERS)
def test_company_prefill_and_drafts_leave_each_its_own(runner):
    lm = tiny_lm(dtype=torch.float32, hidden_size=64)
    prompts = [[10, 11, 12] * 5, PROMPT, [20]]
    samplings = [Sampling(max_tokens=12, temperature=0, ignore_eos=True, experts=told) for told in (True, False, True)]
    with Engine(lm, runner=runner, speculate="ngram", step_tokens=16) as engine:
        first, silent, last = engine.generate(prompts, samplings)
    check(lm, first, prompts[0])
    check(lm, last, prompts[2])
    assert silent.experts is None


def test_a_stream_brings_them_with_each_token():
    with Engine(tiny_lm()) as engine:
        deltas = list(engine.stream([10, 11], ASKING))
        assert all(len(d.experts) == len(d.token_ids) == 1 for d in deltas)
        check(engine, Completed([x for d in deltas for x in d.experts], [t for d in deltas for t in d.token_ids]), [10, 11])


def test_rows_that_keep_a_state_tell_them_too(tmp_path):
    hf_v4(1, max_position_embeddings=200, sliding_window=8, index_topk=2).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float64")
    lm = SimpleNamespace(model=model, config=model.config, tokenizer=None)
    prompt = ids_of(model.config, 0, rows=1)[0].tolist()
    with Engine(lm) as engine:
        check(lm, engine.generate(prompt, ASKING)[0], prompt)


def test_a_dense_model_refuses():
    lm = tiny_lm(n_routed_experts=0, num_experts_per_tok=0, n_shared_experts=0)
    with Engine(lm) as engine, pytest.raises(SeeklingError, match="this model has none"):
        engine.generate([10], ASKING)
