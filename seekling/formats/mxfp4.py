"""MXFP4 experts, as gpt-oss publishes them (OCP Microscaling Formats 1.0): 4-bit numbers, 32 of them to a power of two.

A number is e2m1 (sign, two exponent bits, one mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6); two of them share a byte, the first
in the low half.  32 along a row share a scale 2^(byte - 127); the byte 255 means NaN.  A stack of experts' matrices is stored
row by row of the outputs, as ``X_blocks`` (E, O, I/32, 16) and ``X_scales`` (E, O, I/32), both bytes; unpacked it is
transformers' ``X`` (E, I, O): inputs first.

Shapes: E experts, I inputs, O outputs, G = I/32 groups.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all
from seekling.formats.safetensors_io import DTYPE_NAME
from seekling.formats.safetensors_source import SafetensorsSource

GROUP = 32
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BIAS, _NAN_SCALE, _LARGEST_EXPONENT = 127, 255, 2  # the largest e2m1 number is 1.5 · 2^2
# Numbers halfway between two neighbours; those that round up, because the upper neighbour's code is even, come as True.
_HALFWAY = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Rows of numbers from bytes (exact in bfloat16 and float32 but for scales at the ends of their range).

    Args:
        blocks: uint8 (..., G, 16).
        scales: uint8 (..., G).

    Returns:
        (..., G · 32).
    """
    _check_shapes(blocks, scales)
    pairs = _pairs_of_bytes()[blocks.long()].flatten(-2)  # (..., G, 32)
    return (pairs * _factors(scales).unsqueeze(-1)).to(dtype).flatten(-2)


