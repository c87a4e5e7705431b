"""Routed experts of one layer as one autograd function: sort by expert, gather, two matrix products an expert, sum back.

The routing weight multiplies inside SwiGLU (down is linear), so that coming back is a plain sum of each token's K rows and
the weight's gradient falls out of the same pass.  Kept for the backward pass: x and the gate/up products; the gathered rows
and the activations are made again.  Oracles: oracle.loop_experts, oracle.grouped_experts.

Shapes: N tokens, K experts a token, J places sorted by expert (N·K and some padding), E experts, D hidden, M expert width.
"""

from itertools import pairwise

import torch
from torch import Tensor

from seekling.kernels import native


class GroupedExperts(torch.autograd.Function):
    """See ops.grouped_experts."""

    @staticmethod
    def forward(ctx, x_ND: Tensor, weights_NK: Tensor, indices_NK: Tensor, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
        x_ND = x_ND.contiguous()
        (N, D), K, (E, _, M) = x_ND.shape, indices_NK.shape[1], down_EDM.shape
        align = _alignment(N * K // E)
        room = N * K + E * (align - 1)
        token_J, scale_J = torch.empty(room, dtype=torch.int32), torch.empty(room, dtype=torch.float32)
        place_NK, offsets = torch.empty(N, K, dtype=torch.int32), torch.empty(E + 1, dtype=torch.int64)
        weights = weights_NK.detach().float().contiguous()
        native.call(
            "sort_by_expert", None, indices_NK.contiguous(), weights, N, K, E, align, token_J, scale_J, place_NK, offsets
        )
        ends = offsets.tolist()
        J = ends[-1]
        token_J, scale_J = token_J[:J], scale_J[:J]
        xs_JD = _gather(x_ND, token_J)
        gate_up_JM, h_JM = x_ND.new_empty(J, 2 * M), x_ND.new_empty(J, M)
        for e, (lo, hi) in _ranges(ends):
            torch.mm(xs_JD[lo:hi], gate_up_EMD[e].t(), out=gate_up_JM[lo:hi])
        native.call("swiglu_forward", x_ND.dtype, gate_up_JM, gate_up_JM[:, M:], 2 * M, scale_J, h_JM, J, M)
        y_JD = xs_JD  # its rows are not needed any more
        for e, (lo, hi) in _ranges(ends):
            torch.mm(h_JM[lo:hi], down_EDM[e].t(), out=y_JD[lo:hi])
        out_ND = torch.empty_like(x_ND)
        native.call("sum_places", x_ND.dtype, y_JD, place_NK, None, out_ND, N, K, D)
        ctx.save_for_backward(x_ND, gate_up_EMD, down_EDM, gate_up_JM, scale_J, token_J, place_NK)
        ctx.ends, ctx.weights_dtype = ends, weights_NK.dtype
        return out_ND

    @staticmethod
    def backward(ctx, dout_ND: Tensor):  # type: ignore[override]
        x_ND, gate_up_EMD, down_EDM, gate_up_JM, scale_J, token_J, place_NK = ctx.saved_tensors
        (N, D), K, M = x_ND.shape, place_NK.shape[1], down_EDM.shape[-1]
        J = token_J.shape[0]
        dy_JD = _gather(dout_ND.contiguous(), token_J)
        dh_JM = x_ND.new_empty(J, M)
        for e, (lo, hi) in _ranges(ctx.ends):
            torch.mm(dy_JD[lo:hi], down_EDM[e], out=dh_JM[lo:hi])
        h_JM, dgate_up_JM = torch.empty_like(dh_JM), torch.empty_like(gate_up_JM)
        dscale_J = torch.empty_like(scale_J)
        native.call(
            "swiglu_backward", x_ND.dtype, dh_JM, gate_up_JM, gate_up_JM[:, M:], 2 * M, scale_J, dgate_up_JM,
            dgate_up_JM[:, M:], h_JM, dscale_J, J, M,
        )  # fmt: skip
        ddown_EDM, dgate_up_EMD = torch.empty_like(down_EDM), torch.empty_like(gate_up_EMD)
        for e, (lo, hi) in enumerate(pairwise(ctx.ends)):
            if lo == hi:
                ddown_EDM[e].zero_()
            else:
                torch.mm(dy_JD[lo:hi].t(), h_JM[lo:hi], out=ddown_EDM[e])
        xs_JD = _gather(x_ND, token_J)
        dxs_JD = dy_JD  # done with
        for e, (lo, hi) in enumerate(pairwise(ctx.ends)):
            if lo == hi:
                dgate_up_EMD[e].zero_()
            else:
                torch.mm(dgate_up_JM[lo:hi].t(), xs_JD[lo:hi], out=dgate_up_EMD[e])
                torch.mm(dgate_up_JM[lo:hi], gate_up_EMD[e], out=dxs_JD[lo:hi])
        dx_ND = torch.empty_like(x_ND)
        native.call("sum_places", x_ND.dtype, dxs_JD, place_NK, None, dx_ND, N, K, D)
        dweights_NK = dscale_J[place_NK.flatten()].view(N, K).to(ctx.weights_dtype)
        return dx_ND, dweights_NK, None, dgate_up_EMD, ddown_EDM


def _alignment(mean_load: int) -> int:
    """Places an expert's range is padded to: a power of two near 1/16 of the mean load, 1 to 64.

    oneDNN compiles a kernel for every new row count, which costs more than the product itself; padded loads repeat.
    """
    return max(1, min(64, 1 << max(0, (mean_load // 16).bit_length() - 1)))


def _ranges(ends: list[int]):
    """(expert, (first place, end)) of every expert that has tokens."""
    return [(e, (lo, hi)) for e, (lo, hi) in enumerate(pairwise(ends)) if hi > lo]


def _gather(x_ND: Tensor, token_J: Tensor) -> Tensor:
    out_JD = x_ND.new_empty(token_J.shape[0], x_ND.shape[1])
    native.call("gather_rows", None, x_ND, token_J, out_JD, token_J.shape[0], x_ND.shape[1] * x_ND.element_size())
    return out_JD
