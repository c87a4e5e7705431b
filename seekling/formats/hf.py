"""Names: how the tensors of a ``Decoder`` are called in a Hugging Face checkpoint of its family.

In memory a layer's experts are two stacked tensors; on disk every expert has three of its own (gpt-oss stacks them there too).
An MTP layer carries copies of the embedding and of the head on disk (V3's published layout); in memory it shares the main ones.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all
from seekling.formats.families import v4_names
from seekling.formats.source import TensorSource
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.model.lightning import decays
from seekling.model.v4.decoder import FLOAT32

_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
_BIAS = ".e_score_correction_bias"
# Tables that checkpoints carry and that follow from the config.
DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")

# What a family calls parts of a layer: (our name, its name), the first that fits.
_RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "qwen2_moe": ((".mlp.shared_experts.", ".mlp.shared_expert."),),
    "ernie4_5_moe": ((".mlp.gate.e_score_correction_bias", ".mlp.moe_statics.e_score_correction_bias"),),
    "minimax_m2": (
        (".mlp.gate.e_score_correction_bias", ".block_sparse_moe.e_score_correction_bias"),
        (".mlp.", ".block_sparse_moe."),
    ),
    "minimax": ((".mlp.", ".block_sparse_moe."),),
    "gpt_oss": ((".mlp.gate.", ".mlp.router."),),
}
_EXPERT_NAMES = dict.fromkeys(("minimax", "minimax_m2", "deepseek_v4"), ("w1", "w3", "w2"))  # gate, up, down
_STACKED = ("gpt_oss",)  # all experts in one tensor on disk too, inputs before outputs, gate and up rows in turn


@dataclass(frozen=True)
class Piece:
    """One tensor on disk and where it lives in memory.

    Attributes:
        name: on disk.
        target: the ``state_dict`` tensor that holds it, or a part of it.
        shape: on disk.
        expert: index into a packed tensor, None for a whole one.
        rows: (first, last) rows of that expert's matrix.
        keep_float32: selection biases stay float32 on disk and in memory.
        whole: whole numbers (experts by token id) stay int64.
        layout: "" where the part has the disk's shape; "row" for a vector that is (1, n) there; "transposed" for stacked
            experts as (E, inputs, outputs); "turns" for the same with gate and up rows in turn.
    """

    name: str
    target: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    keep_float32: bool = False
    layout: str = ""
    whole: bool = False

    def _view(self, tensor: Tensor) -> Tensor:
        """The part of the target tensor in the order of the disk; reshaped to ``shape`` it is the disk's tensor."""
        if self.expert is not None:
            tensor = tensor[self.expert]
        if self.rows is not None:
            tensor = tensor[self.rows[0] : self.rows[1]]
        if self.layout == "turns":  # (E, 2M, …), gate first -> (E, …, M, 2)
            tensor = tensor.unflatten(1, (2, -1)).movedim(1, -1)
            return tensor.movedim(1, -2) if tensor.dim() == 4 else tensor
        return tensor.transpose(1, 2) if self.layout == "transposed" else tensor

    def get(self, tensor: Tensor) -> Tensor:
        """The disk's tensor out of the target tensor."""
        return self._view(tensor).reshape(self.shape)

    def put(self, tensor: Tensor, disk: Tensor) -> None:
        """Copy the disk's tensor into its part of the target tensor."""
        part = self._view(tensor)
        part.copy_(disk.reshape(part.shape))


def disk_name(target: str, config: ModelConfig) -> str:
    """What the family calls a tensor that is whole on disk."""
    if config.model_type == "deepseek_v4":
        return v4_names.disk_name(target, config.num_hidden_layers)
    for ours, theirs in _RENAMES.get(config.model_type, ()):
        if ours in target:
            return target.replace(ours, theirs)
    return target


def pieces(model: Decoder) -> list[Piece]:
    """Every tensor of the model under its disk name, layer by layer (works on the meta device)."""
    out: list[Piece] = []
    config = model.config
    for target, tensor in model.state_dict().items():
        if target == "lm_head.weight" and config.tie_word_embeddings:
            continue
        shape, name = tuple(tensor.shape), disk_name(target, config)
        if config.model_type in _STACKED and ".mlp.experts." in target:
            out.append(_stacked(name, target, shape))
        elif target.endswith((_GATE_UP, _DOWN)):
            out += _per_expert(name, target, shape, _EXPERT_NAMES.get(config.model_type, ("gate_proj", "up_proj", "down_proj")))
        elif target.endswith(_BIAS) and config.model_type == "ernie4_5_moe":
            out.append(Piece(name, target, (1, *shape), keep_float32=True, layout="row"))
        elif not tensor.dtype.is_floating_point:
            out.append(Piece(name, target, shape, whole=True))
        else:
            out.append(Piece(name, target, shape, keep_float32=target.endswith(_BIAS) or _stays_float32(target, config)))
    return out


