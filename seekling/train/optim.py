"""AdamW and Muon over float32 master weights, with every parameter owned by exactly one group.

Groups (V3 §4.2 for AdamW, V4's settings for Muon):

- ``no_decay``  norms, biases, the input embedding: AdamW. A row of the table is only touched when its token occurs, so decay
  would fade rare tokens.
- ``adamw``     output head and routers, when the matrices go to Muon: AdamW with weight decay.
- ``matrix``    every other linear and the stacked experts (E, out, in): AdamW or Muon, with weight decay.

Muon (Jordan et al. 2024 as DeepSeek-V4 sets it): Nesterov momentum 0.95, the momentum matrix made nearly orthogonal by ten
Newton–Schulz steps and scaled by 0.18·√max(out, in). An update then has the root mean square of an AdamW update, so one
learning rate serves both.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seekling.errors import CheckpointError, RecipeError
from seekling.train.precision import MasterWeights, has_fast_bfloat16

NO_DECAY, ADAMW, MATRIX = "no_decay", "adamw", "matrix"
QUINTIC, POLISH = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)


@dataclass(frozen=True)
class OptimSettings:
    """What the optimizer is told once; the learning rate comes with every step.

    ``ns_steps`` counts all Newton–Schulz iterations; from 8 on, the last two polish (V4: 8 + 2; Jordan et al.: 5 + 0).
    """

    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    update_rms: float = 0.18
    ns_steps: int = 10

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise RecipeError(f"optimizer {self.name!r} is not known; use adamw or muon")

    @classmethod
    def of(cls, train: Any) -> "OptimSettings":
        """What the section of a recipe asks for that says how it is learned."""
        return cls(
            train.optimizer,
            train.beta1,
            train.beta2,
            weight_decay=train.weight_decay,
            momentum=train.momentum,
            ns_steps=train.ns_steps,
        )


Rule = tuple[str, Callable[[str, Tensor], bool]]


def rules(optimizer: str) -> list[Rule]:
    """Who owns what: (group, predicate) pairs, exactly one of which must accept each parameter."""

    def plain(name: str, p: Tensor) -> bool:
        return p.dim() < 2 or name.endswith("embed_tokens.weight")

    def apart(name: str) -> bool:
        return optimizer == "muon" and name.endswith(("lm_head.weight", "mlp.gate.weight"))

    return [
        (NO_DECAY, plain),
        (ADAMW, lambda n, p: not plain(n, p) and apart(n)),
        (MATRIX, lambda n, p: not plain(n, p) and not apart(n) and p.dim() in (2, 3)),
    ]


def assign_groups(named: Iterable[tuple[str, Tensor]], rules_: list[Rule]) -> dict[str, str]:
    """Group of every parameter, by name.

    Raises:
        ValueError: a parameter is claimed by none or by several groups (a mistake in the rules, not of the user).
    """
    owner: dict[str, str] = {}
    for name, p in named:
        claims = [group for group, accepts in rules_ if accepts(name, p)]
        if len(claims) != 1:
            who = claims or "no optimizer group"
            raise ValueError(f"parameter {name} {tuple(p.shape)} belongs to {who}; exactly one must own it")
        owner[name] = claims[0]
    return owner


class Optimizer:
    """AdamW or Muon + AdamW over :class:`MasterWeights`; :meth:`step` takes the learning rate.

    Args:
        model: its parameters are cast to ``dtype`` here; the float32 masters live in ``self.weights``.
        settings: optimizer name and constants.
        dtype: compute dtype of the module.
    """

    def __init__(self, model: nn.Module, settings: OptimSettings, dtype: torch.dtype = torch.float32) -> None:
        self.settings = settings
        self.weights = MasterWeights(model, dtype)
        self.owner = assign_groups(self.weights.params.items(), rules(settings.name))
        self.steps_done = 0
        values = self.weights.values
        muon = {n for n, g in self.owner.items() if g == MATRIX} if settings.name == "muon" else set()
        self.adam = AdamW({n: v for n, v in values.items() if n not in muon}, self.owner, settings)
        self.muon = Muon({n: values[n] for n in values if n in muon}, settings)

    def zero_grad(self) -> None:
        self.weights.zero_grad()

    @torch.no_grad()
    def scale_and_clip(self, scale: float, max_norm: float | None) -> float:
        """Multiply the gradient sums by ``scale``, clip them to ``max_norm`` (None: never) and return the norm before clipping.

        A norm that is not finite is returned as it is and the gradients are left alone; the caller skips the step.
        """
        grads = list(self.weights.grads().values())
        if not grads:
            return 0.0
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)).double())) * scale
        if norm != norm or norm == float("inf"):
            return norm
        factor = scale * min(1.0, max_norm / (norm + 1e-6)) if max_norm else scale
        if factor != 1.0:
            torch._foreach_mul_(grads, factor)
        return norm

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, round the masters into the module, drop the gradients."""
        grads = self.weights.grads()
        self.steps_done += 1
        self.adam.step({n: g for n, g in grads.items() if n in self.adam.values}, lr, self.steps_done)
        self.muon.step({n: g for n, g in grads.items() if n in self.muon.values}, lr)
        self.weights.write_back()
        self.weights.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Moments and momenta; with the float32 weights (``weights.full_state``) all that an exact resume needs."""
        return self.adam.state() | self.muon.state()

    @torch.no_grad()
    def load_state(self, saved: Mapping[str, Tensor], steps_done: int) -> None:
        """Put a saved state back, bit for bit.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of another shape (another recipe's checkpoint).
        """
        own = self.state()
        wrong = [n for n in own if n not in saved or saved[n].shape != own[n].shape] + [n for n in saved if n not in own]
        if wrong:
            raise CheckpointError(
                f"the optimizer state does not belong to this model and optimizer: {len(wrong)} tensors differ, "
                f"first {wrong[0]}; resume with the recipe the run was started with"
            )
        for name, tensor in own.items():
            tensor.copy_(saved[name])
        self.steps_done = steps_done

    def state_bytes(self) -> int:
        """Bytes of :meth:`state`, for the memory and disk estimates."""
        return sum(t.numel() * t.element_size() for t in self.state().values())


class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019) through torch's fused CPU kernel; one step count for all parameters."""

    def __init__(self, values: dict[str, Tensor], owner: dict[str, str], settings: OptimSettings) -> None:
        self.values, self.owner, self.settings = values, owner, settings
        self.mean = {n: torch.zeros_like(v) for n, v in values.items()}
        self.square = {n: torch.zeros_like(v) for n, v in values.items()}

    def step(self, grads: dict[str, Tensor], lr: float, count: int) -> None:
        device = next((v.device for v in self.values.values()), None)
        t = torch.tensor(float(count), device=device)
        for decays in (True, False):
            names = [n for n in grads if (self.owner[n] != NO_DECAY) == decays]
            if not names:
                continue
            torch._fused_adamw_(
                [self.values[n] for n in names],
                [grads[n] for n in names],
                [self.mean[n] for n in names],
                [self.square[n] for n in names],
                [],
                [t] * len(names),
                amsgrad=False,
                lr=lr,
                beta1=self.settings.beta1,
                beta2=self.settings.beta2,
                weight_decay=self.settings.weight_decay if decays else 0.0,
                eps=self.settings.eps,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        return {f"mean.{n}": t for n, t in self.mean.items()} | {f"square.{n}": t for n, t in self.square.items()}


class Muon:
    """Momentum made orthogonal; matrices of one shape, experts included, run through Newton–Schulz as one batch."""

    CHUNK_ELEMENTS = 1 << 20  # one batch and its scratch stay near the caches

    def __init__(self, values: dict[str, Tensor], settings: OptimSettings) -> None:
        self.values, self.settings = values, settings
        self.momentum = {n: torch.zeros_like(v) for n, v in values.items()}
        self.dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32

    def step(self, grads: dict[str, Tensor], lr: float) -> None:
        if not grads:
            return
        s = self.settings
        names = list(grads)
        momenta = [self.momentum[n] for n in names]
        torch._foreach_mul_(momenta, s.momentum)
        torch._foreach_add_(momenta, [grads[n] for n in names])
        torch._foreach_add_([grads[n] for n in names], momenta, alpha=s.momentum)  # Nesterov: g + μ·m, in the gradient's place
        torch._foreach_mul_([self.values[n] for n in names], 1 - lr * s.weight_decay)
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for n in names:
            for value, update in zip(matrices(n, self.values[n]), matrices(n, grads[n]), strict=True):
                by_shape.setdefault((value.shape[-2], value.shape[-1]), []).append((value, update))
        for (rows, cols), pairs in by_shape.items():
            factor = lr * s.update_rms * max(rows, cols) ** 0.5
            for batch in _chunks(pairs, max(1, self.CHUNK_ELEMENTS // (rows * cols))):
                x_NRC = torch.cat([u.reshape(-1, rows, cols).to(self.dtype) for _, u in batch])
                o_NRC = newton_schulz(x_NRC, s.ns_steps)
                done = 0
                for value, _ in batch:
                    end = done + value.numel() // (rows * cols)
                    value.sub_(o_NRC[done:end].reshape(value.shape), alpha=factor)
                    done = end

    def state(self) -> dict[str, Tensor]:
        return {f"momentum.{n}": t for n, t in self.momentum.items()}


def matrices(name: str, x: Tensor) -> list[Tensor]:
    """The views Muon treats as matrices: gate and up of a stacked ``gate_up_proj`` (E, 2M, D) are two separate ones."""
    return list(x.chunk(2, dim=-2)) if name.endswith("gate_up_proj") else [x]


def _chunks(pairs: list[tuple[Tensor, Tensor]], limit: int) -> Iterable[list[tuple[Tensor, Tensor]]]:
    """Runs of pairs that hold at most ``limit`` matrices together (a single stack of experts may exceed it)."""
    run: list[tuple[Tensor, Tensor]] = []
    size = 0
    for pair in pairs:
        n = pair[0].shape[0] if pair[0].dim() == 3 else 1
        if run and size + n > limit:
            yield run
            run, size = [], 0
        run.append(pair)
        size += n
    if run:
        yield run


def newton_schulz(x_NRC: Tensor, steps: int = 10) -> Tensor:
    """Nearly orthogonal factors of N matrices (N, R, C): singular values pushed to 1, singular vectors kept.

    X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, on the smaller side: first quintic steps that blow small singular values up, then,
    from 8 steps on, 2 that settle them at 1 (V4: 8 + 2). 5 leave them between 0.7 and 1.2, near enough for an update. A zero
    matrix stays zero.
    """
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]
    x = x_NRC.mT if tall else x_NRC
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    x = (x.float() / (norm + 1e-7)).to(x_NRC.dtype).contiguous()
    for i in range(steps):
        a, b, c = POLISH if steps >= 8 and i >= steps - 2 else QUINTIC
        gram = torch.bmm(x, x.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x
