"""Distillation: a student learns from a teacher's answers, or from its whole next-token distribution.

    traces      the teacher answers problems, the right answers are learned as in SFT (DeepSeek-R1 §2.4)
    logits      KL between the two distributions on given conversations; both models must share their vocabulary
    on-policy   reverse KL on what the student itself says (GKD, MiniLLM): it is corrected where it goes

Run: ``seekling distill --model STUDENT --teacher MODEL|URL --tasks addition`` and ``seekling distill --resume RUN``.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seekling.errors import DataError, RecipeError
from seekling.lm import LM, load
from seekling.train import sft
from seekling.train.distill_objectives import OnPolicy, TeacherForced
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.log import RunLog, read_log, say_to
from seekling.train.loop import Hook
from seekling.train.precision import compute_dtype
from seekling.train.rollout import Roller, told
from seekling.train.state import Saved, replace_text
from seekling.train.teaching import Student, begin, build_loop, go_on, open_student, run_between
from seekling.train.traces import collect, counts, prompts_of


def distill(recipe: DistillRecipe, console: Any = None) -> Path:
    """Distil into a fresh run and return its folder.

    Raises:
        RecipeError, DataError, CheckpointError: everything that is wrong with recipe, data or models, before training.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    if not recipe.teach.teacher:
        raise RecipeError("--teacher names who teaches: a model, or the URL of an OpenAI-compatible API")
    if not recipe.practice.tasks and not recipe.talks.data:
        raise DataError("nothing to learn from: name --tasks, or files of conversations with --data")
    return begin(recipe, _train, console)


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is, or among the teacher's answers. Raises CheckpointError."""
    return go_on(DistillRecipe, run, _train, console)


def _train(recipe: DistillRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    student = open_student(recipe, saved)
    return {"traces": _traces, "logits": _logits, "on-policy": _on_policy}[recipe.teach.method](
        recipe, run, saved, console, student
    )


def _hooks(roller: Roller, recipe: DistillRecipe, every: int, say: Any) -> list[Hook]:
    """Accuracy on unseen problems, where there are tasks."""
    if not recipe.practice.tasks:
        return []

    def evaluate(step: int) -> dict[str, Any]:
        found = roller.evaluate()
        say(f"step {step}: accuracy on unseen problems: {told(found)}")
        return found

    return [Hook("tasks", every, evaluate)]


def _traces(recipe: DistillRecipe, run: Path, saved: Saved | None, console: Any, student: Student) -> Path:
    say, roller = say_to(console), Roller(student.lm, recipe)
    if not recipe.start.resolved:
        replace_text(run / "recipe.toml", recipe.to_toml())  # so that a run stopped here can go on
        collect(recipe, run, roller, console)
        recipe = recipe.replaced({"data": (str((run / "traces.jsonl").absolute()),)})
    event = {"what": "traces", **counts(read_log(run / "draws.jsonl"))}
    say(f"the teacher had {event['right']} of {event['answers']} answers right, and {event['solved']} problems")
    return sft.fit(recipe, run, saved, console, student, _hooks(roller, recipe, 0, say), event)


def open_teacher_model(recipe: DistillRecipe, student: LM) -> LM:
    """The teacher as a frozen module over the student's vocabulary.

    Raises:
        RecipeError: the vocabularies differ.
    """
    name, compute = recipe.teach.teacher, compute_dtype(recipe.learn.dtype)[0]
    teacher = load(name, dtype=compute)
    if teacher.tokenizer is None:
        raise RecipeError(f"{name} has no tokenizer; give a model folder with tokenizer.json")
    check_vocabulary(student, teacher, name)
    teacher.model.to(recipe.start.device).eval().requires_grad_(False)
    return teacher


def check_vocabulary(student: LM, teacher: LM, name: str) -> None:
    """Raises RecipeError where a token id does not mean the same to both."""
    assert student.tokenizer is not None and teacher.tokenizer is not None  # the callers have seen to it
    mine, other = student.tokenizer, teacher.tokenizer
    if mine.same_vocabulary(other):
        return
    raise RecipeError(
        f"{name} has another vocabulary than the student ({other.vocab_size} and {mine.vocab_size} tokens), so their "
        "distributions cannot be compared: use --method traces, which needs only the teacher's text"
    )


def _logits(recipe: DistillRecipe, run: Path, saved: Saved | None, console: Any, student: Student) -> Path:
    assert student.lm.tokenizer is not None  # open_student has seen to it
    teacher = open_teacher_model(recipe, student.lm)
    lessons = sft.lessons_of(recipe, student.lm.tokenizer, student.lm.config)
    rows, reach = lessons.train.seq_len, teacher.config.max_row
    if rows > reach:
        raise RecipeError(
            f"the teacher {recipe.teach.teacher} reads rows of {reach} tokens at most, and the conversations' have {rows}: "
            f"give --seq-len {reach}, or a teacher with a longer context"
        )
    fresh = not recipe.start.resolved
    recipe = sft.resolved(recipe, lessons)
    if fresh:
        recipe = recipe.replaced(dict(mtp_weight=0.0, divergence=recipe.teach.divergence or "forward"))
    learn = recipe.learn
    objective = TeacherForced(student.model, teacher.model, lessons.train, recipe)
    hooks = []
    if lessons.heldout:
        hooks = [Hook("eval", learn.eval_every, functools.partial(objective.judge, lessons.heldout))]
    return _loop(recipe, run, saved, console, student, objective, hooks, {"data": lessons.fingerprint})


def _on_policy(recipe: DistillRecipe, run: Path, saved: Saved | None, console: Any, student: Student) -> Path:
    teacher = open_teacher_model(recipe, student.lm)
    if not recipe.start.resolved:
        learn = recipe.learn
        steps = learn.steps or 50
        values: dict[str, Any] = dict(
            steps=steps, divergence=recipe.teach.divergence or "reverse", mtp_weight=0.0,
            lr=learn.lr or (2e-4 if recipe.lora.lora else 1e-5), warmup=min(2, steps) if learn.warmup is None else learn.warmup,
            save_every=learn.save_every or max(1, steps // 4), eval_every=learn.eval_every or max(1, steps // 4),
            threads=recipe.start.threads or torch.get_num_threads(), resolved=True,
        )  # fmt: skip
        if recipe.lora.lora:
            values["lora_alpha"] = recipe.lora.lora_alpha or 2.0 * recipe.lora.lora
        recipe = recipe.override(values)
    roller = Roller(student.lm, recipe)
    prompts = [] if recipe.practice.tasks else prompts_of(recipe)
    objective = OnPolicy(student.model, teacher.model, roller, prompts, recipe)
    hooks = _hooks(roller, recipe, recipe.learn.eval_every, say_to(console))
    return _loop(recipe, run, saved, console, student, objective, hooks, {"data": repr(prompts)} if prompts else {})


def _loop(
    recipe: DistillRecipe, run: Path, saved: Saved | None, console: Any, student: Student, objective: Any,
    hooks: Sequence[Hook], pinned: dict[str, str],
) -> Path:  # fmt: skip
    if saved is None:
        replace_text(run / "recipe.toml", recipe.to_toml())
    log = RunLog.of_run(run, saved, recipe.learn.trackers)
    loop = build_loop(student, objective, recipe, run, log, console, hooks=hooks, pinned=pinned)
    try:
        if saved is not None:
            loop.restore(saved)
        run_between(loop, hooks, log, recipe.learn.steps)
    finally:
        log.close()
    return run
