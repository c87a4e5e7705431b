"""FP8 blocks: bit for bit what DeepSeek-V3's report defines, against loops in plain Python; folders read and refused."""

import math
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import CheckpointError
from seekling.formats.fp8 import FP8Format, FP8Source, dequantize, quantize, scales_shape
from seekling.formats.safetensors_source import SafetensorsSource

V3 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
SMALL = {**V3, "weight_block_size": [4, 3]}


# ---- the definition, number by number --------------------------------------------------------------------------------


def float32(x: float) -> float:
    return struct.unpack("<f", struct.pack("<f", x))[0]


def e4m3_value(code: int) -> float:
    sign, exponent, mantissa = -1 if code & 0x80 else 1, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


VALUES = [e4m3_value(code) for code in range(127)]


def e4m3_code(x: float) -> int:
    """Nearest code; of two equally near the even one; beyond 448 the largest."""
    nearest = min(range(127), key=lambda code: (abs(VALUES[code] - abs(x)), code & 1))
    return nearest | (0x80 if math.copysign(1, x) < 0 else 0)


def slow_quantize(weight, block, power_of_two, scales=None):
    """Lists of codes and scales of a matrix given as a list of rows."""
    rows, columns = len(weight), len(weight[0])
    codes = [[0] * columns for _ in range(rows)]
    found = []
    for i, r in enumerate(range(0, rows, block[0])):
        found.append([])
        for j, c in enumerate(range(0, columns, block[1])):
            inside = [(y, x) for y in range(r, min(r + block[0], rows)) for x in range(c, min(c + block[1], columns))]
            most = max(abs(weight[y][x]) for y, x in inside)
            scale = float32(most / 448.0)
            if power_of_two and most > 0:
                scale = 2.0 ** math.ceil(math.log2(scale))
            if most == 0:
                scale = 1.0
            if scales is not None:
                scale = scales[i][j]
            found[-1].append(scale)
            for y, x in inside:
                codes[y][x] = e4m3_code(float32(weight[y][x] / scale))
    return codes, found


def matrix(rows, columns, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(3 * torch.randn(rows, columns, generator=generator))  # blocks with small and large numbers
    return (torch.randn(rows, columns, generator=generator) * spread).to(dtype)


def test_every_code_has_the_value_that_the_format_defines():
    ours = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    for code, value in enumerate(ours.tolist()):
        assert math.isnan(value) if math.isnan(e4m3_value(code)) else value == e4m3_value(code)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 11), columns=st.integers(1, 11), block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    power_of_two=st.booleans(), seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_quantising_is_bit_for_bit_the_definition_edge_blocks_included(rows, columns, block, power_of_two, seed, dtype):
    weight = matrix(rows, columns, seed, dtype)
    codes, scales = quantize(weight, block, power_of_two)
    slow_codes, slow_scales = slow_quantize(weight.double().tolist(), block, power_of_two)
    assert scales.tolist() == slow_scales
    assert codes.view(torch.uint8).tolist() == slow_codes


def test_the_published_block_of_128_with_edges_is_bit_for_bit_the_definition():
    weight = matrix(130, 257, 0)
    codes, scales = quantize(weight)
    slow_codes, slow_scales = slow_quantize(weight.double().tolist(), (128, 128), False)
    assert scales.shape == (2, 3) and scales.tolist() == slow_scales
    assert codes.view(torch.uint8).tolist() == slow_codes


@settings(max_examples=30)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_dequantising_multiplies_every_code_by_its_blocks_scale(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 127, (rows, columns), generator=generator, dtype=torch.uint8)
    scales = torch.rand(scales_shape((rows, columns), (4, 3)), generator=generator)
    got = dequantize(codes.view(torch.float8_e4m3fn), scales, (4, 3))
    for y in range(rows):
        for x in range(columns):
            assert got[y, x].item() == float32(VALUES[codes[y, x]] * scales[y // 4, x // 3].item())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), through=st.sampled_from([torch.bfloat16, torch.float32]), power_of_two=st.booleans(),
    rows=st.integers(1, 9), columns=st.integers(1, 9),
)  # fmt: skip
def test_fp8_through_bfloat16_and_back_with_its_scales_gives_the_same_bits(seed, through, power_of_two, rows, columns):
    codes, scales = quantize(matrix(rows, columns, seed), (4, 3), power_of_two)
    again, _ = quantize(dequantize(codes, scales, (4, 3), through), (4, 3), scales_rc=scales)
    assert torch.equal(codes.view(torch.uint8), again.view(torch.uint8))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), through=st.sampled_from([torch.bfloat16, torch.float32]))
def test_with_power_of_two_scales_quantising_twice_changes_no_number(seed, through):
    # the scale may halve and the codes double, where the largest number of a block was rounded down to 224
    once = dequantize(*quantize(matrix(9, 8, seed), (4, 3), power_of_two=True), (4, 3), through)
    assert torch.equal(dequantize(*quantize(once, (4, 3), power_of_two=True), (4, 3), through), once)


def test_every_code_survives_bfloat16_under_scales_of_many_sizes():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn).view(1, -1)
    for exponent in range(-100, 100, 7):
        scales = torch.full((1, 1), 1.2345 * 2.0**exponent)
        block = (1, codes.shape[1])
        again, _ = quantize(dequantize(codes, scales, block, torch.bfloat16), block, scales_rc=scales)
        assert torch.equal(codes.view(torch.uint8), again.view(torch.uint8))


