"""What ``seekling run`` does after pretraining: lessons, practice, evaluation. No torch here: the command line builds its flags
from it."""

import dataclasses
from dataclasses import dataclass

from seekling.knobs import knob
from seekling.tree import Tree

FULL_STEPS = 300  # lesson steps and practice steps of a run of the default length; short runs get fewer
FULL_PRACTICE = 150


@dataclass(frozen=True)
class LessonsPart:
    """After pretraining: worked problems (SFT), then practice by reward (GRPO)"""

    teach: bool = knob(True, "teach after pretraining; --no-teach stops with the base model")
    tasks: tuple[str, ...] = knob(("comparison@2", "sorting@1"), "tasks of lessons and practice, NAME@LEVEL")
    lessons: int = knob(3000, "worked problems of each task", low=4)
    talks: int = knob(3000, "ordinary conversations among the lessons", low=0)
    sft_steps: int = knob(
        None, "most optimizer steps on the lessons", low=1, derived=f"{FULL_STEPS}, fewer after short pretraining"
    )
    sft_lr: float = knob(1e-3, "peak learning rate of the lessons", above=0, high=1)
    until: float = knob(
        0.4, "share of problems right at which lessons end, early enough for practice to differ", above=0, high=1
    )
    grpo_steps: int = knob(None, "steps of practice", low=1, derived=f"{FULL_PRACTICE}, fewer after short pretraining")
    grpo_lr: float = knob(1.5e-4, "peak learning rate of practice", above=0, high=1)
    problems: int = knob(32, "problems of a practice step", low=1)
    group: int = knob(16, "answers to each problem", low=2, high=128)
    max_tokens: int = knob(40, "longest answer, thinking included", low=1)
    eval_problems: int = knob(200, "unseen problems of each task in an evaluation", low=1)
    drawn: int = knob(8, "answers drawn to each of them for pass@k and maj@k", low=2, high=64)
    done: bool = knob(False, "every derived value is filled in", flag=False)


@dataclass(frozen=True)
class StoryRecipe(Tree):
    """The teaching part of ``seekling run``, saved as story.toml in the run folder."""

    story: LessonsPart = dataclasses.field(default_factory=LessonsPart)

    @classmethod
    def verb(cls) -> str:
        return "run"

    def resolved(self, pretraining_steps: int) -> "StoryRecipe":
        """Every derived value, from the steps of pretraining alone."""
        story = self.story
        return self.override(
            dict(
                sft_steps=story.sft_steps or max(4, min(FULL_STEPS, pretraining_steps // 4)),
                grpo_steps=story.grpo_steps or max(4, min(FULL_PRACTICE, pretraining_steps // 8)),
                done=True,
            )
        )
