"""The safetensors file: its header checked before anything is believed, tensors mapped from disk, written one at a time.

A file is 8 bytes (header length, little endian), a JSON header {name: {dtype, shape, data_offsets}}, then the raw tensors.
The header is validated first, so that a truncated, overlapping or lying file is a one-line error.  Every tensor that is read is
a memory map of its own, given back to the system when the tensor is dropped: a loop over a file of any size holds one tensor.
Writing is done here too because the ``safetensors`` library wants a whole shard in memory, and packed experts share storage.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself

# Every dtype the format names that fills whole bytes, with its bytes.
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
# Those that can be weights as they are; the others need scales, or are no numbers of a model.
TORCH_DTYPE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHERS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32", "I64": "int64",
    "U64": "uint64", "C64": "complex64",
}  # fmt: skip
# Everything this torch build can hold (float8_e8m0fnu came with torch 2.7).
ANY_DTYPE = TORCH_DTYPE | {name: getattr(torch, text) for name, text in _OTHERS.items() if hasattr(torch, text)}
_FIELDS = {"dtype", "shape", "data_offsets"}
DTYPE_NAME = {dtype: name for name, dtype in ANY_DTYPE.items()}


class Entry(NamedTuple):
    """One tensor as the header describes it; ``start`` and ``end`` count from the first byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class ToWrite:
    """A tensor to be written: its description, and how to get the values when their turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, Entry]:
    """Tensors of a safetensors file by name, after every claim of the header was checked against the file.

    Raises:
        CheckpointError: when the file cannot be opened, is cut short, or its header is damaged or contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            if len(first) < 8:
                raise CheckpointError(f"{path}: {size} bytes are too few for a safetensors file; copy it again")
            (length,) = struct.unpack("<Q", first)
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(
                    f"{path}: its header claims {length} bytes in a file of {size}; "
                    "it is not a safetensors file or was cut short, copy it again"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header ({error}); copy the file again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: damaged header (not a JSON object); copy the file again")
    metadata = header.pop("__metadata__", {})
    bad = [] if _is_text_map(metadata) else ["__metadata__ is not a map of text to text"]
    entries: dict[str, Entry] = {}
    for name, value in header.items():
        entry, problem = _read_entry(value, size - 8 - length)
        if entry is None:
            bad.append(f"tensor {name!r}: {problem}")
        else:
            entries[name] = entry
    if not bad:
        bad = _layout_problems(entries, size - 8 - length)
    raise_all(CheckpointError, bad, f"{path}: damaged or cut short, copy it again")
    return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = sorted({key for key, _ in pairs if key in seen or seen.add(key)})  # type: ignore[func-returns-value]
        raise ValueError(f"names given twice: {', '.join(map(repr, twice))}")
    return out


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _read_entry(value: Any, data_bytes: int) -> tuple[Entry | None, str]:
    """One entry, or what is wrong with it (a 671B model has 92,000 of them)."""
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        return None, "needs exactly dtype, shape and data_offsets"
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        return None, f"unknown dtype {dtype!r}"
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        return None, f"shape {shape!r} is not a list of sizes"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        return None, f"data_offsets {offsets!r} are not two positions"
    start, end = offsets
    if not start <= end <= data_bytes:
        return None, f"bytes {start}..{end} lie outside the {data_bytes} bytes of data"
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        return None, f"{end - start} bytes cannot hold {dtype} of shape {shape}"
    return Entry(dtype, tuple(shape), start, end), ""


def _layout_problems(entries: dict[str, Entry], data_bytes: int) -> list[str]:
    """Tensors must lie side by side: no overlap, no hole in which something could hide, nothing after the last."""
    bad, position = [], 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            bad.append(f"tensor {name!r} starts at byte {entry.start} but the one before ends at {position}")
        position = max(position, entry.end)
    if position != data_bytes:
        bad.append(f"the tensors end at byte {position} of {data_bytes}")
    return bad


class MappedFile:
    """The tensors of one safetensors file, each mapped from disk when it is asked for.

    Attributes:
        path: of the file.
        entries: its checked header.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry] | None = None):
        """``entries``: the header where ``read_header`` has given it already.

        Raises:
            CheckpointError: as ``read_header`` does.
        """
        self.path = path
        self.entries = read_header(path) if entries is None else entries
        self._state = _state_of(path)
        # tensors fill the file to its end without holes (read_header has checked it)
        self._data_start = self._state[0] - max((entry.end for entry in self.entries.values()), default=0)

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored: a private map of its bytes, so what is written into it never reaches the file.

        Raises:
            CheckpointError: no such tensor, a dtype this torch lacks, or a file that changed since it was opened.
        """
        if name not in self.entries:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}")
        entry = self.entries[name]
        if entry.dtype not in ANY_DTYPE:
            raise CheckpointError(f"{self.path}: {name} is stored as {entry.dtype}, which this torch lacks; update torch")
        dtype = ANY_DTYPE[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        if _state_of(self.path) != self._state:
            raise CheckpointError(f"{self.path} was changed while it was read; load it again")
        return self._map(self._data_start + entry.start, entry.end - entry.start, dtype).view(entry.shape)

    def _map(self, start: int, length: int, dtype: torch.dtype) -> Tensor:
        inside = start % mmap.ALLOCATIONGRANULARITY
        try:
            with self.path.open("rb") as file:
                pages = mmap.mmap(file.fileno(), inside + length, access=mmap.ACCESS_COPY, offset=start - inside)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from None
        raw = torch.frombuffer(pages, dtype=torch.uint8, count=length, offset=inside)
        if start % dtype.itemsize:  # other writers need not align; torch must
            raw = raw.clone()
        return raw.view(dtype)


def _state_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def open_tensors(path: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function that gives a tensor by name, mapped from the file (nothing is copied until it is used)."""
    yield MappedFile(path).read


def write_safetensors(path: Path, tensors: Sequence[ToWrite], metadata: Mapping[str, str] | None = None) -> None:
    """Write and flush a file, one tensor in memory at a time, each asked for in the order given.

    Args:
        metadata: text by name for the header; ``format: pt``, without which transformers refuses, is always there.

    Raises:
        OSError: as the file system gives it (disk full); the caller decides what it means.
    """
    # widest type first keeps every tensor aligned to its own size, as the library writes them
    ordered = sorted(tensors, key=lambda t: (-t.dtype.itemsize, t.name))
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), "format": "pt"}}
    position = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": DTYPE_NAME[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.bytes],
        }
        position += tensor.bytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)))
        file.write(raw)
        for tensor in tensors:
            values = tensor.values()
            if tuple(values.shape) != tensor.shape:
                raise ValueError(f"{tensor.name}: announced as {tensor.shape}, came as {tuple(values.shape)}")
            values = values.detach().to(device="cpu", dtype=tensor.dtype).contiguous()
            file.seek(8 + len(raw) + header[tensor.name]["data_offsets"][0])
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def read_metadata(path: Path) -> dict[str, str]:
    """The text a file carries in its header beside the tensors. Raises as ``read_header``."""
    read_header(path)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).get("__metadata__", {})
