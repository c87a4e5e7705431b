"""Several adapters over one base, chosen by each request: the answers are those of the merged models, the base stays whole."""

import copy
import dataclasses

import pytest
import torch
from engine_tiny import TOKENIZER, config, one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import Chunk
from seekling.formats.adapters import Adapter, LowRank, merge
from seekling.formats.peft_write import write_adapter
from seekling.kernels import infer
from seekling.lm import LM

GREEDY = Sampling(max_tokens=20, temperature=0, ignore_eos=True)
PROMPT = list(range(10, 60))


def adapter(lm, seed, *ends):
    """Random changes of every parameter whose name ends so."""
    g = torch.Generator().manual_seed(seed)
    parts = {
        name: LowRank(*(torch.randn(*shape[:-2], *s, generator=g) * 0.3 for s in ((2, shape[-1]), (shape[-2], 2))), 0.5)
        for name, shape in ((n, tuple(t.shape)) for n, t in lm.model.state_dict().items())
        if name.endswith(ends) and len(shape) > 1
    }
    return Adapter(parts)


def merged(lm, one):
    out = copy.copy(lm)
    out.model = copy.deepcopy(lm.model)
    merge(out.model, one)
    return out


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


ATTENTION = ("q_a_proj.weight", "q_b_proj.weight", "kv_b_proj.weight", "o_proj.weight")


@pytest.fixture(scope="module")
def both(lm):
    return {"a": adapter(lm, 1, *ATTENTION), "b": adapter(lm, 2, "gate_proj.weight", "experts.gate_up_proj", "lm_head.weight")}


def test_each_request_is_answered_as_by_its_merged_model(lm, both):
    expected = {None: Engine(lm).generate(PROMPT, GREEDY)[0]}
    expected |= {name: Engine(merged(lm, one)).generate(PROMPT, GREEDY)[0] for name, one in both.items()}
    assert len({tuple(c.token_ids) for c in expected.values()}) == 3
    engine = Engine(lm, adapters=both)
    for name, answer in expected.items():
        found = engine.generate(PROMPT, GREEDY, adapter=name)[0]
        assert found.token_ids == answer.token_ids
        assert found.logprobs == pytest.approx(answer.logprobs, abs=1e-5)


def test_requests_with_different_adapters_run_side_by_side(lm, both):
    alone = {name: Engine(lm, adapters=both).generate(PROMPT, GREEDY, adapter=name)[0].token_ids for name in (None, "a", "b")}
    with Engine(lm, adapters=both) as engine:
        handles = [(name, engine.submit(PROMPT, GREEDY, adapter=name)) for name in (None, "a", "b", "a", None)]
        assert all(handle.result().token_ids == alone[name] for name, handle in handles)


def test_what_one_adapter_computed_is_not_found_by_another(lm, both):
    engine = Engine(lm, adapters=both)
    engine.generate(PROMPT, GREEDY, adapter="a")
    assert engine.explain(PROMPT, adapter="a")["cached_tokens"] == 49
    assert engine.explain(PROMPT)["cached_tokens"] == engine.explain(PROMPT, adapter="b")["cached_tokens"] == 0


def test_adapters_share_the_base_s_tensors_and_follow_its_training(both):
    lm = tiny_lm()
    engine = Engine(lm, adapters=both)
    view = engine._backend.runner.adapters["a"]
    assert view.model.embed_tokens.weight is lm.model.model.embed_tokens.weight
    before = engine.generate(PROMPT, GREEDY, adapter="a")[0].token_ids
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.neg_()
    after = engine.generate(PROMPT, GREEDY, adapter="a")[0]
    assert after.token_ids != before
    assert after.token_ids == Engine(merged(lm, both["a"])).generate(PROMPT, GREEDY)[0].token_ids


def test_adapters_over_quantised_weights(lm):
    one = adapter(lm, 1, *ATTENTION)
    engine = Engine(lm, "int8", adapters={"a": one})
    assert len(engine.generate(PROMPT, GREEDY, adapter="a")[0].token_ids) == 20
    assert engine.generate(PROMPT, GREEDY)[0].token_ids == Engine(lm, "int8").generate(PROMPT, GREEDY)[0].token_ids


