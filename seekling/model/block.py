"""One pre-norm decoder layer: x + attention(norm(x)), then x + feed-forward(norm(x)).  Shapes: B batch, T time, D hidden."""

from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.attention import MLA
from seekling.model.config import ModelConfig
from seekling.model.gqa import GQA
from seekling.model.layers import MLP, RMSNorm
from seekling.model.moe import MoE, Trace
from seekling.model.sight import CachedRows, WholeRows


class Block(nn.Module):
    """Attention and a dense MLP or an MoE, as ``config.is_moe(layer)`` says."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MLA(config) if config.attention == "mla" else GQA(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if config.is_moe(layer) else MLP(config, config.intermediate_size)

    def feed_forward(self, x_BTD: Tensor, trace: Trace | None) -> Tensor:
        return self.mlp(x_BTD, trace) if isinstance(self.mlp, MoE) else self.mlp(x_BTD)

    def forward(self, x_BTD: Tensor, rows: WholeRows, trace: Trace | None = None) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTD), rows)
        x_BTD, normed = self._add_and_norm(x_BTD, attended)
        return x_BTD + self.feed_forward(normed, trace)

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int, trace: Trace | None = None) -> Tensor:
        """The same over new tokens of cached rows (see MLA.extend)."""
        attended = self.self_attn.extend(self.input_layernorm(x_BTD), rows, layer)
        x_BTD, normed = self._add_and_norm(x_BTD, attended)
        return x_BTD + self.feed_forward(normed, trace)

    def _add_and_norm(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.post_attention_layernorm
        return ops.add_rms_norm(x, delta, norm.weight, norm.eps)
