"""Rotary position embedding, with every context extension the families use (RoFormer §3.4; YaRN §3; V2 §2.1.3, §3.1.4).

Shapes: B batch, T time, H heads, R rotary channels (even).  Tables hold one angle a channel pair: (..., R/2).
"""

import math

import torch
from torch import Tensor

from seekling.model.config import ModelConfig, RopeScaling, yarn_mscale


def inverse_frequencies(config: ModelConfig, length: int = 0) -> tuple[Tensor, float]:
    """Angles per position step, float32 (R/2,), and the factor that multiplies cos and sin (1 for every DeepSeek model).

    ``length`` is the row's number of tokens: ``dynamic`` and ``longrope`` change their frequencies with it.
    """
    dim, base, scaling = config.rope_dim, config.rope_theta, config.rope_scaling
    steps = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    power = base**steps
    if scaling is None:
        return 1.0 / power, 1.0
    if scaling.rope_type == "linear":
        return (1.0 / power) / scaling.factor, 1.0
    if scaling.rope_type == "dynamic":
        return _dynamic(config, scaling, steps, length), 1.0
    if scaling.rope_type == "llama3":
        return _llama3(scaling, 1.0 / power), 1.0
    if scaling.rope_type == "longrope":
        return _longrope(scaling, power, length)
    return _yarn(scaling, power, dim, base)


def _dynamic(config: ModelConfig, scaling: RopeScaling, steps: Tensor, length: int) -> Tensor:
    """NTK: beyond the trained context the base grows with the row.  float32 arithmetic there, as in transformers."""
    trained, dim = config.max_position_embeddings, config.rope_dim
    seen = torch.tensor(length) if length > trained else trained
    growth = (scaling.factor * seen / trained) - (scaling.factor - 1)
    return 1.0 / ((config.rope_theta * growth ** (dim / (dim - 2))) ** steps)


def _llama3(scaling: RopeScaling, inv_freq: Tensor) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between joined smoothly (Llama 3.1)."""
    context, low, high = scaling.original_max_position_embeddings or 1, scaling.low_freq_factor, scaling.high_freq_factor
    assert low is not None and high is not None  # model/checks.py has seen to it
    wavelength = 2 * math.pi / inv_freq
    slow = torch.where(wavelength > context / low, inv_freq / scaling.factor, inv_freq)
    smooth = (context / wavelength - low) / (high - low)
    between = (wavelength >= context / high) & (wavelength <= context / low)
    return torch.where(between, (1 - smooth) * slow / scaling.factor + smooth * slow, slow)


def _longrope(scaling: RopeScaling, power: Tensor, length: int) -> tuple[Tensor, float]:
    """Each channel has its own divisor, one set for short rows and one for long ones (LongRoPE §3)."""
    context = scaling.original_max_position_embeddings or 1
    divisors = scaling.long_factor if length > context else scaling.short_factor
    factor = scaling.attention_factor
    if factor is None:
        factor = 1.0 if scaling.factor <= 1.0 else math.sqrt(1 + math.log(scaling.factor) / math.log(context))
    return 1.0 / (torch.tensor(divisors, dtype=torch.float32, device="cpu") * power), float(factor)


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
        self.config = config
        self._tables: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}

    def upto(self, length: int, device: torch.device, row: int | None = None) -> tuple[Tensor, Tensor]:
        """Tables of at least ``length`` positions on ``device``, for a row of ``row`` tokens (default ``length``)."""
        variant = self._variant(length if row is None else row)
        held = self._tables.get((device, variant))
        if held is None or held[0].shape[0] < length:
            size = max(256, 1 << (length - 1).bit_length())
            inv_freq, factor = inverse_frequencies(self.config, variant)
            angles = torch.arange(size, dtype=torch.float32, device="cpu")[:, None] * inv_freq
            if self.config.rope_arithmetic == "complex":  # its last bit differs from cos() and sin()
                turns = torch.polar(torch.ones_like(angles), angles)
                cos, sin = turns.real.contiguous(), turns.imag.contiguous()
            else:
                cos, sin = angles.cos(), angles.sin()
            held = ((cos * factor).to(device), (sin * factor).to(device))
            self._tables[device, variant] = held
        return held

    def at(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin (B, T, R/2) at whole-number positions; each row's last one decides its frequencies."""
        if not positions_BT.numel():
            cos, sin = self.upto(1, positions_BT.device)
            return cos[positions_BT], sin[positions_BT]
        end = int(positions_BT.max()) + 1
        scaling = self.config.rope_scaling
        if scaling is None or scaling.rope_type not in ("dynamic", "longrope"):
            cos, sin = self.upto(end, positions_BT.device)
            return cos[positions_BT], sin[positions_BT]
        rows = [self.upto(end, positions_BT.device, row=int(p_T.max()) + 1) for p_T in positions_BT]
        return (
            torch.stack([cos[p_T] for (cos, _), p_T in zip(rows, positions_BT, strict=True)]),
            torch.stack([sin[p_T] for (_, sin), p_T in zip(rows, positions_BT, strict=True)]),
        )

    def _variant(self, row: int) -> int:
        """Rows of one variant share their frequencies: 0, or the length where that decides them."""
        scaling = self.config.rope_scaling
        if scaling is not None and scaling.rope_type == "dynamic" and row > self.config.max_position_embeddings:
            return row
        if scaling is not None and scaling.rope_type == "longrope" and row > (scaling.original_max_position_embeddings or 0):
            return self.config.max_position_embeddings + 1
        return 0


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleave: bool = True, arithmetic: str = "native") -> Tensor:
    """Turn channel pairs of ``x`` (..., R) by the angles of ``cos``/``sin`` (..., R/2), broadcast over the rest.

    Pairs are (2i, 2i+1) when ``interleave``, else (i, i + R/2). The output keeps its pairs in the half-split order for both
    (only dot products between two rotated vectors are ever taken).  ``arithmetic``: ``native`` in the dtype of ``x``,
    ``float32`` rounded to it (ERNIE), ``complex`` the same as complex numbers (DeepSeek-V2's code and its port).
    """
    dtype = x.dtype
    if arithmetic == "complex":
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin))
        return torch.cat([turned[..., 0], turned[..., 1]], dim=-1).to(dtype)
    if arithmetic == "float32":
        x = x.float()
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = (x[..., 0::2], x[..., 1::2]) if interleave else x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(dtype)
