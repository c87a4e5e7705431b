"""The operations the model is written in.  Each picks the native kernel where it applies, else the torch oracle."""

from seekling.kernels import oracle
from seekling.kernels.cross_entropy import LinearCrossEntropy


def rms_norm(x, weight, eps):
    """x / rms(x) · weight over the last axis; statistics in float32."""
    return oracle.rms_norm(x, weight, eps)


def add_rms_norm(x, delta, weight, eps):
    """(x + delta, rms_norm(x + delta))."""
    total = x + delta
    return total, rms_norm(total, weight, eps)


def swiglu(gate, up):
    """silu(gate) ⊙ up."""
    return oracle.swiglu(gate, up)


def grouped_experts(x_ND, weights_NK, indices_NK, gate_up_EMD, down_EDM):
    """Σ_k w_nk · expert_{i_nk}(x_n) -> (N, D)."""
    return oracle.grouped_experts(x_ND, weights_NK, indices_NK, gate_up_EMD, down_EDM)


def linear_cross_entropy(h_ND, weight_VD, target_N, scale, chunk=1024):
    """scale · Σ cross-entropy of the head's logits against the targets (−100 = none), never holding all logits."""
    return LinearCrossEntropy.apply(h_ND, weight_VD, target_N, scale, chunk)


def mla_attention_available(q_BTHP, config):
    """Whether ``mla_attention`` can take these tensors."""
    return False


def mla_attention(q_BTHP, kv_BTHE, kr_BTR, cos_TR, sin_TR, doc_BT, config):
    """Rotation and causal attention in one: unrotated q and shared key in, (B, T, H, V) out."""
    raise NotImplementedError
