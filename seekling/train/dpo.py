"""Learning from preferences: of two answers to the same question, the better one becomes likelier than the worse (DPO).

Run: ``seekling dpo --model runs/mine --data pairs.jsonl --lora 16`` and ``seekling dpo --resume RUN``.

    RUN/reference.safetensors    log-probabilities under the model the run began with, computed once

Shapes: P pairs, R = 2P rows (chosen, rejected, chosen, …), S tokens of a row, N answer tokens.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seekling.data.packed import epoch_order
from seekling.data.packed_conversations import encode_each, held_out, reply_span
from seekling.data.preferences import Preference, read_preferences
from seekling.errors import CheckpointError, DataError, raise_all
from seekling.formats.safetensors_io import ToWrite, open_tensors, read_metadata, write_safetensors
from seekling.kernels import ops
from seekling.model import Decoder
from seekling.train.dpo_loss import pair_loss
from seekling.train.dpo_recipe import DpoRecipe
from seekling.train.log import Progress, RunLog, read_log, say_to
from seekling.train.loop import Hook, Terms
from seekling.train.loss import head_inputs
from seekling.train.recipe_parts import steps_of
from seekling.train.state import Saved, replace_text
from seekling.train.teaching import MICRO_TOKENS, Student, begin, build_loop, go_on, open_student, run_between

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class Pair:
    """Token ids of (chosen, rejected), and where their answers begin."""

    ids: tuple[list[int], list[int]]
    begin: int
    where: str

    @property
    def places(self) -> int:
        """Places its two rows take."""
        return 2 * max(map(len, self.ids))


def dpo(recipe: DpoRecipe, console: Any = None) -> Path:
    """Train a fresh run to its end and return its folder.

    Raises:
        RecipeError, DataError, CheckpointError: everything that is wrong with recipe, pairs or model, before training.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    if not recipe.pairs.data:
        raise DataError("--data names no file of pairs")
    return begin(recipe, _train, console)


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is. Raises CheckpointError."""
    return go_on(DpoRecipe, run, _train, console)


def encoded(tokenizer: "Tokenizer", preferences: Sequence[Preference], context: int) -> list[Pair]:
    """Pairs of token ids. Raises DataError naming every pair that cannot be encoded or is too long."""

    def encode(p: Preference) -> Pair:
        where, tools = p.chosen.where, list(p.chosen.tools) or None
        spans = [reply_span(tokenizer, list(side.messages), tools, where) for side in (p.chosen, p.rejected)]
        return Pair((spans[0][0], spans[1][0]), min(begin for _, begin in spans), where)  # one may think and so open otherwise

    out = encode_each(preferences, encode, "pairs")
    bad = [f"{pair.where} takes {pair.places // 2} tokens" for pair in out if pair.places // 2 > context]
    raise_all(DataError, bad[:8], f"pairs longer than the model's context of {context}; shorten them")
    return out


def resolved(recipe: DpoRecipe, pairs: int) -> DpoRecipe:
    """Every derived value filled in."""
    if recipe.start.resolved:
        return recipe
    learn = recipe.learn
    batch = min(learn.batch_size, pairs)
    epochs = 1.0 if learn.epochs is None and learn.steps is None else learn.epochs
    steps = learn.steps or steps_of(epochs or 0, pairs, batch)
    values: dict[str, Any] = dict(
        steps=steps, epochs=round(steps * batch / pairs, 12), batch_size=batch, resolved=True,
        lr=learn.lr or (5e-5 if recipe.lora.lora else 5e-6), warmup=learn.warmup if learn.warmup is not None else steps // 10,
        save_every=learn.save_every or max(10, steps // 4), eval_every=learn.eval_every or max(5, steps // 8),
        threads=recipe.start.threads or torch.get_num_threads(),
    )  # fmt: skip
    if recipe.lora.lora:
        values["lora_alpha"] = recipe.lora.lora_alpha or 2.0 * recipe.lora.lora
    return recipe.override(values)


def _train(recipe: DpoRecipe, run: Path, saved: Saved | None, console: Any) -> Path:
    student, say = open_student(recipe, saved), say_to(console)
    assert student.lm.tokenizer is not None  # open_student has seen to it
    pairs = encoded(student.lm.tokenizer, read_preferences(recipe.pairs.data), student.lm.config.max_position_embeddings)
    order = epoch_order(recipe.start.seed, 2**32, len(pairs))
    out = held_out(order.tolist(), [tuple(map(tuple, pair.ids)) for pair in pairs], recipe.pairs.heldout)
    held, train = sorted(out), sorted(set(order.tolist()) - out)
    recipe = resolved(recipe, len(train))
    learn, print_of = recipe.learn, fingerprint(pairs)
    if saved is None:
        replace_text(run / "recipe.toml", recipe.to_toml())
    ref_P2 = reference(student.model, pairs, run, print_of, saved, console)
    log = RunLog.of_run(run, saved, learn.trackers)
    objective = Preferred(student, pairs, train, ref_P2, recipe)
    hooks = [Hook("eval", learn.eval_every, lambda step: objective.judge(held))] if held else []
    loop = build_loop(student, objective, recipe, run, log, console, hooks=hooks, pinned={"data": print_of})
    if saved is not None:
        loop.restore(saved)
    say(f"{len(train):,} pairs, {len(held):,} held out, {learn.steps:,} steps of {learn.batch_size}")
    try:
        run_between(loop, hooks, log, learn.steps)
        found = [line["accuracy"] for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
        if found:
            say(f"held-out pairs in the right order: {found[-1]:.1%} after (chance: 50%)")
    finally:
        log.close()
    return run


def fingerprint(pairs: Sequence[Pair]) -> str:
    """SHA-256 of all token ids in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in pair.ids:
            digest.update(np.array([pair.begin, len(ids), *ids], "<i8").tobytes())
    return digest.hexdigest()


