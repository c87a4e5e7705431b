"""The one training loop. Pretraining, SFT, GRPO and distillation hand it an :class:`Objective` and read it unchanged.

One step: load the micro-batches of that step, add up their gradients in float32, clip, update the weights, move the routers'
biases by the loads of the whole batch, write a log line; then evaluate, sample and save where due. Whatever a step needs
follows from its number and from the checkpoint, so a run that stops anywhere goes on bit for bit.

Shapes: L routers, E experts.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seekling.errors import CheckpointError, SeeklingError
from seekling.origin import origin
from seekling.train.log import Progress, RunLog
from seekling.train.optim import Optimizer
from seekling.train.state import Checkpoints, Saved, random_state, set_random_state
from seekling.train.stopping import Interrupted, stop_signals


@dataclass
class Terms:
    """What one micro-batch contributes.

    Args:
        loss: its share of the step's loss: micro-batches add up, so it is already divided by the step's target tokens.
        targets, positions: target tokens and token places computed, padding included.
        means: name -> (sum, count); the log gets Σ sum / Σ count over the step.
        loads_LE: tokens each expert of each router received, or None where routers must not move.
    """

    loss: Tensor
    targets: int
    positions: int
    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    loads_LE: Tensor | None = None


class Objective(Protocol):
    """What is trained on and what is minimised. Both must depend on the step number and the weights only.

    One that does more than read data in ``load`` tells how long in ``phases``: name -> (tokens, seconds) of the last call; the
    log then has the tokens a second of each, and of the update.

    One that does keep something from step to step gives it as ``state()``, tensors by name, which every checkpoint holds, and
    takes it back with ``load_state``; ``state_bytes`` is what it will come to.
    """

    def load(self, step: int) -> Sequence[Any]:
        """The micro-batches of optimizer step ``step`` (0 = the first)."""
        ...

    def terms(self, micro: Any, step: int) -> Terms:
        """Forward pass and loss of one of them."""
        ...


@dataclass(frozen=True)
class Hook:
    """Something done every ``every`` steps, not after the last one: ``run(step)`` returns what the log line holds.

    A run ends early, as if this were its last step, where ``enough`` is true in it.
    """

    kind: str
    every: int
    run: Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True)
class LoopSettings:
    """How the loop steps. ``lr`` and ``router_speed`` are functions of the step; ``clip`` 0 means no clipping.

    ``stop_every`` says after which steps a run may be stopped: those whose number it divides, where some share what the weights
    before the first of them brought forth. ``flops_per_token`` and ``peak_flops`` (operations a second) turn speed into
    utilisation when both are known; ``verb`` is the command that goes on with an interrupted run.
    """

    steps: int
    lr: Callable[[int], float]
    router_speed: Callable[[int], float] = lambda step: 0.0
    clip: float = 1.0
    log_every: int = 1
    save_every: int = 0
    stop_every: int = 1
    give_up_after: int = 10
    flops_per_token: float = 0.0
    peak_flops: float = 0.0
    verb: str = "pretrain"


class Loop:
    """Runs an objective from step ``self.step`` to the end.

    Args:
        model: in the compute dtype of ``optimizer``; ``update_router_bias`` is called where loads are given.
        checkpoints, write_model: where and how to save; ``checkpoints`` None saves nothing. ``write_model(folder)`` must write
            the float32 weights (``optimizer.weights.full_state``) and the router biases.
        pinned: values every checkpoint carries and every resume must find unchanged (recipe and data fingerprints).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        objective: Objective,
        settings: LoopSettings,
        *,
        log: RunLog | None = None,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
        write_model: Callable[[Path], None] = lambda folder: None,
        model_bytes: int = 0,
        hooks: Sequence[Hook] = (),
        pinned: Mapping[str, Any] | None = None,
    ) -> None:
        self.model: Any = model  # a Module, or whatever wraps one and passes update_router_bias through
        self.optimizer, self.objective, self.settings = optimizer, objective, settings
        self.log, self.progress, self.hooks = log, progress or Progress(None, settings.steps), hooks
        self.checkpoints, self.write_model, self.model_bytes = checkpoints, write_model, model_bytes
        self.pinned = dict(pinned or {})
        self.step = 0
        self.tokens = 0
        self.targets = 0
        self.elapsed = 0.0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.hooks_done = True  # whether evaluations and samples due after this step have run
        self.saved_step: int | None = None
        self.enough = False  # a hook found that nothing more is to be learned
        self._last_tick: float | None = None
        self._outside: dict[str, float] = {}  # seconds spent saving, evaluating … since the last step line

    # ---- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step and save it.

        Raises:
            Interrupted: after SIGINT or SIGTERM, once the running step, or the last of its ``stop_every``, is done and saved.
            SeeklingError: the loss was not finite for ``give_up_after`` steps in a row, or a checkpoint cannot be written.
        """
        self._tick()
        with stop_signals() as asked:
            self.progress.open()
            try:
                if self.step > 0 and not self.hooks_done:  # the stop came before them
                    self._run_hooks()
                while self.step < self.settings.steps and not self._stops(asked) and not self.enough:
                    self.one_step()
                    if self._stops(asked):
                        break
                    self._run_hooks()
                    if self.settings.save_every and self.step % self.settings.save_every == 0:
                        self.save()
                self.save()
            finally:
                self.progress.close()
            if asked and self.step < self.settings.steps and not self.enough:
                run = self.checkpoints.folder.parent if self.checkpoints else "the run"
                where = f"saved at step {self.step} of {self.settings.steps}" if self.checkpoints else "nothing was saved"
                raise Interrupted(asked[0], f"stopped: {where}; go on with: seekling {self.settings.verb} --resume {run}")

    def _stops(self, asked: Sequence[int]) -> bool:
        return bool(asked) and self.step % self.settings.stop_every == 0

    def one_step(self) -> None:
        """One optimizer step: gradients of all micro-batches, update, router biases, log line."""
        s, step, clock = self.settings, self.step, Phases()
        self.model.train()
        micros = self.objective.load(step)
        clock.done("data")
        total = Sums()
        for micro in micros:
            terms = self.objective.terms(micro, step)
            if terms.loss.requires_grad:
                terms.loss.backward()
            total.add(terms)
        clock.done("compute")
        lr = s.lr(step)
        norm = self.optimizer.scale_and_clip(1.0, s.clip or None)
        why_not = total.why_not(norm)
        if why_not:
            self.optimizer.zero_grad()
        else:
            self.optimizer.step(lr)
            if total.loads_LE is not None:
                self.model.update_router_bias(total.loads_LE, s.router_speed(step))
        clock.done("optimizer")
        self.step += 1
        self.hooks_done = False
        self.tokens += total.positions
        self.targets += total.targets
        self._tick()
        self._report(total, lr, norm, clock)
        self._count_skip(why_not)

    def _count_skip(self, why_not: str) -> None:
        if not why_not:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        row, limit = self.skipped_in_a_row, self.settings.give_up_after
        if self.log:
            self.log.write("event", self.step, what="skipped step", why=why_not, in_a_row=row)
        self.progress.say(f"step {self.step} skipped: {why_not} ({row} in a row)")
        if row >= limit:
            raise SeeklingError(
                f"{row} steps in a row were skipped, the last because {why_not}; the weights are still those of step "
                f"{self.step - row}: start again with a lower --lr or a longer --warmup, or look at the data of these steps"
            )

    def _report(self, total: "Sums", lr: float, norm: float, clock: "Phases") -> None:
        speed = total.positions / max(1e-9, clock.total())
        self.progress.step(self.step, total.loss, speed)
        s = self.settings
        if self.log is None or (self.step % s.log_every and self.step != s.steps):
            return
        record: dict[str, Any] = {
            "tokens": self.tokens,
            "loss": total.loss,
            **total.averages(),
            "lr": lr,
            "grad_norm": norm,
            "real_share": total.targets / max(1, total.positions),
        }
        if total.loads_LE is not None:
            record["maxvio"] = max_violation(total.loads_LE)
        record["tokens_per_second"] = round(speed, 1)
        if s.flops_per_token and s.peak_flops:
            record["utilisation"] = round(speed * s.flops_per_token / s.peak_flops, 4)
        phases = dict(getattr(self.objective, "phases", {}))
        if phases:
            phases["update"] = total.positions, clock.seconds["compute"] + clock.seconds["optimizer"]
            record["speeds"] = {name: round(n / seconds, 1) for name, (n, seconds) in phases.items() if n and seconds > 0}
        record["seconds"] = {k: round(v, 4) for k, v in {**clock.seconds, **self._outside}.items()}
        record["elapsed"] = round(self.elapsed, 2)
        self._outside = {}
        self.log.write("step", self.step, **record)

    def _run_hooks(self) -> None:
        """Hooks due after the step just done."""
        self.hooks_done = True
        for hook in self.hooks:
            if hook.every <= 0 or self.step % hook.every or self.step == self.settings.steps:
                continue
            began = time.monotonic()
            values = hook.run(self.step)
            self.enough |= bool(values.get("enough"))
            if self.log is not None:
                self.log.write(hook.kind, self.step, **values)
            self._outside[hook.kind] = self._outside.get(hook.kind, 0.0) + time.monotonic() - began

    def _tick(self) -> None:
        """Add the time since the last call to ``elapsed``, which sums over all sessions of the run."""
        now = time.monotonic()
        if self._last_tick is not None:
            self.elapsed += now - self._last_tick
        self._last_tick = now

    # ---- saving --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the current step unless it exists already."""
        if self.checkpoints is None or self.saved_step == self.step:
            return
        began = time.monotonic()
        if self.log is not None:
            self.log.sync()
        self._tick()
        torch_state, generators = random_state()
        own: Mapping[str, Tensor] = getattr(self.objective, "state", dict)()
        tensors = self.optimizer.state() | {"random.torch": torch_state} | {f"objective.{name}": t for name, t in own.items()}
        values = {
            "optimizer_steps": self.optimizer.steps_done,
            "tokens": self.tokens,
            "targets": self.targets,
            "elapsed": self.elapsed,
            "hooks_done": self.hooks_done or self.step == self.settings.steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "random": generators,
            "pinned": self.pinned,
            "versions": {"torch": torch.__version__, "threads": torch.get_num_threads(), **origin()},
        }
        self.checkpoints.save(self.step, self.write_model, tensors, values, self.model_bytes)
        self.saved_step = self.step
        self._outside["save"] = self._outside.get("save", 0.0) + time.monotonic() - began

    def restore(self, saved: Saved) -> None:
        """Put a saved state back; the optimizer must have been made over the float32 weights and biases of ``saved.path``.

        Raises:
            CheckpointError: it was saved under another recipe or other data.
        """
        before = saved.values["pinned"]
        other = [k for k in self.pinned.keys() | before.keys() if self.pinned.get(k) != before.get(k)]
        if other:
            raise CheckpointError(
                f"{saved.path} was saved with another {' and '.join(sorted(other))}; put the original back, or start a new "
                "run with another --out"
            )
        tensors = dict(saved.tensors)
        torch_state = tensors.pop("random.torch")
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith("objective.")}
        if own:
            self.objective.load_state({name.removeprefix("objective."): t for name, t in own.items()})  # type: ignore[attr-defined]
        v = saved.values
        self.optimizer.load_state(tensors, v["optimizer_steps"])
        self.step = self.saved_step = saved.step
        self.tokens, self.targets, self.elapsed = v["tokens"], v["targets"], v["elapsed"]
        self.hooks_done = v["hooks_done"]
        self.skipped, self.skipped_in_a_row = v["skipped"], v["skipped_in_a_row"]
        set_random_state(torch_state, v["random"])
        self.progress.resumed(self.step)