def _stays_float32(target: str, config: ModelConfig) -> bool:
    return config.v4 is not None and target.rsplit(".", 1)[-1] in FLOAT32


def _per_expert(name: str, target: str, shape: tuple[int, ...], names: tuple[str, str, str]) -> list[Piece]:
    prefix, experts = name.rsplit(".", 1)[0] + ".", range(shape[0])
    if target.endswith(_DOWN):
        return [Piece(f"{prefix}{j}.{names[2]}.weight", target, shape[1:], j) for j in experts]
    width = shape[1] // 2
    return [
        Piece(f"{prefix}{j}.{names[i]}.weight", target, (width, shape[2]), j, (i * width, (i + 1) * width))
        for j in experts
        for i in (0, 1)
    ]


def _stacked(name: str, target: str, shape: tuple[int, ...]) -> Piece:
    disk = (shape[0], shape[2], shape[1]) if len(shape) == 3 else shape
    if "gate_up_proj" in target:
        return Piece(name, target, disk, layout="turns")
    return Piece(name, target, disk, layout="transposed" if len(shape) == 3 else "")


def copies(config: ModelConfig) -> dict[str, str]:
    """Disk tensors that must equal another one: the tables inside MTP layers (name -> the main one's name)."""
    if config.model_type == "deepseek_v4":
        return {}  # its MTP layers have none
    embedding = "model.embed_tokens.weight"
    head = embedding if config.tie_word_embeddings else "lm_head.weight"
    out = {}
    for layer in mtp_layers(config):
        out[f"model.layers.{layer}.embed_tokens.weight"] = embedding
        out[f"model.layers.{layer}.shared_head.head.weight"] = head
    return out


def tied(config: ModelConfig) -> dict[str, str]:
    """Copies that are never written but accepted when they are equal."""
    if not config.tie_word_embeddings:
        return {}
    return {disk_name("lm_head.weight", config): disk_name("model.embed_tokens.weight", config)}


def decay_tables(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]:
    """Tables of the linear layers that transformers keeps as weights although the config decides them (name -> shape, maker).

    Written as float32; a checkpoint that lacks them is complete, one that holds other numbers is another model.
    """
    out: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    h, n = config.num_attention_heads, config.linear_block
    for layer in range(config.num_hidden_layers):
        if config.layer_type(layer) != "linear_attention":
            continue
        made = partial(decays, h, layer, config.num_hidden_layers, n)
        prefix = f"model.layers.{layer}.self_attn."
        out[f"{prefix}slope_rate"] = (h, 1, 1), lambda made=made: made().slope_H[:, None, None]  # type: ignore[misc]
        out[f"{prefix}query_decay"] = (h, n, 1), lambda made=made: made().query(n)  # type: ignore[misc]
        out[f"{prefix}key_decay"] = (h, n, 1), lambda made=made: made().key(n)  # type: ignore[misc]
        out[f"{prefix}diagonal_decay"] = (1, h, n, n), lambda made=made: made().diagonal(n)[None]  # type: ignore[misc]
    return out


def empty_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Tensors without elements that transformers expects where ``n_shared_experts`` is 0 (name -> shape)."""
    if config.n_shared_experts or config.attention != "mla":
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
    if config.model_type == "deepseek_v4":
        return name.startswith("mtp.")
    layer = layer_number(name)
    return layer is not None and layer >= config.num_hidden_layers


def disk_dtype(piece: Piece, dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if piece.whole else torch.float32 if piece.keep_float32 else dtype


class Renamed:
    """A source under other names; two that become one name are an error of the file."""

    def __init__(self, inner: TensorSource, names: dict[str, str]):
        self.inner, self.where, self._names = inner, inner.where, {new: old for old, new in names.items()}
        twice = [old for old, new in names.items() if self._names[new] != old]
        raise_all(CheckpointError, [f"{name} is there under two names" for name in twice], self.where)
        self.shapes = {new: inner.shapes[old] for old, new in names.items()}

    def read(self, name: str) -> Tensor:
        return self.inner.read(self._names[name])

    def unreadable(self) -> list[str]:
        return getattr(self.inner, "unreadable", list)()


def as_published(config: ModelConfig, source: TensorSource) -> TensorSource:
    """The source under the names that ``pieces`` uses, for families whose checkpoints spell them in several ways."""
    if config.model_type != "deepseek_v4" or isinstance(source, Renamed):
        return source
    return Renamed(source, {name: v4_names.published(name) for name in source.shapes})