def reference(model: Decoder, pairs: Sequence[Pair], run: Path, print_of: str, saved: Saved | None, console: Any) -> Tensor:
    """(pairs, 2) log-probabilities under the model before its first step: read where the run has them, else computed and kept.

    Raises:
        CheckpointError: a run that goes on has lost them, or they belong to other pairs.
    """
    path = run / REFERENCE
    if saved is not None:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: it holds what the pairs are measured against; put it back")
        if read_metadata(path).get("data") != print_of:
            raise CheckpointError(f"{path} belongs to other pairs than the data hold now; put the original data back")
        with open_tensors(path) as read:
            return read("logp_P2").clone()
    progress = Progress(console, len(pairs), what="reference")
    progress.open()
    training, out, done = model.training, torch.zeros(len(pairs), 2), 0
    model.eval()
    try:
        with torch.no_grad():
            for part in by_size(pairs, range(len(pairs))):
                out[part] = log_probs(model, [pairs[i] for i in part])[0].cpu()
                done += len(part)
                progress.note(done, "log-probabilities before training")
    finally:
        progress.close()
        model.train(training)
    fresh = path.with_suffix(".tmp")
    write_safetensors(fresh, [ToWrite("logp_P2", out.dtype, tuple(out.shape), lambda: out)], {"data": print_of})
    os.replace(fresh, path)
    return out


def by_size(pairs: Sequence[Pair], numbers: Sequence[int]) -> list[list[int]]:
    """Numbers of pairs in parts of at most MICRO_TOKENS places, alike in length."""
    out: list[list[int]] = []
    for i in sorted(numbers, key=lambda i: pairs[i].places):
        if out and (len(out[-1]) + 1) * pairs[i].places <= MICRO_TOKENS:
            out[-1].append(i)
        else:
            out.append([i])
    return out


