"""The recipe of distillation. No torch here: the command line builds its flags from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from seekling.knobs import knob
from seekling.train.grpo_recipe import ProblemsPart, RolloutPart
from seekling.train.recipe_parts import LoraPart, StartPart, contradictions, relaxed
from seekling.train.sft_recipe import LearnPart, TalksPart
from seekling.tree import Tree


@dataclass(frozen=True)
class TeacherPart:
    """Who teaches, and how"""

    teacher: str = knob("", "run, folder, GGUF file, pulled name, or the URL of an OpenAI-compatible API (http://host/v1)")
    method: str = knob(
        "traces",
        "traces: learn the teacher's right answers; logits: its distribution on given conversations; on-policy: its "
        "distribution on the student's own answers",
        choices=("traces", "logits", "on-policy"),
    )
    asked: int = knob(200, "traces: problems (of --tasks) that the teacher answers", low=1)
    kept: int = knob(1, "traces: different right answers kept of each problem", low=1)
    divergence: str = knob(
        None, "forward KL(teacher‖student) or reverse", choices=("forward", "reverse"), derived="forward; reverse on-policy"
    )
    hard: float = knob(0.0, "logits: share of ordinary cross-entropy in the loss", low=0, below=1)
    teacher_model: str = knob(None, "URL: which of its models", derived="the first it lists")
    teacher_key: str = knob("OPENAI_API_KEY", "URL: environment variable that holds the key, if there is one")
    teacher_calls: int = knob(4, "URL: requests at a time", low=1, high=256)


@dataclass(frozen=True)
class AskedPart(ProblemsPart):
    """What the teacher is asked, or the student practises"""

    tasks: tuple[str, ...] = knob((), "tasks (addition, chain_sum, …); or give conversations with --data")
    group: int = knob(4, "answers drawn to each problem", low=1, high=128)


@dataclass(frozen=True)
class DistillRecipe(Tree):
    """Everything a distillation depends on."""

    start: StartPart = dataclasses.field(default_factory=StartPart)
    teach: TeacherPart = dataclasses.field(default_factory=TeacherPart)
    practice: AskedPart = dataclasses.field(default_factory=AskedPart)
    draw: RolloutPart = dataclasses.field(default_factory=RolloutPart)
    talks: TalksPart = dataclasses.field(default_factory=TalksPart)
    lora: LoraPart = dataclasses.field(default_factory=LoraPart)
    learn: LearnPart = dataclasses.field(default_factory=LearnPart)

    @classmethod
    def verb(cls) -> str:
        return "distill"

    @property
    def remote(self) -> bool:
        """Whether the teacher is asked over HTTP."""
        return self.teach.teacher.startswith(("http://", "https://"))

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        asking = {f.name for part in (TeacherPart, AskedPart, RolloutPart) for f in dataclasses.fields(part)}
        again = relaxed(self, values, asking)
        if again is values:
            return values
        if self.practice.tasks and values.get("method", self.teach.method) == "traces" and not values.get("data"):
            again = relaxed(self, {**values, "data": ()}, asking)  # the teacher is asked anew: what is there now are its traces
        if "method" in values and values["method"] != self.teach.method:
            again = {**dict.fromkeys(("divergence", "lr")), **again}
        return again

    def contradictions(self) -> list[str]:
        bad, method = [*contradictions(self), *self.practice.wrong_form()], self.teach.method
        if self.remote and method != "traces":
            bad.append(f"--method {method} reads the teacher's distribution, which a URL does not give: use --method traces")
        if self.start.resolved:
            return bad
        if method == "logits" and self.practice.tasks:
            bad.append("--method logits learns on given conversations: give --data, or draw some with --method traces first")
        if method != "logits" and self.practice.tasks and self.talks.data:
            bad.append("--tasks and --data contradict each other: give one of them")
        if self.teach.hard and method != "logits":
            bad.append("--hard mixes in the given conversations' own tokens: it belongs to --method logits")
        if self.draw.rollout == "torch" and self.draw.rollout_quant:
            bad.append("--rollout-quant needs the native kernels: drop --rollout torch")
        return bad
