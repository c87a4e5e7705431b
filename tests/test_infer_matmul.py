"""Packed matrices of the native runner against torch: every format, odd shapes, every instruction level."""

import os
import subprocess
import sys

import gguf
import pytest
import torch
from gguf_tiny import random_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.kernels import infer, native

pytestmark = pytest.mark.skipif(not infer.available(), reason="no native library is built here")

FLOATS = ("int8", "q4_1", "q4_k", "q4_64", "q8_0", "q6_k", "bf16", "f32")
SHAPES = [(1, 1), (5, 7), (16, 32), (33, 64), (48, 100), (95, 257), (33, 576)]
# Of the weights' own size.
WEIGHT_ERROR = {
    "int8": 0.012,
    "q4_1": 0.11,
    "q4_k": 0.11,
    "q4_64": 0.12,
    "q8_0": 0.01,
    "q6_k": 0.025,
    "bf16": 0.004,
    "f32": 0.0,
}


def matrix(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm().clamp_min(1e-9))


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_keeps_the_weights_to_the_formats_precision(format, shape):
    w = matrix(*shape)
    assert relative(infer.dequantise(infer.pack(w, format)), w) <= WEIGHT_ERROR[format]


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_weights_are_packed_as_they_are(shape):
    w = matrix(*shape).bfloat16()
    packed = infer.pack(w, "bf16")
    assert torch.equal(infer.dequantise(packed), w.float())
    assert torch.equal(packed.data, infer.pack(w.float(), "bf16").data)


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 6, 7, 13])
def test_product_is_that_of_the_dequantised_weights_and_activations(format, shape, rows):
    w = infer.pack(matrix(*shape), format, bias=matrix(1, shape[0], seed=2)[0])
    x = matrix(rows, shape[1], seed=1)
    want = quantised_activations(x, format) @ infer.dequantise(w).t() + matrix(1, shape[0], seed=2)[0]
    torch.testing.assert_close(infer.multiply(w, x), want, rtol=2e-5, atol=2e-5 * shape[1] ** 0.5)


def quantised_activations(x: torch.Tensor, format: str) -> torch.Tensor:
    """What the kernels see: int8 in groups of 32, or bfloat16, or the numbers themselves."""
    if format in ("bf16", "f32"):
        return x.bfloat16().float() if format == "bf16" else x
    groups = torch.nn.functional.pad(x, (0, -x.shape[1] % 32)).unflatten(1, (-1, 32))
    most = groups.abs().amax(-1, keepdim=True)
    return ((groups * (127 / most.clamp_min(1e-30))).round() * (most / 127)).flatten(1)[:, : x.shape[1]]


@given(st.integers(1, 40), st.integers(1, 80), st.integers(1, 20), st.sampled_from(FLOATS))
@settings(max_examples=40)
def test_a_row_is_bit_identical_whatever_rows_are_beside_it(outputs, inputs, rows, format):
    w, x = infer.pack(matrix(outputs, inputs), format), matrix(rows, inputs, seed=3)
    alone = torch.cat([infer.multiply(w, x[i : i + 1]) for i in range(rows)])
    assert torch.equal(infer.multiply(w, x), alone)


@pytest.mark.parametrize(("format", "share"), [("q4_1", 0.8), ("q4_k", 0.8), ("q4_64", 0.8), ("q6_k", 0.95)])
def test_a_format_that_searches_errs_less_where_it_counts(format, share):
    w, importance = matrix(16, 64), torch.tensor([100.0] * 8 + [0.01] * 56)
    plain, weighed = (infer.dequantise(infer.pack(w, format, importance=i)) for i in (None, importance))
    assert ((weighed - w)[:, :8] ** 2).sum() < share * ((plain - w)[:, :8] ** 2).sum()


