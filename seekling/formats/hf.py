"""Names: how the tensors of a ``Decoder`` are called in a Hugging Face checkpoint of the DeepSeek V2/V3 family.

In memory a layer's experts are two stacked tensors; on disk every expert has three of its own.  An MTP layer carries copies
of the embedding and of the head on disk (V3's published layout); in memory it shares the main ones.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
_BIAS = ".e_score_correction_bias"
# Tables that old checkpoints carry and that follow from the config.
DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Piece:
    """One tensor on disk and where it lives in memory.

    Attributes:
        name: on disk.
        target: the ``state_dict`` tensor that holds it, or a part of it.
        shape: on disk, equal to the part's.
        expert: index into a packed tensor, None for a whole one.
        rows: (first, last) rows of that expert's matrix.
        keep_float32: router biases stay float32 on disk and in memory.
    """

    name: str
    target: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    keep_float32: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The view of the target tensor that this piece is."""
        if self.expert is not None:
            tensor = tensor[self.expert]
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


def pieces(model: Decoder) -> list[Piece]:
    """Every tensor of the model under its disk name, layer by layer (works on the meta device)."""
    out: list[Piece] = []
    for target, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if target == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if target.endswith(_GATE_UP):
            prefix, width = target.removesuffix("gate_up_proj"), shape[1] // 2
            for j in range(shape[0]):
                for i, kind in enumerate(("gate_proj", "up_proj")):
                    rows = (i * width, (i + 1) * width)
                    out.append(Piece(f"{prefix}{j}.{kind}.weight", target, (width, shape[2]), j, rows))
        elif target.endswith(_DOWN):
            prefix = target.removesuffix("down_proj")
            out += [Piece(f"{prefix}{j}.down_proj.weight", target, shape[1:], j) for j in range(shape[0])]
        else:
            out.append(Piece(target, target, shape, keep_float32=target.endswith(_BIAS)))
    return out


def copies(config: ModelConfig) -> dict[str, str]:
    """Disk tensors that must equal another one: the tables inside MTP layers (name -> the main one's name)."""
    embedding = "model.embed_tokens.weight"
    head = embedding if config.tie_word_embeddings else "lm_head.weight"
    out = {}
    for layer in mtp_layers(config):
        out[f"model.layers.{layer}.embed_tokens.weight"] = embedding
        out[f"model.layers.{layer}.shared_head.head.weight"] = head
    return out


def tied(config: ModelConfig) -> dict[str, str]:
    """Copies that are never written but accepted when they are equal."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}


def empty_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Tensors without elements that transformers expects where ``n_shared_experts`` is 0 (name -> shape)."""
    if config.n_shared_experts:
        return {}
    out: dict[str, tuple[int, ...]] = {}
    for layer in config.router_layers:
        prefix = f"model.layers.{layer}.mlp.shared_experts"
        out[f"{prefix}.gate_proj.weight"] = out[f"{prefix}.up_proj.weight"] = (0, config.hidden_size)
        out[f"{prefix}.down_proj.weight"] = (config.hidden_size, 0)
    return out


def mtp_layers(config: ModelConfig) -> range:
    """Layer numbers of the MTP layers on disk: those after the main ones."""
    return range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers)


def layer_number(name: str) -> int | None:
    """The layer a disk tensor belongs to, None outside the layers."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return int(match[1]) if match else None


def is_mtp(name: str, config: ModelConfig) -> bool:
    """Whether a disk tensor belongs to a layer behind the main ones."""
    layer = layer_number(name)
    return layer is not None and layer >= config.num_hidden_layers


def disk_dtype(piece: Piece, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if piece.keep_float32 else dtype
