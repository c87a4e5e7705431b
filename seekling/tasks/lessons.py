"""The first lessons: worked problems and some ordinary talk as conversations, from which a base model learns to think before it
answers (the cold start of DeepSeek-R1, §2.3.1)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from seekling.errors import RecipeError
from seekling.tasks.base import Problem, Task


def question_of(problem: Problem, hint: str, ending: str = "", system: str = "") -> list[dict[str, str]]:
    """The messages that ask a problem: in lessons, roll-outs and evaluations alike."""
    user = "\n".join(part for part in (problem.question, hint, ending) if part)
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]


def lesson(task: Task, problem: Problem) -> list[dict[str, str]]:
    """A problem with its worked steps as thinking. Raises RecipeError for a task without steps."""
    if not problem.steps:
        raise RecipeError(f"task {task.name} at level {problem.level} has no worked steps to learn from; leave it to practice")
    reply = {"role": "assistant", "reasoning_content": problem.steps, "content": problem.answer}
    return [*question_of(problem, task.hint), reply]


def lessons(
    tasks: Sequence[tuple[Task, int]], count: int, talks: int, seed: int, fits: Callable[[list[dict[str, str]]], bool]
) -> Iterator[dict[str, Any]]:
    """``count`` worked problems of each (task, level), none of those kept for evaluation, then ``talks`` ordinary
    conversations; each as a line of ``seekling sft --data``.

    Args:
        fits: whether a conversation fits into the model's context; long stories are passed over.
    """
    from seekling.data.generate import generate

    for task, level in tasks:
        for index in range(count):
            yield {"messages": lesson(task, task.problem(seed, index, level, unseen=False))}
    found, index = 0, 10**6
    while found < talks:
        messages: Any = generate("talk", seed, index)
        index += 1
        if fits(messages):
            found += 1
            yield {"messages": messages}
