"""What reinforcement learning was trained on: the problems that were asked, and how answers to them were judged."""

import hashlib
from collections.abc import Iterator
from typing import Any

from seekling.tasks import Problem, task_at
from seekling.train.rollout import problems_in_turn


def practised(recipe: Any) -> Iterator[Problem]:
    """The problems of every roll-out in order (further ones drawn by ``--refill`` left out)."""
    practice = recipe.practice
    tasks = [task_at(name, practice.level) for name in practice.tasks]
    for step in range(recipe.learn.steps // recipe.policy.updates):
        yield from problems_in_turn(tasks, recipe.start.seed, step * practice.problems, practice.problems)


def practice_fingerprint(recipe: Any) -> str:
    """SHA-256 over the questions and answers of all problems in order."""
    digest = hashlib.sha256()
    for problem in practised(recipe):
        digest.update(f"{problem.question}\0{problem.answer}\0".encode())
    return digest.hexdigest()


def reward_text(recipe: Any) -> str:
    """How an answer was rewarded, in words."""
    practice = recipe.practice
    weight = practice.format_weight if practice.tagged else 0.0
    parts = ["the answer is compared exactly, which is worth " + (f"{1 - weight:g}" if weight else "1")]
    if weight:
        parts.append(f"an answer between <answer> tags is worth {weight:g} by itself")
    if practice.think:
        parts.append("what is said before thinking ends counts for nothing")
    if practice.language:
        parts.append(f"a reply all in {practice.language} is worth {practice.language_weight:g} more")
    if practice.overlong:
        parts.append(f"reward is taken from answers within {practice.overlong} tokens of the limit")
    return "; ".join(parts)
