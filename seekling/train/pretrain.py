"""Pretraining: text → tokenizer → packed rows → the loop → a run folder that any other verb takes.

Run: ``seekling pretrain --size nano --steps 200 --out runs/first`` and ``seekling pretrain --resume runs/first``.

    RUN/recipe.toml          the resolved recipe; fixed from here on
    RUN/data_manifest.json   where the text comes from
    RUN/tokenizer/           the vocabulary
    RUN/log.jsonl            see seekling.train.log
    RUN/checkpoints/         see seekling.train.state

Shapes: B rows, T positions, S = T + 1 + MTP depth.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from seekling.data import Batch, Packed
from seekling.errors import CheckpointError, DataError
from seekling.formats import load_model, save_model
from seekling.model import Decoder, ModelConfig
from seekling.recipe import Recipe, model_config, resolve
from seekling.train.evaluate import byte_lengths, evaluate, held_out
from seekling.train.log import Progress, RunLog, say_to
from seekling.train.loop import Hook, Loop, LoopSettings, Terms
from seekling.train.loss import IGNORE, compute_loss, targets_of
from seekling.train.optim import Optimizer, OptimSettings
from seekling.train.rundir import (
    check_fresh,
    check_room,
    claim,
    data_fingerprint,
    fresh,
    newest_state,
    recipe_of,
    text_fingerprint,
)
from seekling.train.sample import Sampler
from seekling.train.schedule import Schedules, piecewise
from seekling.train.state import Checkpoints, Saved, replace_text, seed_everything

if TYPE_CHECKING:
    from seekling.data.prepare import Prepared
    from seekling.text.tokenizer import Tokenizer


# ---- what is trained on ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Micro:
    """A micro-batch, and the target tokens and rows of the whole step it belongs to."""

    batch: Batch
    targets: int
    rows: int


class Rows(Protocol):
    """Endless rows by number: the packed stream of pretraining, the packed conversations of SFT."""

    seq_len: int

    def batch(self, first_row: int, n: int) -> Batch: ...


class NextTokens:
    """Next tokens of rows ``step·batch_size …``: cross-entropy + MTP + balance loss.

    ``train`` has batch_size, micro_batch, seq_balance_alpha and loss_chunk.
    """

    def __init__(self, model: Decoder, packed: Rows, train: Any, schedules: Schedules) -> None:
        self.model, self.packed, self.train, self.schedules = model, packed, train, schedules
        self.device = model.lm_head.weight.device

    def load(self, step: int) -> Sequence[Micro]:
        n, size = self.train.batch_size, self.train.micro_batch
        whole = self.packed.batch(step * n, n)
        targets = int((targets_of(whole, self.packed.seq_len, 1) != IGNORE).sum())
        return [Micro(whole.part(slice(i, i + size)), targets, n) for i in range(0, n, size)]

    def terms(self, micro: Micro, step: int) -> Terms:
        train = self.train
        out = compute_loss(
            self.model,
            micro.batch.to(self.device),
            mtp_weight=piecewise(self.schedules.mtp_weight, step),
            seq_balance_alpha=train.seq_balance_alpha,
            targets=micro.targets,
            rows=micro.rows,
            chunk=train.loss_chunk,
        )
        rows = len(micro.batch.tokens_BS)
        means: dict[str, tuple[float, float]] = {"ce": (float(out.ce_sum), out.targets)}
        if out.mtp_targets:
            means["mtp_ce"] = (float(out.mtp_ce_sum), out.mtp_targets)
        routed = out.loads_LE.numel() > 0
        if routed and train.seq_balance_alpha > 0:
            means["balance"] = (float(out.balance), rows / micro.rows)
        return Terms(out.loss, out.targets, rows * self.packed.seq_len, means, out.loads_LE if routed else None)


# ---- the verb --------------------------------------------------------------------------------------------------------


def pretrain(recipe: Recipe, console: Any = None) -> Path:
    """Train a fresh run to its end and return its folder.

    Args:
        recipe: resolved here if it is not.
        console: a ``rich.console.Console`` for progress; None is silent.

    Raises:
        RecipeError: the folder holds something else, or the recipe contradicts itself.
        DataError: no usable text, or too little for the vocabulary.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
    """
    recipe = resolve(recipe)
    run = Path(recipe.run.out or "")
    config = model_config(recipe)
    check_fresh(run)
    with fresh(run):
        replace_text(run / "recipe.toml", recipe.to_toml())
        return _train(recipe, config, run, None, console)


def resume(run: Path | str, console: Any = None) -> Path:
    """Go on where the newest intact checkpoint of a run is; a run stopped before its first save begins again.

    Raises:
        CheckpointError: the folder is no run, every checkpoint is damaged, or recipe or data were changed.
    """
    run = Path(run)
    recipe, say = recipe_of(Recipe, run), say_to(console)
    with claim(run):
        saved = newest_state(run, recipe.train.keep, say)
        if saved is None:
            say(f"{run} has no checkpoint yet: starting at step 0")
        else:
            say(f"resuming {run} at step {saved.step:,} of {recipe.train.steps:,}")
        return _train(recipe, model_config(recipe), run, saved, console)


def prepare_data(recipe: Recipe, run: Path, say: Callable[[str], None] = lambda text: None) -> "Prepared":
    """Text, tokenizer and token streams of a run, from the cache or made (again).

    Sources that could not be had when the run began stay left out, so that a resumed run reads the same text.

    Raises:
        DataError: no usable text, or too little of it for the vocabulary.
    """
    from seekling.data.prepare import prepare

    data, manifest = recipe.data, run / "data_manifest.json"
    return prepare(
        data.corpus,
        data.data,
        vocab_size=data.vocab_size,
        seed=data.data_seed or 0,
        heldout=data.heldout,
        fim_rate=data.fim_rate,
        generated_share=data.generated_share,
        like=json.loads(manifest.read_text("utf-8")) if manifest.is_file() else None,
        progress=say,
    )


def _train(recipe: Recipe, config: ModelConfig, run: Path, saved: Saved | None, console: Any) -> Path:
    train, say = recipe.train, say_to(console)
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    seed_everything(recipe.run.seed)
    prepared = prepare_data(recipe, run, say)
    judged = bool(held_out(prepared.heldout))
    if saved is None:
        if not judged and (run / "story.toml").is_file():
            raise DataError(
                "nothing of this text can be held out, by which seekling run compares its stages: add a second document, or "
                "give --no-teach"
            )
        prepared.save(run)
        for note in prepared.notes:
            say(note)
        if not judged:
            say("nothing is held out, so nothing is evaluated or sampled: add text if that is wanted")
    packed = Packed(
        prepared.train,
        recipe.data.seq_len,
        extra=config.num_nextn_predict_layers,
        seed=recipe.run.seed,
        document_mask=recipe.data.document_mask,
    )
    model = start_model(config, recipe, saved)
    optimizer = Optimizer(model, OptimSettings.of(recipe.train), getattr(torch, train.dtype))
    log = RunLog.of_run(run, saved, train.trackers)
    loop = build_loop(recipe, model, optimizer, packed, prepared, run, log, console)
    check_room(run, loop.model_bytes + optimizer.state_bytes(), train)
    if saved is not None:
        loop.restore(saved)
    say(opening(recipe, config, prepared, packed))
    try:
        loop.run()
        if judged and ("eval", train.steps) not in log.seen:
            say("evaluating on all held-out text")
            final = evaluate(model, prepared.heldout, recipe.data.seq_len, byte_lengths(prepared.tokenizer))
            log.write("eval", train.steps, final=True, **final.to_dict())
            say(f"bits per byte on held-out text: {final.total.bits_per_byte:.4f}")
        if judged and ("sample", train.steps) not in log.seen:
            log.write("sample", train.steps, **Sampler(model, prepared)(train.steps))
    finally:
        log.close()
    return run


def start_model(config: ModelConfig, recipe: Recipe, saved: Saved | None) -> Decoder:
    """The model in float32: fresh weights from the seed, or those of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another shape than the recipe.
    """
    if saved is None:
        return Decoder.build(config, seed=recipe.run.seed).to(recipe.run.device)
    model = load_model(saved.path, torch.float32)
    if model.config != config:
        raise CheckpointError(f"{saved.path} holds a model of another shape than recipe.toml; put the original recipe back")
    return model.to(recipe.run.device)


def build_loop(
    recipe: Recipe,
    model: Decoder,
    optimizer: Optimizer,
    packed: Packed,
    prepared: "Prepared",
    run: Path,
    log: RunLog,
    console: Any,
) -> Loop:
    """The loop with pretraining's objective, hooks and checkpoints."""
    from seekling.plan import flops_per_token

    train, schedules = recipe.train, Schedules.of(recipe.train)
    settings = LoopSettings(
        steps=train.steps,
        lr=schedules.lr,
        router_speed=functools.partial(piecewise, schedules.router_speed),
        clip=train.clip,
        log_every=train.log_every,
        save_every=train.save_every,
        flops_per_token=flops_per_token(model.config, recipe.data.seq_len).train,
        peak_flops=matrix_peak(train.dtype) if recipe.run.device == "cpu" else 0.0,
        verb="run" if (run / "story.toml").is_file() else "pretrain",
    )
    lengths_V = byte_lengths(prepared.tokenizer)

    def run_evaluation(step: int) -> dict[str, Any]:
        return evaluate(model, prepared.heldout, recipe.data.seq_len, lengths_V, train.eval_tokens).to_dict()

    hooks = []
    if held_out(prepared.heldout):
        hooks = [Hook("eval", train.eval_every, run_evaluation), Hook("sample", train.sample_every, Sampler(model, prepared))]
    return Loop(
        model,
        optimizer,
        NextTokens(model, packed, train, schedules),
        settings,
        log=log,
        progress=Progress(console, train.steps),
        checkpoints=Checkpoints(run / "checkpoints", train.keep, say_to(console)),
        write_model=functools.partial(write_checkpoint, model, optimizer, prepared.tokenizer),
        model_bytes=weight_bytes(model),
        hooks=hooks,
        pinned={
            "recipe": text_fingerprint((run / "recipe.toml").read_text("utf-8")),
            "data": data_fingerprint(prepared.train),
        },
    )