def _check_shapes(blocks: Tensor, scales: Tensor) -> None:
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8 or blocks.shape != (*scales.shape, GROUP // 2):
        raise ValueError(f"blocks {list(blocks.shape)} and scales {list(scales.shape)} must be bytes, 16 to each scale")


def _pairs_of_bytes() -> Tensor:
    """(256, 2): the two numbers in each byte."""
    values = torch.tensor([*_MAGNITUDES, *(-m for m in _MAGNITUDES)])
    byte = torch.arange(256)
    return torch.stack([values[byte & 15], values[byte >> 4]], dim=1)


def _factors(scales: Tensor) -> Tensor:
    out = torch.ldexp(torch.ones(scales.shape), scales.int() - _BIAS)
    return torch.where(scales == _NAN_SCALE, torch.nan, out)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes from rows of numbers: scale 2^(floor(log2 max|x|) - 2), numbers to the nearest, ties to even, at most 6.

    Numbers that ``dequantize`` gave come out the same again.

    Args:
        weight: any float dtype (..., C), C a multiple of 32.

    Returns:
        blocks uint8 (..., C/32, 16), scales uint8 (..., C/32).

    Raises:
        CheckpointError: for another C, or numbers that are not finite.
    """
    if weight.shape[-1] % GROUP:
        raise CheckpointError(f"rows of {weight.shape[-1]} numbers do not divide into MXFP4's groups of {GROUP}")
    groups = weight.to(torch.float32).unflatten(-1, (-1, GROUP))
    most = groups.abs().amax(-1)
    if not torch.isfinite(most).all():
        raise CheckpointError("holds numbers that are infinite or NaN, which MXFP4 cannot carry")
    _, exponent = torch.frexp(most)  # max|x| = m · 2^exponent, m in [0.5, 1): floor(log2) is exponent - 1
    shared = (exponent - 1 - _LARGEST_EXPONENT).clamp(-_BIAS, _BIAS)
    shared = torch.where(most > 0, shared, 0)
    scaled = torch.ldexp(groups, -shared.unsqueeze(-1))
    codes = torch.zeros(groups.shape, dtype=torch.uint8)
    for halfway, up in _HALFWAY:
        size = scaled.abs()
        codes += (size >= halfway if up else size > halfway).to(torch.uint8)
    codes |= torch.signbit(scaled).to(torch.uint8) << 3
    return codes[..., 0::2] | (codes[..., 1::2] << 4), (shared + _BIAS).to(torch.uint8)


class MXFP4Source:
    """A source whose MXFP4 experts come out dequantised, as transformers names and lays them out: ``X`` (E, I, O).

    Attributes:
        where, shapes: as every TensorSource.
        dtypes: name -> dtype of what ``read`` gives, as safetensors calls it.
        inner: the folder as it is stored.
        packed: the names ``X`` that are stored as ``X_blocks`` and ``X_scales``.
    """

    def __init__(self, inner: SafetensorsSource, quantization_config: Mapping[str, Any], dtype: torch.dtype = torch.bfloat16):
        """``dtype``: of the experts; bfloat16 is exact.

        Raises:
            CheckpointError: another quant_method or unknown keys, or every pair of blocks and scales that does not fit.
        """
        self.inner, self.where, self.dtype = inner, inner.where, dtype
        known = {"quant_method", "modules_to_not_convert", "dequantize"}
        bad = [f"{key} is unknown" for key in quantization_config if key not in known]
        if quantization_config.get("quant_method", "mxfp4") != "mxfp4":
            bad.append(f"quant_method {quantization_config['quant_method']!r} is not mxfp4")
        raise_all(CheckpointError, bad, f"{inner.where}: quantization_config")
        self.packed: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for name, shape in inner.shapes.items():
            if name.endswith("_blocks"):
                base = name.removesuffix("_blocks")
                bad += self._problems(base)
                self.packed.append(base)
                if len(shape) == 4:
                    self.shapes[base], self.dtypes[base] = (shape[0], shape[2] * GROUP, shape[1]), DTYPE_NAME[dtype]
            elif name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" not in inner.shapes:
                bad.append(f"{name} has no {name.removesuffix('_scales')}_blocks")
            elif not name.endswith("_scales"):
                self.shapes[name], self.dtypes[name] = shape, inner.dtypes[name]
        raise_all(CheckpointError, bad, f"{self.where}: MXFP4 blocks and scales do not fit")

    def _problems(self, base: str) -> list[str]:
        blocks, scales = f"{base}_blocks", f"{base}_scales"
        if scales not in self.inner.shapes:
            return [f"{blocks} has no {scales}"]
        out = [
            f"{name} is stored as {self.inner.dtypes[name]}, not U8"
            for name in (blocks, scales)
            if self.inner.dtypes[name] != "U8"
        ]
        shape, wanted = self.inner.shapes[blocks], self.inner.shapes[scales]
        if len(wanted) != 3 or shape != (*wanted, GROUP // 2):
            out.append(f"{blocks} {list(shape)} and {scales} {list(wanted)} are not (E, O, G, 16) and (E, O, G)")
        return out

    def read(self, name: str) -> Tensor:
        """The experts (E, I, O) in this source's dtype, or any other tensor as it is stored."""
        if name not in self.shapes:
            raise CheckpointError(f"{self.where} holds no tensor {name!r}")
        if f"{name}_blocks" not in self.inner.shapes:
            return self.inner.read(name)
        blocks, scales = self.inner.stored(f"{name}_blocks"), self.inner.stored(f"{name}_scales")
        out_EIO = torch.empty(self.shapes[name], dtype=self.dtype)
        for expert in range(len(out_EIO)):  # one at a time: unpacking takes four times the memory of the result
            out_EIO[expert] = dequantize(blocks[expert], scales[expert], self.dtype).T
        return out_EIO

    def unreadable(self) -> list[str]:
        """A line for every tensor that ``read`` would refuse."""
        return [line for line in self.inner.unreadable() if line.split()[0] in self.shapes]


def quantize_experts(weight_EIO: Tensor) -> tuple[Tensor, Tensor]:
    """A stack of experts in transformers' layout as gpt-oss stores it: blocks (E, O, G, 16), scales (E, O, G)."""
    parts = [quantize(expert.T) for expert in weight_EIO]
    return torch.stack([blocks for blocks, _ in parts]), torch.stack([scales for _, scales in parts])
