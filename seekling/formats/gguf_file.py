"""A GGUF file as a model: its config, its weights as a `TensorSource`, its tokenizer.

>>> file = open_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")
>>> file.raw_config["model_type"], file.licence
('llama', 'apache-2.0')
>>> file.source.read("model.layers.0.self_attn.q_proj.weight").shape
torch.Size([576, 576])

The file is mapped; tensors are unpacked one at a time, in slices.  The engine takes the packed blocks instead
(`GGUFSource.blocks`), with rows in Hugging Face's order.
"""

import functools
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seekling.errors import CheckpointError
from seekling.formats.gguf_config import raw_config
from seekling.formats.gguf_header import GGUFTensor, Header
from seekling.formats.gguf_names import Entry, Made, Part, entries
from seekling.formats.gguf_types import GGMLType, dequantise, float_dtype

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer


def open_gguf(path: str | os.PathLike) -> "GGUFFile":
    """Open a GGUF file (or the first of its parts).

    Raises:
        CheckpointError: no such file, damaged, an architecture or key that is not understood.
    """
    return GGUFFile(Path(path))


class GGUFSource:
    """The tensors of a GGUF file under their Hugging Face names (a `TensorSource`).

    Attributes:
        where: the file.
        shapes: Hugging Face name -> shape; a tensor that is not understood keeps its own name.
    """

    def __init__(self, header: Header, named: Mapping[str, Entry]) -> None:
        self.where = str(header.path)
        self._header, self._entries = header, named
        self.shapes: Mapping[str, tuple[int, ...]] = {name: entry.shape for name, entry in named.items()}

    def read(self, name: str) -> Tensor:
        """The tensor in floats: the stored dtype for F64, F32, F16 and BF16, bfloat16 for MXFP4, else float32."""
        entry = self._entry(name)
        if isinstance(entry, Part):
            stored = self._header.tensors[entry.tensor]
            return self._floats(stored, self._rows(entry)).reshape(entry.shape)
        return self._make(entry)

    def blocks(self, name: str) -> tuple[GGMLType, np.ndarray, tuple[int, ...]] | None:
        """The tensor as it is packed, in Hugging Face's order of rows.

        Returns:
            (format, uint8 (rows, bytes of a row), shape), mapped from the file where the order of rows is the same, else a
            copy; None for a tensor that has to be computed from others.
        """
        entry = self._entry(name)
        if isinstance(entry, Made):
            return None
        return self._header.tensors[entry.tensor].kind, self._rows(entry), entry.shape

    def stacks(self, name: str) -> list[tuple[GGMLType, np.ndarray, tuple[int, ...]]] | None:
        """What a computed tensor is made of, as it is packed: see `blocks`; None for a tensor that is stored itself."""
        entry = self._entry(name)
        if isinstance(entry, Part):
            return None
        stored = [self._header.tensors[tensor] for tensor in entry.tensors]
        return [(tensor.kind, self._header.bytes_of(tensor), tensor.shape) for tensor in stored]

    def kinds(self, name: str) -> tuple[GGMLType, ...]:
        """The formats a tensor is stored in: one, or those of all the tensors it is made of."""
        entry = self._entry(name)
        stored = (entry.tensor,) if isinstance(entry, Part) else entry.tensors
        return tuple(self._header.tensors[tensor].kind for tensor in stored)

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self.where} holds no {name}; is it a part of a model only?") from None

    def _rows(self, part: Part) -> np.ndarray:
        stored = self._header.tensors[part.tensor]
        rows = self._header.bytes_of(stored)
        if part.expert is not None:
            height = stored.shape[-2]
            rows = rows[part.expert * height : (part.expert + 1) * height]
        if part.rows is not None:
            rows = rows[part.rows[0] : part.rows[1]] if len(stored.shape) > 1 else _columns(rows, stored, part.rows)
        order = part.order()
        if order is None:
            return rows
        if len(stored.shape) > 1:
            return rows[order]
        size = _value_bytes(stored, self.where)
        return rows.reshape(-1, size)[order].reshape(1, -1)

    def _floats(self, stored: GGUFTensor, rows: np.ndarray) -> Tensor:
        width = rows.shape[1] // stored.kind.bytes * stored.kind.values
        try:
            return dequantise(stored.kind, rows, width)
        except CheckpointError as error:
            raise CheckpointError(f"{self.where}: {stored.name}: {error}") from None

    def _make(self, entry: Made) -> Tensor:
        stored = [self._header.tensors[name] for name in entry.tensors]
        count = stored[0].shape[0]
        dtype = functools.reduce(torch.promote_types, (float_dtype(tensor.kind) for tensor in stored))
        out = torch.empty(count, *entry.item, dtype=dtype)
        for i in range(count):
            items = []
            for tensor in stored:
                rows = self._header.bytes_of(tensor)
                height = tensor.rows // count
                items.append(self._floats(tensor, rows[i * height : (i + 1) * height]).reshape(tensor.shape[1:]))
            out[i] = entry.make(*items)
        return out.reshape(entry.shape)


def _value_bytes(stored: GGUFTensor, where: str) -> int:
    """Bytes of one value of a vector, whose values (not rows) have to be reordered or cut."""
    if stored.kind.values != 1:
        raise CheckpointError(f"{where}: the vector {stored.name} is packed as {stored.kind.name}; F32 is needed there")
    return stored.kind.bytes


def _columns(rows: np.ndarray, stored: GGUFTensor, span: tuple[int, int]) -> np.ndarray:
    size = _value_bytes(stored, "the file")
    return rows[:, span[0] * size : span[1] * size]


class GGUFFile:
    """An opened GGUF file.

    Attributes:
        path: the file.
        metadata: all keys.
        architecture: llama.cpp's name of it.
        raw_config: a Hugging Face ``config.json``.
        source: the weights.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; name the .gguf file in it")
        self._header = Header(path)
        self.path = path
        self.metadata = self._header.metadata
        self.architecture = self._text("general.architecture") or ""
        if not self.architecture:
            raise CheckpointError(f"{path}: general.architecture is missing; this is no language model")
        if self._text("general.type") not in (None, "model"):
            raise CheckpointError(f"{path} is of type {self._text('general.type')!r}, not a model; give the model's own file")
        self.raw_config: dict[str, Any] = raw_config(
            self.architecture, self.metadata, self._header.tensors, self._small, str(path)
        )
        self.source = GGUFSource(self._header, entries(self.architecture, self._header.tensors, self.raw_config))

    def _small(self, name: str) -> np.ndarray:
        stored = self._header.tensors[name]
        if stored.bytes > 1024**2:
            raise CheckpointError(f"{self.path}: {name} is too large for a list of factors; copy or download the file again")
        return dequantise(stored.kind, self._header.bytes_of(stored), stored.shape[-1]).double().numpy()

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @property
    def name(self) -> str | None:
        """What the file calls the model."""
        return self._text("general.name")

    @property
    def licence(self) -> str | None:
        """The licence's short name, as in ``apache-2.0``."""
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that lays out a conversation."""
        return self._text("tokenizer.chat_template")

    @property
    def types(self) -> dict[str, int]:
        """How many tensors have which format."""
        return dict(Counter(tensor.kind.name for tensor in self._header.tensors.values()))

    @property
    def tensors(self) -> Mapping[str, GGUFTensor]:
        """The tensors under their names in the file."""
        return self._header.tensors

    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer with the chat template; None where the file has none.

        Raises:
            CheckpointError: it is damaged, or of a kind that is not supported.
        """
        from seekling.text.gguf_tokenizer import tokenizer_from_gguf

        return tokenizer_from_gguf(self.metadata, str(self.path))
