"""LoRA adapters for the native runner: A and B in float32 beside the packed weights, chosen by each chunk of a step.

What they change is told the kernels by slots: every matrix that may change has one (csrc/infer_step_adapters.cpp).

Shapes: r rank, I inputs, O outputs, H heads, N nope dim, V value dim, L kv latent.
"""

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seekling.errors import SeeklingError, raise_all
from seekling.formats.adapters import Adapter, LowRank
from seekling.kernels import infer
from seekling.kernels.infer_model import CLayer, CLowRank
from seekling.model.config import ModelConfig

HEAD = "lm_head.weight"
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "q_a": "q_a_proj", "q_b": "q_b_proj"}
_ATTENTION |= {"kv_a": "kv_a_proj_with_mqa", "k_b": "kv_b_proj", "v_b": "kv_b_proj"}


def inner_names(config: ModelConfig, layer: int) -> Iterator[tuple[str, str]]:
    """(field of the layer's structure, name of its weight in a decoder) of everything that may change."""
    for field, name in _ATTENTION.items():
        yield field, f"model.layers.{layer}.self_attn.{name}.weight"
    dense = "mlp.shared_experts" if config.is_moe(layer) else "mlp"
    for field in ("gate", "up", "down"):
        yield field, f"model.layers.{layer}.{dense}.{field}_proj.weight"
    if config.is_moe(layer):
        for field, name in (("expert_gate", "gate_up_proj"), ("expert_up", "gate_up_proj"), ("expert_down", "down_proj")):
            yield field, f"model.layers.{layer}.mlp.experts.{name}"


def _of_draft(config: ModelConfig, name: str) -> bool:
    """Whether a weight belongs to the MTP layers, which no answer depends on."""
    return any(name.startswith(f"model.layers.{config.num_hidden_layers + k}.") for k in range(config.num_nextn_predict_layers))


def changes_by_merging(config: ModelConfig, adapters: Mapping[str, Adapter]) -> list[str]:
    """What of these adapters the native runner cannot add beside its weights."""
    able = {HEAD, *(name for layer in range(config.num_hidden_layers) for _, name in inner_names(config, layer))}
    kinds = {
        target.removesuffix(".weight").rpartition(".")[2]
        for one in adapters.values()
        for target in one.parts.keys() - able
        if not _of_draft(config, target)
    }
    return [f"adapters of {', '.join(sorted(kinds))}"] if kinds else []


class AdapterTable:
    """All adapters of one runner.

    Args:
        config: of the model.
        layers: its structures, with that of the MTP layer where it drafts; slots are written into them.
        head: likewise.
    """

    def __init__(self, config: ModelConfig, layers: Any, head: Any):
        self._config = config
        self._slots: dict[str, dict[str, int]] = {}  # weight's name -> field -> slot
        self._count = 1
        if not config.tie_word_embeddings:
            self._take(head, "head", HEAD)
        for number in range(len(layers)):
            layer: CLayer = layers[number]
            for field, name in inner_names(config, number):
                matrix = getattr(layer, field)
                if matrix.outputs:
                    self._take(matrix, field, name)
        self.numbers: dict[str, int] = {}
        self._tables: list[Any] = []
        self._pointers: Any = None
        self._keep: dict[str, list[Tensor]] = {}  # adapter -> what its table points at
        self.most_rank = 0

    def _take(self, matrix: Any, field: str, name: str) -> None:
        """Give a matrix a slot."""
        matrix.slot = self._count
        self._slots.setdefault(name, {})[field] = self._count
        self._count += 1

    def add(self, name: str, adapter: Adapter) -> int:
        """Take an adapter, in place of one of that name; returns the address of the table of all, for the model's structure.

        Raises:
            SeeklingError: it changes what cannot change here.
        """
        bad = [
            f"{target} cannot change beside packed weights; merge the adapter"
            for target in adapter.parts
            if target not in self._slots and not _of_draft(self._config, target)
        ]
        raise_all(SeeklingError, bad, f"adapter {name}")
        table, keep = (CLowRank * self._count)(), []
        for target, change in adapter.parts.items():
            for field, slot in self._slots.get(target, {}).items():
                sides = [_padded(side) for side in self._sides(field, change)]
                table[slot] = _structure(*sides)
                keep += sides
            self.most_rank = max(self.most_rank, change.rank)
        number = self.numbers.setdefault(name, len(self._tables))
        self._tables[number : number + 1] = [table]
        self._keep[name] = keep
        self._pointers = (ctypes.c_void_p * len(self._tables))(*(ctypes.addressof(t) for t in self._tables))
        return ctypes.addressof(self._pointers)

    def _sides(self, field: str, change: LowRank) -> tuple[Tensor, Tensor]:
        """(A, Bᵀ with the scale) as (…, r, I) and (…, r, O), with a leading H or E where each head or expert has its own."""
        a, b = change.a.detach().float(), change.b.detach().float()
        if a.dim() == 3:  # stacked experts; gate and up are two halves of one stack
            if field != "expert_down":
                b = b[:, : b.shape[1] // 2] if field == "expert_gate" else b[:, b.shape[1] // 2 :]
            return a, change.scale * b.transpose(1, 2)
        if field not in ("k_b", "v_b"):
            return a, change.scale * b.T
        config = self._config
        b_k, b_v = b.view(config.num_attention_heads, -1, b.shape[-1]).split([config.qk_nope_head_dim, config.v_head_dim], 1)
        # W_UK is used transposed: queries (N) go into the latent space (L).
        return (b_k.transpose(1, 2), change.scale * a) if field == "k_b" else (a, change.scale * b_v.transpose(1, 2))


def _padded(side: Tensor) -> Tensor:
    return torch.nn.functional.pad(side, (0, -side.shape[-1] % infer.GROUP)).contiguous()


def _structure(a: Tensor, b: Tensor) -> CLowRank:
    strides = (t[0].numel() if t.dim() == 3 else 0 for t in (a, b))
    return CLowRank(a.data_ptr(), b.data_ptr(), *strides, a.shape[-2], 0)
