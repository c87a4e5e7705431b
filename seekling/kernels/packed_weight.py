"""A frozen matrix that stays packed: wherever it is multiplied by, a piece of it is turned into floats and forgotten.

>>> weight = PackedWeight((whole(pack(w_OI, "q4_1")),), torch.bfloat16)
>>> y_NO = times_transposed(x_NI, weight)                     # oracle: x_NI @ weight.dense().t()

Shapes: N rows, O outputs, I inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.kernels import infer

PIECE = 1 << 24  # numbers that exist as floats at one time


@dataclass(frozen=True)
class Part:
    """Some rows of a weight: matrix ``index`` of a packed stack, or its transpose."""

    packed: infer.Packed
    index: int = 0
    transposed: bool = False

    @property
    def rows(self) -> int:
        return self.packed.shape[-1 if self.transposed else -2]

    @property
    def inputs(self) -> int:
        return self.packed.shape[-2 if self.transposed else -1]

    def read(self, first: int, count: int, dtype: torch.dtype) -> Tensor:
        """Rows (count, I) as floats."""
        if self.transposed:
            return infer.dequantise(self.packed, index=self.index, dtype=dtype)[:, first : first + count].t()
        return infer.dequantise(self.packed, first, count, index=self.index, dtype=dtype)


class PackedWeight:
    """A matrix (O, I) made of packed parts, one below the other. ``dtype``: what it is computed with, rounded to once."""

    device = torch.device("cpu")

    def __init__(self, parts: tuple[Part, ...], dtype: torch.dtype):
        self.parts = parts
        self.dtype = dtype
        self.shape = (sum(part.rows for part in parts), parts[0].inputs)

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def rows(self, first: int, stop: int) -> Tensor:
        """Rows first … stop - 1 as floats."""
        found, at = [], 0
        for part in self.parts:
            low, high = max(first, at) - at, min(stop, at + part.rows) - at
            if low < high:
                found.append(part.read(low, high - low, self.dtype))
            at += part.rows
        return found[0] if len(found) == 1 else torch.cat(found)

    def chosen(self, rows_N: Tensor) -> Tensor:
        """(N, I) rows of a weight of one part: those of an embedding."""
        return infer.dequantise(self.parts[0].packed, index=self.parts[0].index, chosen_N=rows_N, dtype=self.dtype)

    def dense(self) -> Tensor:
        """All of it as floats."""
        return self.rows(0, self.shape[0])

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows, some at a time."""
        step = max(1, PIECE // self.shape[1])
        for first in range(0, self.shape[0], step):
            stop = min(first + step, self.shape[0])
            yield slice(first, stop), self.rows(first, stop)


Frozen = Tensor | PackedWeight


def dense(weight: Frozen) -> Tensor:
    """A frozen weight as floats."""
    return weight if isinstance(weight, Tensor) else weight.dense()


def times_transposed(x_NI: Tensor, weight: Frozen, bias_O: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias (N, O)."""
    if isinstance(weight, Tensor):
        return torch.nn.functional.linear(x_NI, weight, bias_O)
    parts = [
        torch.nn.functional.linear(x_NI, piece, None if bias_O is None else bias_O[rows]) for rows, piece in weight.pieces()
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def times(up_NO: Tensor, weight: Frozen) -> Tensor:
    """up W (N, I)."""
    if isinstance(weight, Tensor):
        return up_NO @ weight
    out = None
    for rows, piece in weight.pieces():
        out = up_NO[:, rows] @ piece if out is None else out.addmm_(up_NO[:, rows], piece)
    assert out is not None  # a weight has rows
    return out


class FrozenLinear(torch.autograd.Function):
    """x Wᵀ + bias with a gradient for x alone."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Frozen, bias_O: Tensor | None) -> Tensor:
        ctx.weight, ctx.shape = weight, x.shape
        return times_transposed(x.reshape(-1, x.shape[-1]), weight, bias_O).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, up: Tensor):  # type: ignore[override]
        return times(up.reshape(-1, up.shape[-1]), ctx.weight).view(ctx.shape), None, None