def max_violation(loads_LE: Tensor) -> list[float | None]:
    """MaxVio of every router: (largest load − mean) / mean (arXiv 2408.15664); None where no token was routed."""
    loads = loads_LE.double()
    mean_L = loads.mean(1)
    vio_L = (loads.amax(1) - mean_L) / mean_L.clamp(min=1e-9)
    return [round(float(v), 4) if m > 0 else None for v, m in zip(vio_L, mean_L, strict=True)]


class Sums:
    """Adds up the micro-batches of a step."""

    def __init__(self) -> None:
        self.loss, self.targets, self.positions = 0.0, 0, 0
        self.means: dict[str, tuple[float, float]] = {}
        self.loads_LE: Tensor | None = None

    def add(self, terms: Terms) -> None:
        self.loss += float(terms.loss.detach())
        self.targets += terms.targets
        self.positions += terms.positions
        for name, (value, count) in terms.means.items():
            before = self.means.get(name, (0.0, 0.0))
            self.means[name] = (before[0] + float(value), before[1] + float(count))
        if terms.loads_LE is not None:
            self.loads_LE = terms.loads_LE if self.loads_LE is None else self.loads_LE + terms.loads_LE

    def averages(self) -> dict[str, float]:
        return {name: value / count for name, (value, count) in self.means.items() if count > 0}

    def why_not(self, norm: float) -> str:
        """Why this step must not change the weights; empty when it may."""
        if not math.isfinite(self.loss):
            return f"its loss is {self.loss}"
        if not math.isfinite(norm):
            return f"its gradient norm is {norm}"
        return "it has no target token" if self.targets == 0 else ""


class Phases:
    """Seconds by phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def done(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def total(self) -> float:
        return sum(self.seconds.values())
