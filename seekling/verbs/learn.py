"""The verbs that make a run: ``run``, ``pretrain``, ``sft``, ``dpo``, ``grpo``, ``distill``, and ``report``."""

import argparse
import shlex
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, DataError, MachineError, RecipeError, raise_all
from seekling.recipe import Recipe, from_args, resolve
from seekling.resolve import explain, free_folder, model_config
from seekling.verbs.common import console

if TYPE_CHECKING:
    from seekling.machine import Machine
    from seekling.train.story_recipe import StoryRecipe

DEFAULT_MINUTES = 15.0
PRETRAINING_SHARE = 0.6  # of a time budget, where lessons and practice follow


def run(args: argparse.Namespace) -> int:
    """Text, tokenizer, pretraining, lessons, practice, evaluation, report, samples; the last line starts a chat."""
    from seekling.train.story_recipe import StoryRecipe

    if args.resume is not None:
        only_resume(args)
        folder = run_folder(args.resume)
        from seekling.train.pretrain import resume

        resume(folder, console=console())
    else:
        recipe, story = asked_recipe(args), StoryRecipe.from_args(args)
        story = story.replaced(_absolute(story.flat()))
        if recipe.run.minutes is None and recipe.train.steps is None and recipe.train.tokens is None:
            recipe = recipe.override(dict(minutes=DEFAULT_MINUTES))
        folder = train(recipe, args, story if story.story.teach else None)
    last = folder
    if (folder / "story.toml").is_file():
        from seekling.train.story import teach

        last = teach(folder, console=console())
    report_folder(folder)
    print(samples_text(folder), end="")
    if last != folder:
        print("\nProblems like those of its practice it solves with --think; without, it answers at once.")
    talk_to(last)
    return 0


def pretrain(args: argparse.Namespace) -> int:
    """Train a fresh run, or continue one."""
    if args.resume is not None:
        only_resume(args)
        folder = run_folder(args.resume)
        from seekling.train.pretrain import resume

        folder = resume(folder, console=console())
    else:
        folder = train(asked_recipe(args), args)
    print(folder)
    return 0


def sft(args: argparse.Namespace) -> int:
    """Fine-tune a model on conversations, continue such a run, or show what would be learned."""
    from seekling.train import sft as stage
    from seekling.train.sft_recipe import SftRecipe

    if args.show_mask and args.resume is None:
        from seekling.train.show_mask import show_mask

        show_mask(_stage_recipe(args, SftRecipe), args.show_mask)
        return 0
    return _stage(args, SftRecipe, stage.sft, stage.resume)


def dpo(args: argparse.Namespace) -> int:
    """Teach by pairs of a better and a worse answer, or continue such a run."""
    from seekling.train import dpo as stage
    from seekling.train.dpo_recipe import DpoRecipe

    return _stage(args, DpoRecipe, stage.dpo, stage.resume)


def grpo(args: argparse.Namespace) -> int:
    """Reinforcement learning on a task with exact rewards, or continue such a run."""
    from seekling.train import grpo as stage
    from seekling.train.grpo_recipe import GrpoRecipe

    return _stage(args, GrpoRecipe, stage.grpo, stage.resume)


def distill(args: argparse.Namespace) -> int:
    """Teach a model by another one, or continue such a run."""
    from seekling.train import distill as stage
    from seekling.train.distill_recipe import DistillRecipe

    return _stage(args, DistillRecipe, stage.distill, stage.resume)


def _stage(args: argparse.Namespace, kind: Any, start: Callable[..., Path], resume: Callable[..., Path]) -> int:
    """Begin a stage or go on with it."""
    if args.resume is not None:
        only_resume(args, "show_mask")
        folder = resume(run_folder(args.resume), console=console())
    else:
        folder = start(_stage_recipe(args, kind), console=console())
    talk_to(folder)
    return 0


def _stage_recipe(args: argparse.Namespace, kind: Any) -> Any:
    """The recipe of ``--recipe`` and the flags, with the command noted."""
    base = kind.load(args.recipe) if args.recipe else None
    if base is not None and base.start.resolved:
        base = base.replaced({"out": None})  # a repeated run gets its own folder
    recipe = kind.from_args(argparse.Namespace(**_absolute(vars(args))), base)
    return recipe.replaced({"command": _command(args), **_absolute(recipe.flat(), only=True)})  # what it names is the same


def _absolute(values: Mapping[str, Any], only: bool = False) -> dict[str, Any]:
    """Values of fields, what may name files with absolute paths: a run is resumed from any folder. Names of pulled models and
    of tasks, and addresses, stay.

    Args:
        only: leave out the other fields.
    """
    from seekling.tasks.named import with_paths

    def place(name: str) -> str:
        found = [Path(name), *([Path("runs", name)] if len(Path(name).parts) == 1 else [])]
        return str(next((path.absolute() for path in found if path.exists()), name))

    out = {} if only else dict(values)
    out |= {name: place(values[name]) for name in ("model", "teacher") if values.get(name)}
    out |= {"data": tuple(str(Path(path).absolute()) for path in values["data"])} if values.get("data") else {}
    if values.get("tasks"):
        out["tasks"] = tuple(with_paths(task, lambda path: str(Path(path).absolute())) for task in values["tasks"])
    return out


def _command(args: argparse.Namespace) -> str:
    """The command line as text; bytes that are none become question marks."""
    return shlex.join(["seekling", *args.argv]).encode("utf-8", "replace").decode()


def talk_to(folder: Path) -> None:
    """The line that starts a chat."""
    print(f"\nTalk to it:\n  seekling chat {shlex.quote(str(folder))}")


