"""Supervised fine-tuning: conversations → packed rows → the loop; loss on what the assistant says, end-of-turn included.

Run: ``seekling sft --model smollm2 --data talks.jsonl --lora 16 --out runs/mine`` and ``seekling sft --resume runs/mine``.

    RUN/recipe.toml, log.jsonl, checkpoints/    as in pretraining; with --lora a checkpoint is a PEFT adapter folder
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seekling.data.conversations import SHOWN, read_conversations
from seekling.data.packed_conversations import Example, PackedConversations, encode_each, examples_of, held_out
from seekling.errors import DataError, RecipeError, raise_all
from seekling.train.log import RunLog, read_log, say_to
from seekling.train.loop import Hook
from seekling.train.loss import IGNORE, targets_of, token_losses
from seekling.train.pretrain import NextTokens
from seekling.train.recipe_parts import steps_of
from seekling.train.schedule import Schedules
from seekling.train.sft_recipe import SftRecipe
from seekling.train.state import Saved, replace_text
from seekling.train.teaching import MICRO_TOKENS, Student, begin, build_loop, go_on, open_student, run_between

if TYPE_CHECKING:
    from seekling.model import Decoder
    from seekling.text.tokenizer import Tokenizer

LONGEST_ROW = 2048  # of a derived seq_len


@dataclass(frozen=True)
class Lessons:
    """What a run learns from and is judged by; ``fingerprint`` of all token ids and targets in order."""

    train: PackedConversations
    heldout: PackedConversations | None
    fingerprint: str
    targets: int


def sft(recipe: SftRecipe, console: Any = None) -> Path:
    """Fine-tune a fresh run to its end and return its folder.

    Raises:
        RecipeError, DataError, CheckpointError: everything that is wrong with recipe, conversations or model, before training.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    if not recipe.talks.data:
        raise DataError("--data names no file of conversations")
    return begin(recipe, _train, console)


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is.

    Raises:
        CheckpointError: no fine-tuning run, damaged checkpoints, or base, recipe or data were changed.
    """
    return go_on(SftRecipe, run, _train, console)


def lessons_of(recipe: Any, tokenizer: "Tokenizer", config: Any) -> Lessons:
    """Read, encode, split and pack the conversations.

    Raises:
        DataError: every broken line; every conversation that the template cannot encode; those longer than a row.
    """
    talks = read_conversations(recipe.talks.data)
    encoded = encode_each(talks, lambda talk: examples_of(tokenizer, talk), "conversations")
    empty = [parts[0].where for parts in encoded if not any(e.targets.any() for e in parts)]
    raise_all(DataError, empty[:SHOWN], "conversations in which nothing is learned (the template leaves out every reply)")
    longest = max(len(e) for parts in encoded for e in parts) - 1
    room = min(config.max_position_embeddings, max(longest, min(LONGEST_ROW, 4 * longest)))
    seq_len = recipe.talks.seq_len or max(8, room)
    order = np.argsort(np.random.Philox(key=np.array([recipe.start.seed, 7], np.uint64)).random_raw(len(talks)), kind="stable")
    keys = [tuple((e.ids.tobytes(), e.targets.tobytes()) for e in parts) for parts in encoded]
    out = held_out(order.tolist(), keys, recipe.talks.heldout)
    train = [e for i, parts in enumerate(encoded) if i not in out for e in parts]
    judged = [e for i, parts in enumerate(encoded) if i in out for e in parts]
    pad = next(i for i in (tokenizer.pad_id, tokenizer.eos_id, 0) if i is not None)
    extra = config.num_nextn_predict_layers
    return Lessons(
        PackedConversations(train, seq_len, pad, extra, recipe.start.seed),
        PackedConversations(judged, seq_len, pad, extra, None) if judged else None,
        _fingerprint(train + judged),
        sum(int(e.targets.sum()) for e in train),
    )


def _fingerprint(examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for e in examples:
        digest.update(e.ids.astype("<i8").tobytes() + e.targets.tobytes())
    return digest.hexdigest()


def resolved(recipe: Any, lessons: Lessons) -> Any:
    """Every derived value filled in."""
    if recipe.start.resolved:
        return recipe
    learn, rows, seq_len = recipe.learn, lessons.train.n_rows, lessons.train.seq_len
    batch = min(learn.batch_size, rows)
    epochs = 2.0 if learn.epochs is None and learn.steps is None else learn.epochs
    steps = learn.steps or steps_of(epochs or 0, rows, batch)
    fits = max(1, MICRO_TOKENS // seq_len)
    micro = learn.micro_batch or max(n for n in range(1, min(batch, fits) + 1) if batch % n == 0)
    if batch % micro:
        raise RecipeError(f"micro_batch {micro} does not divide the {batch} rows of a step; drop --micro-batch")
    values: dict[str, Any] = dict(
        steps=steps, epochs=round(steps * batch / rows, 12), batch_size=batch, micro_batch=micro, seq_len=seq_len,
        resolved=True,
        lr=learn.lr or (5e-4 if recipe.lora.lora else 1e-4), warmup=learn.warmup if learn.warmup is not None else steps // 20,
        save_every=learn.save_every or max(10, steps // 4), eval_every=learn.eval_every or max(5, steps // 8),
        threads=recipe.start.threads or torch.get_num_threads(),
    )  # fmt: skip
    if recipe.lora.lora:
        values |= dict(mtp_weight=0.0, lora_alpha=recipe.lora.lora_alpha or 2.0 * recipe.lora.lora)
    return recipe.override(values)


def _train(recipe: SftRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    return fit(recipe, run, saved, console, open_student(recipe, saved))


def fit(
    recipe: Any, run: Path, saved: Saved | None, console: Any, student: Student, hooks: Sequence[Hook] = (), event: Any = None
) -> Path:
    """Fine-tune a student on the conversations of a recipe (with the sections start, talks, lora and learn).

    Args:
        hooks: further evaluations; they also run before the first step and after the last.
        event: noted in the log of a fresh run.
    """
    say = say_to(console)
    assert student.lm.tokenizer is not None  # open_student has seen to it
    lessons = lessons_of(recipe, student.lm.tokenizer, student.lm.config)
    recipe = resolved(recipe, lessons)
    learn = recipe.learn
    if saved is None:
        replace_text(run / "recipe.toml", recipe.to_toml())
    log = RunLog.of_run(run, saved, learn.trackers)
    if lessons.heldout:
        hooks = [Hook("eval", learn.eval_every, lambda step: judge(student.model, lessons.heldout)), *hooks]
    loop = build_loop(
        student,
        NextTokens(student.model, lessons.train, learn, Schedules.of(learn)),  # type: ignore[arg-type]
        recipe,
        run,
        log,
        console,
        hooks=hooks,
        pinned={"data": lessons.fingerprint, "template": student.lm.tokenizer.template_hash or "built in"},
    )
    if saved is not None:
        loop.restore(saved)
        loop.enough = any(line.get("enough") for line in read_log(run / "log.jsonl"))  # it had ended early
    elif event:
        log.write("event", 0, **event)
    say(opening(student, lessons, recipe))
    try:
        run_between(loop, hooks, log, learn.steps)
        held = [line["ce"] for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
        if held:
            say(f"held-out loss on the assistant's tokens: {held[0]:.4f} before, {held[-1]:.4f} after")
    finally:
        log.close()
    return run


@torch.no_grad()
def judge(model: "Decoder", rows: PackedConversations | None) -> dict[str, Any]:
    """Mean cross-entropy (nats) and accuracy over the assistant's tokens of held-out conversations."""
    assert rows is not None
    training = model.training
    model.eval()
    try:
        loss, right, count = 0.0, 0, 0
        for first in range(0, rows.n_rows, 4):
            batch = rows.batch(first, min(4, rows.n_rows - first)).to(model.lm_head.weight.device)
            losses_BT, right_BT = token_losses(model, batch)
            asked_BT = targets_of(batch, rows.seq_len, 1) != IGNORE
            loss += float(losses_BT.double().sum())
            right += int((right_BT & asked_BT).sum())
            count += int(asked_BT.sum())
    finally:
        model.train(training)
    return {"ce": round(loss / max(1, count), 6), "accuracy": round(right / max(1, count), 6), "tokens": count}


def opening(student: Student, lessons: Lessons, recipe: Any) -> str:
    """One line on what is about to happen."""
    trained = sum(v.numel() for v in student.optimizer.weights.values.values())
    whole = sum(p.numel() for p in student.model.parameters())
    what = f"{trained / 1e6:.2f}M of {whole / 1e6:.1f}M parameters" if student.lora else f"all {whole / 1e6:.1f}M parameters"
    return (
        f"training {what} on {len(lessons.train.examples):,} conversations ({lessons.targets:,} target tokens in "
        f"{lessons.train.n_rows:,} rows of {lessons.train.seq_len}), {recipe.learn.steps:,} steps of {recipe.learn.batch_size}"
    )
