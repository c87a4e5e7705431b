"""The native inference kernels as seen from Python: packed matrices and their product.

A packed matrix is written once, in the layout the kernels read (csrc/infer_matmul.h), and never unpacked as a whole.

>>> w = pack(weight_OI, "int4")
>>> y_NO = multiply(w, x_NI)            # the weights as int4, the activations as int8 in groups of 32

Shapes: O outputs, I inputs, E matrices of a stack (experts, heads), N rows.
"""

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seekling.errors import MachineError
from seekling.kernels import native

LANES, GROUP = 16, 32
_ROWS_AT_ONCE = 4096  # rows turned to float32 together while packing: bounds the extra memory

# Numbers of csrc/infer_matmul.h's enum Format.
FORMATS = {"q8_0": 0, "q4_0": 1, "q4_1": 2, "int8": 3, "bf16": 4, "f32": 5, "q4_k": 6, "int4": 2}
# GGUF block types that are kept bit for bit: inputs and bytes of a block.
BLOCKS = {"q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20), "q4_k": (256, 144)}


class CMatrix(ctypes.Structure):
    """struct Matrix."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("format", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


@dataclass
class Packed:
    """A matrix, or a stack of equal ones, in the kernels' layout.

    Attributes:
        data: all bytes (uint8).
        format: a key of `FORMATS`.
        shape: (O, I), or (E, O, I) for a stack.
        bias: float32, padded to whole blocks of 16, or None.
    """

    data: Tensor
    format: str
    shape: tuple[int, ...]
    bias: Tensor | None = None
    _c: CMatrix | None = field(default=None, repr=False)

    @property
    def c(self) -> CMatrix:
        """The structure the kernels take; it points into this object, which must outlive it."""
        if self._c is None:
            *stack, outputs, inputs = self.shape
            self._c = CMatrix(
                self.data.data_ptr(),
                None if self.bias is None else self.bias.data_ptr(),
                matrix_bytes(self.format, outputs, inputs) if stack else 0,
                FORMATS[self.format],
                outputs,
                inputs,
                0,
            )
        return self._c

    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.nbytes + (0 if self.bias is None else self.bias.nbytes)


def available() -> bool:
    """Whether the native library has these kernels."""
    return native.symbol("infer_pack") is not None


def _function(name: str, restype=None):
    function = native.symbol(f"infer_{name}")
    if function is None:
        raise MachineError(f"the native runner is not available here: {native.status()}")
    function.restype = restype
    return function


def matrix_bytes(format: str, outputs: int, inputs: int) -> int:
    """Bytes of one packed matrix."""
    block = _function("block_bytes", ctypes.c_int64)(ctypes.c_int64(FORMATS[format]), ctypes.c_int64(inputs))
    return -(-outputs // LANES) * block


def padded_bias(bias: Tensor | None) -> Tensor | None:
    """float32, with zeros up to a whole block."""
    if bias is None:
        return None
    return torch.nn.functional.pad(bias.detach().float(), (0, -bias.numel() % LANES)).contiguous()


def pack(weight: Tensor, format: str, bias: Tensor | None = None, importance: Tensor | None = None) -> Packed:
    """Quantise and pack a floating weight (O, I) or a stack (E, O, I); the weight is read in pieces and not kept.

    ``importance`` (I,), for int4: how much an error of each input's weights counts (mean square of the activations).
    """
    *stack, outputs, inputs = weight.shape
    size = matrix_bytes(format, outputs, inputs)
    data = torch.zeros(size * (stack[0] if stack else 1), dtype=torch.uint8)
    importance = None if importance is None else importance.float().contiguous()
    for e, matrix in enumerate(weight.detach() if stack else [weight.detach()]):
        for first in range(0, outputs, _ROWS_AT_ONCE):
            part = matrix[first : first + _ROWS_AT_ONCE].float().contiguous()
            _function("pack")(
                ctypes.c_int64(FORMATS[format]), _pointer(part), _pointer(importance), ctypes.c_int64(first),
                ctypes.c_int64(part.shape[0]), ctypes.c_int64(inputs), ctypes.c_void_p(data.data_ptr() + e * size),
            )  # fmt: skip
    return Packed(data, format, tuple(weight.shape), padded_bias(bias))


def repack(blocks: Tensor, format: str, shape: tuple[int, ...], bias: Tensor | None = None) -> Packed:
    """Rearrange GGUF blocks (uint8, row after row) of a type in `BLOCKS`; every number stays what it is."""
    *stack, outputs, inputs = shape
    per, size = BLOCKS[format]
    row = inputs // per * size
    count = stack[0] if stack else 1
    if inputs % per or blocks.numel() != count * outputs * row:
        raise ValueError(f"{blocks.numel()} bytes are no {format} matrix of shape {shape}")
    each = matrix_bytes(format, outputs, inputs)
    data = torch.zeros(each * count, dtype=torch.uint8)
    flat = blocks.reshape(-1)
    for e in range(count):
        part = flat[e * outputs * row : (e + 1) * outputs * row].contiguous()
        _function("repack")(
            ctypes.c_int64(FORMATS[format]), _pointer(part), ctypes.c_int64(0), ctypes.c_int64(outputs),
            ctypes.c_int64(inputs), ctypes.c_void_p(data.data_ptr() + e * each),
        )  # fmt: skip
    return Packed(data, format, tuple(shape), padded_bias(bias))


def stack(matrices: list[Packed], bias: Tensor | None = None) -> Packed:
    """Equal matrices (O, I) behind one another as (E, O, I); ``bias`` (E, O padded to 16). The list is emptied."""
    format, shape = matrices[0].format, matrices[0].shape
    if any(m.format != format or m.shape != shape for m in matrices):
        raise ValueError("only matrices of one format and shape make a stack")
    data = torch.empty(len(matrices), matrices[0].data.numel(), dtype=torch.uint8)
    for e in range(data.shape[0]):
        data[e] = matrices[e].data
        matrices[e].data = data[e]
    return Packed(data.flatten(), format, (data.shape[0], *shape), bias)


def dequantise(w: Packed) -> Tensor:
    """The numbers a packed matrix (O, I) stands for, float32."""
    out = torch.empty(w.shape[-2], w.shape[-1])
    _function("dequantise")(ctypes.byref(w.c), _pointer(out))
    return out


def multiply(w: Packed, x_NI: Tensor, repeat: int = 1) -> Tensor:
    """x Wᵀ + bias (N, O), float32; ``repeat`` does it several times, for measurements."""
    outputs, inputs = w.shape[-2:]
    x = torch.nn.functional.pad(x_NI.float(), (0, -inputs % GROUP)).contiguous()
    y = torch.empty(x.shape[0], -(-outputs // LANES) * LANES)
    _function("multiply")(
        ctypes.byref(w.c), _pointer(x), ctypes.c_int64(x.shape[0]), _pointer(y), ctypes.c_int64(repeat)
    )  # fmt: skip
    return y[:, :outputs]


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
