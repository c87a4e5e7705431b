"""LoRA: nothing changes before training, only adapters are trained, merged equals applied, also in MLA's absorbed form."""

import pytest
import torch
from family_models import hf_family_model
from oracle_models import draw_config, one_thread  # noqa: F401

from seekling.errors import RecipeError
from seekling.formats import load_model
from seekling.formats.adapters import merge
from seekling.formats.peft import read_adapter
from seekling.formats.peft_write import write_adapter
from seekling.model import Decoder, ModelConfig
from seekling.model.cache import Cache
from seekling.train.lora import LoRAExperts, LoraSettings, adapter_of, add_lora, base_alone, put_in, take_out
from seekling.train.optim import Optimizer, OptimSettings

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def deepseek(seed=5):
    return Decoder.build(draw_config("deepseek_v3", seed), dtype=torch.float64, seed=seed).eval()


PLAIN = LoraSettings(rank=3, alpha=5.0)


def shaken(model, settings=PLAIN):
    """Adapters on every layer, with B away from zero."""
    add_lora(model, settings, seed=1)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_B"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return model.eval()


@torch.no_grad()
def test_fresh_adapters_change_nothing():
    model = deepseek()
    want = model(IDS)
    add_lora(model, LoraSettings())
    assert torch.equal(model(IDS), want)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [LoraSettings(3, 5.0), LoraSettings(2, 4.0, rank_stabilised=True), LoraSettings(2, shared_a=True)]
)
def test_a_merged_adapter_computes_what_the_applied_one_did(settings):
    model = shaken(deepseek(), settings)
    want = model(IDS)
    adapter = take_out(model)
    assert (model(IDS) - want).abs().max() > 1e-3  # the plain base again
    merge(model, adapter, keep=False)
    assert (model(IDS) - want).abs().max() < 1e-5  # deltas are made in float32


@torch.no_grad()
def test_absorbed_decoding_uses_the_adapter_of_the_latent_projection():
    model = shaken(deepseek(), LoraSettings(3, 5.0, ("kv_b_proj",)))
    cache = Cache(model.config, 1, 16, dtype=torch.float64)
    steps = torch.cat([model.extend(IDS[:, t : t + 1], cache, [0]) for t in range(IDS.shape[1])], 1)
    assert (steps - model.hidden(IDS)).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "gpt_oss"])
def test_only_adapters_get_gradients_and_move(family, tmp_path):
    hf_family_model(family, 2, torch.float32).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    before = {n: p.clone() for n, p in model.named_parameters()}
    add_lora(model, LoraSettings(2))
    optimizer = Optimizer(model, OptimSettings("adamw"))
    assert all("lora_" in name for name in optimizer.owner)
    model(IDS).square().mean().backward()
    optimizer.step(0.01)
    moved = take_out(model)
    assert any(part.b.abs().max() > 0 for part in moved.parts.values())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gpt_oss"])
def test_linear_layers_with_biases_train_in_bfloat16(family, lora, tmp_path):
    hf_family_model(family, 2, torch.float32).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    if lora:
        add_lora(model, LoraSettings(2))
    optimizer = Optimizer(model, OptimSettings("adamw"), torch.bfloat16)
    assert {p.dtype for n, p in model.named_parameters() if n.endswith("_proj.bias")} == {torch.bfloat16}
    before = model(IDS).detach()
    model(IDS).float().square().mean().backward()
    optimizer.step(0.01)
    assert not torch.equal(model(IDS), before)
    assert {v.dtype for v in optimizer.weights.values.values()} == {torch.float32}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["mla", "gpt_oss"])
def test_adapters_of_experts_get_the_gradients_of_merged_stacks(kind, shared, tmp_path):
    if kind == "gpt_oss":
        hf_family_model(kind, 2, torch.float32).save_pretrained(tmp_path)
    model = deepseek() if kind == "mla" else load_model(tmp_path, "float64")
    shaken(model, LoraSettings(2, targets=("experts",), shared_a=shared))
    experts = next(m for m in model.modules() if isinstance(m, LoRAExperts))
    x = torch.randn(9, model.config.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    routing = next(m.gate for m in model.modules() if hasattr(m, "gate") and hasattr(m, "experts"))(x)
    merged = experts.base.run(x, routing, experts.merged("gate_up"), experts.merged("down"))
    own = {n: p for n, p in experts.named_parameters() if "lora_" in n}
    want = torch.autograd.grad(
        experts.base.run(x, routing, experts.merged("gate_up"), experts.merged("down")).sum(), own.values()
    )
    got = torch.autograd.grad(experts(x, routing).sum(), own.values())
    assert torch.allclose(experts(x, routing), merged, atol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, want, strict=True))


def test_dropout_is_of_the_adapters_alone_and_only_in_training():
    model = shaken(deepseek(), LoraSettings(3, 5.0, dropout=0.5))
    still = model(IDS)
    assert torch.equal(model(IDS), still)
    model.train()
    assert (model(IDS) - still).abs().max() > 1e-4
    with base_alone(model):
        assert torch.equal(model(IDS), model(IDS))


@torch.no_grad()
def test_every_latent_projection_and_shared_expert_can_have_an_adapter():
    more = dict(q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_shared_experts=1)
    more |= dict(intermediate_size=16, moe_intermediate_size=8, num_experts_per_tok=2)
    config = ModelConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, n_routed_experts=4, **more)
    names = add_lora(Decoder.empty(config, device="cpu"), LoraSettings(2))
    last = {n.rsplit(".", 1)[1] for n in names}
    assert last >= {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "experts"}
    assert any("shared_experts" in n for n in names) and "lm_head" not in last


def test_equal_seeds_give_equal_adapters_whatever_their_order():
    a, b = deepseek(), deepseek()
    add_lora(a, LoraSettings(2), seed=7)
    add_lora(b, LoraSettings(2), seed=7)
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("shared", [False, True])
def test_adapters_read_back_lie_in_memory_as_they_did(shared, tmp_path):
    model = shaken(deepseek(), LoraSettings(2, shared_a=shared))
    kept = {name: p.detach().float() for name, p in model.named_parameters() if "lora_" in name}
    plain = Decoder.empty(model.config)
    write_adapter(adapter_of(model, kept), tmp_path, {name: tuple(t.shape) for name, t in plain.state_dict().items()})
    put_in(model, read_adapter(tmp_path, plain))
    for name, p in model.named_parameters():
        if name in kept:
            assert torch.equal(p, kept[name]) and p.stride() == kept[name].stride(), name


def test_a_target_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(RecipeError, match=r"w_pack; this model has .*kv_b_proj"):
        add_lora(deepseek(), LoraSettings(targets=("w_pack",)))


def test_the_base_alone_computes_without_the_adapters(tmp_path):
    model = deepseek()
    want = model(IDS)
    shaken(model)
    assert (model(IDS) - want).abs().max() > 1e-3
    with base_alone(model):
        assert torch.equal(model(IDS), want)
    assert (model(IDS) - want).abs().max() > 1e-3
