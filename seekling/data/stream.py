"""Token streams: documents as one long array of token ids on disk, memory-mapped, with where each document begins.

A stream is a folder's ``NAME.tokens.bin`` (uint16 or uint32 ids), ``NAME.offsets.bin`` (int64, documents + 1),
``NAME.bytes.bin`` (int64, bytes of text of each document) and ``NAME.sources.bin`` (uint16, index into the names). The folder's
index.json holds every file's length and sha256; a file that differs is damage, and damage is never read.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seekling.errors import DataError

INDEX = "index.json"
PARTS: dict[str, np.dtype] = {"offsets": np.dtype("<i8"), "bytes": np.dtype("<i8"), "sources": np.dtype("<u2")}


@dataclass(frozen=True)
class TokenStream:
    """Documents one after the other.

    ``tokens`` (N,) ids; ``offsets`` (documents + 1,) where each document begins and the last one ends; ``text_bytes``
    (documents,) bytes of its text in UTF-8, control tokens not counted; ``source_of`` (documents,) index into ``names``.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    text_bytes: np.ndarray
    source_of: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def documents(self) -> int:
        return len(self.text_bytes)

    @property
    def bytes(self) -> int:
        """Bytes of text: the denominator of bits per byte."""
        return int(self.text_bytes.sum())

    def document(self, number: int) -> np.ndarray:
        """Token ids of one document, its begin and end tokens included."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def of_source(self, name: str) -> "TokenStream":
        """The documents of one source (which lie together)."""
        places = np.flatnonzero(self.source_of == self.names.index(name))
        first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        start, end = int(self.offsets[first]), int(self.offsets[last])
        return TokenStream(
            self.tokens[start:end],
            np.asarray(self.offsets[first : last + 1]) - start,
            self.text_bytes[first:last],
            self.source_of[first:last],
            self.names,
        )


def bits_per_byte(cross_entropy_sum: float, text_bytes: int) -> float:
    """Σ −ln p over all target tokens (the end tokens included), in bits, over the bytes of the text they spell."""
    return cross_entropy_sum / math.log(2) / text_bytes


def stream_of(documents: Iterable[Iterable[int]], text_bytes: Iterable[int] | None = None, name: str = "text") -> TokenStream:
    """A stream in memory, of token ids per document."""
    arrays = [np.asarray(list(document), np.uint32) for document in documents]
    sizes = np.array([len(a) for a in arrays], np.int64)
    return TokenStream(
        np.concatenate(arrays) if arrays else np.zeros(0, np.uint32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array(list(text_bytes) if text_bytes is not None else sizes, np.int64),
        np.zeros(len(arrays), np.uint16),
        (name,),
    )


class StreamWriter:
    """Writes a stream document by document. ``close`` it before the index is written."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self._folder, self._name = folder, name
        self._dtype = token_dtype(vocab_size)
        self._file = open(folder / f"{name}.tokens.bin", "wb")  # noqa: SIM115 - closed by close()
        self._columns: dict[str, list[int]] = {"offsets": [0], "bytes": [], "sources": []}

    def add(self, ids: list[int], text_bytes: int, source: int) -> None:
        """Append one document."""
        self._file.write(np.array(ids, self._dtype).tobytes())
        self._columns["offsets"].append(self._columns["offsets"][-1] + len(ids))
        self._columns["bytes"].append(text_bytes)
        self._columns["sources"].append(source)

    @property
    def tokens(self) -> int:
        return self._columns["offsets"][-1]

    def close(self) -> None:
        self._file.close()
        for column, dtype in PARTS.items():
            (self._folder / f"{self._name}.{column}.bin").write_bytes(np.array(self._columns[column], dtype).tobytes())


def token_dtype(vocab_size: int) -> np.dtype:
    """Smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_index(folder: Path, facts: Mapping[str, Any]) -> None:
    """Record every file of the folder with length and sha256, beside ``facts``; the folder is complete from here on."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX
    }
    partial = folder / (INDEX + ".partial")
    partial.write_text(json.dumps({**facts, "files": files}, ensure_ascii=False, indent=1), "utf-8")
    os.replace(partial, folder / INDEX)


def read_index(folder: Path) -> dict[str, Any]:
    """The facts of a complete folder, every file checked.

    Raises:
        DataError: the index is missing, or a file is missing, cut short or changed.
    """
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        recorded = index["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{folder} is no complete token cache: delete it, it will be made again") from None
    for name, facts in recorded.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"] or file_sha256(path) != facts["sha256"]:
            raise DataError(f"{path} is damaged: delete {folder}, it will be made again")
    return index


def open_stream(folder: Path, name: str, names: tuple[str, ...], vocab_size: int) -> TokenStream:
    """Memory-map a stream of a folder that `read_index` has checked."""
    column = {part: _mapped(folder / f"{name}.{part}.bin", dtype) for part, dtype in PARTS.items()}
    tokens = _mapped(folder / f"{name}.tokens.bin", token_dtype(vocab_size))
    return TokenStream(tokens, column["offsets"], column["bytes"], column["sources"], names)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
