"""The header of a GGUF file: every count, length, type and offset checked against the file before anything is believed.

Layout (version 2 and 3, little endian): magic, version, tensor count, key count; keys with typed values; tensors with name,
dimensions (fastest first), type and offset; then the data, each tensor on a multiple of ``general.alignment``.  A model may be
cut into parts ``name-00001-of-00003.gguf``, whose metadata lies in the first.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seekling.errors import CheckpointError, raise_all
from seekling.formats.gguf_types import TYPES, GGMLType

MAX_KEYS, MAX_TENSORS, MAX_PARTS = 65_536, 262_144, 1024
MAX_NAME, MAX_KEY, MAX_STRING, MAX_ARRAY = 256, 1024, 64 * 1024**2, 16 * 1024**2
MAX_DIMS, MAX_ALIGNMENT = 4, 1024**2
_AGAIN = "copy or download the file again"
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as the file holds it: shape with the slowest dimension first, and its bytes in one of the parts."""

    name: str
    kind: GGMLType
    shape: tuple[int, ...]
    start: int
    bytes: int
    part: int = 0

    @property
    def rows(self) -> int:
        """Rows of ``shape[-1]`` values."""
        return math.prod(self.shape[:-1])


class Header:
    """Metadata and tensors of a GGUF file, or of all its parts.

    Attributes:
        path: the file that was opened.
        metadata: key -> bool, int, float, str or list of these.
        tensors: name -> description, in the file's order.

    Raises:
        CheckpointError: not a GGUF file, cut short, or its header is damaged or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: list[mmap.mmap] = []
        self.metadata, self.tensors = self._open(path, 0)
        count = self.metadata.get("split.count", 1)
        for number in range(1, _parts(path, count, self.metadata.get("split.no", 0))):
            part = path.with_name(_PART.sub(rf"\1-{number + 1:05d}-of-{count:05d}.gguf", path.name))
            metadata, tensors = self._open(part, number)
            if metadata.get("split.no") != number or metadata.get("split.count") != count:
                raise CheckpointError(f"{part} does not say that it is part {number + 1} of {count}; {_AGAIN}")
            twice = sorted(self.tensors.keys() & tensors.keys())
            raise_all(CheckpointError, [f"tensor {name!r} is also in another part; {_AGAIN}" for name in twice], str(part))
            self.tensors.update(tensors)
        wanted = self.metadata.get("split.tensors.count", len(self.tensors))
        if wanted != len(self.tensors):
            raise CheckpointError(f"{path} and its other parts hold {len(self.tensors)} tensors of {wanted}; {_AGAIN}")

    def _open(self, path: Path, part: int) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist; all parts of a model must lie in one folder") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if data is None:
            raise CheckpointError(f"{path} is empty; {_AGAIN}")
        self._data.append(data)
        try:
            return _Reader(data, path).header(part)
        except struct.error:
            raise CheckpointError(f"{path} ends within its header; {_AGAIN}") from None
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: text in the header is not UTF-8 ({error.reason}); {_AGAIN}") from None

    def bytes_of(self, tensor: GGUFTensor) -> np.ndarray:
        """The tensor's bytes, mapped and read-only: uint8 (rows, bytes of a row)."""
        flat = np.frombuffer(self._data[tensor.part], np.uint8, tensor.bytes, tensor.start)
        return flat.reshape(tensor.rows, tensor.kind.row_bytes(tensor.shape[-1]))


def _parts(path: Path, count: Any, number: Any) -> int:
    """How many parts the model has, the opened one being the first of them."""
    if not isinstance(count, int) or not 1 <= max(count, 1) <= MAX_PARTS:
        raise CheckpointError(f"{path}: split.count {count!r} is not a number of parts; {_AGAIN}")
    if count > 1 and (number != 0 or not (name := _PART.fullmatch(path.name)) or int(name[3]) != count or int(name[2]) != 1):
        raise CheckpointError(
            f"{path} is one of {count} parts of a model; open the first, named like model-00001-of-{count:05d}.gguf"
        )
    return max(count, 1)


