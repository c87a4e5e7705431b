"""Reinforcement learning with verifiable rewards (GRPO): draw answers, judge them exactly, push towards the better ones.

Run: ``seekling grpo --model smollm2 --tasks addition --lora 16 --steps 60 --out runs/sums`` and ``seekling grpo --resume RUN``.
"""

from pathlib import Path
from typing import Any

import torch

from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import RunLog, say_to
from seekling.train.loop import Hook
from seekling.train.policy import Policy
from seekling.train.rollout import Roller, told
from seekling.train.state import Saved, replace_text
from seekling.train.teaching import begin, build_loop, go_on, open_student


def grpo(recipe: GrpoRecipe, console: Any = None) -> Path:
    """Train a fresh run to its end and return its folder.

    Raises:
        RecipeError, CheckpointError: everything that is wrong with recipe or model, before training.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    return begin(recipe, train, console)


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is. Raises CheckpointError."""
    return go_on(GrpoRecipe, run, train, console)


def resolved(recipe: GrpoRecipe) -> GrpoRecipe:
    """Every derived value filled in."""
    if recipe.start.resolved:
        return recipe
    learn, updates = recipe.learn, recipe.policy.updates
    steps = -(-(learn.steps or 50) // updates) * updates
    every = max(1, -(-(steps // 4) // updates)) * updates
    values: dict[str, Any] = dict(
        steps=steps,
        lr=learn.lr or (2e-4 if recipe.lora.lora else 1e-5),
        warmup=min(2, steps) if learn.warmup is None else learn.warmup,
        save_every=learn.save_every or every,
        eval_every=learn.eval_every or every,
        threads=recipe.start.threads or torch.get_num_threads(),
        resolved=True,
    )
    if recipe.lora.lora:
        values["lora_alpha"] = recipe.lora.lora_alpha or 2.0 * recipe.lora.lora
    return recipe.override(values)


def train(recipe: GrpoRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    recipe, say = resolved(recipe), say_to(console)
    learn = recipe.learn
    if not (run / "recipe.toml").exists():
        replace_text(run / "recipe.toml", recipe.to_toml())
    student = open_student(recipe, saved)
    log = RunLog.of_run(run, saved, learn.trackers)

    def warn(line: str) -> None:
        say(line)
        log.write("event", policy.step + 1, what="warning", text=line)  # of the step being made: dropped where it is made again

    policy = Policy(student, Roller(student.lm, recipe, warn), recipe, warn)
    loop = build_loop(
        student,
        policy,
        recipe,
        run,
        log,
        console,
        hooks=[Hook("eval", learn.eval_every, policy.evaluate), Hook("sample", learn.eval_every, policy.sample)],
        give_up_after=50,
        stop_every=recipe.policy.updates,  # a roll-out that a stop cut in two would be drawn anew from other weights
    )
    try:
        if saved is not None:
            loop.restore(saved)
        elif ("eval", 0) not in log.seen:
            before = policy.evaluate(0)
            log.write("eval", 0, **before)
            say(f"accuracy on unseen problems before: {told(before)}")
        loop.run()
        if ("eval", learn.steps) not in log.seen:
            final = policy.evaluate(learn.steps)
            log.write("eval", learn.steps, final=True, **final)
            say(f"accuracy on unseen problems after: {told(final)}")
    finally:
        log.close()
    return run
