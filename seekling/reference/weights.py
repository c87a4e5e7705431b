"""Weights that depend on the seed and on nothing else: integers from a counter-based generator, rounded to bfloat16.

Their spread is chosen so that logits differ and no choice of experts is a near tie. All matrices hold bfloat16 numbers, so a
copy in float32, bfloat16 or GGUF's F32 is the same model bit for bit.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from seekling.formats import hf
from seekling.model.decoder import Decoder


def numbers(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """About normal(0, 1), float32, the same on every machine: the sum of four 16-bit parts of a Philox stream.

    Bit generators of numpy keep their streams for ever; the libraries' own normal() need not, and differ between processors.
    """
    digest = hashlib.sha256(f"seekling reference/{seed}/{name}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(math.prod(shape))
    parts = sum(((raw >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.int64) for i in range(4))
    values = (np.asarray(parts) - 2 * 65535).astype(np.float64) / (65536 * math.sqrt(4 / 12))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


@torch.no_grad()
def fill(model: Decoder, seed: int) -> None:
    """Give every tensor of a float32 model its value, by its name in a Hugging Face checkpoint."""
    memory = model.state_dict()
    for piece in hf.pieces(model):
        target = memory[piece.target]
        if not target.is_floating_point():
            piece.put(target, table(piece.name, tuple(piece.shape), seed, model.config.n_routed_experts))
            continue
        values = initial(piece.name, tuple(piece.shape), seed)
        piece.put(target, values if piece.keep_float32 else values.bfloat16().float())


def table(name: str, shape: tuple[int, ...], seed: int, experts: int) -> Tensor:
    """Different experts for each token id (V, K): the first K of a shuffle."""
    order = numbers(seed, name, (shape[0], experts)).argsort(dim=-1, stable=True)
    return order[:, : shape[1]].contiguous()


def initial(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of one tensor on disk."""
    z = numbers(seed, name, shape)
    if "norm" in f".{name}".rsplit(".", 2)[-2] and len(shape) == 1:
        return 1 + 0.25 * z if name.endswith(".weight") else 0.1 * z
    if name.endswith(("attn_sink", ".ape")):
        return z.bfloat16().float()
    if "hc_" in name and name.endswith(("_base", "_scale")):
        return ((0.5 if name.endswith("_base") else 1.0) * z + name.endswith("_scale")).bfloat16().float()
    if len(shape) == 1:
        return (0.05 * z).bfloat16().float()  # router and projection biases: large enough to change choices
    if name.endswith(("embed_tokens.weight", "embed.weight")):
        return z
    fan_in = math.prod(shape[1:])
    gain = 3.0 if name.endswith(("head.weight", ".gate.weight")) else 1.0
    return z * (gain / math.sqrt(fan_in))
