"""Log-probabilities of given tokens under the head, with gradient, never holding all logits.

The logits of a chunk are made in the forward pass for value and entropy.  As many as fit into KEPT bytes are kept for the
backward pass, where they are overwritten by their gradient; those of further chunks are made again.

Shapes: N tokens, C tokens of a chunk, D hidden, V vocabulary.
"""

import torch
from torch import Tensor

from seekling.kernels import native

KEPT = 1 << 28  # bytes of logits


class LinearLogProb(torch.autograd.Function):
    """(log p(target), entropy) of softmax(h Wᵀ / temperature), both (N,) float32; entropy carries no gradient."""

    @staticmethod
    def forward(ctx, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float, chunk: int):
        parts, kept, room = [], [], KEPT if any(ctx.needs_input_grad) else 0
        for h, target in zip(h_ND.split(chunk), target_N.split(chunk), strict=True):
            logits_CV = h @ weight_VD.t()
            parts.append(log_prob_rows(logits_CV, target, temperature))
            room -= logits_CV.nbytes
            kept.append(logits_CV if room >= 0 else None)
        logp_N, entropy_N, lse_N = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(h_ND, weight_VD, target_N, lse_N)
        ctx.temperature, ctx.chunk, ctx.kept = temperature, chunk, kept
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx, dlogp_N: Tensor, _: Tensor):  # type: ignore[override]
        h_ND, weight_VD, target_N, lse_N = ctx.saved_tensors
        need_h, need_w = ctx.needs_input_grad[:2]
        dh_ND = torch.empty_like(h_ND) if need_h else None
        dw_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if need_w else None
        for number, start in enumerate(range(0, len(h_ND), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            h, logits_CV = h_ND[part], ctx.kept[number]
            ctx.kept[number] = None
            grad_CV = h @ weight_VD.t() if logits_CV is None else logits_CV
            grad_CV = log_prob_gradient_(grad_CV, target_N[part], lse_N[part], dlogp_N[part], ctx.temperature)
            if dh_ND is not None:
                torch.mm(grad_CV, weight_VD, out=dh_ND[part])
            if dw_VD is not None:
                dw_VD += grad_CV.t() @ h
        return dh_ND, None if dw_VD is None else dw_VD.to(weight_VD.dtype), None, None, None


def log_prob_rows(logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log p(target), entropy, log-sum-exp) of every row, (C,) in float32 or better."""
    if native.fits(logits_CV):
        out = torch.empty(3, len(logits_CV))
        native.call(
            "log_prob", logits_CV.dtype, logits_CV, target_C.contiguous(), *out.unbind(), *logits_CV.shape, 1 / temperature
        )
        return out[0], out[1], out[2]
    work = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)) / temperature
    lse_C = work.logsumexp(-1)
    logp_CV = work - lse_C[:, None]
    return logp_CV.gather(1, target_C[:, None])[:, 0], -(logp_CV.exp() * logp_CV).sum(-1), lse_C


def log_prob_gradient_(
    logits_CV: Tensor, target_C: Tensor, lse_C: Tensor, up_C: Tensor, temperature: float
) -> Tensor:  # fmt: skip
    """The gradient by the logits of Σ up · log p(target), in their own memory where a kernel can."""
    if native.fits(logits_CV):
        args = target_C.contiguous(), lse_C.contiguous(), up_C.float().contiguous()
        native.call("log_prob_backward", logits_CV.dtype, logits_CV, *args, *logits_CV.shape, 1 / temperature)
        return logits_CV
    scale_C = up_C / temperature
    p_CV = (logits_CV.to(lse_C.dtype) / temperature - lse_C[:, None]).exp()
    grad_CV = p_CV * -scale_C[:, None]
    grad_CV.scatter_add_(1, target_C[:, None], scale_C[:, None].to(grad_CV.dtype))
    return grad_CV.to(logits_CV.dtype)
