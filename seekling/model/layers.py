"""The small parts: RMSNorm and the SwiGLU MLP.  Shapes: D hidden, F width."""

import torch
from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.config import ModelConfig


def weight_of(linear: nn.Module) -> Tensor:
    """The matrix a linear layer multiplies by, adapters included and unpacked, for code that reads it instead of calling the
    layer."""
    effective = getattr(linear, "effective_weight", None)
    return linear.weight if effective is None else effective()  # type: ignore[return-value]


class RMSNorm(nn.Module):
    """x / rms(x) · weight, statistics in float32 (V3 §4.2)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class MLP(nn.Module):
    """W_down(silu(W_gate x) ⊙ W_up x): dense layers and, with width n_shared·M, the shared experts."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        bias = config.mlp_bias
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=bias)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=bias)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))
