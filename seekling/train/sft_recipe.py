"""The recipe of supervised fine-tuning, and the sections that all stages after pretraining share. No torch here: the command
line builds its flags from it."""

import dataclasses
from dataclasses import dataclass

from seekling.knobs import knob
from seekling.tree import Tree


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
    lora_alpha: float = knob(None, "scale of the adapters times their rank", above=0, derived="twice the rank")
    lora_targets: tuple[str, ...] = knob(("all-linear",), "layers: q_proj … experts, or all-linear")
    lora_dropout: float = knob(0.0, "dropout before the adapters", low=0, below=1)
    rslora: bool = knob(False, "rank-stabilised scale: alpha / √rank")
    lora_shared_a: bool = knob(False, "one A for all experts of a layer")


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

    # What `Schedules.of` and the loop ask of every recipe; these stages keep them.
    @property
    def mtp_weight_late(self) -> float:
        return float(getattr(self, "mtp_weight", 0.0))

    @property
    def bias_freeze_fraction(self) -> float:
        return 0.0


@dataclass(frozen=True)
class LearnPart(OptimPart):
    """How it is learned"""

    epochs: float = knob(None, "passes over the data", above=0, derived="2, or steps")
    batch_size: int = knob(16, "rows in an optimizer step", low=1)
    micro_batch: int = knob(None, "rows computed at once (gradients accumulate)", low=1, derived="4096 tokens at most")
    mtp_weight: float = knob(0.1, "λ of the MTP loss, for models that have MTP layers and full weights", low=0)
    seq_balance_alpha: float = knob(0.0, "weight of the sequence-wise balance loss", low=0)
    bias_update_speed: float = knob(0.0, "γ, step of the routing bias; 0 = frozen", low=0, below=1)


@dataclass(frozen=True)
class TalksPart:
    """What is read"""

    data: tuple[str, ...] = knob((), "files of conversations (.jsonl, .json): messages, ShareGPT, Alpaca, prompt + completion")
    seq_len: int = knob(None, "tokens in a row", low=8, high=2**20, derived="the longest conversation, 2048 at most packed")
    heldout: float = knob(0.05, "share of conversations kept for evaluation", low=0, high=0.5)


@dataclass(frozen=True)
class SftRecipe(Tree):
    """Everything a fine-tuning run depends on."""

    start: StartPart = dataclasses.field(default_factory=StartPart)
    talks: TalksPart = dataclasses.field(default_factory=TalksPart)
    lora: LoraPart = dataclasses.field(default_factory=LoraPart)
    learn: LearnPart = dataclasses.field(default_factory=LearnPart)

    @classmethod
    def verb(cls) -> str:
        return "sft"

    def contradictions(self) -> list[str]:
        bad = []
        if not self.start.resolved and self.learn.steps is not None and self.learn.epochs is not None:
            bad.append("--steps and --epochs contradict each other: give one of them")
        if self.learn.micro_batch and self.learn.batch_size % self.learn.micro_batch:
            bad.append(f"micro_batch {self.learn.micro_batch} does not divide batch_size {self.learn.batch_size}")
        return bad