def test_an_adapter_is_read_from_its_folder(tmp_path):
    lm = tiny_lm(dtype=torch.float32)
    LM(lm.model, TOKENIZER).save(tmp_path / "base")
    one = adapter(lm, 1, *ATTENTION)
    write_adapter(one, tmp_path / "lora", lm.model)
    engine = Engine(tmp_path / "base", runner="torch", adapters={"a": tmp_path / "lora"})
    assert engine.generate(PROMPT, GREEDY, adapter="a")[0].token_ids == (
        Engine(lm, adapters={"a": one}).generate(PROMPT, GREEDY, adapter="a")[0].token_ids
    )


def test_unknown_names_foreign_adapters_and_changes_that_need_merging_are_refused(lm, both):
    engine = Engine(lm, adapters=both)
    with pytest.raises(SeeklingError, match="no adapter 'c'; this engine has a, b"):
        engine.submit(PROMPT, adapter="c")
    with pytest.raises(SeeklingError, match="this engine has none"):
        Engine(lm).generate(PROMPT, adapter="a")
    with pytest.raises(SeeklingError, match=r"embed_tokens cannot change at run time; merge the adapter"):
        Engine(lm, adapters={"e": adapter(lm, 1, "embed_tokens.weight")})
    with pytest.raises(SeeklingError, match="in the adapter"):
        Engine(lm, adapters={"a": adapter(tiny_lm(hidden_size=48), 1, *ATTENTION)})
    with pytest.raises(SeeklingError, match=r"does not compute adapters of gate$|does not compute adapters of gate; use"):
        Engine(tiny_lm(dtype=torch.float32), runner="native", adapters={"g": adapter(lm, 1, "mlp.gate.weight")})


# ---- beside packed weights -------------------------------------------------------------------------------------------

native = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
GQA = dict(
    model_type="qwen2", attention="gqa", num_key_value_heads=1, head_dim=16, qkv_bias=True, kv_lora_rank=0, q_lora_rank=None,
    qk_nope_head_dim=0, qk_rope_head_dim=0, v_head_dim=0, n_routed_experts=0, num_experts_per_tok=0,
)  # fmt: skip
LINEAR = (
    "q_a_proj.weight", "q_b_proj.weight", "kv_a_proj_with_mqa.weight", "kv_b_proj.weight", "o_proj.weight",
    "self_attn.q_proj.weight",
    "k_proj.weight", "v_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
    "shared_experts.gate_proj.weight", "shared_experts.up_proj.weight", "shared_experts.down_proj.weight",
    "experts.gate_up_proj", "experts.down_proj", "lm_head.weight",
)  # fmt: skip


@native
@pytest.mark.parametrize("part", ["experts.gate_up_proj", "experts.down_proj", "lm_head.weight"])
def test_each_change_of_experts_and_head_counts(part):
    lm = tiny_lm(dtype=torch.float32, n_routed_experts=6)
    one = adapter(lm, 1, part)
    runner, oracle = NativeRunner(lm.model, "f32"), NativeRunner(merged(lm, one).model, "f32")
    runner.add_adapter("a", one)
    ids, other = list(range(5, 50)), list(range(60, 100))
    for some in (runner, oracle):
        some.allocate(4)
    expected = oracle.step([Chunk(ids, 0, [0, 1], "all")])
    plain = runner.step([Chunk(ids, 0, [0, 1], "all")])
    for threads in (1, 2):  # beside a request without it, of which only the last logits are wanted
        runner.threads = threads
        found = runner.step([Chunk(other, 0, [2, 3]), Chunk(ids, 0, [0, 1], "all", "a")])[1:]
        assert (found - expected).abs().max() < 0.02 * (expected - plain).abs().max()


