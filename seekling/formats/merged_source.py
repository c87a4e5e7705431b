"""A checkpoint on disk with an adapter added to it, tensor by tensor: how a base of any size is merged in bounded memory.

>>> base = open_folder("base")
>>> adapter = read_adapter("my-lora", disk_shapes(base.shapes, "llama"))
>>> MergedSource(base, adapter, "llama").read("model.layers.0.self_attn.q_proj.weight")     # W + s · B A, one rounding
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.formats.adapters import Adapter, add_to
from seekling.formats.safetensors_io import ANY_DTYPE
from seekling.formats.stores import FolderSource

_EXPERT = re.compile(r"(.+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_STACK = re.compile(r".+\.experts\.(gate_up|down)_proj")
_HALF = {"gate_proj": 0, "w1": 0, "up_proj": 1, "w3": 1}
_INPUTS_FIRST = ("gpt_oss",)  # stacks experts as (E, I, O)


@dataclass(frozen=True)
class Place:
    """Where a tensor on disk lies in a parameter as transformers has it.

    Attributes:
        parameter: its name there.
        expert: of a stack, None = all of it.
        half: 0 for the gate's and 1 for the up projection's rows, None = all rows.
        inputs_first: the disk holds (E, I, O).
    """

    parameter: str
    expert: int | None = None
    half: int | None = None
    inputs_first: bool = False


def place(name: str, model_type: str) -> Place:
    """Where the disk tensor of that name belongs."""
    match = _EXPERT.fullmatch(name)
    if match:
        stack = "gate_up_proj" if match[3] in _HALF else "down_proj"
        return Place(f"{match[1]}.mlp.experts.{stack}", int(match[2]), _HALF.get(match[3]))
    if _STACK.fullmatch(name):
        return Place(name, inputs_first=model_type in _INPUTS_FIRST)
    return Place(name.replace(".block_sparse_moe.", ".mlp."))


def disk_shapes(shapes: Mapping[str, tuple[int, ...]], model_type: str) -> dict[str, tuple[int, ...]]:
    """The parameters that the tensors of a folder make up: transformers' name -> shape, stacks as (E, O, I)."""
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        at = place(name, model_type)
        if at.expert is not None:
            experts = max(at.expert + 1, out.get(at.parameter, (0,))[0])
            out[at.parameter] = (experts, shape[0] * (1 if at.half is None else 2), shape[1])
        elif at.inputs_first:
            out[at.parameter] = (shape[0], shape[2], shape[1])
        else:
            out[at.parameter] = shape
    return out


class MergedSource:
    """A source whose tensors have an adapter added (or subtracted).

    Attributes:
        where, shapes, dtypes: as the base's; matrices it had quantised come out as bfloat16.
        inner: the base, whose other tensors are handed on.
    """

    def __init__(self, base: FolderSource, adapter: Adapter, model_type: str, sign: int = 1):
        """``adapter``: with transformers' names, checked against ``disk_shapes``."""
        self.base, self.adapter, self.sign = base, adapter, sign
        self.inner = base.inner
        self.where, self.shapes = base.where, base.shapes
        quantised = getattr(base, "scales", {})
        self.dtypes = {name: "BF16" if name in quantised else dtype for name, dtype in base.dtypes.items()}
        self._places = {name: place(name, model_type) for name in base.shapes}

    @property
    def changed(self) -> list[str]:
        """Disk names of the tensors that the adapter touches."""
        return [name for name, at in self._places.items() if at.parameter in self.adapter.parts]

    def read(self, name: str) -> Tensor:
        """The tensor with the change, in the dtype it will be stored in, rounded once; others as the base gives them."""
        weight = self.base.read(name)
        at = self._places[name]
        part = self.adapter.parts.get(at.parameter)
        if part is None:
            return weight
        out = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32, copy=True)
        if out.dim() == 2:
            rows = slice(None)
            if at.half is not None:
                rows = slice(at.half * len(out), (at.half + 1) * len(out))
            add_to(out, part, self.sign, at.expert, rows)
        else:
            for expert, matrix in enumerate(out):
                add_to(matrix.T if at.inputs_first else matrix, part, self.sign, expert)
        return out.to(ANY_DTYPE[self.dtypes[name]])

    def unreadable(self) -> list[str]:
        """As the base's."""
        return self.base.unreadable()
