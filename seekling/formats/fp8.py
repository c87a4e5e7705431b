"""FP8 weights in blocks, as DeepSeek-V3, V3.1 and MiniMax-M2 publish them (DeepSeek-V3 §3.3).

A matrix is stored as float8_e4m3fn with one scale for each block of 128 × 128; despite its name ``weight_scale_inv`` is the
multiplier: W = Q ⊙ scale, edge blocks cut off.  Quantising takes s = max|x| / 448 of the block and stores x / s, rounded to
nearest even; with power-of-two scales (V3.1's ``ue8m0``) s = 2^ceil(log2(max|x| / 448)).

Shapes: ... any leading dimensions, R rows, C columns, r and c blocks of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all
from seekling.formats.safetensors_io import DTYPE_NAME
from seekling.formats.safetensors_source import SafetensorsSource

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # the largest number of e4m3
BLOCK = (128, 128)
_SMALLEST_SCALE = 2.0**-126  # the smallest normal float32: below it, scales lose digits
_SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")
_FORMATS = ("e4m3", "float8_e4m3fn", "e4m3fn")


@dataclass(frozen=True)
class FP8Format:
    """What a ``quantization_config`` of quant_method "fp8" says about the weights.

    Attributes:
        block: rows and columns that share a scale.
        power_of_two: scales are powers of two (``scale_fmt: ue8m0``).
    """

    block: tuple[int, int] = BLOCK
    power_of_two: bool = False

    @classmethod
    def of_config(cls, raw: Mapping[str, Any], where: str = "quantization_config") -> "FP8Format":
        """Read the object of config.json.

        Raises:
            CheckpointError: one that names every variant this reader lacks.
        """
        bad = []
        known = {
            "quant_method", "fmt", "activation_scheme", "weight_block_size", "scale_fmt", "dequantize", "ignored_layers",
            "modules_to_not_convert", "modules_to_convert", "expert_dtype",
        }  # fmt: skip
        method = raw.get("quant_method", "fp8")
        if method != "fp8":
            bad.append(f"quant_method {method!r} is not fp8")
        if raw.get("fmt", "e4m3") not in _FORMATS:
            bad.append(f"fmt {raw['fmt']!r} is not supported, only e4m3")
        if raw.get("activation_scheme", "dynamic") != "dynamic":
            bad.append(f"activation_scheme {raw['activation_scheme']!r} is not supported, only dynamic")
        if raw.get("scale_fmt") not in (None, "float", "ue8m0"):
            bad.append(f"scale_fmt {raw['scale_fmt']!r} is not supported, only float and ue8m0")
        if raw.get("expert_dtype", "fp8") not in ("fp8", "fp4"):
            bad.append(f"expert_dtype {raw['expert_dtype']!r} is not supported, only fp8 and fp4")
        block = raw.get("weight_block_size", list(BLOCK))
        if block is None:
            bad.append("weight_block_size null (one scale a tensor or row) is not supported, only blocks such as [128, 128]")
        elif not _is_block(block):
            bad.append(f"weight_block_size {block!r} is not two positive numbers")
        bad += [f"{key} is unknown" for key in raw if key not in known]
        raise_all(CheckpointError, [f"{line}; give the folder with the bfloat16 weights" for line in bad], where)
        return cls((block[0], block[1]), raw.get("scale_fmt") == "ue8m0")

    def to_config(self, kept: list[str] | None = None) -> dict[str, Any]:
        """The object for config.json; ``kept``: modules whose weights are not quantised."""
        out: dict[str, Any] = {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": list(self.block),
        }  # fmt: skip
        if self.power_of_two:
            out["scale_fmt"] = "ue8m0"
        if kept:
            out["modules_to_not_convert"] = kept
        return out


def _is_block(value: Any) -> bool:
    whole = isinstance(value, (list, tuple)) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    return whole and len(value) == 2 and min(value) > 0


def scales_shape(shape: tuple[int, ...], block: tuple[int, int] = BLOCK) -> tuple[int, ...]:
    """Shape (..., r, c) of the scales of a weight (..., R, C)."""
    *lead, rows, columns = shape
    return (*lead, -(-rows // block[0]), -(-columns // block[1]))


def dequantize(
    codes_RC: Tensor, scales_rc: Tensor, block: tuple[int, int] = BLOCK, dtype: torch.dtype = torch.float32
) -> Tensor:
    """W = Q ⊙ scale in float32, rounded once to ``dtype``.

    Args:
        codes_RC: float8_e4m3fn (..., R, C).
        scales_rc: (..., r, c), any float dtype.

    Returns:
        (..., R, C). Memory beside it: one row of blocks.
    """
    if tuple(scales_rc.shape) != scales_shape(tuple(codes_RC.shape), block):
        raise ValueError(f"scales {list(scales_rc.shape)} do not fit codes {list(codes_RC.shape)} in blocks of {list(block)}")
    out_RC = torch.empty(codes_RC.shape, dtype=dtype)
    for rows, part, scale_1C in _row_blocks(codes_RC, scales_rc.to(torch.float32), block):
        rows_of(out_RC, rows).copy_(part.to(torch.float32) * scale_1C)
    return out_RC


def quantize(
    weight_RC: Tensor,
    block: tuple[int, int] = BLOCK,
    power_of_two: bool = False,
    scales_rc: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight; a block of zeros has the scale 1.

    Args:
        weight_RC: any float dtype (..., R, C).
        power_of_two: round the scales up to powers of two.
        scales_rc: keep these scales instead of deriving them: what ``dequantize`` made of codes gives the same codes again.

    Returns:
        (float8_e4m3fn (..., R, C), float32 (..., r, c)).

    Raises:
        CheckpointError: for numbers that are not finite.
    """
    if scales_rc is None:
        scales_rc = block_scales(weight_RC, block, power_of_two)
    scales_rc = scales_rc.to(torch.float32)
    codes_RC = torch.empty(weight_RC.shape, dtype=E4M3)
    for rows, part, scale_1C in _row_blocks(weight_RC, scales_rc, block):
        rows_of(codes_RC, rows).copy_((part.to(torch.float32) / scale_1C).clamp_(-LARGEST, LARGEST))
    return codes_RC, scales_rc


