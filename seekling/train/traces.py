"""Rejection sampling: a teacher answers problems, its right answers become conversations to learn from.

    RUN/draws.jsonl     every problem with every answer drawn, written as they come; a run that stopped goes on behind them
    RUN/traces.jsonl    what was kept, as `seekling sft --data` takes it

Answers to conversations of ``--data`` cannot be judged: all that ended by themselves are kept.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seekling.data.conversations import read_conversations
from seekling.errors import DataError
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.log import Progress, read_log, say_to
from seekling.train.rollout import Roller
from seekling.train.state import replace_text
from seekling.train.teacher import Reply, Teacher, open_teacher

Question = Mapping[str, Any]  # number, messages; of a task also what it takes to make the problem again


def questions_of(recipe: DistillRecipe, roller: Roller) -> list[Question]:
    """What the teacher is asked, in order.

    Raises:
        DataError: no tasks and no data, or data without a question.
    """
    if recipe.practice.tasks:
        problems = roller.problems(recipe.start.seed, 0, recipe.teach.asked)
        return [{"number": i, "messages": roller.messages(p), "problem": p} for i, p in enumerate(problems)]
    return [{"number": i, "messages": talk} for i, talk in enumerate(prompts_of(recipe))]


def prompts_of(recipe: DistillRecipe) -> list[list[Mapping[str, Any]]]:
    """The conversations of ``--data`` up to their last answer. Raises DataError."""
    if not recipe.talks.data:
        raise DataError("nothing to ask: name --tasks, or files of conversations with --data")
    out = []
    for talk in read_conversations(recipe.talks.data):
        messages = list(talk.messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or messages[-1]["role"] not in ("user", "tool"):
            raise DataError(f"{talk.where}: there is no question before the answer")
        if talk.tools:
            raise DataError(f"{talk.where}: conversations with tools cannot be asked again; drop them, or use --method logits")
        out.append(messages)
    return out


def collect(recipe: DistillRecipe, run: Path, roller: Roller, console: Any, teacher: Teacher | None = None) -> dict[str, Any]:
    """Ask the teacher whatever was not asked yet, write ``traces.jsonl``, and return counts for the log.

    Raises:
        DataError: the teacher had nothing right.
    """
    questions, path = questions_of(recipe, roller), run / "draws.jsonl"
    drawn = read_log(path)  # a line that a kill cut off is left out
    replace_text(path, "".join(_line(draw) for draw in drawn))
    todo = questions[len(drawn) :]
    if todo:
        teacher = teacher or open_teacher(recipe, say_to(console))
        progress = Progress(console, len(questions), len(drawn), "teacher")
        progress.open()
        try:
            with open(path, "a", encoding="utf-8") as file:
                for first in range(0, len(todo), recipe.practice.problems):
                    part = todo[first : first + recipe.practice.problems]
                    for draw in _ask(teacher, part, recipe, roller):
                        drawn.append(draw)
                        file.write(_line(draw))
                    file.flush()
                    progress.note(len(drawn), _told(counts(drawn)))
        finally:
            progress.close()
    kept = [trace for draw in drawn for trace in chosen(draw, recipe.teach.kept)]
    found = counts(drawn) | {"kept": len(kept)}
    if not kept:
        raise DataError(
            f"none of the teacher's {found['answers']} answers was right and complete ({found['cut']} were cut at --max-tokens "
            f"{recipe.draw.max_tokens}); lower --level, raise --max-tokens or --group, or take another teacher"
        )
    replace_text(run / "traces.jsonl", "".join(map(_line, kept)))
    return found


def _ask(teacher: Teacher, questions: Sequence[Question], recipe: DistillRecipe, roller: Roller) -> list[dict[str, Any]]:
    seed = recipe.start.seed * 1_000_003 + questions[0]["number"] * 131
    answers = teacher.ask([q["messages"] for q in questions], recipe.practice.group, seed)
    out = []
    for question, replies in zip(questions, answers, strict=True):
        problem = question.get("problem")
        draw: dict[str, Any] = {"number": question["number"], "messages": question["messages"]}
        if problem is not None:
            draw |= {"task": problem.task, "level": problem.level, "answer": problem.answer}
        draw["replies"] = [_judged(reply, problem, roller) for reply in replies]
        out.append(draw)
    return out


def _judged(reply: Reply, problem: Any, roller: Roller) -> dict[str, Any]:
    right = not reply.cut if problem is None else roller.judge(problem, reply.content).accuracy == 1.0
    return {
        "content": reply.content, "reasoning": reply.reasoning, "right": right, "cut": reply.cut, "tokens": reply.tokens,
    }  # fmt: skip


def chosen(draw: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """The first ``most`` different answers that are right and complete, as conversations."""
    out: list[dict[str, Any]] = []
    seen = set()
    for reply in draw["replies"]:
        said = reply["content"], reply["reasoning"]
        if not reply["right"] or reply["cut"] or not reply["content"] or said in seen or len(out) == most:
            continue
        seen.add(said)
        answer = {"role": "assistant", "content": reply["content"]}
        if reply["reasoning"]:
            answer["reasoning_content"] = reply["reasoning"]
        out.append({"messages": [*draw["messages"], answer]})
    return out


def counts(drawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was drawn, in numbers."""
    replies = [reply for draw in drawn for reply in draw["replies"]]
    return {
        "problems": len(drawn),
        "solved": sum(any(r["right"] for r in draw["replies"]) for draw in drawn),
        "answers": len(replies),
        "right": sum(r["right"] for r in replies),
        "cut": sum(r["cut"] for r in replies),
        "tokens": sum(r["tokens"] for r in replies),
    }


def _told(found: Mapping[str, Any]) -> str:
    return f"{found['right']} of {found['answers']} answers right, {found['solved']} of {found['problems']} problems solved"


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
