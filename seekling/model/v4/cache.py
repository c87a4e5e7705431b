"""What a row of DeepSeek-V4 remembers: a fixed state and a slowly growing list of compressed entries (V4 §2.3).

Per layer: the last ``sliding_window`` − 1 keys, and in compressed layers the projections of the tokens whose block is not
closed yet (with overlapping blocks those of the block before, too) and one entry for every closed block.  The first two live in
rings addressed by position, a little longer than needed: a row can go back up to ``SLACK`` tokens, enough for rejected guesses.

Shapes: rows sequences held, S slots of a ring, E entries, P head dim, W channels of a compressor's projections.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.errors import SeeklingError
from seekling.model.cache import Cache
from seekling.model.config import ModelConfig
from seekling.model.v4.config import CSA, SLIDING

SLACK = 32


@dataclass
class Blocks:
    """One compressor's state: rings of content and gate (rows, S, W), entries (rows, E, channels)."""

    content: Tensor
    gate: Tensor
    entries: Tensor


@dataclass
class LayerState:
    """One layer's: a ring of keys (rows, S, P) and, where it compresses, the state of its compressor and its indexer."""

    window: Tensor
    blocks: Blocks | None = None
    index: Blocks | None = None

    def tensors(self) -> list[Tensor]:
        return [self.window, *(t for b in (self.blocks, self.index) if b is not None for t in (b.content, b.gate, b.entries))]


class V4Cache(Cache):
    """``rows`` independent sequences of up to ``capacity`` tokens.

    Attributes:
        held: one LayerState a layer.
        lengths: tokens held by each row.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self._check(config, capacity)
        self.config, self.capacity = config, capacity
        self.lengths = [0] * rows
        self._reached = [0] * rows  # the most tokens a row has held since it was empty
        self.held = [self._state(layer, rows, capacity, dtype, device) for layer in range(config.num_hidden_layers)]

    def _state(self, layer: int, rows: int, capacity: int, dtype: torch.dtype, device: torch.device | str) -> LayerState:
        config, v4 = self.config, self.config.v4
        assert v4 is not None and config.sliding_window is not None
        kind = config.layer_type(layer)

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=device)

        def blocks(channels: int) -> Blocks:
            series, rate = (2 if kind == CSA else 1), v4.rate(kind)
            slots, width = series * rate - 1 + SLACK, series * channels
            return Blocks(zeros(slots, width), zeros(slots, width), zeros(capacity // rate, channels))

        state = LayerState(zeros(config.sliding_window - 1 + SLACK, config.head_dim))
        if kind != SLIDING:
            state.blocks = blocks(config.head_dim)
        if kind == CSA:
            state.index = blocks(v4.index_head_dim)
        return state

    def elements_per_token(self) -> int:
        """Numbers a token adds to what a row holds, rounded up; the fixed state is ``state_elements``."""
        return math.ceil(sum(b.entries[0].numel() for b in self._blocks()) / self.capacity)

    def state_elements(self) -> int:
        """Numbers of a row's rings, whatever its length."""
        rings = [s.window for s in self.held] + [ring for b in self._blocks() for ring in (b.content, b.gate)]
        return sum(ring[0].numel() for ring in rings)

    def bytes(self) -> int:
        return sum(t.nbytes for state in self.held for t in state.tensors())

    def _blocks(self) -> list[Blocks]:
        return [b for s in self.held for b in (s.blocks, s.index) if b is not None]

    def advance(self, rows: Sequence[int], tokens: int) -> None:
        """The rows hold ``tokens`` more; called once all layers have written them."""
        for row in rows:
            self.lengths[row] += tokens
            self._reached[row] = max(self._reached[row], self.lengths[row])

    def truncate(self, row: int, length: int) -> None:
        """Forget everything after the first ``length`` tokens of ``row``: a few tokens back, or all of them.

        Raises:
            SeeklingError: further back than the rings reach.
        """
        if not 0 <= length <= self.lengths[row]:
            raise ValueError(f"row {row} holds {self.lengths[row]} tokens and cannot be cut to {length}")
        if length == 0:
            self._reached[row] = 0
        elif length < self._reached[row] - SLACK:
            raise SeeklingError(
                f"a DeepSeek-V4 row that has held {self._reached[row]} tokens cannot be cut to {length}: its window and open "
                f"blocks reach {SLACK} tokens back; reset the row and run it again"
            )
        self.lengths[row] = length

    def reset(self, row: int) -> None:
        self.truncate(row, 0)

    def grow(self, rows: int, capacity: int) -> None:
        """Room for more rows and longer ones; what the rows hold stays."""
        self._check(self.config, capacity)
        first = self.held[0].window
        before, self.capacity = self.held, max(capacity, self.capacity)
        rows = max(rows, self.rows)
        self.held = [self._state(i, rows, self.capacity, first.dtype, first.device) for i in range(len(before))]
        for old, new in zip(before, self.held, strict=True):
            for a, b in zip(old.tensors(), new.tensors(), strict=True):
                b[: a.shape[0], : a.shape[1]] = a
        more = rows - self.rows
        self.lengths += [0] * more
        self._reached += [0] * more


def look_back(ring: Tensor, rows_B: Tensor, starts_B: Tensor, count: int) -> Tensor:
    """(B, count, …): what the ring holds of the ``count`` positions before each start; anything where they are negative."""
    slots_BK = (starts_B[:, None] + torch.arange(-count, 0, device=starts_B.device)) % ring.shape[1]
    return ring[rows_B[:, None], slots_BK]


def write(ring: Tensor, rows_B: Tensor, starts_B: Tensor, new_BTW: Tensor) -> None:
    """Write the tokens from each start on; of more than the ring holds only the last ones stay."""
    T, slots = new_BTW.shape[1], ring.shape[1]
    kept = min(T, slots)
    slots_BK = (starts_B[:, None] + torch.arange(T - kept, T, device=starts_B.device)) % slots
    ring[rows_B[:, None], slots_BK] = new_BTW[:, T - kept :].to(ring.dtype)
