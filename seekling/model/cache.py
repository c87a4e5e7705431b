"""What attention remembers of past tokens, per layer and row.

MLA keeps the normed latent and the rotated shared key, nothing else (V2 §2.1.2); grouped-query attention keeps rotated keys and
values.  A layer's store is a tuple of tensors whose second axis is the token slot.

Shapes: rows = sequences held, S capacity in tokens, L kv_lora_rank, R qk_rope_head_dim, G key-value heads, P head dim.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seekling.errors import SeeklingError
from seekling.model.config import ModelConfig


def slot_shapes(config: ModelConfig, layer: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what one token leaves in a layer: latent and key for MLA, keys and values for GQA."""
    if config.attention == "mla":
        return (config.kv_lora_rank,), (config.qk_rope_head_dim,)
    return ((config.num_key_value_heads, config.head_dim),) * 2


class Cache:
    """``rows`` independent sequences of up to ``capacity`` tokens.

    Attributes:
        layers: per layer the stores (rows, S, …), shaped by ``slot_shapes``.
        lengths: tokens held by each row.

    DeepSeek-V4 keeps states besides slots: for it a ``V4Cache`` is made.
    """

    def __new__(cls, config: ModelConfig, *args: Any, **options: Any) -> "Cache":
        if cls is Cache and config.v4 is not None:
            from seekling.model.v4.cache import V4Cache

            cls = V4Cache
        return super().__new__(cls)

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
        self.layers = [
            tuple(torch.zeros(rows, capacity, *shape, dtype=dtype, device=device) for shape in slot_shapes(config, i))
            for i in range(config.num_hidden_layers)
        ]
        self.lengths = [0] * rows
        self.capacity = capacity

    @staticmethod
    def _check(config: ModelConfig, capacity: int) -> None:
        if capacity > config.max_position_embeddings:
            raise SeeklingError(
                f"a cache of {capacity} tokens was asked for, but the model ends at {config.max_position_embeddings} positions"
            )

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def elements_per_token(self) -> int:
        """Numbers held per token, counted from the tensors themselves."""
        return sum(t[0, 0].numel() for stores in self.layers for t in stores)

    def append(self, layer: int, rows: Sequence[int], values: Sequence[Tensor]) -> None:
        """Write T tokens (B, T, …) behind what each row holds; ``lengths`` is moved by the caller, once for all layers."""
        for store, new in zip(self.layers[layer], values, strict=True):
            for b, row in enumerate(rows):
                start = self.lengths[row]
                store[row, start : start + new.shape[1]] = new[b]

    def view(self, layer: int, rows: Sequence[int], slots: int) -> list[Tensor]:
        """The first ``slots`` slots of the given rows, (B, slots, …) each; views where the rows are consecutive."""
        return [select_rows(store, rows, slots) for store in self.layers[layer]]

    def truncate(self, row: int, length: int) -> None:
        """Forget everything after the first ``length`` tokens of ``row``."""
        if not 0 <= length <= self.lengths[row]:
            raise ValueError(f"row {row} holds {self.lengths[row]} tokens and cannot be cut to {length}")
        self.lengths[row] = length

    def reset(self, row: int) -> None:
        """Empty one row."""
        self.lengths[row] = 0


def select_rows(store: Tensor, rows: Sequence[int], S: int) -> Tensor:
    """(B, S, …) of the given rows; a view where they are consecutive."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return store[first : first + len(rows), :S]
    return store[list(rows), :S]


LatentCache = Cache  # the name of the spine
