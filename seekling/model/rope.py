"""Rotary position embedding of MLA's decoupled part, with YaRN (DeepSeek-V2 §2.1.3 and §3.1.4; V3 §4.3).

Shapes: B batch, T time, H heads, R rotary channels (even).  Tables hold one angle a channel pair: (..., R/2).
"""

import math

import torch
from torch import Tensor

from seekling.model.config import ModelConfig, RopeScaling, yarn_mscale


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Angles per position step, float32 (R/2,), and the factor that multiplies cos and sin (1 for every DeepSeek model)."""
    dim, base, scaling = config.qk_rope_head_dim, config.rope_theta, config.rope_scaling
    power = base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    if scaling is None:
        return 1.0 / power, 1.0
    if scaling.rope_type == "linear":
        return (1.0 / power) / scaling.factor, 1.0
    return _yarn(scaling, power, dim, base)


def _yarn(scaling: RopeScaling, power: Tensor, dim: int, base: float) -> tuple[Tensor, float]:
    """Fast channels keep their frequency, slow ones are divided by the factor, a ramp joins them (YaRN §3.2)."""
    context = scaling.original_max_position_embeddings or 1

    def channel(rotations: float) -> float:
        return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a ramp of zero width would divide by zero
    ramp = torch.clamp((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low), 0, 1)
    keep = 1 - ramp
    inv_freq = 1.0 / (scaling.factor * power) * (1 - keep) + 1.0 / power * keep
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        if scaling.mscale and scaling.mscale_all_dim:
            attention_factor = yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(scaling.factor, scaling.mscale_all_dim)
        else:
            attention_factor = yarn_mscale(scaling.factor, 1.0)
    return inv_freq, float(attention_factor)


class RopeTable:
    """cos and sin by position, grown on demand, float32 (T, R/2).  Not a module: nothing of it is saved."""

    def __init__(self, config: ModelConfig):
        self.inv_freq, self.factor = inverse_frequencies(config)
        self.polar = config.model_type == "deepseek_v2"
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def upto(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tables of at least ``length`` positions on ``device``."""
        held = self._tables.get(device)
        if held is None or held[0].shape[0] < length:
            size = max(256, 1 << (length - 1).bit_length())
            angles = torch.arange(size, dtype=torch.float32, device="cpu")[:, None] * self.inv_freq
            if self.polar:  # V2's code makes them as complex numbers, whose last bit differs from cos() and sin()
                turns = torch.polar(torch.ones_like(angles), angles)
                cos, sin = turns.real.contiguous(), turns.imag.contiguous()
            else:
                cos, sin = angles.cos(), angles.sin()
            held = ((cos * self.factor).to(device), (sin * self.factor).to(device))
            self._tables[device] = held
        return held

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (*positions.shape, R/2) at whole-number positions."""
        cos, sin = self.upto(int(positions.max()) + 1 if positions.numel() else 1, positions.device)
        return cos[positions], sin[positions]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleave: bool = True, in_float32: bool = False) -> Tensor:
    """Turn channel pairs of ``x`` (..., R) by the angles of ``cos``/``sin`` (..., R/2), broadcast over the rest.

    Pairs are (2i, 2i+1) when ``interleave``, else (i, i + R/2). The output keeps its pairs in the half-split order for both
    (only dot products between two rotated vectors are ever taken).  ``in_float32`` rounds to float32 first, as the
    DeepSeek-V2 code and its port in transformers do.
    """
    dtype = x.dtype
    if in_float32:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin))
        return torch.cat([turned[..., 0], turned[..., 1]], dim=-1).to(dtype)
    cos, sin = cos.to(dtype), sin.to(dtype)
    a, b = (x[..., 0::2], x[..., 1::2]) if interleave else x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
