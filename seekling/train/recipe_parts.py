"""The sections that all stages after pretraining share, and what contradicts in them. No torch here: the command line builds
its flags from it."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from seekling.knobs import knob
from seekling.quants import QUANTS
from seekling.recipe import unused_by_schedule
from seekling.tree import knobs_of


@dataclass(frozen=True)
class StartPart:
    """Where it starts, where it goes"""

    model: str = knob("", "run, checkpoint folder, GGUF file or pulled name to start from")
    out: str = knob(None, "run folder", derived="runs/<stage>-<n>, the first that is free")
    seed: int = knob(0, "seed of adapters, data order and samples", low=0, high=2**63 - 1)
    device: str = knob("cpu", "device to train on", choices=("cpu", "cuda", "mps"))
    threads: int = knob(None, "worker threads", low=1, high=4096, derived="usable cores")
    command: str = knob("", "the command that started the run", flag=False)
    resolved: bool = knob(False, "every derived value is filled in and fixed", flag=False)


@dataclass(frozen=True)
class LoraPart:
    """Low-rank adapters instead of full weights"""

    lora: int = knob(0, "rank of the adapters; 0 = train all weights", low=0, high=4096)
    lora_alpha: float = knob(None, "scale of the adapters times their rank", above=0, high=1e6, derived="twice the rank")
    lora_targets: tuple[str, ...] = knob(("all-linear",), "layers: q_proj … experts, or all-linear")
    lora_dropout: float = knob(0.0, "dropout before the adapters", low=0, below=1)
    rslora: bool = knob(False, "rank-stabilised scale: alpha / √rank")
    lora_shared_a: bool = knob(False, "one A for all experts of a layer")
    base_quant: str = knob(
        "", "pack the frozen base: 8 or 4 bits, or a GGUF file's blocks as they are", choices=("", *QUANTS, "gguf")
    )


@dataclass(frozen=True)
class OptimPart:
    """How it is learned"""

    steps: int = knob(None, "optimizer steps", low=1, derived="epochs")
    optimizer: str = knob("adamw", "optimizer of the matrices; the rest is always AdamW", choices=("adamw", "muon"))
    lr: float = knob(None, "peak learning rate", above=0, high=1, derived="5e-4 with LoRA, 1e-4 for full weights")
    schedule: str = knob("cosine", "after warm-up", choices=("wsd", "cosine", "constant"))
    warmup: int = knob(None, "steps of linear warm-up", low=0, derived="5 % of steps")
    decay_fraction: float = knob(0.4, "wsd: share of steps spent in decay", low=0, high=1)
    min_lr_ratio: float = knob(0.1, "final over peak learning rate", low=0, high=1)
    beta1: float = knob(0.9, "AdamW first-moment decay", low=0, below=1)
    beta2: float = knob(0.95, "AdamW second-moment decay", low=0, below=1)
    momentum: float = knob(0.95, "Muon momentum", low=0, below=1)
    ns_steps: int = knob(5, "Muon's Newton-Schulz steps", low=1, high=20)
    weight_decay: float = knob(0.0, "decoupled weight decay of matrices", low=0, high=10)
    clip: float = knob(1.0, "largest gradient norm; 0 = no clipping", low=0)
    dtype: str = knob(
        "auto", "compute type", choices=("auto", "bfloat16", "float32"), derived="what the machine multiplies natively"
    )
    loss_chunk: int = knob(1024, "tokens whose logits are held at once", low=1)
    save_every: int = knob(None, "steps between checkpoints", low=1, derived="steps / 4")
    keep: int = knob(2, "checkpoints kept; 0 = all", low=0)
    eval_every: int = knob(None, "steps between evaluations", low=1, derived="steps / 8")
    log_every: int = knob(1, "steps between log lines", low=1)
    trackers: tuple[str, ...] = knob((), "further log writers", choices=("tensorboard", "wandb"))

    # What `Schedules.of` and the loop ask of every recipe; these stages keep them, most at nothing.
    @property
    def mtp_weight(self) -> float:
        return 0.0

    @property
    def bias_update_speed(self) -> float:
        return 0.0

    @property
    def mtp_weight_late(self) -> float:
        return self.mtp_weight

    @property
    def bias_freeze_fraction(self) -> float:
        return 0.0


def contradictions(recipe: Any) -> list[str]:
    """What contradicts in the sections start, lora and learn of any of these recipes."""
    start, lora, learn, bad = recipe.start, recipe.lora, recipe.learn, []
    epochs, micro = getattr(learn, "epochs", None), getattr(learn, "micro_batch", None)
    if not start.resolved and learn.steps is not None and epochs is not None:
        bad.append("--steps and --epochs contradict each other: give one of them")
    if not start.resolved:
        bad += unused_by_schedule(learn)
    if micro and learn.batch_size % micro:
        bad.append(f"micro_batch {micro} does not divide batch_size {learn.batch_size}")
    if lora.base_quant and not lora.lora:
        bad.append(f"--base-quant {lora.base_quant} freezes the base: give --lora, the rank of the adapters that are trained")
    if lora.base_quant and start.device != "cpu":
        bad.append(f"--base-quant computes on the CPU: drop it, or --device {start.device}")
    return bad


def steps_of(epochs: float, rows: int, batch: int) -> int:
    """Steps of so many passes over the rows; passes are saved with twelve digits."""
    return max(1, math.ceil(rows * epochs / batch * (1 - 1e-9)))


def relaxed(recipe: Any, values: dict[str, Any], more: Collection[str] = ()) -> dict[str, Any]:
    """Changes to a recipe of any of these stages; on a resolved one with all that is derived again because of them.

    Of the length what is given counts. Else the passes over the data stay where data, rows or the batch change (without passes
    the number of examples seen), and the steps in all other cases.

    Args:
        more: further fields from which something follows in this stage.
    """
    old = recipe.flat()
    changed = {name for name, value in values.items() if value != old[name]}
    length = changed & {"steps", "epochs", "batch_size", "updates"}
    passes = old.get("epochs") is not None
    rows = changed & {"data", "seq_len", "heldout"} if passes else set()
    if not old["resolved"] or "resolved" in values or not length | rows | changed & {"lora", *more}:
        return values
    again: dict[str, Any] = {"epochs": None}
    if "epochs" in changed:
        again = {"steps": None}
    elif (rows or (passes and "batch_size" in changed)) and "steps" not in changed:
        again = {"steps": None, "epochs": old["epochs"]}
    elif "batch_size" in changed and "steps" not in changed:
        again["steps"] = math.ceil(old["steps"] * old["batch_size"] / values["batch_size"])
    follows = ["warmup", "save_every", "eval_every"] if length or rows else []
    follows += ["micro_batch"] if rows or "batch_size" in changed else []
    follows += ["seq_len"] if rows & {"data"} else []
    follows += ["lora_alpha"] if "lora" in changed else []
    if "lora" in changed and not (values["lora"] and old["lora"]):
        follows.append("lr")
        again["mtp_weight"] = knobs_of(type(recipe))["mtp_weight"].default if "mtp_weight" in old else None
    again |= dict.fromkeys(follows)
    return {**{name: value for name, value in again.items() if name in old}, "resolved": False, **values}
