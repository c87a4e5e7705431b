"""MLA's naive form for whole rows as one autograd function: rotation, shared key, causal and document mask, softmax.

No score matrix of a whole row is kept; the backward pass makes the scores again from the log-sum-exp.
Oracle: model.attention.attend with model.rope.rotate.

Shapes: B rows, T time, H heads, N nope, R rope, V value dim.
"""

import torch
from torch import Tensor

from seekling.kernels import native


class MLAAttention(torch.autograd.Function):
    """See ops.mla_attention."""

    @staticmethod
    def forward(
        ctx,
        q_BTHP: Tensor,
        kv_BTHE: Tensor,
        kr_BTR: Tensor,
        cos_TR: Tensor,
        sin_TR: Tensor,
        first_BT: Tensor,
        scale: float,
        interleave: bool,
    ) -> Tensor:
        q, kv, kr = q_BTHP.contiguous(), kv_BTHE.contiguous(), kr_BTR.contiguous()
        cos, sin = cos_TR.contiguous(), sin_TR.contiguous()
        B, T, H, P = q.shape
        R = kr.shape[-1]
        V = kv.shape[-1] - (P - R)
        o_BTHV = q.new_empty(B, T, H, V)
        lse_BHT = torch.empty(B, H, T, dtype=torch.float32)
        sizes = (B, T, H, P - R, R, V, float(scale), int(interleave))
        native.call("mla_forward", q.dtype, q, kv, kr, cos, sin, first_BT, o_BTHV, lse_BHT, *sizes)
        ctx.save_for_backward(q, kv, kr, cos, sin, first_BT, o_BTHV, lse_BHT)
        ctx.sizes = sizes
        return o_BTHV

    @staticmethod
    def backward(ctx, do_BTHV: Tensor):  # type: ignore[override]
        q, kv, kr, cos, sin, first_BT, o_BTHV, lse_BHT = ctx.saved_tensors
        dq, dkv, dkr = torch.empty_like(q), torch.empty_like(kv), torch.empty_like(kr)
        native.call(
            "mla_backward", q.dtype, do_BTHV.contiguous(), q, kv, kr, cos, sin, first_BT, o_BTHV, lse_BHT, dq, dkv, dkr,
            *ctx.sizes,
        )  # fmt: skip
        return dq, dkv, dkr, None, None, None, None, None


def first_visible(doc_BT: Tensor | None, rows: int, length: int) -> Tensor:
    """(B, T) int32: the position where each token's document starts, the first key it may see."""
    if doc_BT is None:
        return torch.zeros(rows, length, dtype=torch.int32)
    positions_T = torch.arange(length, dtype=torch.int32)
    starts = torch.ones(rows, length, dtype=torch.bool)
    starts[:, 1:] = doc_BT[:, 1:] != doc_BT[:, :-1]
    return torch.where(starts, positions_T, 0).cummax(-1).values.to(torch.int32).contiguous()
