"""The recipe of supervised fine-tuning. No torch here: the command line builds its flags from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from seekling.knobs import knob
from seekling.train.recipe_parts import LoraPart, OptimPart, StartPart, contradictions, relaxed
from seekling.tree import Tree


@dataclass(frozen=True)
class LearnPart(OptimPart):
    """How it is learned"""

    epochs: float = knob(None, "passes over the data", above=0, derived="2, or steps")
    batch_size: int = knob(16, "rows in an optimizer step", low=1, high=2**20)
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

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        return relaxed(self, values)

    def contradictions(self) -> list[str]:
        return contradictions(self)
