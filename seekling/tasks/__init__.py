"""Problems that can be checked: a seeded generator and an exact reward each.

>>> task = get_task("addition")
>>> problem = task.problem(seed=0, index=3, level=1)
>>> problem.question, problem.answer
"""

from seekling.tasks.base import Problem, Task, reward_of
from seekling.tasks.named import TASKS, get_task, task_at

__all__ = ["TASKS", "Problem", "Task", "get_task", "reward_of", "task_at"]
