"""What a task is, and how an answer is found in a reply and judged: exactly, or not at all."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seekling.errors import RecipeError

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.S)
LONGER = 4  # characters an answer may have beyond the right one and still be read: no pages of guesses
DRAWS = 300  # problems looked at for one on the wanted side of the split
UNSEEN = 1 / 3  # share of all questions that training never shows


@dataclass(frozen=True)
class Problem:
    """A question with its right answer; ``steps``: how a person would work it out (for worked examples); ``metadata`` is what
    a judge or a report may want."""

    question: str
    answer: str
    task: str
    level: int = 1
    steps: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A generator of problems.

    Attributes:
        make: (random numbers, level) -> (question, answer), with worked steps and metadata behind them where there are some.
        judge: (reply's answer, problem) -> right or not, or a reward from 0 to 1; None compares text after white space and
            case are put aside.
        levels: the hardest level.
        hint: how the answer must look, added to the question.
        failures: what went wrong while judging (a reward that raised, was no number, hung), counted.
        key: what the draws follow in place of the name; the problems themselves where the name says where a file lies.
    """

    name: str
    make: Callable[[random.Random, int], tuple[Any, ...]]
    judge: Callable[[str, Problem], float] | None = None
    levels: int = 3
    hint: str = ""
    failures: Counter[str] = field(default_factory=Counter, compare=False)
    key: str = ""

    def problem(self, seed: int, index: int, level: int = 1, unseen: bool | None = None) -> Problem:
        """The problem of that number: equal numbers give equal problems, whatever was made before.

        Args:
            unseen: False draws from the questions that training may show, True from the others, None from all. On which side
                a question falls depends on its text alone, so an evaluation never asks what was practised.

        Raises:
            RecipeError: no such level, or no question on that side.
        """
        self.check_level(level)
        for draw in range(DRAWS):
            again = f"/{draw}" if draw else ""
            digest = hashlib.sha256(f"{self.key or self.name}/{seed}/{index}/{level}{again}".encode()).digest()
            question, answer, *more = self.make(random.Random(int.from_bytes(digest[:8], "little")), level)
            if unseen is None or is_unseen(question) is unseen:
                return Problem(question, answer, self.name, level, *more)
        side = "kept for evaluation" if unseen else "left for training"
        raise RecipeError(
            f"task {self.name} at level {level} has too few questions: none is {side}; give more or another level"
        )

    def check_level(self, level: int) -> None:
        """RecipeError for a level it does not have."""
        if not 1 <= level <= self.levels:
            raise RecipeError(
                f"task {self.name} has {f'the levels 1 to {self.levels}' if self.levels > 1 else 'level 1'}, not {level}"
            )

    def problems(self, seed: int, count: int, level: int = 1, unseen: bool | None = None) -> list[Problem]:
        """Different problems, ``count`` of them or as many as a search of 20 times as many draws finds."""
        found: dict[str, Problem] = {}
        for index in range(20 * count):
            problem = self.problem(seed, index, level, unseen)
            found.setdefault(problem.question, problem)
            if len(found) == count:
                break
        return list(found.values())

    def score(self, answer: str, problem: Problem) -> float:
        """What an answer is worth, 0 to 1."""
        if len(answer) > len(problem.answer) + LONGER and self.judge is None:
            return 0.0
        return float(self.judge(answer, problem) if self.judge is not None else plain(answer) == plain(problem.answer))

    def right(self, answer: str, problem: Problem) -> bool:
        """Whether an answer is the right one."""
        return self.score(answer, problem) == 1.0


def is_unseen(question: str) -> bool:
    """Whether a question is one of those that training never shows."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[-4:], "little") < UNSEEN * 2**32


@dataclass(frozen=True)
class Reward:
    """Parts of a reward; ``total`` is what training maximises. See :mod:`seekling.tasks.shaping` for language and length."""

    accuracy: float
    format: float
    total: float
    language: float = 1.0
    overlong: float = 0.0


def reward_of(
    task: Task, problem: Problem, reply: str, *, tagged: bool = True, form: str = "", format_weight: float = 0.1
) -> Reward:
    """Judge a reply.

    ``tagged``: the answer stands between ``<answer>`` and ``</answer>``, once, at the end; else see ``untagged_answer``.
    ``form`` takes the place of the tags: a regular expression that the whole reply matches, with the answer as its group.
    The format part pays for tags or form alone, accuracy for the right answer inside them.
    """
    found = answer_in(reply, problem, tagged, form)
    well = float(found is not None)
    right = task.score(found, problem) if found is not None else 0.0
    return Reward(right, well, (1 - format_weight) * right + format_weight * well if tagged or form else right)


def answer_in(reply: str, problem: Problem, tagged: bool, form: str = "") -> str | None:
    """The answer a reply gives, None where its form is wrong: see ``reward_of``."""
    if form:
        match = re.fullmatch(form, reply.strip(), re.S)
        return match[1].strip() if match else None
    if not tagged:
        return untagged_answer(reply, problem)
    found = ANSWER.findall(reply)
    return found[0].strip() if len(found) == 1 and reply.rstrip().endswith("</answer>") else None


def untagged_answer(reply: str, problem: Problem) -> str:
    """What a reply without tags answers: its last number where a number is asked for, else all of it."""
    if re.fullmatch(r"-?\d+", problem.answer):
        numbers = re.findall(r"-?\d+", reply.replace(",", "").replace("−", "-"))
        return numbers[-1] if numbers else ""
    return reply.strip()


def plain(text: str) -> str:
    """Without white space at the ends, runs of it made one space, lower case, without a closing full stop."""
    return re.sub(r"\s+", " ", text).strip().lower().removesuffix(".")
