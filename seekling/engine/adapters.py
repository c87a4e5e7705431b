"""Several LoRA adapters over one base in torch: each is a view of the model that shares every tensor with it.

A view costs the memory of A and B only. Linear layers add s · B A x beside W x; a stack of experts is added up anew whenever it
runs, which is exact and slow: merge an adapter of experts (`seekling merge`) to serve it fast.

Shapes: r rank, I inputs, O outputs, E experts, N tokens, D hidden.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seekling.errors import SeeklingError, raise_all
from seekling.formats.adapters import Adapter, LowRank, model_fingerprint
from seekling.model.layers import weight_of
from seekling.model.moe import Experts, Routing


class AdaptedLinear(nn.Module):
    """A linear layer of the base with a change beside it."""

    def __init__(self, base: nn.Module, change: LowRank):
        super().__init__()
        weight = weight_of(base)
        self.base, self.scale = base, change.scale
        self.a, self.b = (t.detach().to(weight.device, weight.dtype) for t in (change.a, change.b))

    @property
    def weight(self) -> Tensor:
        return self.effective_weight()

    def effective_weight(self) -> Tensor:
        """W + s · B A, for code that reads the matrix instead of calling the layer."""
        return weight_of(self.base) + self.scale * (self.b @ self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.a), self.b) * self.scale


class AdaptedExperts(nn.Module):
    """Stacked experts of the base with changes to either matrix."""

    def __init__(self, base: Experts, changes: Mapping[str, LowRank]):
        super().__init__()
        self.base, self.changes = base, dict(changes)

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        stacks = []
        for name in ("gate_up_proj", "down_proj"):
            weight, change = getattr(self.base, name), self.changes.get(name)
            stacks.append(weight if change is None else weight + change.delta(dtype=torch.float32).to(weight))
        return self.base.run(x_ND, routing, *stacks)


def adapted(model: Any, adapter: Adapter, name: str = "adapter") -> Any:
    """A model that shares every tensor with ``model`` and answers as with the adapter merged, up to rounding.

    Raises:
        SeeklingError: lists every change that cannot be made at run time (embedding, routers, quantised experts), or all by
            which the adapter is for another model.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    changes: dict[str, LowRank] = dict(adapter.parts)
    experts: dict[str, dict[str, LowRank]] = {}
    for key in list(changes):
        home, _, last = key.rpartition(".")
        if home.endswith(".experts"):
            experts.setdefault(home, {})[last] = changes.pop(key)
    problems = [
        f"{key} cannot change at run time; merge the adapter instead"
        for key in (*(k.removesuffix(".weight") for k in changes), *experts)
        if not _can_change(model, key)
    ]
    raise_all(SeeklingError, problems, f"adapter {name}")
    plain = shapes.keys() >= adapter.parts.keys()  # a quantised copy has other tensors; its linear layers still fit
    if plain:
        own = model_fingerprint(model) if adapter.base_fingerprint is not None else None
        adapter.check(shapes, "the model", own, tied=model.config.tie_word_embeddings)
    tensors = (*model.parameters(), *model.buffers())
    view = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for key, change in changes.items():
        home = key.removesuffix(".weight")
        view.set_submodule(home, AdaptedLinear(view.get_submodule(home), change))
    for home, some in experts.items():
        view.set_submodule(home, AdaptedExperts(view.get_submodule(home), some))
    return view


def _can_change(model: Any, home: str) -> bool:
    try:
        module = model.get_submodule(home)
    except AttributeError:
        return True  # the check of shapes names it
    if home.endswith(".experts"):
        return isinstance(module, Experts)
    return isinstance(module, nn.Linear) or hasattr(module, "packed")
