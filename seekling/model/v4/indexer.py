"""The lightning indexer: which compressed entries a query of a sparse layer sees (V4 §2.3.1).

It compresses the tokens once more, narrowly, and scores entry s for query t as Σ_h w_th · ReLU(q_th · k_s).

Shapes: B batch, T time, D hidden, L query latent, H index heads, C index head dim, E entries.
"""

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.v4.compressor import Compressor, visible
from seekling.model.v4.rope import turn
from seekling.model.v4.sight import Sight


class Scorer(nn.Module):
    """Σ_h w_h · ReLU(q_h · k), in float32."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.v4 is not None
        self.scale, self.head_scale = config.v4.index_head_dim**-0.5, config.v4.index_n_heads**-0.5
        self.weights_proj = nn.Linear(config.hidden_size, config.v4.index_n_heads, bias=False)

    def forward(self, q_BTHC: Tensor, k_BEC: Tensor, x_BTD: Tensor) -> Tensor:
        """(B, T, E)."""
        scores_BTHE = torch.relu(q_BTHC.float() @ k_BEC.float().transpose(-1, -2)[:, None]) * self.scale
        weights_BTH = self.weights_proj(x_BTD).float() * self.head_scale
        return (scores_BTHE * weights_BTH[..., None]).sum(2)


class Indexer(Compressor):
    """A compressor of its own for the index keys, queries out of the query latent, and the choice."""

    def __init__(self, config: ModelConfig, rate: int):
        assert config.v4 is not None and config.q_lora_rank is not None
        super().__init__(config, config.v4.index_head_dim, rate, overlap=True)
        self.topk = config.v4.index_topk
        self.q_b_proj = nn.Linear(config.q_lora_rank, config.v4.index_n_heads * config.v4.index_head_dim, bias=False)
        self.scorer = Scorer(config)

    def choose(self, x_BTD: Tensor, latent_BTL: Tensor, keys_BEC: Tensor, sight: Sight) -> Tensor:
        """(B, T, E), True where the query attends to the entry."""
        seen_BTE = visible(sight.positions_BT, keys_BEC.shape[1], self.rate)
        if keys_BEC.shape[1] <= self.topk:
            return seen_BTE
        cos, sin = sight.turns("compress")
        q_BTHC = self.q_b_proj(latent_BTL).unflatten(-1, (-1, self.channels))
        q_BTHC = turn(q_BTHC, cos[:, :, None], sin[:, :, None])
        return best(self.scorer(q_BTHC, keys_BEC, x_BTD), seen_BTE, self.topk)


def best(scores_BTE: Tensor, seen_BTE: Tensor, k: int) -> Tensor:
    """True at the k highest scores among the entries seen; of equal ones the earlier, however many rows run together."""
    scores_BTE = scores_BTE.masked_fill(~seen_BTE, float("-inf"))
    last_BT1 = scores_BTE.topk(k, dim=-1).values[..., -1:]
    above_BTE, equal_BTE = scores_BTE > last_BT1, scores_BTE == last_BT1
    room_BT1 = k - above_BTE.sum(-1, keepdim=True)
    return (above_BTE | (equal_BTE & (equal_BTE.cumsum(-1) <= room_BT1))) & seen_BTE