class _Reader:
    """Walks through one file's header."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; {_AGAIN}")

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def need(self, count: int, what: str) -> None:
        if count > len(self.data) - self.at:
            raise self.fail(f"{what} needs {count} bytes, the file has {len(self.data) - self.at} left")

    def text(self, limit: int, what: str) -> str:
        length = self.take("<Q")
        if length > limit:
            raise self.fail(f"{what} claims {length} bytes (the limit is {limit})")
        self.need(length, what)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def header(self, part: int) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        if self.data[:4] != b"GGUF":
            raise self.fail("it does not begin with 'GGUF', so it is no GGUF file")
        self.at = 4
        version = self.take("<I")
        if version not in (2, 3):
            why = "it is big-endian" if version in (2 << 24, 3 << 24) else f"version {version} is not supported"
            raise CheckpointError(f"{self.path}: {why}; convert it to a little-endian GGUF of version 3")
        tensor_count, key_count = self.take("<Q"), self.take("<Q")
        if key_count > MAX_KEYS or tensor_count > MAX_TENSORS:
            raise self.fail(f"{key_count} keys and {tensor_count} tensors are beyond the limits ({MAX_KEYS}, {MAX_TENSORS})")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.text(MAX_KEY, "a key")
            if key in metadata:
                raise self.fail(f"key {key!r} is given twice")
            metadata[key] = self.value(self.take("<I"), key)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self.fail(f"general.alignment {alignment!r} is not a power of two up to {MAX_ALIGNMENT}")
        found = [self.tensor() for _ in range(tensor_count)]
        return metadata, self.place(found, alignment, part)

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.text(MAX_STRING, key)
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            raise self.fail(f"key {key!r} has the unknown value type {kind}")
        value = self.take(_SCALARS[kind])
        return self.truth(value, key) if kind == _BOOL else value

    def truth(self, value: int, key: str) -> bool:
        if value not in (0, 1):
            raise self.fail(f"key {key!r} is a truth value of {value}")
        return bool(value)

    def array(self, key: str) -> list[Any]:
        kind, count = self.take("<I"), self.take("<Q")
        if count > MAX_ARRAY:
            raise self.fail(f"the list {key!r} claims {count} values (the limit is {MAX_ARRAY})")
        if kind == _STRING:
            self.need(8 * count, f"the list {key!r}")
            return self.texts(count, key)
        if kind not in _SCALARS:
            raise self.fail(f"the list {key!r} has values of the unknown type {kind}")
        form = _SCALARS[kind]
        self.need(struct.calcsize(form) * count, f"the list {key!r}")
        values = list(struct.unpack_from(f"<{count}{form[1]}", self.data, self.at))
        self.at += struct.calcsize(form) * count
        return [self.truth(value, key) for value in values] if kind == _BOOL else values

    def texts(self, count: int, key: str) -> list[str]:
        """Many texts at once: vocabularies have hundreds of thousands."""
        data, at, end, out = self.data, self.at, len(self.data), []
        for _ in range(count):
            length = int.from_bytes(data[at : at + 8], "little")
            at += 8 + length
            if length > MAX_STRING or at > end:
                raise self.fail(f"an entry of the list {key!r} claims {length} bytes beyond the end of the file or the limit")
            out.append(data[at - length : at].decode("utf-8"))
        self.at = at
        return out

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text(MAX_NAME, "a tensor's name")
        dims = self.take("<I")
        if not 1 <= dims <= MAX_DIMS:
            raise self.fail(f"tensor {name!r} has {dims} dimensions (1 to {MAX_DIMS} are possible)")
        shape = tuple(self.take("<Q") for _ in range(dims))[::-1]
        return name, shape, self.take("<I"), self.take("<Q")

    def place(self, found: list[tuple[str, tuple[int, ...], int, int]], alignment: int, part: int) -> dict[str, GGUFTensor]:
        """Tensors with their bytes; they must lie side by side, without overlap or hole, inside the file."""
        base = -(-self.at // alignment) * alignment
        tensors: dict[str, GGUFTensor] = {}
        bad: list[str] = []
        for name, shape, code, offset in found:
            kind = TYPES.get(code)
            if kind is None:
                bad.append(f"tensor {name!r} has the unknown type {code}; use a file in another quantisation")
            elif name in tensors:
                bad.append(f"tensor {name!r} is there twice")
            elif not all(shape):
                bad.append(f"tensor {name!r} has the shape {list(shape)}, which holds nothing")
            elif shape[-1] % kind.values:
                bad.append(f"tensor {name!r}: rows of {shape[-1]} are no whole number of {kind.name} blocks of {kind.values}")
            else:
                size = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
                tensors[name] = GGUFTensor(name, kind, shape, base + offset, size, part)
        if not bad:
            bad = self.layout_problems(tensors, base, alignment)
        raise_all(CheckpointError, bad[:20], f"{self.path}: damaged or cut short, {_AGAIN}")
        return tensors

    def layout_problems(self, tensors: dict[str, GGUFTensor], base: int, alignment: int) -> list[str]:
        position = base
        for tensor in sorted(tensors.values(), key=lambda t: t.start):
            if tensor.start != position:
                why = "not aligned" if (tensor.start - base) % alignment else "not where the last one ends"
                return [f"tensor {tensor.name!r} begins at byte {tensor.start}, {why} (byte {position})"]
            if tensor.start + tensor.bytes > len(self.data):
                return [f"tensor {tensor.name!r} ends at byte {tensor.start + tensor.bytes} of {len(self.data)}"]
            position = -(-(tensor.start + tensor.bytes) // alignment) * alignment
        return []