@native
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None}, GQA], ids=["mla", "mla without a query latent", "gqa"])
@pytest.mark.parametrize("quant", ["f32", "int8"])
def test_the_native_runner_computes_what_the_merged_model_does(changes, quant):
    lm = tiny_lm(dtype=torch.float32, **changes)
    one = adapter(lm, 1, *LINEAR)
    runner = NativeRunner(lm.model, quant)
    runner.add_adapter("other", adapter(lm, 3, "o_proj.weight"))
    runner.add_adapter("a", one)
    base, oracle = NativeRunner(lm.model, quant), NativeRunner(merged(lm, one).model, quant)
    ids = torch.randint(0, lm.config.vocab_size, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    out = []
    for some, name in ((runner, "a"), (oracle, None), (runner, None), (base, None)):
        some.allocate(2)
        out.append(torch.cat([some.step([Chunk(ids[a:b], a, [0, 1], "all", name)]) for a, b in ((0, 45), (45, 46), (46, 50))]))
    adapted, expected, plain, alone = out
    assert torch.equal(plain, alone)
    far = (expected - plain).abs().mean()
    assert (adapted - expected).abs().mean() < (0.02 if quant == "f32" else 0.2) * far


@native
@pytest.mark.parametrize(
    "a, b, reason",
    [((2, 16), (7, 2), "in the adapter"), ((2, 516), (32, 2), "in the adapter"), ((2, 16), None, "infinite or NaN")],
)
def test_an_adapter_set_later_is_checked_as_one_given_at_first(a, b, reason):
    name, lm = "model.layers.0.self_attn.o_proj.weight", tiny_lm(dtype=torch.float32)
    up = torch.full((32, 2), float("nan")) if b is None else torch.ones(b)
    with pytest.raises(SeeklingError, match=reason):
        Engine(lm, runner="native").set_adapter("late", Adapter({name: LowRank(torch.ones(a), up, 1.0)}))


@native
def test_native_adapters_answer_bit_for_bit_the_same_alone_and_in_company():
    lm = tiny_lm(dtype=torch.float32)
    some = {"a": adapter(lm, 1, *ATTENTION), "b": adapter(lm, 2, "shared_experts.down_proj.weight", "q_a_proj.weight")}
    settings = Sampling(max_tokens=16, temperature=1.0, seed=5, ignore_eos=True)
    alone = {n: Engine(lm, "int4", adapters=some).generate(PROMPT, settings, adapter=n)[0] for n in (None, "a", "b")}
    assert len({tuple(c.token_ids) for c in alone.values()}) == 3
    engine = Engine(lm, "int4", adapters=some, step_tokens=24, threads=2)
    assert "native" in engine.stats()["runner"]
    with engine:
        handles = [(name, engine.submit(PROMPT, settings, adapter=name)) for name in (None, "a", "b", "a", None)]
        assert all(handle.result() == alone[name] for name, handle in handles)


@native
def test_a_folder_with_adapters_opens_natively_and_foreign_ones_are_refused(tmp_path):
    lm = tiny_lm(dtype=torch.float32)
    LM(lm.model, TOKENIZER).save(tmp_path / "base")
    one = adapter(lm, 1, *ATTENTION)
    write_adapter(one, tmp_path / "lora", lm.model)
    engine = Engine(tmp_path / "base", adapters={"a": tmp_path / "lora"})
    assert "native" in engine.stats()["runner"]
    exact = Engine(lm, adapters={"a": one}).generate(PROMPT, GREEDY, adapter="a")[0].token_ids
    assert engine.generate(PROMPT, GREEDY, adapter="a")[0].token_ids[:8] == exact[:8]
    other = dataclasses.replace(one, base_fingerprint="of another model")
    with pytest.raises(SeeklingError, match="trained on other weights"):
        Engine(tmp_path / "base", adapters={"a": other})


@native
def test_adapters_of_experts_and_the_head_run_natively_from_a_path_and_those_of_mtp_layers_are_let_be(tmp_path):
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1)
    LM(lm.model, TOKENIZER).save(tmp_path / "base")
    one = adapter(lm, 1, "experts.down_proj", "lm_head.weight")
    assert any(name.startswith("model.layers.3.") for name in one.parts)
    engine = Engine(tmp_path / "base", adapters={"e": one})
    assert engine.stats()["runner"].startswith("native")
    assert engine.generate(PROMPT, GREEDY, adapter="e")[0].token_ids != engine.generate(PROMPT, GREEDY)[0].token_ids
