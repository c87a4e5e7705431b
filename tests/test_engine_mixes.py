"""Everything at once: requests of every kind, mixed at random in a small engine, each compared with itself run alone.

Eight cases a second; CI runs some, `SEEKLING_MIXES=5000 pytest tests/test_engine_mixes.py` as many as that. A case is its seed.
"""

import contextlib
import dataclasses
import os
import random
import tempfile

import pytest
import torch
from engine_tiny import THINK, one_thread, tiny_lm  # noqa: F401
from test_engine_adapters import ATTENTION, adapter
from test_engine_native import gqa_lm

from seekling import Engine, Sampling
from seekling.engine.constrain import Constraint
from seekling.engine.runner import PAGE
from seekling.engine.watermark import Watermark
from seekling.kernels import infer
from seekling.quants import QUANTS

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")

MODELS = {
    "mla": tiny_lm(dtype=torch.float32, hidden_size=64, max_position_embeddings=192, num_nextn_predict_layers=1),
    "gqa": gqa_lm(),
}
ADAPTERS = {
    "mla": {
        "a": adapter(MODELS["mla"], 1, *ATTENTION),
        "b": adapter(MODELS["mla"], 2, "gate_proj.weight", "down_proj.weight", "lm_head.weight"),
    },
    "gqa": {
        "a": adapter(MODELS["gqa"], 1, "q_proj.weight", "o_proj.weight", "v_proj.weight"),
        "b": adapter(MODELS["gqa"], 2, "gate_proj.weight", "lm_head.weight"),
    },
}
PERSON = {"type": "object", "properties": {"age": {"type": "integer"}, "name": {"type": "string", "maxLength": 5}}}
CONSTRAINTS = (
    Constraint.regex(r"(foo|bar){1,6}!"),
    Constraint.json_schema(PERSON | {"required": ["age", "name"], "additionalProperties": False}),
    Constraint.choice(["hello world", "hello there", "yes"]),
    Constraint.lark('start: "a" x+ "z"\nx: "bb" | "cc" | "d"'),
)
HEAD = [10, 12, 11, 11] * 10  # more than a page
ALONE: dict[tuple, Engine] = {}


def prompt(r):
    if r.random() < 0.3:
        ids = [r.randint(30, 200) for _ in range(r.randint(1, 4))] * r.randint(1, 25)
    else:
        ids = HEAD * (r.random() < 0.5) + [r.randint(10, 12) for _ in range(r.randint(1, 80))]
    return ids[:150] + [THINK] * (r.random() < 0.25)


def settings(r, experts):
    """Each setting in some of the requests."""
    some = dict(
        top_k=(0.2, lambda: r.choice([1, 3, 20])),
        top_p=(0.2, lambda: r.choice([0.3, 0.9])),
        min_p=(0.2, lambda: r.choice([0.05, 0.5])),
        repetition_penalty=(0.15, lambda: r.choice([0.8, 1.2])),
        presence_penalty=(0.15, lambda: r.choice([-1.0, 0.7])),
        frequency_penalty=(0.15, lambda: r.choice([-1.0, 0.7])),
        logit_bias=(0.15, lambda: {r.randint(5, 200): r.choice([-100, 5.0, 3.0]) for _ in range(3)}),
        stop=(0.3, lambda: tuple("".join(chr(r.randint(97, 105)) for _ in range(r.choice([1, 1, 2]))) for _ in range(2))),
        stop_token_ids=(0.2, lambda: tuple(r.randint(10, 250) for _ in range(5))),
        top_logprobs=(0.2, lambda: r.choice([1, 5])),
        prompt_logprobs=(0.2, lambda: True),
        logprobs=(0.15, lambda: False),
        constraint=(0.25, lambda: r.choice(CONSTRAINTS)),
        thinking_budget=(0.3, lambda: r.choice([0, 1, 5, 20])),
        stop_loops=(0.2, lambda: True),
        watermark=(0.1, lambda: Watermark(b"k" * 32)),
        experts=(0.1 * experts, lambda: True),
    )
    chosen = {name: make() for name, (share, make) in some.items() if r.random() < share}
    return Sampling(
        max_tokens=r.choice([1, 2, 5, 20, 40, 80]), temperature=r.choice([0, 0, 0.7, 1.0, 1.5]), seed=r.randint(0, 5),
        ignore_eos=r.random() < 0.6, n=r.choice([1, 1, 1, 2, 3]), **chosen,
    )  # fmt: skip


