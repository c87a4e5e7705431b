"""A frozen linear layer and its low-rank adapter as one autograd function: nothing but the products themselves.

Oracle: linear(x, W, bias) + scale · linear(linear(x, A), B), whose sums and scalings each read and write all outputs once more.

Shapes: N tokens, I inputs, O outputs, r rank.
"""

import torch
from torch import Tensor

from seekling.kernels.packed_weight import Frozen, times, times_transposed


class LowRankLinear(torch.autograd.Function):
    """x Wᵀ + bias + scale · (x Aᵀ) Bᵀ; the weight, packed or not, and the bias get no gradient."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight_OI: Frozen, bias_O: Tensor | None, a_rI: Tensor, b_Or: Tensor, scale: float
    ) -> Tensor:  # fmt: skip
        x_NI = x.reshape(-1, x.shape[-1])
        down_Nr = x_NI @ a_rI.t()
        out_NO = times_transposed(x_NI, weight_OI, bias_O)
        out_NO.addmm_(down_Nr, b_Or.t(), alpha=scale)
        ctx.save_for_backward(x_NI, a_rI, b_Or, down_Nr)
        ctx.weight, ctx.scale, ctx.shape = weight_OI, scale, x.shape  # frozen, so nothing can change it in between
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, up: Tensor):  # type: ignore[override]
        x_NI, a_rI, b_Or, down_Nr = ctx.saved_tensors
        up_NO = up.reshape(-1, up.shape[-1])
        dx = da_rI = db_Or = None
        ddown_Nr = (up_NO @ b_Or).mul_(ctx.scale)
        if ctx.needs_input_grad[0]:
            dx = times(up_NO, ctx.weight).addmm_(ddown_Nr, a_rI).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            da_rI = ddown_Nr.t() @ x_NI
        if ctx.needs_input_grad[4]:
            db_Or = (up_NO.t() @ down_Nr).mul_(ctx.scale)
        return dx, None, None, da_rI, db_Or, None
