"""How far one model's next-token distribution is from another's over the whole vocabulary, never holding all logits.

    forward   KL(teacher ‖ student) = Σ_v t (log t − log s)      covers all the teacher would say (Hinton et al. 2015)
    reverse   KL(student ‖ teacher) = Σ_v s (log s − log t)      keeps to what the teacher says (MiniLLM, GKD)

Gradients by the student's logits z: forward s − t; reverse s·((log s − log t) − KL). They are taken in the forward pass, chunk
by chunk.

Shapes: N tokens, D and E hidden sizes of student and teacher, V the smaller of the two vocabularies, C tokens of a chunk.
"""

import torch
from torch import Tensor


class LinearDivergence(torch.autograd.Function):
    """(scale · Σ_N KL with gradient to the student, KL (N,) without), float32."""

    @staticmethod
    def forward(
        ctx,
        h_ND: Tensor,
        weight_VD: Tensor,
        teacher_NE: Tensor,
        teacher_VE: Tensor,
        scale: float,
        reverse: bool,
        temperature: float,
        chunk: int,
    ):
        V = min(len(weight_VD), len(teacher_VE))  # what lies beyond is padding of the larger table
        need_h, need_w = ctx.needs_input_grad[:2]
        own_VD, teacher_VE = weight_VD[:V], teacher_VE[:V]
        dh_ND = torch.empty_like(h_ND) if need_h else None
        dw_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=h_ND.device) if need_w else None
        parts = []
        for start in range(0, len(h_ND), chunk):
            part = slice(start, start + chunk)
            h = h_ND[part]
            s_CV, t_CV = _log_softmax(h, own_VD, temperature), _log_softmax(teacher_NE[part], teacher_VE, temperature)
            if reverse:
                p_CV, away_CV = s_CV.exp(), s_CV - t_CV
                kl_C = (p_CV * away_CV).sum(-1)
                grad_CV = p_CV * (away_CV - kl_C[:, None])
            else:
                p_CV = t_CV.exp()
                kl_C = (p_CV * (t_CV - s_CV)).sum(-1)
                grad_CV = s_CV.exp() - p_CV
            parts.append(kl_C)
            grad = (grad_CV * (scale / temperature)).to(h.dtype)
            if dh_ND is not None:
                torch.mm(grad, own_VD, out=dh_ND[part])
            if dw_VD is not None:
                dw_VD[:V] += (grad.t() @ h).float()
        ctx.save_for_backward(dh_ND, dw_VD)
        ctx.dtype = weight_VD.dtype
        kl_N = torch.cat(parts) if parts else h_ND.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(kl_N)
        return scale * kl_N.sum(), kl_N

    @staticmethod
    def backward(ctx, up: Tensor, _: Tensor):  # type: ignore[override]
        dh_ND, dw_VD = ctx.saved_tensors
        dh = None if dh_ND is None else dh_ND * up.to(dh_ND.dtype)
        dw = None if dw_VD is None else (dw_VD * up).to(ctx.dtype)
        return dh, dw, None, None, None, None, None, None


def _log_softmax(h_CD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits = h_CD @ weight_VD.t()
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, -1)
