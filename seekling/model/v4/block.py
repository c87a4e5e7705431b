"""One layer of DeepSeek-V4 over several residual streams, and its MTP layer (V4 §2.2; reference code's ``MTPBlock``).

Shapes: B batch, T time, N streams, D hidden.
"""

from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.moe import Trace
from seekling.model.v4.attention import V4Attention
from seekling.model.v4.hyper_connections import HyperConnection, HyperHead, mix
from seekling.model.v4.moe import V4MoE
from seekling.model.v4.sight import Sight


class V4Block(nn.Module):
    """Attention, then experts, each between a mixer that makes its input and one that spreads its output."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attn_hc = HyperConnection(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = V4Attention(config, layer)
        self.ffn_hc = HyperConnection(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = V4MoE(config, layer)

    def forward(self, streams_BTND: Tensor, sight: Sight, ids_BT: Tensor, trace: Trace | None = None) -> Tensor:
        """Streams in, streams out."""
        x_BTD, post, comb = self.attn_hc(streams_BTND)
        streams_BTND = mix(streams_BTND, self.self_attn(self.input_layernorm(x_BTD), sight), post, comb)
        x_BTD, post, comb = self.ffn_hc(streams_BTND)
        return mix(streams_BTND, self.mlp(self.post_attention_layernorm(x_BTD), trace, ids_BT), post, comb)


class V4MTPLayer(V4Block):
    """A layer with sliding attention that predicts one token further: streams and next embedding come in projected and added.

    Embedding and head are the main model's; norm and stream head are its own.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm, self.norm = RMSNorm(d, eps), RMSNorm(d, eps), RMSNorm(d, eps)
        self.e_proj = nn.Linear(d, d, bias=False)
        self.h_proj = nn.Linear(d, d, bias=False)
        self.hc_head = HyperHead(config)

    def predict(
        self, streams_BTND: Tensor, embedding_BTD: Tensor, sight: Sight, ids_BT: Tensor, trace: Trace | None = None
    ) -> tuple[Tensor, Tensor]:
        """(streams for the next depth, normed state for the shared head (B, T, D))."""
        joined = self.e_proj(self.enorm(embedding_BTD))[:, :, None] + self.h_proj(self.hnorm(streams_BTND))
        streams_BTND = self(joined, sight, ids_BT, trace)
        return streams_BTND, self.norm(self.hc_head(streams_BTND))
