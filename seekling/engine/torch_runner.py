"""A runner over the model's own mathematics: the oracle of the native one, and what runs where there is none.

The cache lies in pages like everyone's; for a step the pages of its rows are gathered side by side, `Decoder.extend` runs on
them, and the new slots go back. Any device, any dtype, weights shared with the model object (and read anew at every step).

Tensor suffixes: N pages, P tokens a page, B rows, S slots, T new tokens, D hidden, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seekling.engine.runner import PAGE, Chunk
from seekling.errors import SeeklingError


class TorchRunner:
    """See `seekling.engine.runner.Runner`.

    Args:
        model: `seekling.model.Decoder`, or a quantised copy.
        config: its configuration.
        page_tokens: tokens a page.
        keep_states: keep the hidden states of a step's tokens in `states` (speculation with MTP reads them).
    """

    path = "torch"

    def __init__(self, model: Any, config: Any, page_tokens: int = PAGE, keep_states: bool = False):
        self.model, self.config, self.page_tokens, self.keep_states = model, config, page_tokens, keep_states
        self.states: list[Tensor] = []
        self._layers = config.num_hidden_layers
        self._widths = (config.kv_lora_rank, config.qk_rope_head_dim)
        self._limit = 0
        self._stores: list[list[Tensor]] = []

    # ---- the pool --------------------------------------------------------------------------------------------------

    def allocate(self, pages: int) -> None:
        """Pages 0 … pages - 1. Memory is taken as they come into use."""
        self._limit = pages
        self._stores = [[self._empty(0, width) for _ in range(self._layers)] for width in self._widths]

    def _empty(self, pages: int, width: int) -> Tensor:
        weight = next(self.model.parameters())
        return torch.zeros(pages, self.page_tokens, width, dtype=weight.dtype, device=weight.device)

    def _reach(self, page: int) -> None:
        """Make sure the tensors hold ``page``."""
        held = self._stores[0][0].shape[0]
        if page < held:
            return
        if page >= self._limit:
            raise SeeklingError(f"page {page} was asked for, but the cache has {self._limit}")
        size = min(self._limit, max(page + 1, 2 * held, 8))
        for store, width in zip(self._stores, self._widths, strict=True):
            store[:] = [torch.cat([old, self._empty(size - held, width)]) for old in store]

    def copy_page(self, src: int, dst: int) -> None:
        self._reach(max(src, dst))
        for store in self._stores:
            for layer in store:
                layer[dst] = layer[src]

    def bytes(self) -> int:
        """Bytes the pool takes now."""
        return sum(layer.nbytes for store in self._stores for layer in store)

    # ---- a step ----------------------------------------------------------------------------------------------------

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Rows of equal length run together, others one after another."""
        groups: dict[int, list[int]] = {}
        for number, chunk in enumerate(chunks):
            groups.setdefault(len(chunk.ids) if len(chunk.ids) == 1 else -1 - number, []).append(number)
        states: list[Tensor | None] = [None] * len(chunks)
        logits: list[Tensor | None] = [None] * len(chunks)
        with self.evaluating():
            for members in groups.values():
                h_BTD = self._extend([chunks[i] for i in members])
                for row, i in enumerate(members):
                    if self.keep_states:
                        states[i] = h_BTD[row]
                wanted = [(row, i) for row, i in enumerate(members) if chunks[i].want != "none"]
                if not wanted:
                    continue
                rows = [h_BTD[row] if chunks[i].want == "all" else h_BTD[row, -1:] for row, i in wanted]
                parts = self.model.head(torch.cat(rows)).float().split([len(r) for r in rows])
                for (_, i), part in zip(wanted, parts, strict=True):
                    logits[i] = part
        self.states = [s for s in states if s is not None]
        found = [part for part in logits if part is not None]
        return torch.cat(found) if found else torch.empty(0, self.config.vocab_size)

    def _extend(self, chunks: Sequence[Chunk]) -> Tensor:
        """Final-normed states (B, T, D) of chunks of equal length, which their pages then hold."""
        device = next(self.model.parameters()).device
        self._reach(max(page for chunk in chunks for page in chunk.pages))
        cache = _Gathered(self._stores, chunks, self.page_tokens, device)
        ids_BT = torch.tensor([chunk.ids for chunk in chunks], dtype=torch.int64, device=device)
        h_BTD = self.model.extend(ids_BT, cache, rows=list(range(len(chunks))))
        cache.scatter()
        return h_BTD

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        # Around one step: the caller may train the same model between two tokens. no_grad and not inference_mode, because
        # tables the model builds lazily here must stay usable in its training.
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()


class _Gathered:
    """A `LatentCache` made of the pages of some chunks, for one step. Attributes as there."""

    def __init__(self, stores: list[list[Tensor]], chunks: Sequence[Chunk], page_tokens: int, device: torch.device):
        self._stores, self._chunks, self._page = stores, chunks, page_tokens
        self.lengths = [chunk.start for chunk in chunks]
        self.capacity = max(chunk.end for chunk in chunks)
        width = -(-self.capacity // page_tokens)
        # Rows with fewer pages repeat one of theirs: what lies behind a row's length is masked, and finite.
        table = [(chunk.pages[:width] + [chunk.pages[0]] * width)[:width] for chunk in chunks]
        table_BN = torch.tensor(table, device=device)
        self.c, self.kr = ([layer[table_BN].flatten(1, 2) for layer in store] for store in stores)

    def scatter(self) -> None:
        """Write the new slots back into the pages."""
        for row, chunk in enumerate(self._chunks):
            for number in range(chunk.start // self._page, -(-chunk.end // self._page)):
                first, last = max(chunk.start, number * self._page), min(chunk.end, (number + 1) * self._page)
                inside = slice(first - number * self._page, last - number * self._page)
                for store, gathered in zip(self._stores, (self.c, self.kr), strict=True):
                    for layer, wide in zip(store, gathered, strict=True):
                        layer[chunk.pages[number], inside] = wide[row, first:last]
