"""RMSNorm with the residual add before it, and SwiGLU, as autograd functions over the native kernels.

Oracles: oracle.rms_norm, oracle.swiglu.  Shapes: N rows, D hidden, M width.
"""

import torch
from torch import Tensor

from seekling.kernels import native


class AddRMSNorm(torch.autograd.Function):
    """(x + delta, norm(x + delta)): the residual add and the norm after it in one pass."""

    @staticmethod
    def forward(ctx, x: Tensor, delta: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        D = x.shape[-1]
        N = x.numel() // D
        y, rstd_N = torch.empty_like(x), torch.empty(N, dtype=torch.float32)
        total = torch.empty_like(x)
        w = weight_D.float().contiguous()
        native.call("rms_norm_forward", x.dtype, x, delta.contiguous(), w, total, y, rstd_N, N, D, float(eps))
        ctx.save_for_backward(total, w, rstd_N)
        ctx.weight_dtype = weight_D.dtype
        return total, y

    @staticmethod
    def backward(ctx, dtotal: Tensor, dy: Tensor):  # type: ignore[override]
        total, w, rstd_N = ctx.saved_tensors
        dx, dw = torch.empty_like(total), torch.empty_like(w)
        D = total.shape[-1]
        native.call(
            "rms_norm_backward",
            total.dtype,
            dy.contiguous(),
            dtotal.contiguous(),
            total,
            w,
            rstd_N,
            dx,
            dw,
            total.numel() // D,
            D,
        )
        return dx, dx, dw.to(ctx.weight_dtype), None


class RMSNorm(torch.autograd.Function):
    """norm(x) alone."""

    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        D = x.shape[-1]
        y, rstd_N = torch.empty_like(x), torch.empty(x.numel() // D, dtype=torch.float32)
        w = weight_D.float().contiguous()
        native.call("rms_norm_forward", x.dtype, x, None, w, None, y, rstd_N, x.numel() // D, D, float(eps))
        ctx.save_for_backward(x, w, rstd_N)
        ctx.weight_dtype = weight_D.dtype
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[override]
        x, w, rstd_N = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.empty_like(w)
        D = x.shape[-1]
        native.call("rms_norm_backward", x.dtype, dy.contiguous(), None, x, w, rstd_N, dx, dw, x.numel() // D, D)
        return dx, dw.to(ctx.weight_dtype), None


class SwiGLU(torch.autograd.Function):
    """silu(gate) ⊙ up."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        M = gate.shape[-1]
        h = torch.empty_like(gate)
        native.call("swiglu_forward", gate.dtype, gate, up, M, None, h, gate.numel() // M, M)
        ctx.save_for_backward(gate, up)
        return h

    @staticmethod
    def backward(ctx, dh: Tensor):  # type: ignore[override]
        gate, up = ctx.saved_tensors
        M = gate.shape[-1]
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        native.call(
            "swiglu_backward", gate.dtype, dh.contiguous(), gate, up, M, None, dgate, dup, None, None, gate.numel() // M, M
        )
        return dgate, dup
