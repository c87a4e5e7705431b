"""A runner over the model's own mathematics: the oracle of the native one, and what runs where there is none.

The cache lies in pages like everyone's; `Decoder.extend` writes new tokens into them and sees the pages of a row side by side.
Any device, any dtype, weights shared with the model object (and read anew at every step).

Layers with linear attention keep a state of the whole row instead of entries of its tokens. Pages cannot hold it, so it is kept
beside them under the number of the row's first page, and such rows neither share pages nor go back.

Tensor suffixes: N pages, P tokens a page, B rows, S slots, T new tokens, D hidden, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seekling.engine.runner import PAGE, Chosen, Chunk, Content
from seekling.errors import SeeklingError
from seekling.model.cache import slot_shapes, state_shapes
from seekling.model.moe import Routing, Trace


@dataclass
class _RowState:
    """What the layers keep of a row as a whole, after so many ``tokens`` (layer -> its states)."""

    tokens: int = 0
    layers: dict[int, list[Tensor]] = field(default_factory=dict)


class TorchRunner:
    """See `seekling.engine.runner.Runner`.

    Args:
        model: `seekling.model.Decoder`, or a quantised copy.
        config: its configuration.
        page_tokens: tokens a page.
        keep_states: keep the states of a step's tokens before the final norm, one (T, D) a chunk, in `raw_states`; and keep
            pages for the MTP layers too, which read them (speculation).
    """

    path = "torch"

    def __init__(self, model: Any, config: Any, page_tokens: int = PAGE, keep_states: bool = False):
        self.model, self.config, self.page_tokens, self.keep_states = model, config, page_tokens, keep_states
        self.adapters: dict[str, Any] = {}  # models that share the weights (`seekling.engine.adapters`)
        self.raw_states: list[Tensor] = []
        self.chosen: Chosen | None = None
        layers = config.num_hidden_layers + (config.num_nextn_predict_layers if keep_states else 0)
        self._shapes = [slot_shapes(config, layer) for layer in range(layers)]
        self._limit = self._held = 0
        self._stores: list[list[Tensor]] = []  # per layer: tensors (pages, tokens a page, …)
        self._row_states: dict[int, _RowState] = {}  # by the row's first page

    # ---- the pool --------------------------------------------------------------------------------------------------

    def allocate(self, pages: int) -> None:
        """Pages 0 … pages - 1. Memory is taken as they come into use."""
        self._limit, self._held = pages, 0
        self._row_states.clear()
        self._stores = [[self._empty(0, shape) for shape in shapes] for shapes in self._shapes]

    def _empty(self, pages: int, shape: tuple[int, ...]) -> Tensor:
        weight = next(self.model.parameters())
        return torch.zeros(pages, self.page_tokens, *shape, dtype=weight.dtype, device=weight.device)

    def _reach(self, page: int) -> None:
        """Make sure the tensors hold ``page``."""
        if page < self._held:
            return
        if page >= self._limit:
            raise SeeklingError(f"page {page} was asked for, but the cache has {self._limit}")
        size = min(self._limit, max(page + 1, 2 * self._held, 8))
        for store, shapes in zip(self._stores, self._shapes, strict=True):
            store[:] = [
                torch.cat([old, self._empty(size - self._held, shape)]) for old, shape in zip(store, shapes, strict=True)
            ]
        self._held = size

    def copy_page(self, src: int, dst: int) -> None:
        self._reach(max(src, dst))
        for store in self._stores:
            for layer in store:
                layer[dst] = layer[src]

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of all layers."""
        return sum(self._empty(1, shape).nbytes for shapes in self._shapes for shape in shapes)

    def read_page(self, page: int) -> Content:
        self._reach(page)
        return b"".join(layer[page].cpu().contiguous().view(torch.uint8).numpy().tobytes() for s in self._stores for layer in s)

    def write_page(self, page: int, content: Content) -> None:
        self._reach(page)
        whole, first = torch.frombuffer(bytearray(content), dtype=torch.uint8), 0
        for store in self._stores:
            for layer in store:
                size = layer[page].nbytes
                layer[page] = whole[first : first + size].clone().view(layer.dtype).view(layer[page].shape)
                first += size

    def forget(self, first_page: int) -> None:
        """The row that began on this page is over: its state is dropped."""
        self._row_states.pop(first_page, None)

    def bytes(self) -> int:
        """Bytes the pool takes now, and the states of rows beside it."""
        states = (state for row in self._row_states.values() for states in row.layers.values() for state in states)
        return sum(layer.nbytes for store in self._stores for layer in store) + sum(state.nbytes for state in states)

    # ---- a step ----------------------------------------------------------------------------------------------------

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Rows of one token and one adapter run together, others one after another."""
        groups: dict[tuple[int, str | None], list[int]] = {}
        for number, chunk in enumerate(chunks):
            groups.setdefault((1 if len(chunk.ids) == 1 else -1 - number, chunk.adapter), []).append(number)
        states: list[Tensor] = [torch.empty(0)] * len(chunks)
        logits: list[Tensor | None] = [None] * len(chunks)
        told = any(chunk.experts for chunk in chunks)
        chosen: list[_Choices] = [[]] * len(chunks)
        with self.evaluating():
            for (_, adapter), members in groups.items():
                model = self.model if adapter is None else self.adapters[adapter]
                trace = Trace()
                h_BTD = self._extend(model, [chunks[i] for i in members], trace if told else None)
                for row, i in enumerate(members):
                    states[i] = h_BTD[row]
                wanted = [(row, i) for row, i in enumerate(members) if chunks[i].want != "none"]
                if not wanted:
                    continue
                for row, i in wanted if trace.routings else ():
                    chosen[i] = _choices(trace.routings, row, len(chunks[i].ids), chunks[i].rows)
                rows = [h_BTD[row] if chunks[i].want == "all" else h_BTD[row, -1:] for row, i in wanted]
                h = torch.cat(rows)
                h = model.final(h) if self.keep_states else h
                parts = model.head(h).float().split([len(r) for r in rows])
                for (_, i), part in zip(wanted, parts, strict=True):
                    logits[i] = part
        self.raw_states = states if self.keep_states else []
        self.chosen = _together(chosen) if told else None
        found = [part for part in logits if part is not None]
        return torch.cat(found) if found else torch.empty(0, self.config.vocab_size)

    def _extend(self, model: Any, chunks: Sequence[Chunk], trace: Trace | None = None) -> Tensor:
        """Final-normed states (B, T, D) of chunks of equal length, which their pages then hold."""
        device = next(self.model.parameters()).device
        self._reach(max(page for chunk in chunks for page in chunk.pages))
        states = self._states_of(chunks) if self.config.holds_state else []
        cache = self.rows(chunks, states)
        ids_BT = torch.tensor([chunk.ids for chunk in chunks], dtype=torch.int64, device=device)
        rows = list(range(len(chunks)))
        traced = {} if trace is None else {"trace": trace}
        extend = model.extend_states if self.keep_states else model.extend
        h_BTD = extend(ids_BT, cache, rows, **traced)
        for state, chunk in zip(states, chunks, strict=False):  # no states, or as many as chunks
            state.tokens = chunk.end
        return h_BTD

    def _states_of(self, chunks: Sequence[Chunk]) -> list[_RowState]:
        """The running state of every chunk's row, empty where a row begins."""
        found = []
        for chunk in chunks:
            held = self._new_state() if chunk.start == 0 else self._row_states.get(chunk.pages[0], _RowState())
            if held.tokens != chunk.start:
                raise SeeklingError(
                    f"this model keeps a running state of each row, here over {held.tokens} tokens, and cannot go on from "
                    f"token {chunk.start}: compute the row from its beginning"
                )
            self._row_states[chunk.pages[0]] = held
            found.append(held)
        return found

    def _new_state(self) -> _RowState:
        weight = next(self.model.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shapes = {layer: state_shapes(self.config, layer) for layer in range(self.config.num_hidden_layers)}
        return _RowState(
            0, {layer: [torch.zeros(s, dtype=dtype, device=weight.device) for s in some] for layer, some in shapes.items()}
        )

    def rows(self, chunks: Sequence[Chunk], states: Sequence[_RowState] = ()) -> Any:
        """The pages of some chunks as the cache that a decoder's layers take."""
        return _PagedRows(self._stores, chunks, self.page_tokens, next(self.model.parameters()).device, states)

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


_Choices = list[tuple[np.ndarray, np.ndarray]]  # a row of logits each: experts and weights, both (L, K)


def _choices(routings: Sequence[Routing], row: int, tokens: int, wanted: int) -> _Choices:
    """The choices for the last ``wanted`` of the ``tokens`` of a row, experts by number."""
    places = slice((row + 1) * tokens - wanted, (row + 1) * tokens)
    experts_LTK, order = torch.stack([r.indices_NK[places] for r in routings]).sort(-1)
    weights_LTK = torch.stack([r.weights_NK[places].float() for r in routings]).gather(-1, order)
    experts = experts_LTK.int().transpose(0, 1).cpu().numpy()
    return list(zip(experts, weights_LTK.transpose(0, 1).cpu().numpy(), strict=True))


def _together(chosen: Sequence[_Choices]) -> Chosen:
    rows = [row for some in chosen for row in some]
    if not rows:
        return Chosen(np.zeros((0, 0, 0), np.int32), np.zeros((0, 0, 0), np.float32))
    return Chosen(np.stack([experts for experts, _ in rows]), np.stack([weights for _, weights in rows]))


class _PagedRows:
    """The cache that `Decoder.extend` sees: rows made of the pages of some chunks (see `seekling.model.cache.Cache`)."""

    def __init__(
        self,
        stores: list[list[Tensor]],
        chunks: Sequence[Chunk],
        page_tokens: int,
        device: torch.device,
        states: Sequence[_RowState] = (),
    ):
        self._stores, self._chunks, self._page, self._states = stores, chunks, page_tokens, states
        self.lengths = [chunk.start for chunk in chunks]
        self.capacity = max(chunk.end for chunk in chunks)
        width = -(-self.capacity // page_tokens)
        # Rows with fewer pages repeat one of theirs: what lies behind a row's length is masked, and finite.
        table = [(chunk.pages[:width] + [chunk.pages[0]] * width)[:width] for chunk in chunks]
        self._table_BN = torch.tensor(table, device=device)

    def append(self, layer: int, rows: Sequence[int], values: Sequence[Tensor]) -> None:
        """Write the new tokens (B, T, …) of the rows into their pages."""
        for b, row in enumerate(rows):
            chunk = self._chunks[row]
            for number in range(chunk.start // self._page, -(-chunk.end // self._page)):
                first, last = max(chunk.start, number * self._page), min(chunk.end, (number + 1) * self._page)
                inside = slice(first - number * self._page, last - number * self._page)
                for store, new in zip(self._stores[layer], values, strict=True):
                    store[chunk.pages[number], inside] = new[b, first - chunk.start : last - chunk.start]

    def view(self, layer: int, rows: Sequence[int], slots: int) -> list[Tensor]:
        """The first ``slots`` slots of the rows, (B, slots, …) each."""
        table_BN = self._table_BN[list(rows)]
        return [store[table_BN].flatten(1, 2)[:, :slots] for store in self._stores[layer]]

    def state(self, layer: int, rows: Sequence[int]) -> list[Tensor]:
        """The running states of the rows, (B, …) each."""
        return [torch.stack(some) for some in zip(*(self._states[row].layers[layer] for row in rows), strict=True)]

    def set_state(self, layer: int, rows: Sequence[int], values: Sequence[Tensor]) -> None:
        """Replace them."""
        for b, row in enumerate(rows):
            self._states[row].layers[layer] = [new[b] for new in values]
