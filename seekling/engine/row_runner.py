"""A torch runner for models whose memory of a row is a state and not a list of tokens (DeepSeek-V4).

Every sequence has a row of a `seekling.model.Cache` of its own, found by the number of its first page; pages are only counted,
so that the scheduler admits and preempts as for every other model. Rows share nothing. They can go back over a few tokens (the
cache knows how many), enough for drafts that were wrong.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seekling.engine.runner import Chunk
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import SeeklingError
from seekling.model.moe import Trace
from seekling.model.v4.cache import V4Cache


class RowRunner(TorchRunner):
    """See `seekling.engine.runner.Runner`."""

    def allocate(self, pages: int) -> None:
        """Room for as many tokens as that many pages hold. Memory is taken as rows come into use and grow."""
        self._limit = pages
        self._cache: Any = None
        self._row_of: dict[int, int] = {}  # by first page
        self._free: list[int] = []

    def copy_page(self, src: int, dst: int) -> None:
        raise SeeklingError("rows of this model keep a state and share no pages: switch the prefix cache off")

    def forget(self, first_page: int) -> None:
        """The row that began on this page is over."""
        row = self._row_of.pop(first_page, None)
        if row is not None:
            self._cache.reset(row)
            self._free.append(row)

    def bytes(self) -> int:
        """Bytes that all rows take now."""
        return 0 if self._cache is None else self._cache.bytes()

    def _extend(self, model: Any, chunks: Sequence[Chunk], trace: Trace | None = None) -> Tensor:
        for chunk in chunks:
            if max(chunk.pages) >= self._limit:
                raise SeeklingError(f"page {max(chunk.pages)} was asked for, but the cache has {self._limit}")
        rows = [self._row(chunk) for chunk in chunks]
        self._reach(max(chunk.end for chunk in chunks))
        for row, chunk in zip(rows, chunks, strict=True):
            if chunk.start > self._cache.lengths[row]:
                raise SeeklingError(
                    f"this model keeps a state of each row, here over {self._cache.lengths[row]} tokens, and cannot go on from "
                    f"token {chunk.start}: compute the row from its beginning"
                )
            self._cache.truncate(row, chunk.start)
        device = next(self.model.parameters()).device
        ids_BT = torch.tensor([chunk.ids for chunk in chunks], dtype=torch.int64, device=device)
        extend = model.extend_states if self.keep_states else model.extend
        return extend(ids_BT, self._cache, rows, trace)

    def _row(self, chunk: Chunk) -> int:
        """The row of a sequence; one that starts gets a free row."""
        row = self._row_of.get(chunk.pages[0])
        if row is None:
            if self._cache is None:
                weight = next(self.model.parameters())
                capacity = min(self.page_tokens, self.config.max_position_embeddings)
                self._cache = V4Cache(self.config, 1, capacity, dtype=weight.dtype, device=weight.device)
                self._free = [0]
            if not self._free:
                held = self._cache.rows
                self._cache.grow(2 * held, self._cache.capacity)
                self._free = list(range(held, 2 * held))
            row = self._row_of[chunk.pages[0]] = self._free.pop(0)
        return row

    def _reach(self, tokens: int) -> None:
        """Make sure rows can hold so many tokens."""
        if tokens > self._cache.capacity:
            self._cache.grow(self._cache.rows, min(max(tokens, 2 * self._cache.capacity), self.config.max_position_embeddings))
