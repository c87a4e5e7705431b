"""What the stages after pretraining share: the model they start from, the way from recipe to loop, and what they write.

A stage starts from anything ``seekling.load`` takes.  With full weights its checkpoints are model folders; with LoRA they are
PEFT adapter folders, which ``seekling.load`` opens over their base.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seekling.errors import CheckpointError, RecipeError
from seekling.lm import LM, load
from seekling.model import Decoder
from seekling.train.log import Progress, RunLog, say_to
from seekling.train.loop import Hook, Loop, LoopSettings, Objective
from seekling.train.lora import LoraSettings, adapter_of, add_lora, put_in
from seekling.train.optim import Optimizer, OptimSettings
from seekling.train.packed_base import open_packed
from seekling.train.precision import compute_dtype, stays_float32
from seekling.train.recipe_parts import LoraPart
from seekling.train.rundir import check_fresh, check_room, claim, fresh, newest_state, note_sources, recipe_of, text_fingerprint
from seekling.train.schedule import Schedules, piecewise
from seekling.train.state import Checkpoints, Saved, seed_everything
from seekling.tree import Tree

MICRO_TOKENS = 4096  # most tokens computed at once where the recipe leaves it open


def lora_settings(part: LoraPart) -> LoraSettings | None:
    """None = full weights."""
    if part.lora == 0:
        return None
    alpha = 2.0 * part.lora if part.lora_alpha is None else part.lora_alpha
    return LoraSettings(part.lora, alpha, part.lora_targets, part.lora_dropout, part.rslora, part.lora_shared_a)


@dataclass
class Student:
    """The model in training with what belongs to it.

    ``base`` names what it started from, ``fingerprint`` tells that model's weights, ``base_quant`` how they are packed.
    """

    lm: LM
    optimizer: Optimizer
    base: str
    fingerprint: str
    lora: LoraSettings | None
    base_quant: str = ""

    @property
    def model(self) -> Decoder:
        return self.lm.model

    def weight_bytes(self) -> int:
        """Size of what a checkpoint writes."""
        return 4 * sum(v.numel() for v in self.optimizer.weights.values.values())

    def write(self, folder: Path) -> None:
        """The model or adapter files of a checkpoint, float32, with the tokenizer."""
        from seekling.train.pretrain import write_checkpoint

        assert self.lm.tokenizer is not None  # open_student has seen to it
        if self.lora is None:
            write_checkpoint(self.model, self.optimizer, self.lm.tokenizer, folder)
            return
        from seekling.formats.adapters import Adapter
        from seekling.formats.peft_write import write_adapter

        adapter = adapter_of(self.model, self.optimizer.weights.values)
        with_base = Adapter(adapter.parts, self.base, self.fingerprint)
        notes = {"base_quant": self.base_quant} if self.base_quant else {}
        write_adapter(with_base, folder, plain_shapes(self.model), notes=notes)
        self.lm.tokenizer.save(folder)


def plain_shapes(model: Decoder) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters without adapters, by their names there."""
    return {name: tuple(t.shape) for name, t in Decoder.empty(model.config).state_dict().items()}


def open_student(recipe: Any, saved: Saved | None) -> Student:
    """The model a stage trains: the recipe's, with the state of a checkpoint put in when a run goes on.

    Args:
        recipe: with the sections start, lora and learn.

    Raises:
        RecipeError: no model named, no tokenizer, an adapter target that does not exist.
        CheckpointError: a base that is not what the run started from.
    """
    from seekling.formats.adapters import model_fingerprint

    start, lora = recipe.start, lora_settings(recipe.lora)
    source = start.model
    if not source:
        raise RecipeError("--model names what to start from: a run, a checkpoint folder, a GGUF file or a pulled model")
    compute, _ = compute_dtype(recipe.learn.dtype)
    full = lora is None
    lm: LM
    if recipe.lora.base_quant:
        lm = open_packed(source, recipe.lora.base_quant, compute)
        model, mark = lm.model, lm.fingerprint
    else:
        lm = load(saved.path if saved is not None and full else source, torch.float32 if full else compute, stays_float32)
        model, mark = lm.model.to(start.device), model_fingerprint(lm.model)
    if lm.tokenizer is None:
        raise RecipeError(f"{source} has no tokenizer, which conversations need; give a model folder with tokenizer.json")
    if lora is not None:
        add_lora(model, lora, start.seed)
        if saved is not None:
            _restore_adapter(model, saved.path)
    else:
        model.requires_grad_(True)
    optimizer = Optimizer(model, OptimSettings.of(recipe.learn), compute)
    base = str(Path(source).resolve()) if Path(source).exists() else source
    return Student(lm, optimizer, base, mark, lora, recipe.lora.base_quant)


