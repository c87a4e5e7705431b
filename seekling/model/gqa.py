"""Grouped-query attention with the options of the open families (GQA: arXiv 2305.13245): biases, norms of queries and keys,
partial rotation, a sliding window, attention sinks (gpt-oss: a learned logit a head that takes part in the softmax only).

Shapes: B batch, T time, S keys, D hidden, H query heads, G key-value heads, P head dim, R rotated channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seekling.kernels import ops
from seekling.kernels.tree_attention import TokenTree
from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.rope import rotate
from seekling.model.sight import CachedRows, Stream, WholeRows


class GQA(nn.Module):
    """One attention block; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.window = config, config.window(layer)
        d, q, kv = (
            config.hidden_size,
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(d, q, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, kv, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, kv, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q, d, bias=config.o_bias)
        if config.qk_norm is not None:
            full = config.qk_norm == "full"
            self.q_norm = RMSNorm(q if full else config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(kv if full else config.head_dim, config.rms_norm_eps)
        self.sinks = nn.Parameter(torch.empty(config.num_attention_heads)) if config.attention_sinks else None

    def heads(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unrotated queries (B, T, H, P), unrotated keys and values (B, T, G, P)."""
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        if self.config.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (-1, self.config.head_dim)) for t in (q, k, v))
        if self.config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def project(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values; ``cos``/``sin`` broadcast over the heads."""
        q, k, v = self.heads(x_BTD)
        return self._rotate(q, cos, sin), self._rotate(k, cos, sin), v

    def _rotate(self, x_BTHP: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        dim = self.config.rope_dim
        how: dict[str, Any] = {"interleave": self.config.rope_interleave, "arithmetic": self.config.rope_arithmetic}
        if dim == x_BTHP.shape[-1]:
            return rotate(x_BTHP, cos, sin, **how)
        return torch.cat([rotate(x_BTHP[..., :dim], cos, sin, **how), x_BTHP[..., dim:]], -1)

    def takes(self, x_BTD: Tensor, tree: TokenTree) -> bool:
        """Whether the native kernel computes this block over such a tree."""
        plain = self.sinks is None and self.config.rope_arithmetic != "complex"
        return plain and ops.tree_attention_available(x_BTD, tree, self.config.num_key_value_heads)

    def forward(self, x_BTD: Tensor, rows: WholeRows | Stream) -> Tensor:
        """Causal, inside the document and the window; a `Stream` only where ``takes`` says so."""
        if isinstance(rows, Stream) or (x_BTD.device.type == "cpu" and self.takes(x_BTD, rows.tree)):
            q, k, v = (t.flatten(0, 1) for t in self.heads(x_BTD))
            o_NHP = ops.tree_attention(
                q, k, v, rows.cos, rows.sin, rows.tree, self.config.softmax_scale,
                interleave=self.config.rope_interleave, window=self.window,
            )  # fmt: skip
            return self.o_proj(o_NHP.flatten(1).view(*x_BTD.shape[:-1], -1))
        q, k, v = self.project(x_BTD, rows.cos[:, None], rows.sin[:, None])
        return self.o_proj(attend(q, k, v, rows.mask(self.window), self.config.softmax_scale, self.sinks).flatten(2))

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int) -> Tensor:
        """Append T tokens to each cached row and attend to all that the row then holds."""
        q, k, v = self.project(x_BTD, rows.cos[:, :, None], rows.sin[:, :, None])
        rows.cache.append(layer, rows.rows, (k, v))
        k, v = rows.cache.view(layer, rows.rows, rows.end)
        mask = rows.mask(self.window)[:, None]
        return self.o_proj(attend(q, k, v, mask, self.config.softmax_scale, self.sinks).flatten(2))


def attend(
    q_BTHP: Tensor, k_BSGP: Tensor, v_BSGP: Tensor, mask: Tensor | None, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """Softmax attention, each key-value head shared by H/G query heads -> (B, T, H, P).

    ``mask`` broadcasts to (B, H, T, S), None = causal.  ``sinks_H`` adds one logit without a value to every softmax.
    """
    q, k, v = (t.transpose(1, 2) for t in (q_BTHP, k_BSGP, v_BSGP))
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    if sinks_H is None:
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
        return out.transpose(1, 2)
    scores = q @ k.transpose(-1, -2) * scale
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, float("-inf"))
    sink = sinks_H.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
    p = torch.cat([scores, sink], -1).softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., :-1]
    return (p.to(v.dtype) @ v).transpose(1, 2)
