"""LoRA: low-rank adapters on any linear layer and on stacked experts, the base frozen (Hu et al. 2021, §4.1), and packed in
8 or 4 bits if that is wished (QLoRA, Dettmers et al. 2023; `seekling.train.packed_base`).

>>> added = add_lora(model, LoraSettings(rank=8))      # freezes everything else
>>> optimizer = Optimizer(model, …)                    # owns A and B only

y = W x + s · B A x with s = alpha / r, or alpha / √r when rank-stabilised (Kalajdzievski 2023).  A starts random, B at zero, so
training starts from the base exactly.

Shapes: r rank, I inputs, O outputs, E experts.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seekling.errors import RecipeError
from seekling.formats.adapters import Adapter, LowRank
from seekling.kernels.low_rank import LowRankLinear
from seekling.kernels.packed_weight import Frozen, FrozenLinear, dense
from seekling.model.init import seeded_generator
from seekling.model.moe import Experts, Routing, by_expert
from seekling.train.packed_base import PackedExperts, PackedLinear

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = "all-linear"
HALVES = ("gate_up", "down")
LINEAR, STACKS = nn.Linear | PackedLinear, Experts | PackedExperts


@dataclass(frozen=True)
class LoraSettings:
    """``targets``: last names of linear layers, ``experts``, or ``all-linear`` (every one of the layers, not the head).

    ``shared_a`` gives all experts of a layer one A, which saves most of an expert adapter's parameters.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = (ALL,)
    dropout: float = 0.0
    rank_stabilised: bool = False
    shared_a: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LoRALinear(nn.Module):
    """A frozen linear layer with its adapter; ``weight`` and ``bias`` keep their names, so the base is saved as ever.

    ``applied`` False computes the base alone.
    """

    applied = True

    def __init__(self, base: nn.Linear | PackedLinear, settings: LoraSettings):
        super().__init__()
        self.weight: Frozen = base.weight
        self.bias: Tensor | None = base.bias  # type: ignore[assignment]
        self.out_features, self.in_features = base.weight.shape
        self.scale, self.dropout = settings.scale, settings.dropout
        like: dict = dict(dtype=base.weight.dtype, device=base.weight.device)
        self.lora_A = nn.Parameter(torch.empty(settings.rank, self.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, settings.rank, **like))

    def forward(self, x: Tensor) -> Tensor:
        if not self.applied:
            return FrozenLinear.apply(x, self.weight, self.bias)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.dropout and self.training:
            down = nn.functional.linear(nn.functional.dropout(x, self.dropout), a)
            return FrozenLinear.apply(x, self.weight, self.bias) + nn.functional.linear(down, b) * self.scale
        return LowRankLinear.apply(x, self.weight, self.bias, a, b, self.scale)

    def delta(self) -> Tensor:
        """s · B A (O, I), float32: what merging adds to the weight."""
        return self.scale * (self.lora_B.float() @ self.lora_A.float())

    def effective_weight(self) -> Tensor:
        """The merged weight, with gradient to A and B; for code that reads a weight instead of calling the layer."""
        weight = dense(self.weight)
        return weight + self.delta().to(weight.dtype) if self.applied else weight


class LoRAExperts(nn.Module):
    """Stacked experts with one adapter each (or a shared A)."""

    applied = True

    def __init__(self, base: Experts | PackedExperts, settings: LoraSettings):
        super().__init__()
        self.base = base
        self.scale, self.dropout = settings.scale, settings.dropout
        r, self.experts = settings.rank, base.config.n_routed_experts
        for name in HALVES:
            weight = base.matrix(name, 0)[0]
            (O, I), like = weight.shape, {"dtype": weight.dtype, "device": weight.device}  # noqa: E741
            a_shape = (r, I) if settings.shared_a else (self.experts, r, I)
            setattr(self, f"{name}_lora_A", nn.Parameter(torch.empty(a_shape, **like)))  # type: ignore[call-overload]
            b = torch.zeros(self.experts, O, r, **like)  # type: ignore[call-overload]
            setattr(self, f"{name}_lora_B", nn.Parameter(b))

    def delta(self, name: str, expert: int | None = None) -> Tensor:
        """s · B A of ``gate_up`` or ``down``, float32: (E, O, I), or one expert's (O, I)."""
        a, b = getattr(self, f"{name}_lora_A"), getattr(self, f"{name}_lora_B")
        if expert is not None:
            a, b = a if a.dim() == 2 else a[expert], b[expert]
        return self.scale * (b.float() @ a.float())

    def merged(self, name: str) -> Tensor:
        """The effective stack ``gate_up`` or ``down``."""
        return torch.stack(
            [(w := dense(self.base.matrix(name, e)[0])) + self.delta(name, e).to(w.dtype) for e in range(self.experts)]
        )

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        if not self.applied:
            return self.base(x_ND, routing)
        sides = {name: self._sides(name, x_ND.dtype) for name in HALVES}

        def product(name: str, e: int, x_JI: Tensor) -> Tensor:
            weight, bias = self.base.matrix(name, e)
            a, b = (side[e] for side in sides[name])
            if self.dropout and self.training:
                low = nn.functional.linear(nn.functional.linear(nn.functional.dropout(x_JI, self.dropout), a), b)
                return FrozenLinear.apply(x_JI, weight, bias) + low * self.scale
            return LowRankLinear.apply(x_JI, weight, bias, a, b, self.scale)

        def expert(e: int, x_JD: Tensor) -> Tensor:
            return product("down", e, self.base.activated(product("gate_up", e, x_JD)))

        return by_expert(x_ND, routing, self.experts, expert)

    def _sides(self, name: str, dtype: torch.dtype) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """A and B of every expert; taken apart once, so that their gradients are put together once."""
        a, b = (getattr(self, f"{name}_lora_{side}").to(dtype) for side in "AB")
        return (a,) * self.experts if a.dim() == 2 else a.unbind(0), b.unbind(0)