def test_stacked_matrices_are_quantised_each_for_itself():
    weights = torch.stack([matrix(5, 7, seed) for seed in range(3)])
    codes, scales = quantize(weights, (4, 3))
    for i, weight in enumerate(weights):
        alone, alone_scales = quantize(weight, (4, 3))
        assert torch.equal(codes[i].view(torch.uint8), alone.view(torch.uint8)) and torch.equal(scales[i], alone_scales)
    assert torch.equal(dequantize(codes, scales, (4, 3))[1], dequantize(codes[1], scales[1], (4, 3)))


def test_a_block_of_zeros_and_one_of_the_smallest_numbers_are_finite():
    weight = torch.zeros(2, 2)
    weight[1, 1] = 1e-44
    codes, scales = quantize(weight, (1, 1))
    assert torch.isfinite(scales).all() and (scales > 0).all()
    assert dequantize(codes, scales, (1, 1))[0].tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused(bad):
    weight = torch.ones(3, 3)
    weight[1, 2] = bad
    with pytest.raises(CheckpointError, match="infinite or NaN"):
        quantize(weight)


# ---- folders ---------------------------------------------------------------------------------------------------------


def source(tmp_path, tensors, config=SMALL, **kwargs):
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    return FP8Source(SafetensorsSource.of_file(tmp_path / "x.safetensors"), config, **kwargs)


def quantised(rows=5, columns=7, **kwargs):
    codes, scales = quantize(matrix(rows, columns, 1), (4, 3), **kwargs)
    return {"a.weight": codes, "a.weight_scale_inv": scales}


def test_the_scales_are_hidden_and_the_rest_is_as_stored(tmp_path):
    tensors = {**quantised(), "norm.weight": torch.ones(3).bfloat16()}
    fp8 = source(tmp_path, tensors)
    assert fp8.shapes == {"a.weight": (5, 7), "norm.weight": (3,)}
    assert torch.equal(fp8.read("a.weight"), dequantize(tensors["a.weight"], tensors["a.weight_scale_inv"], (4, 3)))
    assert fp8.read("norm.weight").dtype == torch.bfloat16 and fp8.unreadable() == []


def test_scales_stored_as_e8m0_give_the_same_numbers_as_in_float32(tmp_path):
    tensors = quantised(power_of_two=True)
    wanted = source(tmp_path, tensors).read("a.weight")
    tensors["a.weight_scale_inv"] = tensors["a.weight_scale_inv"].to(torch.float8_e8m0fnu)
    assert torch.equal(source(tmp_path, tensors, {**SMALL, "scale_fmt": "ue8m0"}).read("a.weight"), wanted)


def test_v4_names_its_scales_scale(tmp_path):
    tensors = quantised()
    wanted = source(tmp_path, tensors).read("a.weight")
    tensors["a.scale"] = tensors.pop("a.weight_scale_inv")
    assert torch.equal(source(tmp_path, tensors).read("a.weight"), wanted)


def test_bfloat16_is_the_float32_product_rounded_once(tmp_path):
    tensors = quantised()
    assert torch.equal(
        source(tmp_path, tensors, dtype=torch.bfloat16).read("a.weight"), source(tmp_path, tensors).read("a.weight").bfloat16()
    )


BAD_FOLDERS = {
    "no scales": (lambda t: t.pop("a.weight_scale_inv"), "a.weight is FP8 but has no scales"),
    "scales of another shape": (lambda t: t.update({"a.weight_scale_inv": torch.ones(2, 2)}), r"has shape \[2, 2\].*\[2, 3\]"),
    "scales of whole numbers": (
        lambda t: t.update({"a.weight_scale_inv": torch.ones(2, 3, dtype=torch.int32)}),
        "stored as I32",
    ),
    "scales without a matrix": (lambda t: t.update({"b.weight_scale_inv": torch.ones(1)}), "b.weight_scale_inv scales no FP8"),
    "another FP8 type": (
        lambda t: t.update({"b.weight": torch.ones(1, 1).to(torch.float8_e5m2)}),
        "b.weight is stored as F8_E5M2",
    ),
    "activation scales": (lambda t: t.update({"a.input_scale": torch.ones(1)}), "activation scales are not supported"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_is_refused_that_has(case, tmp_path):
    change, message = BAD_FOLDERS[case]
    tensors = quantised()
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        source(tmp_path, tensors)


def test_all_problems_of_a_folder_are_listed_at_once(tmp_path):
    tensors = {**quantised(), "b.weight": quantised()["a.weight"], "c.weight_scale_inv": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"(?s)2 problems.*b\.weight.*c\.weight_scale_inv"):
        source(tmp_path, tensors)


MINIMAX_M2 = {**V3, "fmt": "float8_e4m3fn", "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}


@pytest.mark.parametrize("config", [V3, {**V3, "scale_fmt": "ue8m0"}, MINIMAX_M2], ids=["V3", "V3.1", "MiniMax-M2"])
def test_the_published_configs_are_understood(config):
    assert FP8Format.of_config(config) == FP8Format((128, 128), config.get("scale_fmt") == "ue8m0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quant_method", "gptq"), ("fmt", "e5m2"), ("activation_scheme", "static"), ("weight_block_size", None),
        ("weight_block_size", [128]), ("weight_block_size", [0, 128]), ("scale_fmt", "fp16"), ("expert_dtype", "nvfp4"),
        ("per_channel", True),
    ],
)  # fmt: skip
def test_other_variants_are_refused_by_name(key, value):
    with pytest.raises(CheckpointError, match=key):
        FP8Format.of_config({**V3, key: value})


@pytest.mark.parametrize("power_of_two", [False, True])
def test_what_a_format_writes_it_reads(power_of_two):
    written = FP8Format((64, 32), power_of_two).to_config(["lm_head"])
    assert FP8Format.of_config(written) == FP8Format((64, 32), power_of_two)
    assert written["modules_to_not_convert"] == ["lm_head"]
