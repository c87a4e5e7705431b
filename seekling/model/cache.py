"""What attention remembers of past tokens, per layer and row.

MLA keeps the normed latent and the rotated shared key (V2 §2.1.2), and its indexer a key of its own (V3.2); grouped-query
attention keeps rotated keys and values.  A layer's store is a tuple of tensors whose second axis is the token slot.  A layer
with linear attention keeps nothing of single tokens, but one state of each row, which every new token changes: such a row can
be emptied, not cut back.

Shapes: rows = sequences held, S capacity in tokens, L kv_lora_rank, R qk_rope_head_dim, G key-value heads, P head dim.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seekling.errors import SeeklingError
from seekling.model.config import ModelConfig


def slot_shapes(config: ModelConfig, layer: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what one token leaves in a layer: latent and key for MLA, then the indexer's; keys and values for GQA."""
    if config.layer_type(layer) == "linear_attention":
        return ()
    if config.attention == "mla":
        index = () if config.index_topk is None else ((config.index_head_dim,),)
        return (config.kv_lora_rank,), (config.qk_rope_head_dim,), *index
    return ((config.num_key_value_heads, config.head_dim),) * 2


def state_shapes(config: ModelConfig, layer: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what a layer keeps of a row as a whole: per head a matrix from keys to values for linear attention."""
    if config.layer_type(layer) == "linear_attention":
        return ((config.num_attention_heads, config.head_dim, config.head_dim),)
    return ()


class Cache:
    """``rows`` independent sequences of up to ``capacity`` tokens.

    Attributes:
        layers: per layer the stores (rows, S, …), shaped by ``slot_shapes``.
        states: per layer what is kept of each row as a whole (rows, …), shaped by ``state_shapes``, float32 or wider.
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
        wide = torch.promote_types(dtype, torch.float32)  # a running sum loses in 16 bits what it should keep
        self.states = [
            tuple(torch.zeros(rows, *shape, dtype=wide, device=device) for shape in state_shapes(config, i))
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

    def state(self, layer: int, rows: Sequence[int]) -> list[Tensor]:
        """The states of the given rows after the tokens they hold, (B, …) each."""
        return [store[list(rows)] for store in self.states[layer]]

    def set_state(self, layer: int, rows: Sequence[int], values: Sequence[Tensor]) -> None:
        """Replace the states of the given rows by (B, …) each."""
        for store, new in zip(self.states[layer], values, strict=True):
            store[list(rows)] = new.to(store.dtype)

    def truncate(self, row: int, length: int) -> None:
        """Forget everything after the first ``length`` tokens of ``row``.

        Raises:
            SeeklingError: the row has a running state, which can only be kept or emptied.
        """
        held = self.lengths[row]
        if not 0 <= length <= held:
            raise ValueError(f"row {row} holds {held} tokens and cannot be cut to {length}")
        if length == 0:
            self.reset(row)
        elif length < held and any(self.states):
            raise SeeklingError(
                f"row {row} holds a linear-attention state over {held} tokens, which cannot go back to {length}; "
                "empty the row and compute it again"
            )
        self.lengths[row] = length

    def reset(self, row: int) -> None:
        """Empty one row."""
        self.lengths[row] = 0
        for store in (store for stores in self.states for store in stores):
            store[row] = 0


def select_rows(store: Tensor, rows: Sequence[int], S: int) -> Tensor:
    """(B, S, …) of the given rows; a view where they are consecutive."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return store[first : first + len(rows), :S]
    return store[list(rows), :S]
