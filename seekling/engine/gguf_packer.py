"""The engine's own rounding to 4-bit blocks for GGUF files: scale and minimum searched, errors weighted by the activations."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from seekling.formats.gguf_out import OutTensor, Packer
from seekling.kernels import infer

# What llama.cpp calls the weights of a layer, by their names in a decoder.
_KINDS = ("gate", "up", "down")
STEMS: dict[str, tuple[str, ...]] = {
    **{f"self_attn.{kind}_proj": (f"attn_{kind}",) for kind in ("q", "k", "v", "q_a", "q_b")},
    "self_attn.o_proj": ("attn_output",),
    "self_attn.kv_a_proj_with_mqa": ("attn_kv_a_mqa",),
    **{f"mlp.{kind}_proj": (f"ffn_{kind}",) for kind in _KINDS},
    **{f"mlp.shared_experts.{kind}_proj": (f"ffn_{kind}_shexp",) for kind in _KINDS},
    "mlp.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
    "mlp.experts.down_proj": ("ffn_down_exps",),
}


def four_bit_packer(importance: Callable[[str], Tensor | None], layers: int) -> Packer:
    """Rows of Q4_1, Q4_K and Q6_K tensors as `seekling.kernels.infer.fill` rounds them; the rest is left to the usual rounding.

    Args:
        importance: of a weight by its name in the decoder, (I,) or (E, I), or None (`seekling.engine.calibrate.Seen`).
        layers: how many the model has.
    """
    head = importance("lm_head.weight")
    known: dict[str, Tensor] = {} if head is None else {"output.weight": head}
    for layer in range(layers):
        for inner, stems in STEMS.items():
            name = f"model.layers.{layer}.{inner}"
            found = importance(name) if ".experts." in name else importance(name + ".weight")
            if found is not None:
                known |= {f"blk.{layer}.{stem}.weight": found for stem in stems}

    def pack(tensor: OutTensor, first: int, rows: np.ndarray) -> np.ndarray | None:
        format = tensor.kind.name.lower()
        if format not in infer.ENCODED:
            return None
        weights = known.get(tensor.name)
        if weights is not None and weights.dim() == 2:  # slices of a stack never cross from one expert to the next
            weights = weights[first // tensor.shape[-2]]
        return infer.encode(torch.from_numpy(np.ascontiguousarray(rows)), format, weights).numpy()

    return pack