@pytest.mark.parametrize("inputs", [64, 100, 256])
def test_groups_of_64_take_four_and_a_half_bits_and_have_at_most_16_values(inputs):
    w = infer.pack(matrix(32, inputs), "q4_64")
    assert w.nbytes() * 8 == 4.5 * 32 * -(-inputs // 64) * 64
    assert max(len(group.unique()) for row in infer.dequantise(w) for group in row.split(64)) <= 16


def test_q6_k_errs_no_more_than_its_scales_chosen_by_the_largest_number_alone():
    w = matrix(64, 512)
    sixteens = w.unflatten(1, (-1, 16))
    scale = sixteens.abs().amax(-1, keepdim=True) / 31
    simple = ((sixteens / scale).round() * scale).flatten(1)  # and with scales that are not rounded
    assert relative(infer.dequantise(infer.pack(w, "q6_k")), w) < relative(simple, w)


@pytest.mark.parametrize("format", ["int8", "q8_0", "q4_1", "q4_k", "q4_64", "q6_k"])
def test_rows_with_something_the_format_cannot_hold_are_counted(format):
    w = matrix(40, 70)
    w[3, 69], w[3, 1], w[33, 0], w[34, 5] = float("nan"), float("inf"), -float("inf"), 1e6
    found = infer.fill(infer.empty(format, (40, 70), infer.Memory()), w)
    assert found == (2 if format == "int8" else 3)  # int8's scales are floats


def test_floats_are_not_packed_in_a_format_that_only_files_have():
    with pytest.raises(ValueError, match="take q4_1 or q4_k"):
        infer.pack(matrix(32, 32), "q4_0")


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "q4_1", "q4_k", "q6_k"])
def test_gguf_blocks_keep_every_number(format):
    kind, per = gguf.GGMLQuantizationType[format.upper()], infer.BLOCKS[format][0]
    blocks = torch.from_numpy(random_blocks(kind.name, 19, 2))
    want = torch.from_numpy(gguf.dequantize(blocks.reshape(19, -1).numpy(), kind))
    packed = infer.repack(blocks, format, (19, 2 * per))
    torch.testing.assert_close(infer.dequantise(packed), want, rtol=1e-6, atol=1e-6)
    x = matrix(3, 2 * per, seed=5)
    torch.testing.assert_close(infer.multiply(packed, x), quantised_activations(x, format) @ want.t(), rtol=1e-3, atol=0.5)


def test_a_stack_is_packed_matrix_by_matrix():
    stack = torch.stack([matrix(20, 40, seed=i) for i in range(3)])
    packed, single = infer.pack(stack, "q8_0"), infer.pack(stack[2], "q8_0")
    assert torch.equal(packed.data[-single.data.numel() :], single.data)


def test_interleaved_matrices_are_what_they_are_apart():
    gate, up, x = torch.stack([matrix(70, 40)] * 2), torch.stack([matrix(70, 40, seed=1)] * 2), matrix(4, 40, seed=2)
    pair = infer.empty_pair("q4_1", (2, 70, 40), infer.Memory())
    for packed, stack in zip(pair, (gate, up), strict=True):
        for e in (0, 1):
            infer.fill(packed, stack[e], e)
    for packed, stack in zip(pair, (gate, up), strict=True):
        assert torch.equal(infer.multiply(packed, x), infer.multiply(infer.pack(stack[0], "q4_1"), x))
        assert torch.equal(infer.dequantise(packed), infer.dequantise(infer.pack(stack[0], "q4_1")))


@pytest.mark.parametrize("format", FLOATS)
def test_a_braided_stack_holds_the_matrices_block_by_block(format):
    stack = torch.stack([matrix(70, 40, seed=i) for i in range(3)])
    braided, plain = infer.empty(format, (3, 70, 40), infer.Memory(), braided=True), infer.pack(stack, format)
    for e, one in enumerate(stack):
        infer.fill(braided, one, e)
    for e in range(3):
        assert torch.equal(infer.dequantise(braided, index=e), infer.dequantise(plain, index=e))
    size = infer.block_bytes(format, 40)
    blocks, apart = braided.data.view(3, 3, size), plain.data.view(3, 3, size)  # (block, matrix, …) and (matrix, block, …)
    assert torch.equal(blocks, apart.transpose(0, 1))


LEVELS = [level for level, needs in native._LEVELS.items() if needs <= native.cpu_flags()]


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_level_gives_the_same_numbers(level, tmp_path):
    code = (
        "import sys, torch\nfrom seekling.kernels import infer\n"
        "g = torch.Generator().manual_seed(0)\nout = []\n"
        f"for f in {FLOATS!r}:\n"
        "    for o, i, n in ((5, 7, 3), (33, 70, 1), (64, 96, 8)):\n"
        "        w = infer.pack(torch.randn(o, i, generator=g), f)\n"
        "        out.append(infer.multiply(w, torch.randn(n, i, generator=g)))\n"
        "torch.save(out, sys.argv[1])\n"
    )
    results = []
    for name in (level, LEVELS[0]):
        path = tmp_path / f"{name}.pt"
        env = dict(os.environ, SEEKLING_NATIVE=name)
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=env)
        results.append(torch.load(path))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
