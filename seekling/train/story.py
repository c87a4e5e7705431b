"""What follows pretraining in ``seekling run``: lessons (SFT), practice by reward (GRPO), the same evaluation after each.

    RUN/                 the base model, as pretraining leaves it
    RUN/story.toml       what is taught; fixed from here on
    RUN/lessons.jsonl    the conversations of the lessons
    RUN/sft/  RUN/grpo/  run folders of their own, which chat, serve and export take
    …/evaluation.json    scores of a stage: tasks on unseen problems, bits per byte on the run's held-out text

Every stage resumes bit for bit, and what is finished is not done again, so ``teach`` may be called as often as one likes.
"""

import functools
import json
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError
from seekling.lm import LM, load
from seekling.recipe import Recipe
from seekling.train import grpo
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import say_to
from seekling.train.loop import Hook
from seekling.train.rollout import Roller
from seekling.train.rundir import check_fresh
from seekling.train.sft import fit
from seekling.train.sft_recipe import SftRecipe
from seekling.train.state import Saved, replace_text
from seekling.train.stopping import Interrupted
from seekling.train.story_recipe import LessonsPart, StoryRecipe
from seekling.train.teaching import Train, begin, go_on, open_student

STORY, LESSONS, EVALUATION = "story.toml", "lessons.jsonl", "evaluation.json"
STAGES = {"base": "", "sft": "sft", "grpo": "grpo"}  # stage -> folder in the run
EVAL_TOKENS = 8192  # of each held-out source
CHECK_EVERY, CHECK_SEED, CHECKED = 5, 2**31 - 2, 40  # steps of lessons between checks, on so many problems of each task
SHORTEST_ROW = 96  # tokens, so that a worked problem fits


def check_tasks(asked: StoryRecipe) -> None:
    """RecipeError for an unknown task or level, or one without worked steps."""
    from seekling.tasks import task_at
    from seekling.tasks.lessons import lesson

    for name in asked.story.tasks:
        task, level = task_at(name, 1)
        lesson(task, task.problem(0, 0, level, unseen=False))


def plan_lessons(asked: StoryRecipe, recipe: Recipe) -> StoryRecipe:
    """Fix what will be taught in a resolved run that is about to begin, and note it in its folder.

    Raises:
        RecipeError: rows too short for lessons.
    """
    if (recipe.data.seq_len or 0) < SHORTEST_ROW:
        raise RecipeError(
            f"--seq-len {recipe.data.seq_len} is too short for lessons: give {SHORTEST_ROW} or more, or --no-teach"
        )
    check_fresh(Path(recipe.run.out or ""))
    story, run = asked.resolved(recipe.train.steps or 1), Path(recipe.run.out or "")
    run.mkdir(parents=True, exist_ok=True)
    replace_text(run / STORY, story.to_toml())
    return story


def teach(run: Path, console: Any = None) -> Path:
    """Every stage after pretraining that is not finished yet; returns the folder of the last one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; what was reached is saved. CheckpointError, DataError: as in the stages.
    """
    recipe, story = Recipe.load(run / "recipe.toml"), StoryRecipe.load(run / STORY).story
    say = say_to(console)
    evaluate_stage(run, "base", recipe, story, console)
    write_lessons(run, story, recipe.run.seed)
    say("\nFirst lessons: worked problems and ordinary talk (SFT)")
    lessons_stage(run, recipe, story, console)
    evaluate_stage(run, "sft", recipe, story, console)
    say("\nPractice: answers drawn, judged exactly, the better ones made likelier (GRPO)")
    _stage(run / "grpo", grpo_recipe(run, recipe, story), console, grpo.train)
    evaluate_stage(run, "grpo", recipe, story, console)
    return run / "grpo"


def lessons_stage(run: Path, recipe: Recipe, story: LessonsPart, console: Any) -> None:
    """RUN/sft, to its end."""
    train = functools.partial(_lessons, grpo_recipe(run, recipe, story), story)
    _stage(run / "sft", sft_recipe(run, recipe, story), console, train)


def _stage(folder: Path, recipe: Any, console: Any, train: Train) -> None:
    """Begin a stage, go on with it, or leave it where it is finished."""
    places = {name: value for name, value in recipe.flat().items() if name in ("model", "out", "data")}

    def train_here(found: Any, *rest: Any) -> Path:
        return train(found.replaced(places), *rest)  # the run may have been moved or copied since the stage began

    try:
        if (folder / "recipe.toml").exists():
            go_on(type(recipe), folder, train_here, console)
        else:
            begin(recipe, train, console)
    except Interrupted as stop:
        stop.message = f"{stop.message.split(';')[0]} of {folder.name}; go on with: seekling run --resume {folder.parent}"
        raise


