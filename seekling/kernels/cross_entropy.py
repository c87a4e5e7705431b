"""Output head and cross-entropy together, a chunk of tokens at a time, with the gradient taken in the forward pass.

The logits of a whole batch (tokens × vocabulary) would be the largest tensor of a training step; here only a chunk's exist,
and they are overwritten by their own gradient.  Oracle: oracle.linear_cross_entropy.

Shapes: N tokens, D hidden, V vocabulary.
"""

import torch
from torch import Tensor

from seekling.kernels import native


class LinearCrossEntropy(torch.autograd.Function):
    """See ops.linear_cross_entropy."""

    @staticmethod
    def forward(ctx, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, scale: float, chunk: int) -> Tensor:
        need_h, need_w = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.promote_types(h_ND.dtype, torch.float32), device=h_ND.device)
        dh_ND = torch.empty_like(h_ND) if need_h else None
        dw_VD = torch.zeros_like(weight_VD, dtype=total.dtype) if need_w else None
        for start in range(0, h_ND.shape[0], chunk):
            h, target = h_ND[start : start + chunk], target_N[start : start + chunk]
            logits = h @ weight_VD.t()
            total += softmax_cross_entropy_(logits, target, scale)
            if dh_ND is not None:
                torch.mm(logits, weight_VD, out=dh_ND[start : start + chunk])
            if dw_VD is not None:
                dw_VD += logits.t() @ h
        ctx.save_for_backward(dh_ND, dw_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        dh_ND, dw_VD = ctx.saved_tensors
        dh = dh_ND * grad.to(dh_ND.dtype) if dh_ND is not None else None
        dw = (dw_VD * grad).to(ctx.weight_dtype) if dw_VD is not None else None
        return dh, dw, None, None, None


def softmax_cross_entropy_(logits_NV: Tensor, target_N: Tensor, scale: float) -> Tensor:
    """Return scale · Σ cross-entropy and overwrite the logits by scale · (softmax − one-hot), zero where target is −100."""
    if native.fits(logits_NV):
        loss = torch.zeros((), dtype=torch.float64)
        N, V = logits_NV.shape
        native.call("cross_entropy", logits_NV.dtype, logits_NV, target_N.contiguous(), loss, N, V, float(scale))
        return loss
    work = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    logp = work.log_softmax(-1)
    valid = target_N != -100
    index = target_N.clamp_min(0)[:, None]
    loss = -(logp.gather(1, index)[:, 0] * valid).sum() * scale
    grad = logp.exp_()
    grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype))
    logits_NV.copy_(grad * (valid * scale)[:, None])
    return loss
