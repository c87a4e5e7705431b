"""The recipe of reinforcement learning with verifiable rewards. No torch here: the command line builds its flags from it."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from seekling.knobs import knob
from seekling.quants import QUANTS
from seekling.train.recipe_parts import LoraPart, OptimPart, StartPart, contradictions, relaxed
from seekling.tree import Tree


@dataclass(frozen=True)
class ProblemsPart:
    """What is practised"""

    tasks: tuple[str, ...] = knob(
        ("addition",), "tasks: own (addition, chain_sum, …), rg:NAME, FILE.jsonl[:REWARD.py]; NAME@LEVEL"
    )
    level: int = knob(1, "hardness of the problems of tasks that name none", low=1, high=9)
    problems: int = knob(8, "problems a step", low=1)
    group: int = knob(8, "answers to each problem", low=2, high=128)
    think: bool = knob(False, "let the model reason before it answers")
    tagged: bool = knob(True, "the answer must stand between <answer> and </answer>")
    form: str = knob("", "in place of tags: a regular expression for the whole reply, its group the answer")
    format_weight: float = knob(0.1, "share of the reward paid for tags or form alone", low=0, below=1)
    language: str = knob("", "also reward words of this language, thinking included", choices=("", "en", "zh"))
    language_weight: float = knob(0.1, "what a reply all in that language earns", low=0, high=1)
    overlong: int = knob(0, "take reward from answers within so many tokens of --max-tokens; 0 = none", low=0)
    system: str = knob("", "system message of every prompt")
    reward_seconds: float = knob(5.0, "longest time a reward may take; then it is stopped and counts as 0", above=0)
    eval_problems: int = knob(100, "unseen problems of each task in an evaluation", low=1)

    def wrong_form(self) -> list[str]:
        """What is wrong with ``form``."""
        try:
            groups = re.compile(self.form).groups
        except re.error as error:
            return [f"--form {self.form!r} is no regular expression: {error}"]
        if self.form and groups != 1:
            return [f"--form {self.form!r} has {groups} groups: put exactly one around the answer, (?:…) around the rest"]
        return []


@dataclass(frozen=True)
class RolloutPart:
    """How answers are drawn"""

    max_tokens: int = knob(64, "longest answer", low=1)
    temperature: float = knob(1.0, "of the draws", above=0, high=5)
    rollout: str = knob("auto", "who draws: native kernels or torch", choices=("auto", "native", "torch"))
    refill: int = knob(
        0, "most further draws of a step while fewer groups than --problems differ in reward (DAPO's dynamic sampling)", low=0
    )
    replay: bool = knob(False, "MoE: the trainer uses the experts that the sampler chose (router replay)")
    rollout_quant: str = knob("", "draw with quantised weights, which the importance weight corrects", choices=("", *QUANTS))


@dataclass(frozen=True)
class PolicyPart:
    """The objective; see seekling.train.grpo_loss for where each variant comes from"""

    updates: int = knob(1, "optimizer steps on each set of answers", low=1, high=64)
    advantage: str = knob("std", "reward minus group mean, over the deviation or not", choices=("std", "mean"))
    average: str = knob("token", "over all tokens, by answer, or by a constant", choices=("token", "sequence", "constant"))
    ratio: str = knob("token", "probability ratio of each token, or of the whole answer", choices=("token", "sequence"))
    clip_low: float = knob(0.2, "lower clip of the ratio", above=0, below=1)
    clip_high: float = knob(0.28, "upper clip of the ratio", above=0, high=10)
    kl: float = knob(0.0, "weight β of the KL term to the reference; 0 = none", low=0)
    kl_kind: str = knob("k3", "its estimator", choices=("k3", "unbiased"))
    off_policy: float = knob(0.0, "δ of the off-policy mask; 0 = none", low=0)
    truncate: float = knob(2.0, "cap of the importance weight for sampler against trainer; 0 = none", low=0)
    teacher: str = knob("", "a model whose log-probabilities are a further reward of every token (on-policy distillation)")
    teacher_weight: float = knob(1.0, "weight of that reward", above=0)
    refresh: int = knob(0, "steps after which the reference becomes the current model; 0 = never", low=0)


@dataclass(frozen=True)
class GrpoRecipe(Tree):
    """Everything a reinforcement-learning run depends on."""

    start: StartPart = dataclasses.field(default_factory=StartPart)
    practice: ProblemsPart = dataclasses.field(default_factory=ProblemsPart)
    draw: RolloutPart = dataclasses.field(default_factory=RolloutPart)
    policy: PolicyPart = dataclasses.field(default_factory=PolicyPart)
    lora: LoraPart = dataclasses.field(default_factory=LoraPart)
    learn: OptimPart = dataclasses.field(default_factory=OptimPart)

    @classmethod
    def verb(cls) -> str:
        return "grpo"

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        return relaxed(self, values)

    def contradictions(self) -> list[str]:
        bad, p = [*contradictions(self), *self.practice.wrong_form()], self.policy
        if p.truncate and self.draw.temperature != 1.0:
            bad.append("the importance weight compares probabilities at temperature 1: give --temperature 1, or --truncate 0")
        if self.draw.rollout_quant and not p.truncate:
            bad.append("--rollout-quant draws from other weights than are trained: keep --truncate above 0")
        if self.draw.rollout == "torch" and self.draw.rollout_quant:
            bad.append("--rollout-quant needs the native kernels: drop --rollout torch")
        if self.lora.base_quant and not p.truncate:
            bad.append("--base-quant draws with activations of 8 bits, unlike the trainer: keep --truncate above 0")
        if p.refresh and not p.kl:
            bad.append("--refresh moves the reference of the KL term: give --kl above 0")
        if p.refresh and self.lora.lora and not self.start.resolved:  # a run begun when it was passed over may go on
            bad.append("--refresh moves a reference of its own, and with --lora that is the base under the adapters: drop it")
        if p.updates > 1 and self.learn.save_every and self.learn.save_every % p.updates:
            bad.append(
                f"--save-every {self.learn.save_every} must be a multiple of --updates {p.updates}, so that a run can resume"
            )
        return bad
