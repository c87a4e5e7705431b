"""ggml's number formats: bytes per block, and blocks turned into floats.

A row of a quantised tensor is a whole number of blocks; a block holds ``values`` numbers in ``bytes`` bytes.  The formats the
engine meets most (F16, BF16, Q8_0, Q4_0, Q4_1, MXFP4) are unpacked here in torch, bit for bit as ``gguf.quants.dequantize``
does; that package, imported only then, unpacks the others.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seekling.errors import CheckpointError

SLICE_VALUES = 4 * 1024**2  # numbers unpacked at a time: bounds the extra memory of a read


@dataclass(frozen=True)
class GGMLType:
    """A number format: its code in the file, and how many values a block of how many bytes holds."""

    name: str
    code: int
    values: int
    bytes: int

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of ``width`` values (a multiple of ``values``)."""
        return width // self.values * self.bytes


# fmt: off
TYPES: dict[int, GGMLType] = {code: GGMLType(name, code, values, size) for name, code, values, size in (
    ("F32", 0, 1, 4), ("F16", 1, 1, 2), ("Q4_0", 2, 32, 18), ("Q4_1", 3, 32, 20), ("Q5_0", 6, 32, 22), ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34), ("Q8_1", 9, 32, 40), ("Q2_K", 10, 256, 84), ("Q3_K", 11, 256, 110), ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176), ("Q6_K", 14, 256, 210), ("Q8_K", 15, 256, 292), ("IQ2_XXS", 16, 256, 66), ("IQ2_XS", 17, 256, 74),
    ("IQ3_XXS", 18, 256, 98), ("IQ1_S", 19, 256, 50), ("IQ4_NL", 20, 32, 18), ("IQ3_S", 21, 256, 110), ("IQ2_S", 22, 256, 82),
    ("IQ4_XS", 23, 256, 136), ("I8", 24, 1, 1), ("I16", 25, 1, 2), ("I32", 26, 1, 4), ("I64", 27, 1, 8), ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56), ("BF16", 30, 1, 2), ("TQ1_0", 34, 256, 54), ("TQ2_0", 35, 256, 66), ("MXFP4", 39, 32, 17),
    ("NVFP4", 40, 64, 36),
)}
# fmt: on
BY_NAME = {kind.name: kind for kind in TYPES.values()}
_PLAIN = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
# Formats that only hold activations.
UNREADABLE = ("Q8_1", "Q8_K")
# 4-bit floats in steps of one half (OCP MX specification 1.0 §5.3.3), doubled; the scale is halved to match.
_MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def float_dtype(kind: GGMLType) -> torch.dtype:
    """The dtype `dequantise` gives: the stored one for plain numbers, bfloat16 where that is exact (MXFP4), else float32."""
    return _PLAIN.get(kind.name, torch.bfloat16 if kind.name == "MXFP4" else torch.float32)


def dequantise(kind: GGMLType, rows: np.ndarray, width: int) -> Tensor:
    """Numbers of packed rows.

    Args:
        kind: of the blocks.
        rows: uint8 (R, ``kind.row_bytes(width)``).
        width: values in a row.

    Returns:
        (R, width) in ``float_dtype(kind)``, in memory of its own.

    Raises:
        CheckpointError: no weights can be made of this format.
    """
    if kind.name in UNREADABLE:
        raise CheckpointError(f"tensors of type {kind.name} hold no weights; use a file in F16, Q8_0 or another format")
    dtype = float_dtype(kind)
    if kind.name in _PLAIN:
        return torch.from_numpy(np.array(rows)).view(dtype).reshape(len(rows), width)
    out = torch.empty(len(rows), width, dtype=dtype)
    step = max(1, SLICE_VALUES // max(width, 1))
    for first in range(0, len(rows), step):
        part = np.array(rows[first : first + step])  # a copy: torch wants memory it may write
        own = _UNPACK.get(kind.name)
        out[first : first + step] = own(part, width) if own else _by_library(kind, part, width)
    return out


def _by_library(kind: GGMLType, rows: np.ndarray, width: int) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):  # damaged scales give inf and nan, as they should
        return torch.from_numpy(quants.dequantize(rows, GGMLQuantizationType(kind.code))).reshape(len(rows), width)


def _blocks(rows: np.ndarray, size: int) -> Tensor:
    """(N, size) bytes, one row a block."""
    return torch.from_numpy(rows.reshape(-1, size))


def _half(block: Tensor) -> Tensor:
    """The two bytes at the front of each block as float32 (N, 1)."""
    return block[:, :2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """(N, 32) from (N, 16): all low halves, then all high ones."""
    return torch.cat((packed & 15, packed >> 4), 1)


def _q8_0(rows: np.ndarray, width: int) -> Tensor:
    block = _blocks(rows, 34)
    return (block[:, 2:].contiguous().view(torch.int8).float() * _half(block)).view(-1, width)


def _q4_0(rows: np.ndarray, width: int) -> Tensor:
    block = _blocks(rows, 18)
    return ((_nibbles(block[:, 2:]).float() - 8) * _half(block)).view(-1, width)


def _q4_1(rows: np.ndarray, width: int) -> Tensor:
    block = _blocks(rows, 20)
    return (_nibbles(block[:, 4:]).float() * _half(block) + _half(block[:, 2:])).view(-1, width)


def _mxfp4(rows: np.ndarray, width: int) -> Tensor:
    block = _blocks(rows, 17)
    exponent = block[:, :1].int()
    # 2^(e - 128) as float32 bits; the two smallest scales are subnormal
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    values = torch.tensor(_MXFP4_VALUES, dtype=torch.float32)[_nibbles(block[:, 1:]).int()]
    return (values * bits.view(torch.float32)).view(-1, width)


_UNPACK = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "MXFP4": _mxfp4}