def log_probs(model: Decoder, pairs: Sequence[Pair], chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """(sums of log-probabilities, numbers) of the answers' tokens, (P, 2) each."""
    device = model.lm_head.weight.device
    rows = [ids for pair in pairs for ids in pair.ids]
    begins = [pair.begin for pair in pairs for _ in pair.ids]
    ids_RS = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    asked_RS = torch.zeros_like(ids_RS, dtype=torch.bool)
    for r, (ids, first) in enumerate(zip(rows, begins, strict=True)):
        ids_RS[r, : len(ids)] = torch.tensor(ids)
        asked_RS[r, first - 1 : len(ids) - 1] = True
    ids_RS, asked_RS = ids_RS.to(device), asked_RS.to(device)
    row_N, place_N = asked_RS.nonzero(as_tuple=True)
    h_ND, weight_VD = head_inputs(model, model.hidden(ids_RS)[row_N, place_N])
    logp_N, _ = ops.linear_log_prob(h_ND, weight_VD, ids_RS[row_N, place_N + 1], 1.0, chunk)
    sums_R = logp_N.new_zeros(len(rows)).index_add(0, row_N, logp_N)
    return sums_R.view(-1, 2), asked_RS.sum(1).view(-1, 2)


class Preferred:
    """The objective of a step: its pairs in micro-batches."""

    def __init__(self, student: Student, pairs: Sequence[Pair], train: Sequence[int], ref_P2: Tensor, recipe: DpoRecipe):
        self.model, self.pairs, self.train, self.recipe = student.model, pairs, train, recipe
        self.ref_P2 = ref_P2.to(student.model.lm_head.weight.device)

    def load(self, step: int) -> Sequence[list[int]]:
        n, size = len(self.train), self.recipe.learn.batch_size
        some = []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, n)
            some.append(self.train[int(epoch_order(self.recipe.start.seed, epoch, n)[place])])
        return by_size(self.pairs, some)

    def terms(self, micro: list[int], step: int) -> Terms:
        prefer, size = self.recipe.prefer, self.recipe.learn.batch_size
        logp_P2, lengths_P2 = log_probs(self.model, [self.pairs[i] for i in micro], self.recipe.learn.loss_chunk)
        out = pair_loss(
            logp_P2, self.ref_P2[micro], lengths_P2, beta=prefer.beta, kind=prefer.dpo_loss, smoothing=prefer.label_smoothing
        )
        loss = out.loss_P.sum() / size
        if prefer.nll:
            loss = loss - prefer.nll * (logp_P2[:, 0] / lengths_P2[:, 0]).sum() / size
        places = sum(self.pairs[i].places for i in micro)
        return Terms(loss, int(lengths_P2.sum()), places, means_of(out))

    @torch.no_grad()
    def judge(self, held: Sequence[int]) -> dict[str, Any]:
        """Loss, share in the right order, and margin of held-out pairs."""
        prefer, training = self.recipe.prefer, self.model.training
        self.model.eval()
        total: dict[str, float] = {}
        try:
            for part in by_size(self.pairs, held):
                logp_P2, lengths_P2 = log_probs(self.model, [self.pairs[i] for i in part])
                out = pair_loss(logp_P2, self.ref_P2[part], lengths_P2, beta=prefer.beta, kind=prefer.dpo_loss)
                sums = {"loss": float(out.loss_P.sum())} | {name: value for name, (value, _) in means_of(out).items()}
                total = {name: total.get(name, 0.0) + value for name, value in sums.items()}
        finally:
            self.model.train(training)
        return {name: round(value / len(held), 6) for name, value in total.items()} | {"pairs": len(held)}


def means_of(out: Any) -> dict[str, tuple[float, float]]:
    """What the log shows of some pairs."""
    margin_P, n = out.chosen_P - out.rejected_P, float(len(out.chosen_P))
    return {
        "accuracy": (float((margin_P > 0).sum()), n),
        "margin": (float(margin_P.sum()), n),
        "chosen": (float(out.chosen_P.sum()), n),
        "rejected": (float(out.rejected_P.sum()), n),
    }