def only_resume(args: argparse.Namespace, *harmless: str) -> None:
    """Refuse flags beside ``--resume``: the run's own recipe counts."""
    given = [name for name in vars(args) if name not in ("resume", "recipe", "argv", *harmless)]
    if args.recipe is not None or given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given) or "--recipe"
        raise RecipeError(
            f"--resume continues with the run's own recipe, so drop {flags} (or start a new run without --resume)"
        )


def asked_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of ``--recipe`` and the flags, not yet resolved, with the command noted."""
    base = Recipe.load(args.recipe) if args.recipe else None
    if base is not None and base.run.resolved and not hasattr(args, "out"):
        args.out = str(free_folder(Path("runs"), base.run.size or "run"))  # a repeated run gets its own folder
    recipe = from_args(args, base)
    places = [str(Path(path).absolute()) for path in recipe.data.data]  # a run is resumed from any folder
    return recipe.override(dict(command=_command(args), data=places))


def train(recipe: Recipe, args: argparse.Namespace, story: "StoryRecipe | None" = None) -> Path:
    """Resolve, say what was derived, train; returns the run folder.

    Args:
        story: what is taught afterwards; it is checked first and noted in the folder, and gets its share of a time budget.
    """
    from seekling.machine import look
    from seekling.train.pretrain import check_fresh
    from seekling.train.pretrain import pretrain as start

    if recipe.run.out is not None:
        check_fresh(Path(recipe.run.out))  # before anything takes time
    raise_all(
        DataError, [f"there is no folder or file {path}: check --data" for path in recipe.data.data if not Path(path).exists()]
    )
    if recipe.data.corpus not in (None, "none"):
        from seekling.data.sources import corpus_named

        corpus_named(recipe.data.corpus)
    if story is not None:
        from seekling.train.story import check_tasks, plan_lessons

        check_tasks(story)
    machine = look(recipe.run.out or ".")
    if recipe.run.minutes is not None and not recipe.run.resolved:
        whole = recipe.run.minutes
        if story is not None:
            recipe = recipe.override(dict(minutes=PRETRAINING_SHARE * whole))
        shared = "" if story is None else f", {recipe.run.minutes:g} of them for pretraining"
        print(f"Measuring this machine for a budget of {whole:g} minutes{shared} …", flush=True)
    resolved = resolve(recipe, machine, say=lambda line: print(f"  {line}", flush=True))
    check_device(resolved)
    check_memory(resolved, machine)
    print(derived_text(recipe, resolved), flush=True)
    if story is not None:
        planned = plan_lessons(story, resolved).story
        steps = f"{planned.sft_steps} steps of lessons, {planned.grpo_steps} of practice"
        print(f"  then {steps}: {', '.join(planned.tasks)}", flush=True)
    return start(resolved, console=console())


def check_device(recipe: Recipe) -> None:
    """Refuse a device this torch cannot reach."""
    name = recipe.run.device
    if name == "cpu":
        return
    import torch

    ready = torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
    if not ready:
        raise MachineError(f"--device {name}: this torch build finds no such device; use --device cpu or install another build")


def check_memory(recipe: Recipe, machine: "Machine") -> None:
    """Refuse a model whose weights alone, in single precision, are more than this machine's memory."""
    counted = model_config(recipe).parameters()
    count = counted.total + counted.mtp
    if recipe.run.device == "cpu" and 4 * count > machine.memory_bytes:
        raise MachineError(
            f"a model of {count:,} parameters takes {4 * count / 1e9:,.0f} GB for its weights alone, and this machine has "
            f"{machine.memory_bytes / 1e9:,.0f} GB: give a smaller --size, or lower widths and layers"
        )


def derived_text(asked: Recipe, resolved: Recipe) -> str:
    """Every derived value, grouped by what it was derived from."""
    groups: dict[str, list[str]] = {}
    for name, value, source in explain(asked, resolved):
        groups.setdefault(source, []).append(f"{name} {value}")
    lines = [
        f"size {resolved.run.size}, {resolved.train.steps:,} steps, {resolved.train.tokens:,} tokens -> {resolved.run.out}"
    ]
    for source, values in groups.items():
        text = f"  from {source}: {', '.join(values)}"
        lines += textwrap.wrap(text, 118, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


# ---- after training --------------------------------------------------------------------------------------------------


def run_folder(path: str | Path) -> Path:
    """The path, if it is a run. Raises CheckpointError."""
    path = Path(path)
    if not (path / "recipe.toml").is_file():
        why = "does not exist" if not path.exists() else "is not a run (it has no recipe.toml)"
        raise CheckpointError(f"{path} {why}; give the folder that seekling run or seekling pretrain wrote")
    return path


def report_folder(folder: Path, **costs: float | None) -> None:
    """Write the report; print its ten numbers and where it is."""
    from seekling.release.report import terminal_summary, write_report

    write_report(folder, **costs)
    print("\n".join(terminal_summary(folder, **costs)))


def samples_text(folder: Path) -> str:
    """The run's last samples: prompt, then what the model made of it."""
    from seekling.train.log import read_log

    records = [r for r in read_log(folder / "log.jsonl") if r["kind"] == "sample"]
    samples = records[-1]["samples"] if records else []
    return "".join(f"\n[{s['source']}] {s['prompt']}|{s['text']}\n" for s in samples)


def report(args: argparse.Namespace) -> int:
    """Rebuild report.md, report.json and the figures from the run's log."""
    from seekling.release.stage_report import stage_of, write_stage_report

    folder = run_folder(args.path)
    if stage_of(folder) is None:
        report_folder(folder, watts=args.watts, price=args.price)
    else:
        print("\n".join(write_stage_report(folder)))
    return 0
