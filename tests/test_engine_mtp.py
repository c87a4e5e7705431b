"""The MTP layer in the native runner: its drafts are those of the model's own mathematics, and change no answer."""

import itertools

import numpy as np
import pytest
import torch
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from test_engine_adapters import ATTENTION, adapter
from test_engine_speculate import greedy, sampled

from seekling import Engine
from seekling.engine.draft_mtp import Frequent, InTorch
from seekling.engine.native_draft import InNative
from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import PAGE, Chunk
from seekling.engine.speculate import Gate, Gated, RoundCost
from seekling.engine.torch_runner import TorchRunner
from seekling.kernels import infer

pytestmark = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
GQA = dict(
    model_type="qwen2", attention="gqa", num_key_value_heads=1, head_dim=16, qkv_bias=True, kv_lora_rank=0, q_lora_rank=None,
    qk_nope_head_dim=0, qk_rope_head_dim=0, v_head_dim=0, n_routed_experts=0, num_experts_per_tok=0,
)  # fmt: skip
SHAPES = {
    "mla": {},
    "state first, after the norm": dict(mtp_hidden_first=True, mtp_after_norm=True),
    "gqa": GQA,
    "odd width": dict(hidden_size=40, tie_word_embeddings=True),
}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Draft whether it pays or not: these models foretell little."""
    monkeypatch.setattr(Gated, "least", 0.0)
    monkeypatch.setattr(Gated, "gate", lambda self, request: Gate())
    monkeypatch.setattr(RoundCost, "of", lambda self, drafts: 1.0)


@pytest.mark.parametrize("among", [0, 40])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_drafts_and_their_chances_are_those_of_the_decoder(changes, among):
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1, **changes)
    native, oracle = NativeRunner(lm.model, "f32", drafts=True), TorchRunner(lm.model, lm.config, keep_states=True)
    ids = torch.randint(0, lm.config.vocab_size, (2, 44), generator=torch.Generator().manual_seed(0)).tolist()
    tables, cuts = [[3, 0, 5], [1, 4, 2]], (0, 37, 38, 43)
    found = []
    for runner, layer in ((native, InNative(native)), (oracle, InTorch(oracle))):
        runner.allocate(6)
        layer.choose_among(among)
        drafts = []
        for a, b in itertools.pairwise(cuts):
            runner.step([Chunk(row[a:b], a, pages, "last") for row, pages in zip(ids, tables, strict=True)])
            entries = [Chunk(row[a + 1 : b + 1], a, pages) for row, pages in zip(ids, tables, strict=True)]
            states = [s.copy() if isinstance(s, np.ndarray) else s for s in runner.raw_states]
            drafts.append(layer.draft(entries, states, 3))
        found.append(drafts)
    assert found[0] == found[1]
    assert all(len(one) == 3 for drafts in found[0] for one in drafts)
    assert not among or max(token for drafts in found[0] for one in drafts for token in one) < among


def test_drafts_are_chosen_among_the_first_tokens_that_hold_nearly_all_that_was_seen():
    seen = Frequent(1000)
    seen.add([5] * 511)
    assert seen.count() == 0  # too few to tell
    seen.add([70] * 100)
    assert seen.count() == 128
    seen.add([990] * 40)  # rarer than one in ten
    assert seen.count() == 128
    seen.add([990] * 100)
    assert seen.count() == 1000
    seen.add([5] * 20000)  # and is forgotten
    for _ in range(9):
        seen.add([5] * 8000)
    assert seen.count() == 64


def test_a_draft_ends_where_it_gets_unlikely_or_its_pages_end():
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)
    runner = NativeRunner(lm.model, "f32", drafts=True)
    runner.allocate(2)
    ids = list(range(20, 20 + PAGE))
    runner.step([Chunk(ids[:-1], 0, [0])])
    draft = InNative(runner).draft
    entries, states = [Chunk(ids[1:], 0, [0])], runner.raw_states
    assert len(draft(entries, states, 9)[0]) == 2  # entries 31 and then none
    assert len(draft([Chunk(ids[1:], 0, [0, 1])], states, 9)[0]) == 9
    assert draft(entries, states, 9, least=0.9) == [[]]
    assert draft(entries, states, 0) == [[]]


@pytest.mark.parametrize("quant", [None, "int8"])
def test_native_answers_are_bit_for_bit_those_without_drafts(quant):
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)
    prompts = [[5, 6, 7] * 5, [8], list(range(20, 70)), [9] * 31]
    each = [greedy(), sampled(1), sampled(2, top_p=0.9, frequency_penalty=0.5), greedy(repetition_penalty=1.3)]
    plain = Engine(lm, quant, runner="native").generate(prompts, each)
    engine = Engine(lm, quant, runner="native", speculate="mtp", draft_tokens=3, step_tokens=24)
    for _ in range(2):  # the second time with the prompts cached
        fast = engine.generate(prompts, each)
        assert [(c.token_ids, c.logprobs) for c in fast] == [(c.token_ids, c.logprobs) for c in plain]
    assert engine.stats()["drafted"] > 50
    engine._loop.cache.tree.clear()
    assert engine.stats()["pages_used"] == 0


def test_each_request_is_drafted_for_with_its_own_adapter():
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)
    adapters = {
        "a": adapter(lm, 1, *ATTENTION),
        "b": adapter(lm, 2, "experts.gate_up_proj", "experts.down_proj", "lm_head.weight"),
    }
    prompts, names = [[5, 6, 7] * 9, [9] * 40], (None, "a", "b")
    plain = Engine(lm, runner="native", adapters=adapters)
    with Engine(lm, runner="native", adapters=adapters, speculate="mtp") as engine:
        handles = [(p, name, engine.submit(p, greedy(max_tokens=30), adapter=name)) for p in prompts for name in names]
        for prompt, name, handle in handles:
            assert handle.result().token_ids == plain.generate(prompt, greedy(max_tokens=30), adapter=name)[0].token_ids
        assert engine.stats()["drafted"] > 100


def test_a_model_that_has_learned_foretells_itself():
    """A model that repeats one token, whose MTP layer does too: every draft is right."""
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)
    with torch.no_grad():
        for layer in lm.model.model.layers:  # nothing is added to the embedding
            layer.self_attn.o_proj.weight.zero_()
            for name, weight in layer.mlp.named_parameters():
                if "down_proj" in name:
                    weight.zero_()
        mtp = lm.model.mtp_layers[0]
        D = lm.config.hidden_size
        mtp.eh_proj.weight.copy_(torch.cat([torch.eye(D), torch.zeros(D, D)], 1))
        lm.model.lm_head.weight.copy_(20 * lm.model.model.embed_tokens.weight)
    engine = Engine(lm, runner="native", speculate="mtp", draft_tokens=3)
    out = engine.generate([11, 12], greedy(max_tokens=50))[0]
    assert set(out.token_ids) == {12} and out.accepted == out.drafted > 30
    assert engine.stats()["tokens_per_step"] > 3.5