def _restore_adapter(model: Decoder, folder: Path) -> None:
    from seekling.formats.peft import read_adapter

    held = read_adapter(folder, Decoder.empty(model.config))
    if held.parts.keys() != adapter_of(model, dict(model.named_parameters())).parts.keys():
        raise CheckpointError(f"{folder} adapts other layers than recipe.toml; put the original recipe back")
    put_in(model, held)


# ---- a stage from its recipe to its loop -----------------------------------------------------------------------------------

Train = Callable[[Any, Path, Saved | None, Any], Path]  # (recipe, run folder, checkpoint to go on from, console) -> run folder


def begin(recipe: Any, train: Train, console: Any) -> Path:
    """Start a fresh run in ``--out``, or in the first free folder named after the stage."""
    if recipe.start.out is None:
        from seekling.resolve import free_folder

        recipe = recipe.override(dict(out=str(free_folder(Path("runs"), recipe.verb()))))
    run = Path(recipe.start.out)
    check_fresh(run, recipe.verb())
    with fresh(run):
        _settle(recipe)
        return train(recipe, run, None, console)


def go_on(kind: type[Tree], run: Path | str, train: Train, console: Any) -> Path:
    """Continue a run of this kind of recipe where its newest intact checkpoint is."""
    run = Path(run)
    recipe: Any = recipe_of(kind, run)
    with claim(run):
        saved = newest_state(run, recipe.learn.keep, say_to(console))
        _settle(recipe)
        return train(recipe, run, saved, console)


def _settle(recipe: Any) -> None:
    if recipe.start.threads:
        torch.set_num_threads(recipe.start.threads)
    seed_everything(recipe.start.seed)


def build_loop(
    student: Student,
    objective: Objective,
    recipe: Any,
    run: Path,
    log: RunLog,
    console: Any,
    *,
    hooks: Sequence[Hook],
    pinned: Mapping[str, str] | None = None,
    give_up_after: int = 10,
    stop_every: int = 1,
) -> Loop:
    """The loop of a resolved recipe, with room on the disk made sure of.

    Args:
        pinned: what must not change until the run ends, besides the recipe and an adapter's base.
    """
    learn, schedules = recipe.learn, Schedules.of(recipe.learn)
    note_sources(run, recipe.flat().get("data") or ())
    loop = Loop(
        student.model,
        student.optimizer,
        objective,
        LoopSettings(
            steps=learn.steps,
            lr=schedules.lr,
            router_speed=functools.partial(piecewise, schedules.router_speed),
            clip=learn.clip,
            log_every=learn.log_every,
            save_every=learn.save_every,
            stop_every=stop_every,
            verb=recipe.verb(),
            give_up_after=give_up_after,
        ),
        log=log,
        progress=Progress(console, learn.steps),
        checkpoints=Checkpoints(run / "checkpoints", learn.keep, say_to(console)),
        write_model=student.write,
        model_bytes=student.weight_bytes(),
        hooks=hooks,
        pinned={
            "recipe": text_fingerprint((run / "recipe.toml").read_text("utf-8")),
            "base": student.fingerprint if student.lora else "",
            **(pinned or {}),
        },
    )
    own = getattr(objective, "state_bytes", 0)
    check_room(run, loop.model_bytes + student.optimizer.state_bytes() + own, learn)
    return loop


def run_between(loop: Loop, hooks: Sequence[Hook], log: RunLog, steps: int) -> None:
    """Run a loop to its end, every hook also before the first step and, told as ``final``, after the last."""
    for hook in hooks:
        if loop.step == 0 and (hook.kind, 0) not in log.seen:
            log.write(hook.kind, 0, **hook.run(0))
    loop.run()
    last = loop.step if loop.enough else steps
    for hook in hooks:
        if (hook.kind, last) not in log.seen:
            log.write(hook.kind, last, final=True, **hook.run(last))
