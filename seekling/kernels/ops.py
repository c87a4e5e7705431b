"""The operations the model is written in.  Each picks the native kernel where it applies, else the torch oracle.

Native kernels take bfloat16 or float32 tensors on the CPU, in training and in whole-row evaluation alike.
"""

import torch
from torch import Tensor

from seekling.kernels import native, oracle
from seekling.kernels.attention import MLAAttention
from seekling.kernels.cross_entropy import LinearCrossEntropy
from seekling.kernels.divergence import LinearDivergence
from seekling.kernels.experts import GroupedExperts
from seekling.kernels.log_prob import LinearLogProb
from seekling.kernels.rowwise import AddRMSNorm, RMSNorm, SwiGLU
from seekling.kernels.tree_attention import TokenTree, TreeAttention

# Below this many numbers the call itself costs more than the fusion saves.
_SMALL = 4096


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last axis; statistics in float32."""
    if x.numel() >= _SMALL and native.fits(x):
        return RMSNorm.apply(x, weight, eps)
    return oracle.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + delta, rms_norm(x + delta))."""
    if x.numel() >= _SMALL and native.fits(x, delta):
        return AddRMSNorm.apply(x, delta, weight, eps)
    total = x + delta
    return total, oracle.rms_norm(total, weight, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up."""
    if gate.numel() >= _SMALL and native.fits(gate, up):
        return SwiGLU.apply(gate, up)
    return oracle.swiglu(gate, up)


def grouped_experts(x_ND: Tensor, weights_NK: Tensor, indices_NK: Tensor, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
    """Σ_k w_nk · expert_{i_nk}(x_n) -> (N, D)."""
    if native.fits(x_ND, gate_up_EMD, down_EDM):
        return GroupedExperts.apply(x_ND, weights_NK, indices_NK, gate_up_EMD, down_EDM)
    return oracle.grouped_experts(x_ND, weights_NK, indices_NK, gate_up_EMD, down_EDM)


def linear_cross_entropy(h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, scale: float, chunk: int = 1024) -> Tensor:
    """scale · Σ cross-entropy of the head's logits against the targets (−100 = none), never holding all logits."""
    return LinearCrossEntropy.apply(h_ND, weight_VD, target_N, scale, chunk)


def linear_log_prob(
    h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """(log p(target) with gradient, entropy without) of softmax(h Wᵀ / temperature), (N,) each, never holding all logits."""
    return LinearLogProb.apply(h_ND, weight_VD, target_N, temperature, chunk)


def linear_divergence(
    h_ND: Tensor,
    weight_VD: Tensor,
    teacher_NE: Tensor,
    teacher_VE: Tensor,
    scale: float,
    *,
    reverse: bool,
    temperature: float = 1.0,
    chunk: int = 512,
) -> tuple[Tensor, Tensor]:
    """(scale · Σ KL with gradient to ``h_ND`` and ``weight_VD``, KL (N,) without) between the two heads' distributions."""
    return LinearDivergence.apply(h_ND, weight_VD, teacher_NE, teacher_VE, scale, reverse, temperature, chunk)


def mla_attention_available(q_BTHP: Tensor) -> bool:
    """Whether ``mla_attention`` can take these tensors."""
    return native.fits(q_BTHP)


def mla_attention(
    q_BTHP: Tensor,
    kv_BTHE: Tensor,
    kr_BTR: Tensor,
    cos_TR: Tensor,
    sin_TR: Tensor,
    first_BT: Tensor | None,
    scale: float,
    interleave: bool,
) -> Tensor:
    """Rotation and causal attention in one: unrotated queries and shared key in, (B, T, H, V) out.

    ``first_BT``: first key each token may see (``kernels.attention.first_visible``), None = the row's first.
    """
    return MLAAttention.apply(q_BTHP, kv_BTHE, kr_BTR, cos_TR, sin_TR, first_BT, scale, interleave)


def tree_attention_available(x: Tensor, tree: TokenTree, kv_heads: int) -> bool:
    """Whether ``tree_attention`` can take such tensors, and has work for every thread."""
    return native.fits(x) and tree.groups * kv_heads >= torch.get_num_threads()


def tree_attention(
    q_NHP: Tensor,
    k_NGP: Tensor,
    v_NGP: Tensor,
    cos: Tensor,
    sin: Tensor,
    tree: TokenTree,
    scale: float,
    *,
    interleave: bool = False,
    window: int | None = None,
) -> Tensor:
    """Rotation of the first channels and attention inside a tree of tokens: unrotated q, k and v in, (N, H, P) out.

    ``cos``, ``sin``: float32 tables (positions, R/2).
    """
    return TreeAttention.apply(q_NHP, k_NGP, v_NGP, cos, sin, tree, scale, interleave, window or 0)