def block_scales(weight_RC: Tensor, block: tuple[int, int] = BLOCK, power_of_two: bool = False) -> Tensor:
    """The scales of a weight (..., R, C): float32 (..., r, c). Raises CheckpointError for numbers that are not finite."""
    shape = scales_shape(tuple(weight_RC.shape), block)
    most_rc = torch.empty(shape)
    width = shape[-1] * block[1]
    for i in range(shape[-2]):
        part = weight_RC[..., i * block[0] : (i + 1) * block[0], :].to(torch.float32).abs()
        part = torch.nn.functional.pad(part, (0, width - part.shape[-1]))
        most_rc[..., i, :] = part.unflatten(-1, (shape[-1], block[1])).amax(dim=(-3, -1))
    if not torch.isfinite(most_rc).all():
        raise CheckpointError("holds numbers that are infinite or NaN, which FP8 cannot carry")
    scales_rc = most_rc / LARGEST
    if power_of_two:
        mantissa, exponent = torch.frexp(scales_rc)  # scale = mantissa · 2^exponent, mantissa in [0.5, 1)
        scales_rc = torch.ldexp(torch.ones_like(scales_rc), exponent - (mantissa == 0.5).int())
    return torch.where(most_rc > 0, scales_rc.clamp_min(_SMALLEST_SCALE), 1.0)


def rows_of(tensor_RC: Tensor, rows: slice) -> Tensor:
    """A view of some rows (..., rows, C)."""
    return tensor_RC[..., rows, :]


