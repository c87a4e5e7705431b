"""Low-rank adapters in memory: W' = W + s · B A, put into a model and taken out again (LoRA, arXiv 2106.09685 §4.1).

>>> adapter = read_adapter("my-lora", model)             # seekling.formats.peft
>>> merged = merge(model, adapter)                       # the model now answers as with the adapter
>>> merged.undo()                                        # every bit as it was

Nothing here knows how an adapter was trained.  Names are those of the model's parameters; experts are stacked as they are in
the model.  Shapes: r rank, I inputs, O outputs, ... nothing or E experts.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seekling.errors import CheckpointError, raise_all

_SAMPLES = 64  # numbers of each tensor that make the fingerprint
# Tensors that every family calls alike in memory and on disk.
_ALIKE = re.compile(
    r"model\.(?:embed_tokens|norm|layers\.(\d+)\.(?:self_attn\.\w+|input_layernorm|post_attention_layernorm))\.weight"
)


@dataclass(frozen=True)
class LowRank:
    """The change of one matrix, or of a stack of them.

    Attributes:
        a: (..., r, I).
        b: (..., O, r).
        scale: s, alpha / r (or alpha / √r).
    """

    a: Tensor
    b: Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.a.shape[:-2] != self.b.shape[:-2] or self.a.shape[-2] != self.b.shape[-1]:
            raise ValueError(f"A {list(self.a.shape)} and B {list(self.b.shape)} do not multiply")

    @property
    def rank(self) -> int:
        return self.a.shape[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight it changes: (..., O, I)."""
        return (*self.b.shape[:-1], self.a.shape[-1])

    def delta(self, expert: int | None = None, rows: slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """s · B A computed in ``dtype``: (..., O, I), or the given rows of one expert's."""
        a, b = (self.a, self.b) if expert is None else (self.a[expert], self.b[expert])
        return self.scale * (b[..., rows, :].to(dtype) @ a.to(dtype))


@dataclass(frozen=True)
class Adapter:
    """Changes by parameter name, such as ``model.layers.0.self_attn.q_proj.weight``, ``….mlp.experts.down_proj``.

    Attributes:
        parts: parameter name -> change.
        base_name: the model it was trained on, as its maker wrote it.
        base_fingerprint: of that model's weights (see ``fingerprint``), None where unknown.
        base_copies: tensors of that model that came with the adapter (peft adds embedding and head where they are adapted).
    """

    parts: Mapping[str, LowRank] = field(default_factory=dict)
    base_name: str | None = None
    base_fingerprint: str | None = None
    base_copies: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Numbers in all A and B."""
        return sum(part.a.numel() + part.b.numel() for part in self.parts.values())

    def digest(self) -> str:
        """A hash of all its numbers."""
        whole = hashlib.sha256()
        for name, part in sorted(self.parts.items()):
            whole.update(f"{name} {tuple(part.a.shape)} {tuple(part.b.shape)} {part.a.dtype} {part.scale}".encode())
            for side in (part.a, part.b):
                whole.update(side.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return whole.hexdigest()

    def check(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        base: str,
        fingerprint: str | None = None,
        tied: bool = False,
        read: Callable[[str], Tensor] | None = None,
    ) -> None:
        """Raise one CheckpointError that lists everything by which this adapter is not for a model.

        Args:
            shapes: of the model's parameters.
            base: what the model is called in the message.
            fingerprint: of the model's weights, None = do not compare.
            tied: the model's head is its embedding.
            read: gives the model's tensors, to compare ``base_copies``; None = only their shapes.
        """
        bad = []
        for name, part in self.parts.items():
            if name not in shapes:
                bad.append(f"the model has no {name}")
            elif tuple(shapes[name]) != part.shape:
                bad.append(f"{name} is {list(shapes[name])} in the model, {list(part.shape)} in the adapter")
            elif tied and name in ("lm_head.weight", "model.embed_tokens.weight"):
                bad.append(f"{name} is shared by embedding and head in this model, so it cannot change alone")
            if not (torch.isfinite(part.a).all() and torch.isfinite(part.b).all() and math.isfinite(part.scale)):
                bad.append(f"{name}: the adapter holds numbers that are infinite or NaN")
        for name, copy in self.base_copies.items():
            if name not in shapes or tuple(shapes[name]) != tuple(copy.shape):
                bad.append(f"{name} was {list(copy.shape)} in its base, and is not in the model")
            elif read is not None and not torch.equal(read(name), copy.to(read(name).dtype)):
                bad.append(f"{name} had other numbers in its base")
        if not self.parts:
            bad.append("it changes nothing: it has no parts")
        if not bad and fingerprint is not None and self.base_fingerprint not in (None, fingerprint):
            bad.append("it was trained on other weights of the same shape (say so with --any-base if that is meant)")
        named = f" (made for {self.base_name})" if self.base_name else ""
        raise_all(CheckpointError, bad, f"the adapter{named} is not for {base}")


@dataclass
class Merged:
    """What a merge changed, with the bits from before."""

    before: dict[str, tuple[Tensor, Tensor]]  # name -> (the model's tensor, a copy of its old content)

    def undo(self) -> None:
        """Give every changed tensor its old bits back."""
        with torch.no_grad():
            for weight, old in self.before.values():
                weight.copy_(old)
        self.before = {}


def merge(model: nn.Module, adapter: Adapter, keep: bool = True) -> Merged:
    """Add the adapter to the model's weights in place: float32 (float64 for such weights), then one rounding.

    Args:
        keep: remember the old bits for ``Merged.undo``; costs the memory of the changed tensors.

    Raises:
        CheckpointError: the adapter is for another model; nothing was changed then.
    """
    return _add(model, adapter, 1, keep, compare=True)


def unmerge(model: nn.Module, adapter: Adapter) -> None:
    """Subtract a merged adapter: the old weights up to one rounding of each number (``Merged.undo`` is exact).

    Raises:
        CheckpointError: the adapter is for another model; nothing was changed then.
    """
    _add(model, adapter, -1, keep=False, compare=False)


def _add(model: nn.Module, adapter: Adapter, sign: int, keep: bool, compare: bool) -> Merged:
    weights = dict(model.state_dict(keep_vars=False))
    config = getattr(model, "config", None)
    found = model_fingerprint(model) if compare and adapter.base_fingerprint is not None else None
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    adapter.check(
        shapes,
        "this model",
        found,
        bool(getattr(config, "tie_word_embeddings", False)),
        weights.__getitem__ if compare else None,
    )
    before: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for name, part in adapter.parts.items():
            weight = weights[name]
            if keep:
                before[name] = (weight, weight.clone())
            if weight.dim() == 2:
                add_to(weight, part, sign)
            else:
                for expert, matrix in enumerate(weight):  # one at a time: a stack in float32 may not fit beside the model
                    add_to(matrix, part, sign, expert)
    return Merged(before)


def add_to(weight_OI: Tensor, part: LowRank, sign: int = 1, expert: int | None = None, rows: slice = slice(None)) -> None:
    """``weight += sign · s · B A`` in place with one rounding. Memory: the matrix in float32."""
    dtype = torch.float64 if weight_OI.dtype == torch.float64 else torch.float32
    weight_OI.copy_(weight_OI.to(dtype) + sign * part.delta(expert, rows, dtype).to(weight_OI.device))


def fingerprint(shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], layers: int) -> str:
    """A hash that tells base models apart: names, shapes and 64 numbers of each attention matrix, norm and the embedding.

    It is the same for a checkpoint opened as float32 or as bfloat16, as long as bfloat16 holds what is on disk.

    Args:
        shapes: by name, of a model or of a checkpoint folder.
        read: gives a tensor by name.
        layers: how many layers count (MTP layers do not).
    """
    digest = hashlib.sha256()
    for name in sorted(shapes):
        match = _ALIKE.fullmatch(name)
        if match is None or (match[1] is not None and int(match[1]) >= layers):
            continue
        flat = read(name).detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].to(device="cpu", dtype=torch.bfloat16)
        digest.update(f"{name}{list(shapes[name])}".encode())
        digest.update(some.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """``fingerprint`` of a Decoder."""
    weights = model.state_dict()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    return fingerprint(shapes, weights.__getitem__, model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]


def targets(names: Iterable[str], target_modules: str | Iterable[str], exclude: str | Iterable[str] | None = None) -> list[str]:
    """Which weights a PEFT-style description means.

    Args:
        names: the model's parameter names; two-dimensional ``….weight`` of linear layers and stacked experts are candidates.
        target_modules: ends of module names (``["q_proj", "experts.down_proj"]``), a regular expression that must match the
            whole name, or ``"all-linear"``: every linear layer and expert but head, embedding and routers.
        exclude: in the same two forms.

    Raises:
        CheckpointError: a description that is no regular expression, or that no module matches.
    """
    candidates = {name.removesuffix(".weight"): name for name in names if _is_linear(name)}
    if target_modules == "all-linear":
        chosen = [m for m in candidates if not re.search(r"(^|\.)(lm_head|embed_tokens|gate|router|shared_expert_gate)$", m)]
    else:
        chosen = [m for m in candidates if matches(m, target_modules)]
        parts = [target_modules] if isinstance(target_modules, str) else [[end] for end in target_modules]
        lost = [part for part in parts if not any(matches(m, part) for m in candidates)]
        raise_all(CheckpointError, [f"target_modules {part!r} matches no layer of the model" for part in lost])
    return [candidates[m] for m in chosen if exclude is None or not matches(m, exclude)]


def matches(module: str, description: str | Iterable[str]) -> bool:
    """PEFT's rule: a text is a regular expression for the whole name, a list holds whole names or their ends."""
    if isinstance(description, str):
        return _one(module, description, False)
    return any(_one(module, end, True) for end in description)


def _one(module: str, text: str, end: bool) -> bool:
    if end:
        return module == text or module.endswith(f".{text}")
    try:
        return re.fullmatch(text, module) is not None
    except re.error as error:
        raise CheckpointError(f"target_modules {text!r} is no regular expression: {error}") from None


def _is_linear(name: str) -> bool:
    if re.search(r"\.experts\.(gate_up|down)_proj$", name):
        return True
    return name.endswith(".weight") and not re.search(r"norm\.weight$", name)
