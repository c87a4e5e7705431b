"""One pre-norm decoder layer: x + attention(norm(x)), then x + feed-forward(norm(x)).  Shapes: B batch, T time, D hidden."""

from collections.abc import Sequence

from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.attention import MLA
from seekling.model.cache import LatentCache
from seekling.model.config import ModelConfig
from seekling.model.layers import MLP, RMSNorm
from seekling.model.moe import MoE, Trace


class Block(nn.Module):
    """Attention and a dense MLP or an MoE, as ``config.is_moe(layer)`` says."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MLA(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if config.is_moe(layer) else MLP(config, config.intermediate_size)

    def feed_forward(self, x_BTD: Tensor, trace: Trace | None) -> Tensor:
        return self.mlp(x_BTD, trace) if isinstance(self.mlp, MoE) else self.mlp(x_BTD)

    def forward(
        self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTD), cos_TR, sin_TR, doc_BT)
        x_BTD, normed = self._add_and_norm(x_BTD, attended)
        return x_BTD + self.feed_forward(normed, trace)

    def extend(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LatentCache,
        layer: int,
        rows: Sequence[int],
        mask: Tensor,
        trace: Trace | None = None,
    ) -> Tensor:
        """The same over new tokens of cached rows (see MLA.extend)."""
        attended = self.self_attn.extend(self.input_layernorm(x_BTD), cos, sin, cache, layer, rows, mask)
        x_BTD, normed = self._add_and_norm(x_BTD, attended)
        return x_BTD + self.feed_forward(normed, trace)

    def _add_and_norm(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.post_attention_layernorm
        return ops.add_rms_norm(x, delta, norm.weight, norm.eps)
