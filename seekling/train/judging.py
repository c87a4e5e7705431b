"""Rewards that cannot stop a run: one that raises, gives no number or hangs counts as 0, is told once, and is counted.

A hanging reward is stopped by the process's alarm clock, which exists on POSIX systems and reaches Python code of the main
thread; elsewhere nothing stops it.
"""

import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from seekling.tasks import Problem, get_task, reward_of
from seekling.tasks.base import Reward
from seekling.tasks.user import RewardFile
from seekling.train.grpo_recipe import ProblemsPart


class Judge:
    """Called with a problem and a reply, its thinking put aside: what it earns. ``faults`` counts what went wrong, by kind.

    A user's reward in a process of its own keeps the limit itself (`seekling.tasks.user`); what it counts in
    ``Task.failures`` is counted here too.
    """

    def __init__(self, practice: ProblemsPart, say: Callable[[str], None] = lambda line: None):
        self.practice, self.say = practice, say
        self.faults: Counter[str] = Counter()

    def __call__(self, problem: Problem, reply: str) -> Reward:
        practice, task = self.practice, get_task(problem.task)
        seconds, before = practice.reward_seconds, Counter(task.failures)
        apart = isinstance(task.judge, RewardFile)
        if isinstance(task.judge, RewardFile):
            task.judge.seconds = seconds
        try:
            with nullcontext() if apart else at_most(seconds):
                reward = reward_of(
                    task, problem, reply, tagged=practice.tagged, form=practice.form, format_weight=practice.format_weight
                )
        except TookTooLong:
            return self._fault("hung", problem, TOO_LONG.format(seconds))
        except Exception as error:  # whatever a user's reward raises
            return self._fault("raised", problem, f"raised {type(error).__name__}: {error}")
        for kind in task.failures - before:
            self._note(kind, problem, TOLD.get(kind, kind).format(seconds))
        if not math.isfinite(reward.total):
            return self._fault("not a number", problem, f"is {reward.total}")
        return reward

    def _fault(self, kind: str, problem: Problem, what: str) -> Reward:
        self._note(kind, problem, what)
        return Reward(0.0, 0.0, 0.0)

    def _note(self, kind: str, problem: Problem, what: str) -> None:
        if not self.faults[kind]:
            self.say(f"the reward of {problem.task} {what}; it counts as 0 (told once, counted in the log as reward_faults)")
        self.faults[kind] += 1


TOO_LONG = "took longer than {:g} s (--reward-seconds) and was stopped"
TOLD = {  # what a process of its own can do wrong
    "raised": "raised an error", "hung": TOO_LONG, "died": "ended its process", "nan": "is not a number",
    "out of range": "is not between 0 and 1",
}  # fmt: skip


class TookTooLong(BaseException):
    """Not an Exception, so that a reward's own handlers do not swallow it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TookTooLong inside the block once the time is over."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
