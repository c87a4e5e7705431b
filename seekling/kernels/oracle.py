"""Plain torch versions of every kernel: the meaning of each operation, and what runs where no native code is built.

They round where Hugging Face's DeepSeek code rounds (norms and scores in float32 even in a float64 model), so that both
agree to the last digits.  Shapes: N tokens, D hidden, E experts, K experts a token, M expert width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight · x/√(mean x² + eps), statistics in float32, result in x's dtype."""
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return (weight * x32.to(x.dtype)).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up."""
    return F.silu(gate) * up


def loop_experts(x_ND: Tensor, weights_NK: Tensor, indices_NK: Tensor, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
    """The obvious version: for each expert, the tokens that chose it."""
    out_ND = torch.zeros_like(x_ND)
    for e in range(gate_up_EMD.shape[0]):
        token, slot = torch.where(indices_NK == e)
        gate, up = F.linear(x_ND[token], gate_up_EMD[e]).chunk(2, -1)
        y = F.linear(swiglu(gate, up), down_EDM[e]) * weights_NK[token, slot, None]
        out_ND = out_ND.index_add(0, token, y.to(x_ND.dtype))
    return out_ND


def grouped_experts(x_ND: Tensor, weights_NK: Tensor, indices_NK: Tensor, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
    """The same with tokens sorted by expert first: one gather, contiguous slices, one scatter."""
    K = indices_NK.shape[1]
    order = indices_NK.flatten().argsort(stable=True)
    token = order // K
    counts = torch.bincount(indices_NK.flatten(), minlength=gate_up_EMD.shape[0]).tolist()
    parts = x_ND[token].split(counts)
    outs = []
    for e, part in enumerate(parts):
        if counts[e]:
            gate, up = F.linear(part, gate_up_EMD[e]).chunk(2, -1)
            outs.append(F.linear(swiglu(gate, up), down_EDM[e]))
    if not outs:
        return torch.zeros_like(x_ND)
    y = torch.cat(outs) * weights_NK.flatten()[order, None]
    return torch.zeros_like(x_ND).index_add(0, token, y.to(x_ND.dtype))


def linear_cross_entropy(h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, scale: float) -> Tensor:
    """scale · Σ_n −log softmax(h_n Wᵀ)[target_n]; targets of −100 count nothing.  Holds all logits: for tests."""
    logits_NV = F.linear(h_ND, weight_VD).float()
    return scale * F.cross_entropy(logits_NV, target_N, ignore_index=-100, reduction="sum")
