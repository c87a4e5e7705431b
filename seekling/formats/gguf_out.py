"""Writing a GGUF file: keys, tensor descriptions, then data in slices, in one step that either happens or does not.

The file is written beside its place under another name, flushed, and then takes it; a failure leaves what was there before.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seekling.errors import CheckpointError
from seekling.formats import folder as files
from seekling.formats.gguf_types import BY_NAME, GGMLType

ALIGNMENT = 32
MOST = 65504  # in blocks, whose scales are half-precision numbers
_SCALARS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}
_TEXT, _ARRAY = 8, 9
_TABLES, _HALVES = r"^(token_embd|output)\.weight$", r"\.attn_[kv]_b\.weight$"
_WIDER = {  # what some tensors are in a file of
    "Q4_0": ((_TABLES, "Q8_0"),),
    "Q4_1": ((_TABLES, "Q8_0"), (_HALVES, "Q8_0")),
    "Q4_K": ((_TABLES, "Q6_K"), (_HALVES, "Q8_0")),
}
_SHORTER = {"Q4_K": "Q4_1", "Q6_K": "Q8_0"}  # where rows are no whole number of 256
_SMALL = r"ffn_gate_inp|indexer\.proj|(^|_|\.)hc_(attn_|ffn_)?fn|compressor_ape"


@dataclass(frozen=True)
class Key:
    """A metadata value with its type: u32, i32, f32, bool, u64 or str, or a list of one of them (``many``)."""

    kind: str
    value: Any
    many: bool = False

    def packed(self) -> bytes:
        """Type and value as the file holds them."""
        code = _TEXT if self.kind == "str" else _SCALARS[self.kind][0]
        if not self.many:
            return struct.pack("<I", code) + self._one(self.value)
        head = struct.pack("<IIQ", _ARRAY, code, len(self.value))
        if self.kind == "str":
            return head + b"".join(map(self._one, self.value))
        return head + struct.pack(f"<{len(self.value)}{_SCALARS[self.kind][1][1]}", *self.value)

    def _one(self, value: Any) -> bytes:
        return _text(value) if self.kind == "str" else struct.pack(_SCALARS[self.kind][1], value)


@dataclass(frozen=True)
class OutTensor:
    """A tensor to be written: ``rows`` gives its values slice by slice as float32 (R, ``shape[-1]``) in order, I32 as int32.

    ``pack`` makes the bytes of rows from a first one on in place of `pack_rows`, or gives None to leave it to that.
    """

    name: str
    kind: GGMLType
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[np.ndarray]]
    pack: "Packer | None" = None

    @property
    def bytes(self) -> int:
        """Bytes of the packed data."""
        return int(np.prod(self.shape[:-1], dtype=object)) * self.kind.row_bytes(self.shape[-1])


Packer = Callable[[OutTensor, int, np.ndarray], "np.ndarray | None"]  # tensor, first row, rows


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def pack_rows(kind: GGMLType, rows: np.ndarray) -> np.ndarray:
    """float32 (R, W) as packed bytes.

    Raises:
        OverflowError: a finite value is too large for F16.
        MachineError: Q4_K or Q6_K, and the native kernels are not built.
    """
    if kind.name in ("F32", "I32"):
        return np.ascontiguousarray(rows, dtype="<f4" if kind.name == "F32" else "<i4")
    if kind.name == "F16":
        with np.errstate(over="ignore"):
            packed = rows.astype("<f2")
        if not np.array_equal(np.isfinite(packed), np.isfinite(rows)):
            raise OverflowError
        return packed
    if kind.name in ("Q4_K", "Q6_K"):  # the library only reads these
        import torch

        from seekling.kernels import infer

        return infer.encode(torch.from_numpy(np.ascontiguousarray(rows, np.float32)), kind.name.lower()).numpy()
    from gguf import GGMLQuantizationType, quants

    with np.errstate(all="ignore"):
        return quants.quantize(np.ascontiguousarray(rows, np.float32), GGMLQuantizationType(kind.code))


def write_file(path: Path, keys: dict[str, Key], tensors: Sequence[OutTensor]) -> None:
    """Write the whole file and put it in its place.

    Raises:
        CheckpointError: the disk is full or read-only, or a value does not fit the format.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the .gguf file to write")
    fresh = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                file.write(_header(keys, tensors))
                file.write(bytes(-file.tell() % ALIGNMENT))
                for tensor in tensors:
                    _write_tensor(file, tensor, path)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        files.sync_folder(path.parent)


def _header(keys: dict[str, Key], tensors: Sequence[OutTensor]) -> bytes:
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    out += [_text(key) + value.packed() for key, value in keys.items()]
    position = 0
    for tensor in tensors:
        out.append(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
        out.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1]))
        out.append(struct.pack("<IQ", tensor.kind.code, position))
        position += tensor.bytes + -tensor.bytes % ALIGNMENT
    return b"".join(out)


def _write_tensor(file: Any, tensor: OutTensor, path: Path) -> None:
    start, first = file.tell(), 0
    for rows in tensor.rows():
        if tensor.kind.values > 1 and not (np.abs(rows) <= MOST).all():
            raise CheckpointError(
                f"{path} was not written: {tensor.name} is damaged, it holds NaN or numbers too large to be weights"
            )
        try:
            packed = None if tensor.pack is None else tensor.pack(tensor, first, rows)
            file.write((pack_rows(tensor.kind, rows) if packed is None else packed).data)
            first += len(rows)
        except OverflowError:
            raise CheckpointError(
                f"{path} was not written: {tensor.name} holds values beyond the range of F16 (65504); write bf16 or f32"
            ) from None
    if file.tell() - start != tensor.bytes:
        raise ValueError(f"{tensor.name}: announced {tensor.bytes} bytes, wrote {file.tell() - start}")
    file.write(bytes(-tensor.bytes % ALIGNMENT))


def kind_for(name: str, shape: tuple[int, ...], wanted: GGMLType) -> GGMLType:
    """The format a tensor gets in a file of ``wanted``: as llama.cpp's own converter decides.

    Vectors, norms, routers, biases and V4's mixing matrices stay F32, tables of experts are I32.
    Embedding and head are Q8_0 in a 4-bit file, Q6_K beside Q4_K (its quantiser keeps them wider too).
    The halves of MLA's kv_b_proj, which are small and sit in every score, are Q8_0 beside Q4_1 and Q4_K; a Q4_0 file has them
    in Q4_0, as llama-quantize makes it.  Rows that are no whole number of 256 are Q4_1 for Q4_K and Q8_0 for Q6_K, and F16 if
    they are none of 32 either.
    """
    if "ffn_gate_tid2eid" in name:
        return BY_NAME["I32"]
    if len(shape) == 1 or not name.endswith(".weight") or name.endswith("_norm.weight") or re.search(_SMALL, name):
        return BY_NAME["F32"]
    wanted = next((BY_NAME[kind] for pattern, kind in _WIDER.get(wanted.name, ()) if re.search(pattern, name)), wanted)
    if shape[-1] % wanted.values and wanted.name in _SHORTER:
        wanted = BY_NAME[_SHORTER[wanted.name]]
    return wanted if shape[-1] % wanted.values == 0 else BY_NAME["F16"]