def _row_blocks(tensor_RC: Tensor, scales_rc: Tensor, block: tuple[int, int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For every row of blocks: its rows, the tensor's part, and the scale of each column (..., 1, C)."""
    for i in range(scales_rc.shape[-2]):
        rows = slice(i * block[0], (i + 1) * block[0])
        scale_1C = scales_rc[..., i : i + 1, :].repeat_interleave(block[1], dim=-1)[..., : tensor_RC.shape[-1]]
        yield rows, rows_of(tensor_RC, rows), scale_1C


class FP8Source:
    """A source whose FP8 matrices come out dequantised, their scales hidden.

    A matrix ``X`` of dtype F8_E4M3 has its scales in ``X_scale_inv`` (V4 calls those of ``X.weight`` ``X.scale``).  With
    ``expert_dtype: fp4`` (V4) routed experts are MXFP4: two numbers a byte along the rows, a power of two for each 32.

    Attributes:
        where, shapes: as every TensorSource.
        dtypes: name -> dtype of what ``read`` gives, as safetensors calls it.
        inner: the folder as it is stored.
        scales: name of each FP8 matrix -> name of its scales.
        packed: the same for matrices of four bits.
    """

    def __init__(self, inner: SafetensorsSource, quantization_config: Mapping[str, Any], dtype: torch.dtype = torch.float32):
        """``dtype``: of the matrices that were quantised; float32 loses nothing, bfloat16 takes half the memory.

        Raises:
            CheckpointError: a variant that is not supported, or every matrix and scale that do not fit.
        """
        self.inner, self.where, self.dtype = inner, inner.where, dtype
        self.format = FP8Format.of_config(quantization_config, f"{inner.where}: quantization_config")
        self.scales: dict[str, str] = {}
        self.packed: dict[str, str] = {}
        four = quantization_config.get("expert_dtype") == "fp4"
        bad = []
        for name, stored in inner.dtypes.items():
            if stored == "F8_E5M2":
                bad.append(f"{name} is stored as F8_E5M2; only F8_E4M3 has a published block format")
            if stored == "I8" and four and ".experts." in name:
                bad += self._pack(name)
            if stored != "F8_E4M3":
                continue
            scale = next((s for s in _scale_names(name) if s in inner.shapes), None)
            if scale is None:
                bad.append(f"{name} is FP8 but has no scales {name}_scale_inv")
                continue
            self.scales[name] = scale
            bad += self._problems(name, scale)
        used = {*self.scales.values(), *self.packed.values()}
        for name in inner.shapes:
            if name.endswith("_scale_inv") and name not in used:
                bad.append(f"{name} scales no FP8 matrix")
            elif name.endswith((".activation_scale", ".input_scale")):
                bad.append(f"{name}: stored activation scales are not supported")
        raise_all(CheckpointError, bad, f"{self.where}: FP8 weights and scales do not fit")
        self.shapes = {name: shape for name, shape in inner.shapes.items() if name not in used}
        for name in self.packed:
            rows, columns = inner.shapes[name]
            self.shapes[name] = (rows, 2 * columns)
        made = self.scales.keys() | self.packed.keys()
        self.dtypes = {name: DTYPE_NAME[dtype] if name in made else inner.dtypes[name] for name in self.shapes}

    def _pack(self, name: str) -> list[str]:
        """Take a matrix of four bits; what is wrong with it."""
        scale = next((s for s in _scale_names(name) if s in self.inner.shapes), None)
        if scale is None:
            return [f"{name} holds numbers of four bits but has no scales"]
        shape, found = self.inner.shapes[name], self.inner.shapes[scale]
        if len(shape) != 2 or found != (shape[0], shape[1] // 16) or shape[1] % 16 or self.inner.dtypes[scale] != "F8_E8M0":
            stored = f"{scale} {list(found)} of {self.inner.dtypes[scale]}"
            return [f"{stored} does not fit {name} {list(shape)}, which needs one F8_E8M0 for 32 numbers"]
        self.packed[name] = scale
        return []

    def _problems(self, name: str, scale: str) -> list[str]:
        shape, found = self.inner.shapes[name], self.inner.shapes[scale]
        if len(shape) < 2:
            return [f"{name} is FP8 but no matrix: shape {list(shape)}"]
        out = []
        if found != scales_shape(shape, self.format.block):
            wanted = list(scales_shape(shape, self.format.block))
            out.append(f"{scale} has shape {list(found)}, the blocks of {name} {list(shape)} make it {wanted}")
        if self.inner.dtypes[scale] not in _SCALE_DTYPES:
            out.append(f"{scale} is stored as {self.inner.dtypes[scale]}; only {', '.join(_SCALE_DTYPES)} are read")
        return out

    def read(self, name: str) -> Tensor:
        """The matrix in this source's dtype, or any other tensor as it is stored."""
        if name not in self.shapes:
            raise CheckpointError(f"{self.where} holds no tensor {name!r}")
        if name in self.packed:
            from seekling.formats.mxfp4 import dequantize as dequantize_four

            codes, scales = self.inner.stored(name), self.inner.stored(self.packed[name])
            return dequantize_four(codes.view(torch.uint8).unflatten(-1, (-1, 16)), scales.view(torch.uint8), self.dtype)
        if name not in self.scales:
            return self.inner.read(name)
        return dequantize(self.inner.stored(name), self.inner.stored(self.scales[name]), self.format.block, self.dtype)

    def unreadable(self) -> list[str]:
        """A line for every tensor that ``read`` would refuse."""
        made = self.scales.keys() | self.packed.keys()
        return [line for line in self.inner.unreadable() if line.split()[0] in self.shapes.keys() - made]


def _scale_names(name: str) -> list[str]:
    return [f"{name}_scale_inv", *([f"{name.removesuffix('weight')}scale"] if name.endswith(".weight") else [])]
