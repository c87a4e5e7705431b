"""A task by what ``--tasks`` calls it: an own one, ``rg:NAME``, or the user's files."""

import difflib
import functools
from collections.abc import Callable

from seekling.errors import RecipeError
from seekling.tasks.base import Task
from seekling.tasks.code import CODE
from seekling.tasks.own import TASKS

TASKS[CODE.name] = CODE


def get_task(name: str) -> Task:
    """The task of that name. Raises RecipeError with the names there are, or with what is wrong with the user's files."""
    return TASKS[name] if name in TASKS else _made(name)


def task_at(name: str, level: int) -> tuple[Task, int]:
    """The task and level of ``NAME@LEVEL``; ``level`` where none is named. Raises RecipeError, also for a level it has not."""
    plain, mark, number = name.rpartition("@")
    if mark and number.isdecimal():
        name, level = plain, int(number)
    task = get_task(name)
    task.check_level(level)
    return task, level


def with_paths(name: str, change: Callable[[str], str]) -> str:
    """The name of a task with the paths of its files changed; a name without files stays."""
    file, jsonl, rest = name.partition(".jsonl")
    if not jsonl:
        return name
    reward, mark, level = rest.rpartition("@") if rest.rpartition("@")[2].isdecimal() else (rest, "", "")
    return change(file + jsonl) + (":" + change(reward[1:]) if reward.startswith(":") else reward) + mark + level


@functools.lru_cache(64)  # a reward file's process serves the whole run
def _made(name: str) -> Task:
    if name.startswith("rg:"):
        from seekling.tasks.gym import gym_task

        return gym_task(name.removeprefix("rg:"))
    if ".jsonl" in name:
        from seekling.tasks.user import user_task

        return user_task(name)
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}, rg:NAME of reasoning-gym, and FILE.jsonl"
    raise RecipeError(f"no task is called {name!r}; {hint}")
