"""MXFP4: number for number what the OCP format defines and what transformers unpacks; gpt-oss folders read and refused."""

import json
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GptOssConfig, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from seekling.errors import CheckpointError
from seekling.formats import load_model
from seekling.formats.mxfp4 import MXFP4Source, dequantize, quantize, quantize_experts
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.formats.stream import convert

GPT_OSS = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}
MAGNITUDES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def code_of(x: float) -> int:
    """Nearest e2m1 code, ties to the even one, at most 6."""
    nearest = min(range(8), key=lambda c: (abs(MAGNITUDES[c] - abs(x)), c & 1))
    return nearest | (8 if math.copysign(1, x) < 0 else 0)


def slow_quantize(row):
    """Codes and scale byte of 32 numbers."""
    most = max(map(abs, row))
    exponent = 0 if most == 0 else max(-127, min(127, math.floor(math.log2(most)) - 2))
    return [code_of(x / 2.0**exponent) for x in row], exponent + 127


def codes_in(blocks):
    return [c for byte in blocks.flatten().tolist() for c in (byte & 15, byte >> 4)]


def packed(experts, outputs, inputs, seed=0, scales=(100, 140)):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(*scales, (experts, outputs, inputs // 32), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_byte_under_every_scale_is_what_transformers_makes_of_it(dtype):
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 253, 1, 1)
    scales = torch.arange(0, 253, dtype=torch.uint8).view(1, 253, 1).repeat(1, 1, 16)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=dtype)
    assert torch.equal(dequantize(blocks, scales, dtype).transpose(1, 2), theirs)


def test_a_negative_zero_and_a_scale_of_nan_are_kept():
    got = dequantize(torch.full((1, 16), 0x80, dtype=torch.uint8), torch.tensor([127], dtype=torch.uint8))
    assert torch.signbit(got).tolist() == [False, True] * 16
    assert dequantize(torch.zeros(1, 16, dtype=torch.uint8), torch.tensor([255], dtype=torch.uint8)).isnan().all()


@settings(max_examples=60)
@given(
    row=st.lists(
        st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.9, -5.0, -0.0])),
        min_size=32, max_size=32,
    ),
    power=st.integers(-40, 40),
)  # fmt: skip
def test_quantising_is_the_definition_ties_included(row, power):
    row = (torch.tensor(row) * 2.0**power).tolist()
    blocks, scales = quantize(torch.tensor(row))
    codes, scale = slow_quantize(row)
    assert scales.tolist() == [scale] and codes_in(blocks) == codes


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_what_was_unpacked_is_packed_into_the_same_numbers(seed):
    blocks, scales = packed(1, 3, 64, seed)
    numbers = dequantize(blocks, scales)
    assert torch.equal(dequantize(*quantize(numbers)), numbers)


def test_what_was_packed_is_packed_into_the_same_bytes_again():
    once = quantize(torch.randn(4, 96, generator=torch.Generator().manual_seed(0)))
    again = quantize(dequantize(*once))
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])


def test_rows_that_do_not_divide_and_numbers_that_are_not_finite_are_refused():
    with pytest.raises(CheckpointError, match="groups of 32"):
        quantize(torch.ones(2, 40))
    with pytest.raises(CheckpointError, match="infinite or NaN"):
        quantize(torch.full((32,), math.inf))


# ---- folders ---------------------------------------------------------------------------------------------------------

UP = "model.layers.0.mlp.experts.gate_up_proj"


def source(tmp_path, tensors, config=GPT_OSS, **kwargs):
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    return MXFP4Source(SafetensorsSource.of_file(tmp_path / "x.safetensors"), config, **kwargs)


def stored(blocks, scales):
    return {f"{UP}_blocks": blocks, f"{UP}_scales": scales, f"{UP}_bias": torch.ones(3, 8).bfloat16()}


def test_a_folders_experts_come_out_in_transformers_layout(tmp_path):
    blocks, scales = packed(3, 8, 64)
    mxfp4 = source(tmp_path, stored(blocks, scales))
    assert mxfp4.shapes == {UP: (3, 64, 8), f"{UP}_bias": (3, 8)}
    assert torch.equal(mxfp4.read(UP), convert_moe_packed_tensors(blocks, scales))
    assert torch.equal(mxfp4.read(f"{UP}_bias"), torch.ones(3, 8).bfloat16()) and mxfp4.unreadable() == []


def test_experts_are_written_as_they_were_read(tmp_path):
    blocks, scales = quantize_experts(torch.randn(3, 64, 8, generator=torch.Generator().manual_seed(1)))
    again = quantize_experts(source(tmp_path, stored(blocks, scales)).read(UP))
    assert torch.equal(again[0], blocks) and torch.equal(again[1], scales)


BAD = {
    "no scales": (lambda t: t.pop(f"{UP}_scales"), "gate_up_proj_blocks has no .*gate_up_proj_scales"),
    "no blocks": (lambda t: t.pop(f"{UP}_blocks"), "gate_up_proj_scales has no .*gate_up_proj_blocks"),
    "other groups": (lambda t: t.update({f"{UP}_scales": torch.ones(3, 8, 1).byte()}), r"are not \(E, O, G, 16\)"),
    "blocks of floats": (lambda t: t.update({f"{UP}_blocks": torch.ones(3, 8, 2, 16)}), "stored as F32, not U8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_is_refused_that_has(case, tmp_path):
    change, message = BAD[case]
    tensors = stored(*packed(3, 8, 64))
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        source(tmp_path, tensors)


@pytest.mark.parametrize("change", [{"quant_method": "fp8"}, {"group_size": 16}])
def test_other_variants_are_refused_by_name(change, tmp_path):
    with pytest.raises(CheckpointError, match=next(iter(change))):
        source(tmp_path, stored(*packed(3, 8, 64)), {**GPT_OSS, **change})


# ---- whole models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gpt_oss(tmp_path):
    """A folder as gpt-oss is published: experts packed, the rest bfloat16."""
    config = GptOssConfig(
        vocab_size=32, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, initializer_range=0.2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "plain")
    tensors = safetensors.torch.load_file(tmp_path / "plain" / "model.safetensors")
    for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = quantize_experts(tensors.pop(name))
    (tmp_path / "packed").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "packed" / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "packed" / "config.json").write_text(json.dumps({**raw, "quantization_config": GPT_OSS}))
    return tmp_path / "packed"


def test_a_packed_gpt_oss_has_the_logits_that_transformers_gives(gpt_oss, tmp_path):
    ids = torch.arange(14).view(2, 7) % 32
    theirs = AutoModelForCausalLM.from_pretrained(
        gpt_oss, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32, experts_implementation="eager"
    ).eval()  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(load_model(gpt_oss)(ids), theirs(ids).logits, atol=1e-4)


def test_a_packed_gpt_oss_is_unpacked_on_disk_into_a_folder_with_the_same_logits(gpt_oss, tmp_path):
    convert(gpt_oss, tmp_path / "out")
    ids = torch.arange(14).view(2, 7) % 32
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out")(ids), load_model(gpt_oss)(ids))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, experts_implementation="eager").eval()
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, load_model(gpt_oss)(ids), atol=1e-4)