def _lessons(practice: GrpoRecipe, story: LessonsPart, recipe: SftRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    """SFT that ends as soon as enough problems of practice come out right: from there trying teaches more than telling, while
    groups of answers still differ."""
    student, say = open_student(recipe, saved), say_to(console)
    roller = Roller(student.lm, practice)
    problems = [
        (name, task.problems(CHECK_SEED, CHECKED, level, unseen=False))
        for name, (task, level) in zip(story.tasks, roller.tasks, strict=True)
    ]

    def check(step: int) -> dict[str, Any]:
        student.model.eval()
        answers = iter(roller.answers([p for _, part in problems for p in part], 1, 0.0, seed=0))
        tasks = {name: sum(next(answers).reward.accuracy for _ in part) / len(part) for name, part in problems}
        share = sum(tasks.values()) / len(tasks)
        enough = share >= story.until
        if enough:
            say(f"step {step}: {share:.0%} of the problems of practice come out right, which is enough to go on by trying")
        return {"accuracy": share, "tasks": tasks, "enough": enough}

    return fit(recipe, run, saved, console, student, hooks=[Hook("check", CHECK_EVERY, check)])


def sft_recipe(run: Path, recipe: Recipe, story: LessonsPart) -> SftRecipe:
    """The lessons as a recipe of ``seekling sft``."""
    steps = story.sft_steps
    return SftRecipe.of(
        model=str(run.absolute()), out=str(run / "sft"), data=[str((run / LESSONS).absolute())], steps=steps, lr=story.sft_lr,
        seq_len=recipe.data.seq_len, seed=recipe.run.seed, threads=recipe.run.threads, device=recipe.run.device,
        dtype=recipe.train.dtype, save_every=max(10, steps // 3), eval_every=max(5, steps // 6),
        seq_balance_alpha=recipe.train.seq_balance_alpha, command=recipe.run.command,
    )  # fmt: skip


def grpo_recipe(run: Path, recipe: Recipe, story: LessonsPart) -> GrpoRecipe:
    """Practice as a recipe of ``seekling grpo``; its prompts and problems are those of the evaluations too."""
    steps, lessons = story.grpo_steps, (run / "sft").absolute()
    return GrpoRecipe.of(
        model=str(lessons), out=str(run / "grpo"), tasks=story.tasks, problems=story.problems, group=story.group,
        think=True, tagged=False, eval_problems=story.eval_problems, max_tokens=story.max_tokens, steps=steps, lr=story.grpo_lr,
        schedule="constant", seed=recipe.run.seed, threads=recipe.run.threads, device=recipe.run.device,
        dtype=recipe.train.dtype, save_every=max(10, steps // 3), eval_every=max(10, steps // 3), command=recipe.run.command,
    )  # fmt: skip


def write_lessons(run: Path, story: LessonsPart, seed: int) -> None:
    """RUN/lessons.jsonl, the same whenever it is written."""
    from seekling.lm import load_tokenizer
    from seekling.tasks import task_at
    from seekling.tasks.lessons import lessons

    if (run / LESSONS).exists():
        return
    tokenizer, room = load_tokenizer(run), Recipe.load(run / "recipe.toml").data.seq_len

    def fits(messages: list[dict[str, str]]) -> bool:
        return len(tokenizer.encode_chat(messages, add_generation_prompt=False)) <= room

    rows = lessons([task_at(name, 1) for name in story.tasks], story.lessons, story.talks, seed, fits)
    replace_text(run / LESSONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# ---- the same questions after every stage ------------------------------------------------------------------------------------


def evaluate_stage(run: Path, stage: str, recipe: Recipe, story: LessonsPart, console: Any) -> dict[str, Any]:
    """Write and tell the scores of a stage, unless they are there."""
    from seekling.train.scores import task_scores

    path = run / STAGES[stage] / EVALUATION
    if path.exists():
        return dict(json.loads(path.read_text("utf-8")))
    say = say_to(console)
    lm = load(run / STAGES[stage])
    say(f"evaluating {stage} on unseen problems and held-out text")
    scores = {
        "stage": stage,
        "tasks": task_scores(lm, grpo_recipe(run, recipe, story), story.drawn),
        "bits_per_byte": held_out_bits(lm, run, recipe),
    }
    replace_text(path, json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    say(told(scores))
    return scores


def held_out_bits(lm: LM, run: Path, recipe: Recipe) -> float:
    """Bits per byte on the beginning of each held-out source of the run: what teaching made the model forget."""
    from seekling.train.evaluate import byte_lengths, evaluate
    from seekling.train.pretrain import prepare_data

    prepared = prepare_data(recipe, run)
    found = evaluate(lm.model, prepared.heldout, recipe.data.seq_len, byte_lengths(prepared.tokenizer), EVAL_TOKENS)
    return found.total.bits_per_byte


def told(scores: dict[str, Any]) -> str:
    """A stage's scores in a line."""
    parts = [
        f"{name} {s['accuracy']:.1%} ({s['accuracy_interval'][0]:.0%} to {s['accuracy_interval'][1]:.0%})"
        for name, s in scores["tasks"].items()
    ]
    return f"after {scores['stage']}: {', '.join(parts)}; {scores['bits_per_byte']:.4f} bits per byte"
