"""Log-probabilities of given tokens under the head, with gradient, never holding all logits.

The logits of a chunk are made in the forward pass for value and entropy, and made again in the backward pass: one more head
product instead of N·V numbers.

Shapes: N tokens, D hidden, V vocabulary.
"""

import torch
from torch import Tensor


class LinearLogProb(torch.autograd.Function):
    """(log p(target), entropy) of softmax(h Wᵀ / temperature), both (N,) float32; entropy carries no gradient."""

    @staticmethod
    def forward(ctx, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float, chunk: int):
        logp, entropy = [], []
        for h, target in zip(h_ND.split(chunk), target_N.split(chunk), strict=True):
            all_CV = torch.log_softmax(_logits(h, weight_VD, temperature), -1)
            logp.append(all_CV.gather(1, target[:, None])[:, 0])
            entropy.append(-(all_CV.exp() * all_CV).sum(-1))
        ctx.save_for_backward(h_ND, weight_VD, target_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy_N = torch.cat(entropy)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logp), entropy_N

    @staticmethod
    def backward(ctx, dlogp_N: Tensor, _: Tensor):  # type: ignore[override]
        h_ND, weight_VD, target_N = ctx.saved_tensors
        need_h, need_w = ctx.needs_input_grad[:2]
        dh_ND = torch.empty_like(h_ND) if need_h else None
        dw_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if need_w else None
        for start in range(0, len(h_ND), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            h, target = h_ND[part], target_N[part]
            p_CV = torch.softmax(_logits(h, weight_VD, ctx.temperature), -1)
            scale_C = dlogp_N[part].to(p_CV.dtype) / ctx.temperature
            grad_CV = p_CV * -scale_C[:, None]
            grad_CV.scatter_add_(1, target[:, None], scale_C[:, None])
            grad = grad_CV.to(h.dtype)
            if dh_ND is not None:
                torch.mm(grad, weight_VD, out=dh_ND[part])
            if dw_VD is not None:
                dw_VD += grad.t() @ h
        return dh_ND, None if dw_VD is None else dw_VD.to(weight_VD.dtype), None, None, None


def _logits(h_CD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits = h_CD @ weight_VD.t()
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
