"""What a task is, and how an answer is found in a reply and judged: exactly, or not at all."""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.S)
LONGER = 4  # characters an answer may have beyond the right one and still be read: no pages of guesses


@dataclass(frozen=True)
class Problem:
    """A question with its one right answer; ``metadata`` is what a judge or a report may want."""

    question: str
    answer: str
    task: str
    level: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A generator of problems.

    Attributes:
        make: (random numbers, level) -> (question, answer).
        judge: (reply's answer, problem) -> right or not; None compares text after white space and case are put aside.
        levels: the hardest level.
        hint: how the answer must look, added to the question.
    """

    name: str
    make: Callable[[random.Random, int], tuple[str, str]]
    judge: Callable[[str, Problem], bool] | None = None
    levels: int = 3
    hint: str = ""

    def problem(self, seed: int, index: int, level: int = 1) -> Problem:
        """The problem of that number: equal numbers give equal problems, whatever was made before.

        Training and evaluation take different seeds; a seed's problems share nothing with another's but chance.
        """
        digest = hashlib.sha256(f"{self.name}/{seed}/{index}/{level}".encode()).digest()
        question, answer = self.make(random.Random(int.from_bytes(digest[:8], "little")), level)
        return Problem(question, answer, self.name, level)

    def right(self, answer: str, problem: Problem) -> bool:
        """Whether an answer is the right one."""
        if len(answer) > len(problem.answer) + LONGER and self.judge is None:
            return False
        return self.judge(answer, problem) if self.judge is not None else plain(answer) == plain(problem.answer)


@dataclass(frozen=True)
class Reward:
    """Parts of a reward; ``total`` is what training maximises."""

    accuracy: float
    format: float
    total: float


def reward_of(task: Task, problem: Problem, reply: str, *, tagged: bool = True, format_weight: float = 0.1) -> Reward:
    """Judge a reply.

    ``tagged``: the answer stands between ``<answer>`` and ``</answer>``, once, at the end; else see ``untagged_answer``.
    The format part pays for the tags alone, accuracy for the right answer inside them.
    """
    if not tagged:
        right = float(task.right(untagged_answer(reply, problem), problem))
        return Reward(right, 1.0, right)
    found = ANSWER.findall(reply)
    well = len(found) == 1 and reply.rstrip().endswith("</answer>")
    right = float(well and task.right(found[0].strip(), problem))
    return Reward(right, float(well), (1 - format_weight) * right + format_weight * float(well))


def untagged_answer(reply: str, problem: Problem) -> str:
    """What a reply without tags answers: its last number where a number is asked for, else all of it."""
    if re.fullmatch(r"-?\d+", problem.answer):
        numbers = re.findall(r"-?\d+", reply.replace(",", "").replace("−", "-"))
        return numbers[-1] if numbers else ""
    return reply.strip()


def plain(text: str) -> str:
    """Without white space at the ends, runs of it made one space, lower case, without a closing full stop."""
    return re.sub(r"\s+", " ", text).strip().lower().removesuffix(".")
