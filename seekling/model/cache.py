"""The latent cache of MLA: per token and layer the normed latent and the rotated shared key, nothing else (V2 §2.1.2).

Shapes: rows = sequences held, S capacity in tokens, L kv_lora_rank, R qk_rope_head_dim.
"""

import torch

from seekling.errors import SeeklingError
from seekling.model.config import ModelConfig


class LatentCache:
    """``rows`` independent sequences of up to ``capacity`` tokens.

    Attributes:
        c: per layer (rows, S, L), the latent after its norm.
        kr: per layer (rows, S, R), the shared key after rotation.
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
        if capacity > config.max_position_embeddings:
            raise SeeklingError(
                f"a cache of {capacity} tokens was asked for, but the model ends at {config.max_position_embeddings} positions"
            )
        shape = (rows, capacity)
        layers = range(config.num_hidden_layers)
        self.c = [torch.zeros(*shape, config.kv_lora_rank, dtype=dtype, device=device) for _ in layers]
        self.kr = [torch.zeros(*shape, config.qk_rope_head_dim, dtype=dtype, device=device) for _ in layers]
        self.lengths = [0] * rows
        self.capacity = capacity

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def elements_per_token(self) -> int:
        """Numbers held per token, counted from the tensors themselves."""
        return sum(t.shape[-1] for t in (*self.c, *self.kr))

    def truncate(self, row: int, length: int) -> None:
        """Forget everything after the first ``length`` tokens of ``row``."""
        if not 0 <= length <= self.lengths[row]:
            raise ValueError(f"row {row} holds {self.lengths[row]} tokens and cannot be cut to {length}")
        self.lengths[row] = length

    def reset(self, row: int) -> None:
        """Empty one row."""
        self.lengths[row] = 0
