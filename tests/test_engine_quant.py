"""Weight-only quantisation: how far off, how small, and that the original stays whole."""

import copy

import pytest
import torch
from engine_tiny import config, one_thread, tiny_lm  # noqa: F401
from torch import nn

from seekling import Engine, Sampling
from seekling.engine.quant import GROUPS, Packed, QuantExperts, QuantLinear, quantised, weight_bytes
from seekling.model.decoder import Decoder
from seekling.quants import QUANTS

GREEDY = Sampling(max_tokens=12, temperature=0, ignore_eos=True)


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 32), (3, 7, 33), (4, 1), (2, 100)])
def test_int8_is_off_by_at_most_half_a_step_of_its_channel(shape):
    w = weight(*shape)
    step = w.abs().amax(-1, keepdim=True) / 127
    assert ((Packed(w, "int8").dequantise() - w).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize("quant", ["int4", "int4-64"])
@pytest.mark.parametrize("shape", [(5, 32), (3, 7, 33), (4, 1), (2, 100)])
def test_int4_is_off_by_little_more_than_half_a_step_of_its_group(shape, quant):
    w = weight(*shape)
    back = Packed(w, quant).dequantise()
    assert back.shape == w.shape
    group = GROUPS[quant]
    padded = nn.functional.pad(w, (0, -shape[-1] % group)).unflatten(-1, (-1, group))
    step = (padded.amax(-1, keepdim=True) - padded.amin(-1, keepdim=True)) / 15
    error = nn.functional.pad(back - w, (0, -shape[-1] % group)).unflatten(-1, (-1, group)).abs()
    assert (error <= 0.6 * step).all()  # half a step, and the bfloat16 rounding of scale and minimum


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("value", [0.0, 3.0, -1e-4])
def test_a_constant_weight_survives(quant, value):
    w = torch.full((3, 64), value)
    assert torch.allclose(Packed(w, quant).dequantise(), w, rtol=4e-3, atol=0)


def test_int4_keeps_the_order_of_its_nibbles():
    w = torch.arange(16.0).repeat_interleave(2).expand(2, 32).clone()
    assert torch.allclose(Packed(w, "int4").dequantise(), w)


def test_int8_takes_8_bits_and_int4_takes_5_or_4_and_a_half_bits_a_weight():
    w = weight(64, 1024)
    assert Packed(w, "int8").nbytes() == w.numel() + 4 * 64
    assert Packed(w, "int4").nbytes() * 8 == 5 * w.numel()
    assert Packed(w, "int4-64").nbytes() * 8 == 4.5 * w.numel()


@pytest.mark.parametrize("quant", QUANTS)
def test_some_of_a_stack_dequantises_to_the_same_as_all_of_it(quant):
    packed = Packed(weight(6, 8, 40), quant)
    index = torch.tensor([4, 1])
    assert torch.equal(packed.dequantise(index), packed.dequantise()[index])


def quant_twin(model, quant):
    """The oracle: an ordinary model holding the dequantised weights."""
    twin = copy.deepcopy(model)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        for name, module in twin.named_modules():
            if isinstance(module, nn.Linear) and not (tied and name == "lm_head"):
                module.weight.copy_(Packed(module.weight, quant).dequantise())
            elif hasattr(module, "gate_up_proj"):
                for p in (module.gate_up_proj, module.down_proj):
                    p.copy_(Packed(p, quant).dequantise())
    return twin


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}, {"num_nextn_predict_layers": 1}]
)
def test_the_quantised_model_computes_with_exactly_its_dequantised_weights(quant, changes):
    lm = tiny_lm(**changes)
    twin = quant_twin(lm.model, quant)
    ids = torch.arange(20).reshape(2, 10) * 7
    with torch.no_grad():
        assert torch.allclose(quantised(lm.model, quant)(ids), twin(ids), atol=1e-10, rtol=0)
    lm_twin = tiny_lm(**changes)
    lm_twin.model = twin
    out = Engine(lm, quant=quant).generate([[5, 6, 7], [8]], GREEDY)
    assert [c.token_ids for c in out] == [c.token_ids for c in Engine(lm_twin).generate([[5, 6, 7], [8]], GREEDY)]


def test_int8_changes_the_distribution_little_and_int4_more():
    # dense: in a random MoE a flipped expert choice, not the rounding, decides the distance
    lm = tiny_lm(dtype=torch.float32, first_k_dense_replace=3, initializer_range=0.1)
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        exact = lm.model(ids).log_softmax(-1)
        kl = {
            q: (exact.exp() * (exact - quantised(lm.model, q)(ids).log_softmax(-1))).sum(-1).mean().item()
            for q in ("int8", "int4")
        }
    assert 0 < kl["int8"] < 1e-3
    assert kl["int8"] < kl["int4"] < 0.1


def test_the_original_model_is_untouched_and_shares_no_memory_with_the_copy():
    lm = tiny_lm(dtype=torch.float32)
    before = {k: v.clone() for k, v in lm.model.state_dict().items()}
    out = quantised(lm.model, "int8")
    mine = {t.data_ptr() for t in (*lm.model.parameters(), *lm.model.buffers()) if t.numel()}
    assert mine.isdisjoint(t.data_ptr() for t in (*out.parameters(), *out.buffers()) if t.numel())
    assert lm.model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in lm.model.state_dict().items())
    assert all(p.requires_grad for p in lm.model.parameters())


def test_every_linear_layer_and_every_expert_is_replaced_and_the_rest_is_not():
    model = tiny_lm(num_nextn_predict_layers=1).model
    out = quantised(model, "int4")
    assert not any(isinstance(m, nn.Linear) for m in out.modules())
    assert sum(isinstance(m, QuantLinear) for m in out.modules()) == sum(isinstance(m, nn.Linear) for m in model.modules())
    assert sum(isinstance(m, QuantExperts) for m in out.modules()) == 3  # two MoE layers and the MTP layer
    assert type(out.model.embed_tokens) is nn.Embedding


@pytest.mark.parametrize(("quant", "bits"), [("int8", 8), ("int4", 5), ("int4-64", 4.5)])
def test_memory_falls_to_the_promised_bits(quant, bits):
    sizes = dict(vocab_size=300, hidden_size=256, intermediate_size=512, moe_intermediate_size=256, kv_lora_rank=64)
    model = Decoder.build(config(**sizes), dtype=torch.float32)
    packed = sum(
        p.nbytes
        for m in model.modules()
        if isinstance(m, nn.Linear) or hasattr(m, "gate_up_proj")
        for p in m.parameters(recurse=False)
    )
    expected = weight_bytes(model) - packed + packed * bits / 32
    assert weight_bytes(quantised(model, quant)) == pytest.approx(expected, rel=0.04)
    assert expected < 0.45 * weight_bytes(model)


@torch.no_grad()
def test_gpt_oss_experts_keep_their_biases_and_clamp(tmp_path):
    from family_models import hf_family_model, ids_of

    from seekling.formats import load_model

    hf_family_model("gpt_oss", 3, torch.float32).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = ids_of(model.config, 3)
    want = model(ids)
    error = (quantised(model, "int8")(ids) - want).abs().mean()
    assert error < 0.1 * want.std()
