"""The recipe of learning from preferences. No torch here: the command line builds its flags from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from seekling.knobs import knob
from seekling.train.recipe_parts import LoraPart, OptimPart, StartPart, contradictions, relaxed
from seekling.tree import Tree


@dataclass(frozen=True)
class PairsPart:
    """What is read"""

    data: tuple[str, ...] = knob((), "files of pairs (.jsonl, .json): prompt, chosen, rejected")
    heldout: float = knob(0.05, "share of pairs kept for evaluation", low=0, high=0.5)


@dataclass(frozen=True)
class PreferPart:
    """The objective; see seekling.train.dpo_loss"""

    beta: float = knob(0.1, "how strongly the model is held to where it began", above=0)
    dpo_loss: str = knob("sigmoid", "DPO's logistic loss, or IPO's square", choices=("sigmoid", "ipo"))
    label_smoothing: float = knob(0.0, "share of pairs thought to be the wrong way round", low=0, below=0.5)
    nll: float = knob(0.0, "weight of ordinary cross-entropy on the chosen answers", low=0)


@dataclass(frozen=True)
class PreferLearnPart(OptimPart):
    """How it is learned"""

    epochs: float = knob(None, "passes over the pairs", above=0, derived="1, or steps")
    batch_size: int = knob(16, "pairs in an optimizer step", low=1, high=2**20)


@dataclass(frozen=True)
class DpoRecipe(Tree):
    """Everything a preference run depends on."""

    start: StartPart = dataclasses.field(default_factory=StartPart)
    pairs: PairsPart = dataclasses.field(default_factory=PairsPart)
    prefer: PreferPart = dataclasses.field(default_factory=PreferPart)
    lora: LoraPart = dataclasses.field(default_factory=LoraPart)
    learn: PreferLearnPart = dataclasses.field(default_factory=PreferLearnPart)

    @classmethod
    def verb(cls) -> str:
        return "dpo"

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        return relaxed(self, values)

    def contradictions(self) -> list[str]:
        bad = contradictions(self)
        if self.prefer.dpo_loss == "ipo" and self.prefer.label_smoothing:
            bad.append("--label-smoothing belongs to the sigmoid loss: drop it, or --dpo-loss ipo")
        return bad
