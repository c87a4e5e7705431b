"""How good a model is at tasks: greedy accuracy, pass@1, maj@k and pass@k on problems that training never shows, each with a
95 % interval.

pass@1 is the mean over the drawn answers, pass@k whether any of k is right, maj@k whether the answer given most often is (of
equals, the one drawn first).  Intervals: Wilson for greedy accuracy, bootstrap over problems for the others.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from seekling.lm import LM
from seekling.tasks import Problem
from seekling.tasks.base import answer_in, plain
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.rollout import EVAL_SEED, Answer, Roller, spoken, wilson

RESAMPLES = 1000


def task_scores(lm: LM, recipe: GrpoRecipe, drawn: int = 0) -> dict[str, dict[str, Any]]:
    """Scores by task name.

    Args:
        recipe: its tasks, prompts, longest answer, temperature and number of problems.
        drawn: answers drawn to each problem for pass@1, maj@k and pass@k; 0 leaves them out.
    """
    roller, practice = Roller(lm, recipe), recipe.practice
    asked = [task.problems(EVAL_SEED, practice.eval_problems, level, unseen=True) for task, level in roller.tasks]
    every = [p for part in asked for p in part]
    greedy = roller.answers(every, 1, 0.0, seed=0)
    draws = roller.answers(every, drawn, recipe.draw.temperature, seed=EVAL_SEED) if drawn else []
    out, at = {}, 0
    for name, part in zip(practice.tasks, asked, strict=True):
        own = greedy[at : at + len(part)]
        right = sum(a.reward.accuracy == 1.0 for a in own)
        score: dict[str, Any] = {
            "problems": len(part),
            "accuracy": right / len(part),
            "accuracy_interval": wilson(right, len(part)),
            "format": sum(a.reward.format for a in own) / len(part),
            "length": sum(len(a.token_ids) for a in own) / len(part),
        }
        if drawn:
            score |= of_draws(part, draws[at * drawn : (at + len(part)) * drawn], drawn, practice)
        score["samples"] = [
            {"question": a.problem.question, "answer": a.problem.answer, "text": a.text, "right": a.reward.accuracy == 1.0}
            for a in own[:3]
        ]
        out[name] = score
        at += len(part)
    return out


def of_draws(problems: Sequence[Problem], answers: Sequence[Answer], k: int, practice: Any) -> dict[str, Any]:
    """pass@1, maj@k and pass@k of ``k`` answers to each problem, a problem's together."""
    groups = [answers[i * k : (i + 1) * k] for i in range(len(problems))]
    right = np.array([[a.reward.accuracy == 1.0 for a in group] for group in groups], float)
    voted = np.array([_voted(problem, group, practice) for problem, group in zip(problems, groups, strict=True)], float)
    parts = {"pass@1": right.mean(1), f"maj@{k}": voted, f"pass@{k}": right.max(1)}
    out: dict[str, Any] = {"drawn": k}
    for name, values in parts.items():
        out |= {name: float(values.mean()), f"{name}_interval": bootstrap(values)}
    return out


def _voted(problem: Problem, group: Sequence[Answer], practice: Any) -> bool:
    """Whether the answer given most often is right; replies without an answer do not vote."""
    votes: Counter[str] = Counter()
    right: dict[str, bool] = {}
    for answer in group:
        reply = spoken(answer.text, practice.think)
        said = None if reply is None else answer_in(reply, problem, practice.tagged, practice.form)
        if said is not None:
            votes[plain(said)] += 1
            right.setdefault(plain(said), answer.reward.accuracy == 1.0)
    return bool(votes) and right[votes.most_common(1)[0][0]]


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of independent values (percentiles of resampled means)."""
    g = np.random.default_rng(seed)
    means = values[g.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)