def alone(kind, ids, s, which):
    """The oracle: no neighbours, no prefix cache, no drafts, the whole prompt in one step."""
    if kind not in ALONE:
        name, quant, cache = kind
        ALONE[kind] = Engine(
            MODELS[name], quant, runner="native", prefix_cache=False, max_rows=1, step_tokens=4096, cache_dtype=cache,
            adapters=ADAPTERS[name],
        )  # fmt: skip
    return ALONE[kind].generate([list(ids)], s, adapter=which)[0]


def run(engine, r, experts):
    """Requests come, some are cancelled; gives (ids, settings, adapter, handle) of each, all of them over."""
    came = []
    for _ in range(r.randint(1, 9)):
        ids, s, which = prompt(r), settings(r, experts), r.choice([None, None, "a", "b"])
        how = dict(adapter=which, tenant=r.choice([None, None, "x"]), priority=r.randint(0, 2))
        handle = engine._loop.submit(engine._intake.requests([ids], s, **how)[0])
        came.append([ids, s, which, handle, r.choice([None, None, None, r.randint(0, 10)]), r.choice([None, r.randrange(s.n)])])
        for _ in range(r.choice([0, 0, 1, 3, 10])):
            engine._loop.step()
            for entry in came:
                if entry[4] == 0:
                    entry[3].cancel(entry[5])
                entry[4] = None if entry[4] is None else entry[4] - 1
    return [entry[:4] for entry in came]


def check(kind, ids, s, which, handle):
    deltas = list(handle)
    for got in handle.results():
        mine = [delta for delta in deltas if delta.index == got.index]
        assert "".join(delta.text for delta in mine) == got.text
        assert [token for delta in mine for token in delta.token_ids] == got.token_ids
        assert [delta.finish_reason for delta in mine if delta.finish_reason] == [got.finish_reason]
        want = alone(kind, ids, dataclasses.replace(s, n=1, seed=s.seed + got.index), which)
        count = len(got.token_ids)
        if got.finish_reason == "cancelled":
            assert got.token_ids == want.token_ids[:count]
            assert got.logprobs is None or got.logprobs == want.logprobs[:count]
        else:
            assert dataclasses.replace(got, index=0) == want


def case(seed):
    r = random.Random(seed)
    name, quant, cache = kind = r.choice(["mla", "gqa"]), r.choice([None, *QUANTS]), r.choice([None, "int8"])
    speculate = r.choice([None, None, "ngram", MODELS[name], *["mtp", "mtp"] * (name == "mla")])
    prefix, files = r.random() < 0.8, r.random() < 0.3
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if prefix and files else None
        engine = Engine(
            MODELS[name], quant, runner="native", cache_tokens=r.choice([6, 6, 7, 8, 12, 40]) * PAGE, max_rows=r.randint(1, 5),
            step_tokens=r.choice([5, 16, 64, 256]), cache_dtype=cache, speculate=speculate, prefix_cache=prefix,
            adapters=ADAPTERS[name], cache_spill=folder, threads=r.choice([1, 1, 1, 2]),
        )  # fmt: skip
        stack.enter_context(engine)
        for entry in run(engine, r, name == "mla"):
            check(kind, *entry)
        stats = engine.stats()
        assert (stats["running"], stats["waiting"]) == (0, 0) and stats["pages_used"] == stats["pages_cached"]
        engine._loop.cache.tree.clear()
        assert engine.stats()["pages_used"] == 0
        assert engine._loop.drafter is None or not engine._loop.drafter._gates
        return stats["preempted"], stats["prefix_hit"], stats["pages_evicted"]


def test_every_request_of_a_random_mix_is_answered_as_if_alone():
    happened = [0, 0, 0]
    for seed in range(int(os.environ.get("SEEKLING_MIXES", "150"))):
        try:
            counts = case(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        happened = [a + b for a, b in zip(happened, counts, strict=True)]
    assert all(happened)  # pages were given back, found again, evicted