def write_checkpoint(model: Decoder, optimizer: Optimizer, tokenizer: "Tokenizer", folder: Path) -> None:
    """The Hugging Face part of a checkpoint: float32 weights, configs, tokenizer."""
    whole = Decoder.empty(model.config)
    whole.load_state_dict(optimizer.weights.full_state(model), assign=True)  # shares the tensors, copies nothing
    save_model(whole, folder)
    tokenizer.save(folder)


def weight_bytes(model: Decoder) -> int:
    """Size of the float32 weights on disk; every MTP layer has copies of embedding and head there."""
    copies = model.config.num_nextn_predict_layers * 2 * model.lm_head.weight.numel()
    return 4 * (sum(p.numel() for p in model.parameters()) + copies)


def opening(recipe: Recipe, config: ModelConfig, prepared: "Prepared", packed: Packed) -> str:
    """One line on what is about to happen."""
    p, train = config.parameters(), recipe.train
    epochs = train.steps * train.batch_size / packed.n_rows
    precision = "bfloat16 over float32 masters" if train.dtype == "bfloat16" else "float32 (no native bfloat16 or asked for)"
    return (
        f"{p.total / 1e6:.2f}M parameters ({p.active / 1e6:.2f}M active, MTP {p.mtp / 1e6:.2f}M beside), {precision}; "
        f"{len(prepared.train):,} training tokens, {train.tokens:,} to train on ({epochs:.2f} epochs)"
    )