def add_lora(model: nn.Module, settings: LoraSettings, seed: int = 0) -> list[str]:
    """Freeze the model and put adapters on its target layers, in place; returns their names.

    Raises:
        RecipeError: a target that names no layer of this model, with those it has.
    """
    model.requires_grad_(False)
    found = {name: m for name, m in model.named_modules() if isinstance(m, LINEAR | STACKS)}
    chosen = [name for name in found if _wanted(name, found[name], settings.targets)]
    known = sorted({last_name(name) for name in found})
    unknown = [t for t in settings.targets if t != ALL and t not in known]
    if unknown or not chosen:
        raise RecipeError(f"no layer is called {', '.join(unknown) or 'so'}; this model has {', '.join(known)} (or {ALL})")
    for name in chosen:
        base: Any = found[name]
        new = LoRALinear(base, settings) if isinstance(base, LINEAR) else LoRAExperts(base, settings)
        model.set_submodule(name, new)
    reset_lora(model, seed)
    return chosen


def _wanted(name: str, module: nn.Module, targets: Iterable[str]) -> bool:
    last = last_name(name)
    if ALL in targets and last not in ("lm_head", "shared_expert_gate"):
        return True
    return last in targets


def last_name(name: str) -> str:
    return name.rsplit(".", 1)[-1]


@contextmanager
def base_alone(model: nn.Module) -> Iterator[None]:
    """The model without its adapters inside."""
    adapted = [m for m in model.modules() if isinstance(m, LoRALinear | LoRAExperts)]
    for module in adapted:
        module.applied = False
    try:
        yield
    finally:
        for module in adapted:
            module.applied = True


@torch.no_grad()
def reset_lora(model: nn.Module, seed: int) -> None:
    """A: uniform as Kaiming's with a = √5 (bound 1/√I), drawn by name; B: zero."""
    for name, p in model.named_parameters():
        if re.search(r"lora_A$", name):
            bound = p.shape[-1] ** -0.5
            values = torch.empty(p.shape, dtype=torch.float32)
            p.copy_(values.uniform_(-bound, bound, generator=seeded_generator(seed, name)))
        elif re.search(r"lora_B$", name):
            p.zero_()


def take_out(model: nn.Module) -> Adapter:
    """Put the plain layers back, in place, and return what the adapters held; ``formats.adapters.merge`` adds it to them."""
    adapter = adapter_of(model, {name: p.detach() for name, p in model.named_parameters()})
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear) and not isinstance(module.weight, Tensor):
            model.set_submodule(name, PackedLinear(module.weight, module.bias))
        elif isinstance(module, LoRALinear):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            plain.weight, plain.bias = module.weight, module.bias  # type: ignore[assignment]
            model.set_submodule(name, plain)
        elif isinstance(module, LoRAExperts):
            model.set_submodule(name, module.base)
    return adapter


def adapter_of(model: nn.Module, values: Mapping[str, Tensor]) -> Adapter:
    """The adapters of a model in training, with the given (float32 master) values of A and B; the model is left alone."""
    parts: dict[str, LowRank] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            parts[f"{name}.weight"] = LowRank(values[f"{name}.lora_A"], values[f"{name}.lora_B"], module.scale)
        elif isinstance(module, LoRAExperts):
            for part in ("gate_up", "down"):
                a, b = values[f"{name}.{part}_lora_A"], values[f"{name}.{part}_lora_B"]
                parts[f"{name}.{part}_proj"] = LowRank(a.expand(len(b), *a.shape[-2:]), b, module.scale)
    return Adapter(parts)


@torch.no_grad()
def put_in(model: nn.Module, adapter: Adapter) -> None:
    """Give a model's adapters the numbers that ``adapter_of`` took from them, as float32 whatever the model computes in."""

    def put(p: nn.Parameter, values: Tensor) -> None:  # laid out as a fresh one: products of another layout round otherwise
        p.data = values.to(torch.float32, copy=True, memory_format=torch.contiguous_format).to(p.device)

    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            part = adapter.parts[f"{name}.weight"]
            put(module.lora_A, part.a)
            put(module.lora_B, part.b)
        elif isinstance(module, LoRAExperts):
            for half in ("gate_up", "down"):
                part, a = adapter.parts[f"{name}.{half}_proj"], getattr(module, f"{half}_lora_A")
                put(a, part.a if a.dim() == 3 else part.a[0])  # a shared A stands in the adapter once an expert
                put(getattr(module, f"{half}_lora_B"), part.b)
