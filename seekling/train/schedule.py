"""Learning-rate, MTP-weight and router-speed schedules: pure functions of the step, so a resumed run needs no state for them.

The V3 shape (DeepSeek-V3 §4.2): linear warm-up, constant, cosine to a tenth, then two constant tails. V2's is steps of ×0.316.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seekling.errors import RecipeError, raise_all

if TYPE_CHECKING:
    from seekling.recipe import TrainPart

# Shares of V3's 14.8T tokens: constant to 10T, cosine over 4.3T, 333B at a tenth, 167B at 7.3e-6 / 2.2e-4.
V3_HOLD, V3_DECAY_END = 10.0 / 14.8, 14.3 / 14.8
V3_TAILS = ((14.3 / 14.8, 0.1), (14.633 / 14.8, 7.3e-6 / 2.2e-4))


@dataclass(frozen=True)
class Schedule:
    """Warm-up, constant, cosine decay, constant tails; all positions are steps (0 = the first optimizer step).

    Args:
        peak: learning rate after the warm-up.
        steps: optimizer steps of the whole run.
        warmup: steps of linear warm-up; step ``warmup`` is the first at the peak. Step 0 is ``peak / (warmup + 1)``, never 0.
        decay_start, decay_end: the cosine runs between them, from the peak to ``floor``·peak.
        floor: share of the peak that is left at ``decay_end`` and after it.
        tails: (first step, share of the peak) of constant pieces after the decay, in order.
        kind: ``cosine`` or ``linear`` decay.
    """

    peak: float
    steps: int
    warmup: int = 0
    decay_start: int = 0
    decay_end: int | None = None
    floor: float = 0.1
    tails: tuple[tuple[int, float], ...] = ()
    kind: str = "cosine"

    def __post_init__(self) -> None:
        end = self.steps if self.decay_end is None else self.decay_end
        bad = []
        if not self.peak > 0:
            bad.append(f"the peak learning rate must be above 0, not {self.peak!r}")
        if self.steps < 1:
            bad.append(f"steps must be at least 1, not {self.steps}")
        if not 0 <= self.warmup <= self.steps:
            bad.append(f"warm-up of {self.warmup} steps does not fit into {self.steps} steps; lower it")
        if not 0 <= self.floor <= 1:
            bad.append(f"the final share of the learning rate must lie in 0..1, not {self.floor!r}")
        if end < self.decay_start:
            bad.append(f"the decay ends at step {end}, before it starts at {self.decay_start}")
        if self.kind not in ("cosine", "linear"):
            bad.append(f"decay {self.kind!r} is not known; use cosine or linear")
        raise_all(RecipeError, bad, "schedule")

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step ``step``."""
        return self.peak * self.share(step)

    def share(self, step: int) -> float:
        """Share of the peak at ``step``, between 0 and 1."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        for first, share in reversed(self.tails):
            if step >= first:
                return share
        start = max(self.decay_start, self.warmup)
        end = self.steps if self.decay_end is None else self.decay_end
        if step <= start:
            return 1.0
        if step >= end:
            return self.floor
        x = (step - start) / (end - start)
        fall = 0.5 * (1 + math.cos(math.pi * x)) if self.kind == "cosine" else 1 - x
        return self.floor + (1 - self.floor) * fall


def v3_schedule(peak: float, steps: int, warmup: int) -> Schedule:
    """DeepSeek-V3's shape scaled to ``steps``: constant to 68 %, cosine to a tenth at 97 %, tails of 1/10 and 1/30."""
    return Schedule(
        peak,
        steps,
        warmup,
        decay_start=round(V3_HOLD * steps),
        decay_end=max(round(V3_DECAY_END * steps), round(V3_HOLD * steps)),
        floor=0.1,
        tails=tuple((round(at * steps), share) for at, share in V3_TAILS),
    )


def constant_then_decay(peak: float, steps: int, warmup: int, hold: float, floor: float) -> Schedule:
    """Warm-up, constant until the share ``hold`` of the run, cosine to ``floor``·peak at its end (hold 0: plain cosine)."""
    return Schedule(peak, steps, warmup, decay_start=round(hold * steps), floor=floor)


def piecewise(pieces: Sequence[tuple[int, float]], step: int) -> float:
    """Value of the last ``(first step, value)`` piece that has begun; V3's MTP weight and router speed change like this."""
    value = pieces[0][1]
    for first, v in pieces:
        if step >= first:
            value = v
    return value


@dataclass(frozen=True)
class Schedules:
    """Everything of a pretraining run that changes with the step."""

    lr: Schedule
    mtp_weight: tuple[tuple[int, float], ...]
    router_speed: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, train: "TrainPart") -> "Schedules":
        """The schedules a resolved recipe's train section asks for.

        The MTP weight falls when the decay starts (V3 and V4); the routing bias is frozen for the last share of the steps (V3).
        """
        peak, steps, warmup, floor = train.lr, train.steps, train.warmup, train.min_lr_ratio
        if train.schedule == "v3":
            lr = v3_schedule(peak, steps, warmup)
        elif train.schedule == "constant":
            lr = Schedule(peak, steps, warmup, floor=1.0)
        else:
            hold = 1 - train.decay_fraction if train.schedule == "wsd" else 0.0
            lr = constant_then_decay(peak, steps, warmup, hold, floor)
        late = max(lr.decay_start, warmup) if lr.floor < 1 and train.schedule != "cosine" else steps
        frozen = steps - math.floor(train.bias_freeze_fraction * steps)
        return cls(
            lr,
            ((0, train.mtp_weight), (late, train.mtp_weight_late)),
            ((0, train.bias_update_speed), (frozen, 0.0)),
        )
