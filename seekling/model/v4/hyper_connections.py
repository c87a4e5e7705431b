"""Manifold-constrained hyper-connections: several residual streams, mixed by doubly stochastic matrices (V4 §2.2, mHC §4).

Around a layer's function F: x = Σ_n pre_n X_n goes in, X' = combᵀ X + post ⊗ F(x) comes out.  All three weights depend on the
token; ``comb`` is made doubly stochastic by Sinkhorn's steps, so that streams are averaged and never blown up.

Shapes: B batch, T time, N streams, D hidden.
"""

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig


def unweighted_rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / rms(x), the mean square in float32."""
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps).to(x.dtype)


def sinkhorn(weights_NN: Tensor, steps: int, eps: float) -> Tensor:
    """Positive matrices (..., N, N) towards doubly stochastic ones: columns first, then rows and columns in turn."""
    # rows and columns in front: sums of four neighbours in memory would be several times slower
    weights_NN = weights_NN.movedim((-2, -1), (0, 1)).contiguous()
    weights_NN = weights_NN / (weights_NN.sum(0, keepdim=True) + eps)
    for _ in range(steps - 1):
        weights_NN = weights_NN / (weights_NN.sum(1, keepdim=True) + eps)
        weights_NN = weights_NN / (weights_NN.sum(0, keepdim=True) + eps)
    return weights_NN.movedim((0, 1), (-2, -1))


class HyperConnection(nn.Module):
    """The three weights of one layer function, as one small network of the normed streams."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.v4 is not None
        self.streams, self.steps, self.eps = config.v4.hc_mult, config.v4.hc_sinkhorn_iters, config.v4.hc_eps
        self.norm_eps = config.rms_norm_eps
        width = (2 + self.streams) * self.streams
        self.fn = nn.Parameter(torch.empty(width, self.streams * config.hidden_size))
        self.base = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.empty(3))

    def forward(self, streams_BTND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(input of the function (B, T, D), post (B, T, N), comb (B, T, N, N)); the weights in float32 at least."""
        n = self.streams
        normed = unweighted_rms_norm(streams_BTND.flatten(2).float(), self.norm_eps)
        mixes = nn.functional.linear(normed, self.fn.float()).split([n, n, n * n], -1)
        pre, post, comb = (m * s + b for m, s, b in zip(mixes, self.scale, self.base.split([n, n, n * n]), strict=True))
        comb = comb.unflatten(-1, (n, n)).softmax(-1) + self.eps
        x_BTD = ((pre.sigmoid() + self.eps)[..., None] * streams_BTND).sum(2).to(streams_BTND.dtype)
        return x_BTD, 2 * post.sigmoid(), sinkhorn(comb, self.steps, self.eps)


def mix(streams_BTND: Tensor, out_BTD: Tensor, post_BTN: Tensor, comb_BTNN: Tensor) -> Tensor:
    """combᵀ X + post ⊗ out: the streams after a layer function."""
    dtype = streams_BTND.dtype
    kept = comb_BTNN.to(dtype).transpose(-1, -2) @ streams_BTND
    return post_BTN.to(dtype)[..., None] * out_BTD[..., None, :] + kept


class HyperHead(nn.Module):
    """The streams' weighted sum before the final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.v4 is not None
        n = config.v4.hc_mult
        self.eps, self.norm_eps = config.v4.hc_eps, config.rms_norm_eps
        self.hc_fn = nn.Parameter(torch.empty(n, n * config.hidden_size))
        self.hc_base = nn.Parameter(torch.empty(n))
        self.hc_scale = nn.Parameter(torch.empty(1))

    def forward(self, streams_BTND: Tensor) -> Tensor:
        """(B, T, D)."""
        normed = unweighted_rms_norm(streams_BTND.flatten(2).float(), self.norm_eps)
        mixes = nn.functional.linear(normed, self.hc_fn.float())
        weights = torch.sigmoid(mixes * self.hc_scale.float() + self.hc_base.float()) + self.eps
        return (weights[..., None] * streams_BTND).sum(2).to(streams_BTND.dtype)
