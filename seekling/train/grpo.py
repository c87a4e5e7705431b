"""Reinforcement learning with verifiable rewards (GRPO): draw answers, judge them exactly, push towards the better ones.

Run: ``seekling grpo --model smollm2 --tasks addition --lora 16 --steps 60 --out runs/sums`` and ``seekling grpo --resume RUN``.
"""

from pathlib import Path
from typing import Any

import torch

from seekling.errors import CheckpointError, SeeklingError
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import Progress, RunLog, open_trackers, read_log
from seekling.train.loop import Hook, Loop, LoopSettings
from seekling.train.optim import OptimSettings
from seekling.train.policy import Policy
from seekling.train.pretrain import check_fresh, check_room
from seekling.train.rollout import Roller
from seekling.train.rundir import claim, text_fingerprint
from seekling.train.schedule import Schedules
from seekling.train.state import Checkpoints, Saved, replace_text, seed_everything
from seekling.train.teaching import lora_settings, open_student, say_to


def grpo(recipe: GrpoRecipe, console: Any = None) -> Path:
    """Train a fresh run to its end and return its folder.

    Raises:
        RecipeError, CheckpointError: everything that is wrong with recipe or model, before training.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    if recipe.start.out is None:
        from seekling.resolve import free_folder

        recipe = recipe.override(dict(out=str(free_folder(Path("runs"), "grpo"))))
    run = Path(recipe.start.out)
    check_fresh(run)
    recipe = resolved(recipe)
    run.mkdir(parents=True, exist_ok=True)
    with claim(run):
        replace_text(run / "recipe.toml", recipe.to_toml())
        try:
            return _train(recipe, run, None, console)
        except SeeklingError:
            if not read_log(run / "log.jsonl"):  # nothing was trained: the same --out may be used again
                (run / "recipe.toml").unlink()
                (run / "log.jsonl").unlink(missing_ok=True)
            raise


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is. Raises CheckpointError."""
    run = Path(run)
    if not (run / "recipe.toml").is_file():
        raise CheckpointError(f"{run} is not a run (it has no recipe.toml); give the folder that seekling grpo wrote")
    recipe = GrpoRecipe.load(run / "recipe.toml")
    with claim(run):
        checkpoints = Checkpoints(run / "checkpoints", recipe.learn.keep, say_to(console))
        checkpoints.clean()
        saved = checkpoints.load() if checkpoints.found() else None
        return _train(recipe, run, saved, console)


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
        warmup=2 if learn.warmup is None else learn.warmup,
        save_every=learn.save_every or every,
        eval_every=learn.eval_every or every,
        threads=recipe.start.threads or torch.get_num_threads(),
        resolved=True,
    )
    if recipe.lora.lora:
        values["lora_alpha"] = recipe.lora.lora_alpha or 2.0 * recipe.lora.lora
    return recipe.override(values)


def _train(recipe: GrpoRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    say, learn = say_to(console), recipe.learn
    if recipe.start.threads:
        torch.set_num_threads(recipe.start.threads)
    seed_everything(recipe.start.seed)
    optim = OptimSettings(learn.optimizer, learn.beta1, learn.beta2, weight_decay=learn.weight_decay, momentum=learn.momentum,
                          ns_steps=learn.ns_steps)  # fmt: skip
    student = open_student(
        recipe.start.model, saved, lora_settings(recipe.lora), learn.dtype, recipe.start.device, optim, recipe.start.seed
    )
    roller = Roller(student.lm, recipe)
    policy = Policy(student, roller, recipe, say)
    log = RunLog(
        run / "log.jsonl",
        saved.step if saved else 0,
        open_trackers(learn.trackers, run),
        saved is None or saved.values["hooks_done"],
    )
    schedules = Schedules.of(learn)  # type: ignore[arg-type]
    loop = Loop(
        student.model,
        student.optimizer,
        policy,
        LoopSettings(
            steps=learn.steps,
            lr=schedules.lr,
            clip=learn.clip,
            log_every=learn.log_every,
            save_every=learn.save_every,
            verb="grpo",
            give_up_after=50,
        ),
        log=log,
        progress=Progress(console, learn.steps),
        checkpoints=Checkpoints(run / "checkpoints", learn.keep, say),
        write_model=student.write,
        model_bytes=student.weight_bytes(),
        hooks=[Hook("eval", learn.eval_every, policy.evaluate), Hook("sample", learn.eval_every, policy.sample)],
        pinned={
            "recipe": text_fingerprint((run / "recipe.toml").read_text("utf-8")),
            "base": student.fingerprint if student.lora else "",
        },
    )
    check_room(run, loop.model_bytes + student.optimizer.state_bytes())
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


def told(evaluation: dict[str, Any]) -> str:
    """An evaluation in a line."""
    return ", ".join(
        f"{name} {v['accuracy']:.1%} ({v['interval'][0]:.0%} to {v['interval'][1]:.0%}, {v['problems']} problems)"
        for name, v in evaluation["tasks"].items()
    )