@contextmanager
def quiet_threads(n: int | None) -> Iterator[None]:
    """Use ``n`` threads inside, the former number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matrix_peak(dtype: str, seconds: float = 0.4) -> float:
    """Operations a second this machine reaches in large matrix products of ``dtype``, for the utilisation in the log."""
    from seekling.machine_speed import gemm_gflops

    return 1e9 * gemm_gflops(dtype, torch.get_num_threads(), seconds, 1024)


# ---- for the dial ----------------------------------------------------------------------------------------------------


def measure_step_rate(recipe: Recipe, seconds: float = 3.0) -> float:
    """Training tokens a second of a resolved recipe: real forward and backward passes and optimizer steps on random tokens.

    Large batches are timed on as many rows as fit into ``seconds``; the optimizer's time is shared by the whole batch.
    """
    config, train, T = model_config(recipe), recipe.train, recipe.data.seq_len
    with quiet_threads(recipe.run.threads):
        model = Decoder.build(config, seed=0).to(recipe.run.device)
        optimizer = Optimizer(model, OptimSettings.of(recipe.train), getattr(torch, train.dtype))
        g = torch.Generator().manual_seed(0)
        shape = (train.micro_batch, T + 1 + config.num_nextn_predict_layers)
        tokens_BS = torch.randint(0, config.vocab_size, shape, generator=g)
        whole = Batch(tokens_BS, torch.zeros_like(tokens_BS, dtype=torch.int32))

        def timed(rows: int) -> float:
            began = time.perf_counter()
            batch = whole.part(slice(0, rows)).to(recipe.run.device)
            out = compute_loss(
                model, batch, mtp_weight=train.mtp_weight, seq_balance_alpha=train.seq_balance_alpha, chunk=train.loss_chunk
            )
            out.loss.backward()
            float(out.ce_sum)
            return time.perf_counter() - began

        timed(1)
        one = timed(1)
        rows = max(1, min(train.micro_batch, int(seconds / 3 / one)))
        if rows > 1:
            timed(rows)
        optimizer.step(0.0)
        until = time.perf_counter() + seconds
        compute, update, count = 0.0, 0.0, 0
        while count == 0 or time.perf_counter() < until:
            compute += timed(rows)
            began = time.perf_counter()
            optimizer.scale_and_clip(1.0, 1.0)
            optimizer.step(0.0)
            update += time.perf_counter() - began
            count += 1
        per_step = compute / count * train.batch_size / rows + update / count
        return train.batch_size * T / per_step
