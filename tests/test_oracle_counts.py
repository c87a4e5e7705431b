"""Counted parameters are the module's own, and building a model touches each of them once."""

import dataclasses

import pytest
import torch
from oracle_models import CLASSES, draw_config, one_thread  # noqa: F401
from torch import nn

from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.model.init import init_weights

DRAWS = pytest.mark.parametrize(("family", "seed", "mtp"), [(f, s, s % 3) for f in CLASSES for s in range(20)])


def shape(family: str, seed: int, mtp: int) -> ModelConfig:
    return dataclasses.replace(draw_config(family, seed), num_nextn_predict_layers=mtp, n_shared_experts=seed % 4)


@DRAWS
def test_parameter_counts_equal_the_modules(family, seed, mtp):
    config = shape(family, seed, mtp)
    model = Decoder.empty(config)
    held = {name: p.numel() for name, p in model.named_parameters()}  # a tied table counts once
    in_mtp = sum(
        n for name, n in held.items() if name.startswith("model.layers.") and int(name.split(".")[2]) >= len(model.main_layers)
    )
    counts = config.parameters()
    assert (counts.total, counts.mtp) == (sum(held.values()) - in_mtp, in_mtp)
    idle = sum(
        p.numel() // config.n_routed_experts * (config.n_routed_experts - config.num_experts_per_tok)
        for layer in model.main_layers
        for name, p in layer.named_parameters()
        if ".experts." in name
    )
    assert counts.active == counts.total - idle


@DRAWS
def test_every_parameter_and_buffer_is_written_once(family, seed, mtp):
    model = Decoder.empty(shape(family, seed, mtp), device="cpu")
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
    before = {name: tensor._version for name, tensor in tensors.items()}
    init_weights(model, 0, 0.02)
    assert {name: tensor._version - before[name] for name, tensor in tensors.items()} == dict.fromkeys(tensors, 1)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_equal_seeds_give_equal_weights_and_other_seeds_other_ones():
    config = shape("deepseek_v3", 1, 1)
    a, b, c = (Decoder.build(config, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_no_two_matrices_get_the_same_numbers():
    model = Decoder.build(shape("deepseek_v3", 4, 2))
    seen = [p.flatten()[:4].tolist() for _, p in model.named_parameters() if p.dim() > 1]
    assert len({tuple(s) for s in seen}) == len(seen)


def test_a_tensor_of_unknown_kind_is_refused_instead_of_left_empty():
    module = nn.Module()
    module.gain = nn.Parameter(torch.empty(3))
    with pytest.raises(RuntimeError, match="gain"):
        init_weights(module, 0, 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_router_biases_stay_float32_in_a_model_of_any_dtype(dtype):
    model = Decoder.build(shape("deepseek_v3", 5, 1), dtype=dtype)
    kinds = {name: t.dtype for name, t in model.state_dict().items()}
    biases = {k: v for k, v in kinds.items() if k.endswith("e_score_correction_bias")}
    assert biases
    assert set(biases.values()) == {torch.float32}
    assert {v for k, v in kinds.items() if k not in biases} == {dtype}
