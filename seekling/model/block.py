"""One decoder layer: x + attention(norm(x)), then x + feed-forward(norm(x)); MiniMax adds to the norm's output instead.

Shapes: B batch, T time, D hidden.
"""

from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.attention import MLA
from seekling.model.config import ModelConfig
from seekling.model.gqa import GQA
from seekling.model.layers import MLP, RMSNorm
from seekling.model.lightning import LightningAttention
from seekling.model.moe import MoE, Trace
from seekling.model.sight import CachedRows, Stream, WholeRows
from seekling.model.sparse import SparseMLA


class Block(nn.Module):
    """Attention and a dense MLP or an MoE, as ``config.is_moe(layer)`` says."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if config.is_moe(layer) else MLP(config, config.intermediate_size)
        self.residual, self.linear = config.norm_residual, config.layer_type(layer) == "linear_attention"

    def feed_forward(self, x_BTD: Tensor, trace: Trace | None) -> Tensor:
        return self.mlp(x_BTD, trace) if isinstance(self.mlp, MoE) else self.mlp(x_BTD)

    def forward(self, x_BTD: Tensor, rows: WholeRows | Stream, trace: Trace | None = None) -> Tensor:
        normed = self.input_layernorm(x_BTD)
        if isinstance(rows, WholeRows) or (isinstance(self.self_attn, GQA) and self.self_attn.takes(normed, rows.tree)):
            attended = self.self_attn(normed, rows)
        else:
            attended = rows.join(self.self_attn(rows.split(normed), rows.whole))
        return self._finish(x_BTD, normed, attended, trace)

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int, trace: Trace | None = None) -> Tensor:
        """The same over new tokens of cached rows (see MLA.extend)."""
        normed = self.input_layernorm(x_BTD)
        return self._finish(x_BTD, normed, self.self_attn.extend(normed, rows, layer), trace)

    def _finish(self, x_BTD: Tensor, normed: Tensor, attended: Tensor, trace: Trace | None) -> Tensor:
        """What follows attention, in the residual form of the config."""
        norm, scale = self.post_attention_layernorm, self.residual
        if scale is None:
            x_BTD, normed = ops.add_rms_norm(x_BTD, attended, norm.weight, norm.eps)
            return x_BTD + self.feed_forward(normed, trace)
        alpha, beta = (scale.linear_alpha, scale.linear_beta) if self.linear else (scale.full_alpha, scale.full_beta)
        normed = norm(normed * alpha + attended * beta)
        return normed * scale.mlp_alpha + self.feed_forward(normed, trace) * scale.mlp_beta


def attention(config: ModelConfig, layer: int) -> MLA | SparseMLA | GQA | LightningAttention:
    """The attention block of that layer."""
    if config.layer_type(layer) == "linear_attention":
        return LightningAttention(config, layer)
    if config.attention == "gqa":
        return GQA(config, layer)
    return MLA(config) if config.index_topk is None else SparseMLA(config)
