"""LoRA: low-rank adapters on any linear layer and on stacked experts, the base frozen (Hu et al. 2021, §4.1).

>>> added = add_lora(model, LoraSettings(rank=8))      # freezes everything else
>>> optimizer = Optimizer(model, …)                    # owns A and B only

y = W x + s · B A x with s = alpha / r, or alpha / √r when rank-stabilised (Kalajdzievski 2023).  A starts random, B at zero, so
training starts from the base exactly.

Shapes: r rank, I inputs, O outputs, E experts.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seekling.errors import RecipeError
from seekling.formats.adapters import Adapter, LowRank
from seekling.kernels.low_rank import LowRankLinear
from seekling.model.init import seeded_generator
from seekling.model.moe import Experts, Routing

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = "all-linear"
HALVES = ("gate_up", "down")


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

    def __init__(self, base: nn.Linear, settings: LoraSettings):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scale, self.dropout = settings.scale, settings.dropout
        self.lora_A = nn.Parameter(base.weight.new_empty(settings.rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, settings.rank))

    def forward(self, x: Tensor) -> Tensor:
        if not self.applied:
            return nn.functional.linear(x, self.weight, self.bias)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.dropout and self.training:
            down = nn.functional.linear(nn.functional.dropout(x, self.dropout), a)
            return nn.functional.linear(x, self.weight, self.bias) + nn.functional.linear(down, b) * self.scale
        return LowRankLinear.apply(x, self.weight, self.bias, a, b, self.scale)

    def delta(self) -> Tensor:
        """s · B A (O, I), float32: what merging adds to the weight."""
        return self.scale * (self.lora_B.float() @ self.lora_A.float())

    def effective_weight(self) -> Tensor:
        """The merged weight, with gradient to A and B; for code that reads a weight instead of calling the layer."""
        return self.weight + self.delta().to(self.weight.dtype) if self.applied else self.weight


class LoRAExperts(nn.Module):
    """Stacked experts with one adapter each (or a shared A): the merged stacks are made anew in every forward pass."""

    applied = True

    def __init__(self, base: Experts, settings: LoraSettings):
        super().__init__()
        self.base = base
        self.scale = settings.scale
        r = settings.rank
        for name in ("gate_up", "down"):
            weight = getattr(base, f"{name}_proj")
            E, O, I = weight.shape  # noqa: E741
            a = weight.new_empty(*((r, I) if settings.shared_a else (E, r, I)))
            setattr(self, f"{name}_lora_A", nn.Parameter(a))
            setattr(self, f"{name}_lora_B", nn.Parameter(weight.new_zeros(E, O, r)))

    def delta(self, name: str, expert: int | None = None) -> Tensor:
        """s · B A of ``gate_up`` or ``down``, float32: (E, O, I), or one expert's (O, I)."""
        a, b = getattr(self, f"{name}_lora_A"), getattr(self, f"{name}_lora_B")
        if expert is not None:
            a, b = a if a.dim() == 2 else a[expert], b[expert]
        return self.scale * (b.float() @ a.float())

    def merged(self, name: str) -> Tensor:
        """The effective stack ``gate_up`` or ``down``, with gradient to A and B."""
        weight = getattr(self.base, f"{name}_proj")
        return weight + self.delta(name).to(weight.dtype)

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        if not self.applied:
            return self.base(x_ND, routing)
        return self.base.run(x_ND, routing, self.merged("gate_up"), self.merged("down"))


def add_lora(model: nn.Module, settings: LoraSettings, seed: int = 0) -> list[str]:
    """Freeze the model and put adapters on its target layers, in place; returns their names.

    Raises:
        RecipeError: a target that names no layer of this model, with those it has.
    """
    model.requires_grad_(False)
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | Experts)}
    chosen = [name for name in found if _wanted(name, found[name], settings.targets)]
    known = sorted({last_name(name) for name in found})
    unknown = [t for t in settings.targets if t != ALL and t not in known]
    if unknown or not chosen:
        raise RecipeError(f"no layer is called {', '.join(unknown) or 'so'}; this model has {', '.join(known)} (or {ALL})")
    for name in chosen:
        base = found[name]
        new = LoRALinear(base, settings) if isinstance(base, nn.Linear) else LoRAExperts(base, settings)
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
        if isinstance(module, LoRALinear):
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

    def put(p: nn.Parameter, values: Tensor) -> None:
        p.data = values.to(torch.float32, copy=True).to(p.device)

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
