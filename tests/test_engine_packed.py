"""Weights packed for the native runner straight from a file: what its blocks become."""

import warnings

import gguf
import numpy as np
import pytest
import torch
from gguf_tiny import RAW, model_of, random_blocks

from seekling import Engine, Sampling
from seekling.engine.packed import PackedWeights, StoreParts, _blocks
from seekling.formats import gguf_write
from seekling.formats.families import read_config
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_types import BY_NAME
from seekling.formats.gguf_write import write_gguf
from seekling.kernels import infer
from seekling.lm import LM

pytestmark = pytest.mark.skipif(not infer.available(), reason="no native library is built here")
KV_B = "model.layers.0.self_attn.kv_b_proj.weight"


def weights_of(path, to: str, nope: int) -> PackedWeights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(LM(model_of(dict(RAW["deepseek_v3"], qk_nope_head_dim=nope))), path, to)
    file = open_gguf(path)
    return PackedWeights(StoreParts(read_config(file.raw_config), file.source), "gguf")


# Rows of 16 are no whole block: llama.cpp's own files have them as F16, and only the other half packed.
HALVES = [("q8_0", 32, ("q8_0", "q8_0")), ("q8_0", 16, ("bf16", "q8_0")), ("f16", 32, ("bf16", "bf16"))]


@pytest.mark.parametrize("to, nope, formats", HALVES)
def test_each_half_of_kv_b_keeps_the_blocks_it_has_in_the_file(to, nope, formats, tmp_path):
    weights = weights_of(tmp_path / "x.gguf", to, nope)
    config, made = weights.config, weights.absorbed(KV_B)
    whole = weights.parts.tensor(KV_B).view(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = whole.split([nope, config.v_head_dim], 1)
    assert tuple(packed.format for packed in made) == formats
    for packed, want in zip(made, (keys.transpose(1, 2), values), strict=True):
        got = torch.stack([infer.dequantise(packed, index=head) for head in range(config.num_attention_heads)])
        exact = want.float() if packed.format == "q8_0" else want.bfloat16().float()
        assert torch.equal(got, exact)


@pytest.mark.parametrize(("kind", "format"), [("Q4_K", "q4_k"), ("Q6_K", "q6_k"), ("Q5_K", "q8_0"), ("F16", "bf16")])
def test_a_matrix_keeps_its_blocks_where_the_kernels_have_their_type(kind, format):
    name, shape = gguf.GGMLQuantizationType[kind], (40, 512)
    if kind == "F16":
        rows = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    else:
        rows = random_blocks(kind, 40, 2, largest=0.01).reshape(40, -1)
    floats = torch.from_numpy(gguf.dequantize(rows, name))

    class File(StoreParts):
        def __init__(self):
            self.config = read_config(RAW["llama"])

        def has(self, target):
            return target == "lm_head.weight"

        def blocks(self, target, expert=None, rows_=None):
            return _blocks(kind, rows, shape)

        def tensor(self, target, expert=None, rows_=None):
            return floats

    packed = PackedWeights(File(), "gguf").matrix("lm_head.weight")
    assert packed is not None and packed.format == format
    exact = format in ("q4_k", "q6_k")
    torch.testing.assert_close(infer.dequantise(packed), floats, rtol=1e-6 if exact else 0.01, atol=1e-6 if exact else 0.1)


# ---- what is multiplied by the same rows but is of another kind ---------------------------------------------------------


@pytest.mark.parametrize("part", ["ffn_gate.", "ffn_up.", "ffn_gate_shexp", "ffn_up_shexp", "ffn_gate_exps", "ffn_up_exps"])
@pytest.mark.parametrize("to, kind", [("q8_0", "F16"), ("q4_0", "F32"), ("bf16", "Q8_0"), ("q4_1", "Q8_0")])
def test_gate_and_up_of_different_types_are_each_computed_as_they_are(part, to, kind, tmp_path, monkeypatch):
    usual = gguf_write.kind_for
    monkeypatch.setattr(
        gguf_write, "kind_for", lambda name, shape, wanted: BY_NAME[kind] if part in name else usual(name, shape, wanted)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(LM(model_of(dict(RAW["deepseek_v3"], qk_nope_head_dim=32))), tmp_path / "x.gguf", to)
    file = open_gguf(tmp_path / "x.gguf")
    assert any(part in name and tensor.kind.name == kind for name, tensor in file.tensors.items())
    s = Sampling(max_tokens=1, temperature=0, prompt_logprobs=True)
    prompt = list(range(10, 40))
    natively, torchly = (
        torch.tensor(Engine(tmp_path / "x.gguf", runner=runner).generate([prompt], s)[0].prompt_logprobs[1:])
        for runner in ("native", "torch")
    )
    assert (natively - torchly).abs().mean() < 0.15
