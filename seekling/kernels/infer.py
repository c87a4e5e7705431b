"""The native inference kernels as seen from Python: packed matrices and their product.

A packed matrix is written once, in the layout the kernels read (csrc/infer_matmul.h), and never unpacked as a whole.

>>> w = pack(weight_OI, "q4_1")
>>> y_NO = multiply(w, x_NI)            # the weights in 4 bits, the activations as int8 in groups of 32

Shapes: O outputs, I inputs, E matrices of a stack (experts, heads), N rows.
"""

import contextlib
import ctypes
import mmap
import os
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seekling.errors import MachineError
from seekling.kernels import native

BLOCK, GROUP = 32, 32
_ROWS_AT_ONCE = 4096  # rows turned to float32 together while packing: bounds the extra memory

# Numbers of csrc/infer_matmul.h's enum Format.
FORMATS = {"q8_0": 0, "q4_0": 1, "q4_1": 2, "int8": 3, "bf16": 4, "f32": 5, "q4_k": 6, "q6_k": 7, "q4_64": 8}
# GGUF block types that are kept bit for bit: inputs and bytes of a block.
BLOCKS = {"q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20), "q4_k": (256, 144), "q6_k": (256, 210)}

# Those of them whose scales are searched for.
ENCODED = ("q4_1", "q4_k", "q6_k")


class CMatrix(ctypes.Structure):
    """struct Matrix."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("format", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("slot", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


@dataclass
class Packed:
    """A matrix, or a stack of equal ones, in the kernels' layout.

    Attributes:
        data: all bytes from its first on (uint8).
        format: a key of `FORMATS`.
        shape: (O, I), or (E, O, I) for a stack.
        bias: float32, padded to whole blocks of 32, or None.
        ways: 2 where its blocks alternate in memory with those of another matrix (see `empty_pair`), else 1.
        braided: a stack whose matrices' blocks alternate: the first blocks of all, then the second ones.
    """

    data: Tensor
    format: str
    shape: tuple[int, ...]
    bias: Tensor | None = None
    ways: int = 1
    braided: bool = False
    _c: CMatrix | None = field(default=None, repr=False)

    @property
    def c(self) -> CMatrix:
        """The structure the kernels take; it points into this object, which must outlive it."""
        if self._c is None:
            *stack, outputs, inputs = self.shape
            self._c = CMatrix(
                self.data.data_ptr(),
                None if self.bias is None else self.bias.data_ptr(),
                self.stride if stack else 0,
                FORMATS[self.format],
                outputs,
                inputs,
                self.step,
            )
        return self._c

    @property
    def step(self) -> int:
        """Bytes from one block of outputs to the next."""
        return (self.shape[0] if self.braided else self.ways) * block_bytes(self.format, self.shape[-1])

    @property
    def stride(self) -> int:
        """Bytes from one matrix of a stack to the next."""
        size = block_bytes(self.format, self.shape[-1])
        return size if self.braided else self.ways * matrix_bytes(self.format, *self.shape[-2:])

    def nbytes(self) -> int:
        """Bytes held."""
        *stack, outputs, inputs = self.shape
        size = matrix_bytes(self.format, outputs, inputs) * (stack[0] if stack else 1)
        return size + (0 if self.bias is None else self.bias.nbytes)


def available() -> bool:
    """Whether the native library has these kernels."""
    return native.symbol("infer_pack") is not None


def _function(name: str, restype=None):
    function = native.symbol(f"infer_{name}")
    if function is None:
        raise MachineError(f"the native runner is not available here: {native.status()}")
    function.restype = restype
    return function


def block_bytes(format: str, inputs: int) -> int:
    """Bytes of a block of 32 outputs."""
    return _function("block_bytes", ctypes.c_int64)(ctypes.c_int64(FORMATS[format]), ctypes.c_int64(inputs))


def matrix_bytes(format: str, outputs: int, inputs: int) -> int:
    """Bytes of one packed matrix."""
    return -(-outputs // BLOCK) * block_bytes(format, inputs)


def padded_bias(bias: Tensor | None) -> Tensor | None:
    """float32, with zeros up to a whole block."""
    if bias is None:
        return None
    return torch.nn.functional.pad(bias.detach().float(), (0, -bias.shape[-1] % BLOCK)).contiguous()


class Memory:
    """Zeroed memory for weights and caches, in large pages where the system has them: reading is then up to 40 % faster.

    Matrices lie side by side in chunks, since a large page is bigger than most of them. Each chunk is twice the one before, for
    at its end half a large page is lost.
    """

    CHUNK, MOST, LARGE_PAGE, LINE = 1 << 25, 1 << 28, 1 << 21, 64

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._next = self.CHUNK

    def take(self, size: int) -> Tensor:
        """uint8 (size,), aligned to a cache line; lives as long as any tensor of its chunk."""
        if self._used + size > self._chunk.numel():
            self._chunk, self._used = self.map(max(size, self._next)), 0
            self._next = min(2 * self._next, self.MOST)
        out = self._chunk[self._used : self._used + size]
        self._used += -(-size // self.LINE) * self.LINE
        return out

    @classmethod
    def map(cls, size: int) -> Tensor:
        """uint8 (size,) of its own; nothing is really taken before it is written to."""
        kind = (
            {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
        )  # shared memory has no large pages
        area = mmap.mmap(-1, size + cls.LARGE_PAGE, **kind)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without large pages
                area.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(area, dtype=torch.uint8)
        first = -whole.data_ptr() % cls.LARGE_PAGE
        return whole[first : first + size]


def empty(format: str, shape: tuple[int, ...], memory: Memory, bias: Tensor | None = None, *, braided: bool = False) -> Packed:
    """A matrix (O, I) or stack (E, O, I) to be filled by `fill` or `refill`; ``bias`` (O,) or (E, O)."""
    *stack, outputs, inputs = shape
    size = matrix_bytes(format, outputs, inputs) * (stack[0] if stack else 1)
    return Packed(memory.take(size), format, tuple(shape), padded_bias(bias), braided=braided)


def empty_pair(
    format: str, shape: tuple[int, ...], memory: Memory, biases: tuple[Tensor | None, Tensor | None] = (None, None)
) -> tuple[Packed, Packed]:
    """Two equal matrices or stacks whose blocks alternate: a gate and its up projection, which are read together."""
    *stack, outputs, inputs = shape
    data = memory.take(2 * matrix_bytes(format, outputs, inputs) * (stack[0] if stack else 1))
    second = data[block_bytes(format, inputs) :]
    parts = zip((data, second), biases, strict=True)
    gate, up = (Packed(part, format, tuple(shape), padded_bias(bias), 2) for part, bias in parts)
    return gate, up


def fill(w: Packed, weight: Tensor, index: int = 0, importance: Tensor | None = None) -> int:
    """Quantise and pack one floating matrix (O, I), which is read in pieces and not kept.

    ``importance`` (I,), for q4_64 and the formats of `ENCODED`: how much an error of each input's weights counts (mean square
    of the activations).

    Returns:
        How many rows hold NaN, an infinite number or (but int8) one beyond 65504, which the format would turn into another: 0
        unless damaged.
    """
    if w.format == "q4_0":
        raise ValueError("floats are not packed as q4_0: take q4_1 or q4_k")
    outputs, inputs = w.shape[-2:]
    if w.format == "bf16" and weight.dtype == torch.bfloat16:  # the numbers stay what they are
        whole = weight.detach().contiguous()
        _function("pack_bf16")(
            _pointer(whole), ctypes.c_int64(0), ctypes.c_int64(outputs), ctypes.c_int64(inputs), _matrix_pointer(w, index),
            ctypes.c_int64(w.step),
        )  # fmt: skip
        return 0
    damaged, importance = 0, None if importance is None else importance.float().contiguous()
    for first in range(0, outputs, _ROWS_AT_ONCE):
        part = weight.detach()[first : first + _ROWS_AT_ONCE].float().contiguous()
        damaged += _function("pack", ctypes.c_int64)(
            ctypes.c_int64(FORMATS[w.format]), _pointer(part), _pointer(importance), ctypes.c_int64(first),
            ctypes.c_int64(part.shape[0]), ctypes.c_int64(inputs), _matrix_pointer(w, index), ctypes.c_int64(w.step),
        )  # fmt: skip
    return damaged


def refill(w: Packed, blocks: Tensor, index: int = 0) -> None:
    """Rearrange the GGUF blocks (uint8, row after row) of one matrix of a type in `BLOCKS`; every number stays what it is."""
    outputs, inputs = w.shape[-2:]
    per, size = BLOCKS[w.format]
    if inputs % per or blocks.numel() != outputs * (inputs // per * size):
        raise ValueError(f"{blocks.numel()} bytes are no {w.format} matrix of shape {(outputs, inputs)}")
    flat = blocks.reshape(-1).contiguous()
    _function("repack")(
        ctypes.c_int64(FORMATS[w.format]), _pointer(flat), ctypes.c_int64(0), ctypes.c_int64(outputs),
        ctypes.c_int64(inputs), _matrix_pointer(w, index), ctypes.c_int64(w.step),
    )  # fmt: skip


def encode(rows: Tensor, format: str, importance: Tensor | None = None) -> Tensor:
    """Floating rows (R, I) as GGUF blocks of a format of `ENCODED`, uint8 (R, bytes); ``importance`` (I,) as in `fill`, which
    rounds in the same way. I is a multiple of the block's inputs; no number is beyond 65504.
    """
    count, inputs = rows.shape
    per, size = BLOCKS[format]
    if format not in ENCODED or inputs % per:
        raise ValueError(f"rows of {inputs} numbers are not encoded as {format}")
    x = rows.detach().float().contiguous()
    importance = None if importance is None else importance.float().contiguous()
    out = torch.empty(count, inputs // per * size, dtype=torch.uint8)
    _function("encode")(
        ctypes.c_int64(FORMATS[format]), _pointer(x), _pointer(importance), ctypes.c_int64(count), ctypes.c_int64(inputs),
        _pointer(out),
    )  # fmt: skip
    return out


def pack(weight: Tensor, format: str, bias: Tensor | None = None, importance: Tensor | None = None) -> Packed:
    """A floating weight (O, I) or stack (E, O, I), quantised and packed; see `fill`."""
    w = empty(format, tuple(weight.shape), Memory(), bias)
    for e, matrix in enumerate(weight if weight.dim() == 3 else [weight]):
        fill(w, matrix, e, importance)
    return w


def repack(blocks: Tensor, format: str, shape: tuple[int, ...], bias: Tensor | None = None) -> Packed:
    """GGUF blocks of a matrix (O, I) or stack (E, O, I), rearranged; see `refill`."""
    w = empty(format, shape, Memory(), bias)
    count = shape[0] if len(shape) == 3 else 1
    for e, part in enumerate(blocks.reshape(count, -1)):
        refill(w, part, e)
    return w


def _matrix_pointer(w: Packed, index: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(w.data.data_ptr() + index * w.stride)


def dequantise(
    w: Packed,
    first: int = 0,
    count: int | None = None,
    *,
    index: int = 0,
    chosen_N: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The numbers that rows of a packed matrix stand for (N, I): from ``first`` on, or those of ``chosen_N`` (int64).

    Args:
        index: which matrix of a stack. dtype: float32, or bfloat16, to which they are rounded once.
    """
    outputs, inputs = w.shape[-2:]
    chosen = None if chosen_N is None else chosen_N.reshape(-1).contiguous()
    count = (outputs - first if count is None else count) if chosen is None else chosen.numel()
    low, high = (first, first + count - 1) if chosen is None or not count else (int(chosen.min()), int(chosen.max()))
    if count and not 0 <= low <= high < outputs:
        raise ValueError(f"rows {low} to {high} of a matrix of {outputs}")
    out = torch.empty(count, inputs, dtype=dtype)
    _function("dequantise")(
        ctypes.byref(w.c), ctypes.c_int64(index), _pointer(chosen), ctypes.c_int64(first), ctypes.c_int64(count),
        ctypes.c_int64(int(dtype == torch.bfloat16)), _pointer(out),
    )  # fmt: skip
    return out


def multiply(w: Packed, x_NI: Tensor, repeat: int = 1) -> Tensor:
    """x Wᵀ + bias (N, O), float32; ``repeat`` does it several times, for measurements."""
    outputs, inputs = w.shape[-2:]
    x = torch.nn.functional.pad(x_NI.float(), (0, -inputs % GROUP)).contiguous()
    y = torch.empty(x.shape[0], -(-outputs // BLOCK) * BLOCK)
    _function("multiply")(
        ctypes.byref(w.c), _pointer(x), ctypes.c_int64(x.shape[0]), _pointer(y), ctypes.c_int64(repeat)
    )  # fmt: skip
    return y[:, :outputs]


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
