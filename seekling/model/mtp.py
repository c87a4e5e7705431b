"""Multi-Token Prediction (DeepSeek-V3 §2.2): D extra decoder layers, each predicting one token further ahead.

Depth k joins the hidden state of position i with the embedding of token i+k and runs one ordinary decoder layer; embedding
and head are the main model's.  On disk the layer is ``model.layers.{L+k-1}`` with copies of both tables.

Shapes: B batch, T time, D hidden.
"""

import torch
from torch import Tensor, nn

from seekling.model.block import Block
from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.moe import Trace
from seekling.model.sight import WholeRows


class SharedHead(nn.Module):
    """The MTP layer's own last norm; the matrix after it is the main ``lm_head``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MTPLayer(Block):
    """A decoder layer with the two input norms and the projection that joins them."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)
        self.hidden_first = config.mtp_hidden_first

    def join(self, h_BTD: Tensor, embedding_BTD: Tensor) -> Tensor:
        """M·[norm(emb); norm(h)], or hidden first where the config says so (the paper's text against its weights)."""
        parts = [self.enorm(embedding_BTD), self.hnorm(h_BTD)]
        return self.eh_proj(torch.cat(parts[::-1] if self.hidden_first else parts, -1))

    def predict(
        self,
        h_BTD: Tensor,
        embedding_BTD: Tensor,
        rows: WholeRows,
        trace: Trace | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One depth over whole rows: (state for the next depth, normed state for the shared head), both (B, T, D)."""
        h_BTD = self(self.join(h_BTD, embedding_BTD), rows, trace)
        return h_BTD, self.shared_head.norm(h_BTD)
