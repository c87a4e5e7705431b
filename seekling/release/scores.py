"""Scores of the released weights with intervals and chance, in the shape of lm-evaluation-harness's results.

Held-out text is scored document by document; the interval of a ratio (bits a byte, right tokens) comes from resampling whole
documents, since the tokens of one document are not independent. Chance stands beside: every token equally likely, tokens by
their frequency in the training text, and what a compressor (xz) makes of the same bytes.

Shapes: B rows, T positions, M documents, V vocabulary.
"""

import lzma
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from seekling.errors import DataError

if TYPE_CHECKING:
    from seekling.data import TokenStream
    from seekling.model import Decoder
    from seekling.text.tokenizer import Tokenizer

DRAWS, LEVEL = 1000, 0.95
ALL = "heldout"


@dataclass(frozen=True)
class Sums:
    """By document: nats of cross-entropy, right tokens, target tokens, bytes of text (M,)."""

    nats: np.ndarray
    right: np.ndarray
    targets: np.ndarray
    bytes: np.ndarray

    @property
    def documents(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Score:
    """One task. ``metrics``: name -> (value, standard error, low, high); an unknown bound is None. ``chance``: baseline ->
    values. ``logged``: what the run's own log says of the same, where it does."""

    task: str
    metrics: dict[str, tuple[float, float | None, float | None, float | None]]
    samples: int
    what: str
    chance: dict[str, dict[str, float]] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)


def heldout_scores(
    model: "Decoder", heldout: Mapping[str, "TokenStream"], tokenizer: "Tokenizer", seq_len: int, frequency_V: np.ndarray
) -> list[Score]:
    """Score a model on every source of held-out text, and on all of it (first in the list).

    Args:
        frequency_V: how often each token stands in the training text, for chance.

    Raises:
        DataError: there is no held-out text.
    """
    from seekling.train.evaluate import byte_lengths, held_out

    lengths_V = byte_lengths(tokenizer)
    streams = held_out(heldout)
    if not streams:
        raise DataError("no held-out text: a release needs an evaluation; repeat the run with --heldout above 0")
    sums = {name: document_sums(model, stream, seq_len, lengths_V) for name, stream in streams.items()}
    pieces = [tokenizer.token_bytes(i) if n else b"" for i, n in enumerate(lengths_V)]
    text = {name: b"".join(map(pieces.__getitem__, s.tokens.tolist())) for name, s in streams.items()}
    out = [score_of(ALL, list(sums.values()), chance(list(streams.values()), list(text.values()), lengths_V, frequency_V))]
    for name, stream in streams.items():
        out.append(score_of(f"{ALL}_{name}", [sums[name]], chance([stream], [text[name]], lengths_V, frequency_V)))
    return out


def document_sums(model: "Decoder", stream: "TokenStream", seq_len: int, lengths_V: np.ndarray) -> Sums:
    """One pass over a stream; a document longer than a row goes on in the next without what stood before."""
    import torch

    from seekling.data import Packed
    from seekling.train.evaluate import ROW_TOKENS
    from seekling.train.loss import IGNORE, targets_of, token_losses

    M = stream.documents
    nats, right, targets, size = (np.zeros(M) for _ in range(4))
    packed = Packed(stream, seq_len, extra=model.config.num_nextn_predict_layers, seed=None)
    step = max(1, ROW_TOKENS // seq_len)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for first in range(0, packed.n_rows, step):
                batch = packed.batch(first, min(step, packed.n_rows - first))
                losses_BT, right_BT = token_losses(model, batch)
                goal_BT = targets_of(batch, seq_len, 1)
                asked_BT = (goal_BT != IGNORE).numpy()
                rows = np.arange(first, first + len(goal_BT))
                place_BT = rows[:, None] * seq_len + np.arange(seq_len) + 1  # of the target in the stream
                document = np.searchsorted(stream.offsets, place_BT[asked_BT], side="right") - 1
                np.add.at(nats, document, losses_BT.double().numpy()[asked_BT])
                np.add.at(right, document, right_BT.numpy()[asked_BT])
                np.add.at(targets, document, 1)
                np.add.at(size, document, lengths_V[goal_BT.numpy()[asked_BT]])
    finally:
        model.train(training)
    return Sums(nats, right, targets, size)


def score_of(task: str, parts: list[Sums], baselines: dict[str, dict[str, float]]) -> Score:
    """Ratios over all documents of all parts, with bootstrap intervals (documents drawn within their part)."""
    random = np.random.Generator(np.random.Philox(0))
    drawn = np.zeros((DRAWS, 4))
    whole = np.zeros(4)
    for part in parts:
        table_M4 = np.stack([part.nats, part.right, part.targets, part.bytes], axis=1)
        whole += table_M4.sum(0)
        count_DM = random.multinomial(part.documents, np.full(part.documents, 1 / part.documents), size=DRAWS)
        drawn += count_DM @ table_M4
    alone = sum(part.documents for part in parts) < 2  # one document says nothing of others

    def ratio(over: int, under: int, scale: float) -> tuple[float, float | None, float | None, float | None]:
        value = float(whole[over] * scale / max(1.0, whole[under]))
        if alone:
            return value, None, None, None
        draws = drawn[:, over] * scale / np.maximum(1.0, drawn[:, under])
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return value, float(draws.std(ddof=1)), float(low), float(high)

    metrics = {"bits_per_byte": ratio(0, 3, 1 / math.log(2)), "acc": ratio(1, 2, 1.0)}
    documents = sum(part.documents for part in parts)
    return Score(task, metrics, documents, f"{int(whole[2]):,} tokens in {documents:,} held-out documents", baselines)


def chance(
    streams: list["TokenStream"], texts: list[bytes], lengths_V: np.ndarray, frequency_V: np.ndarray
) -> dict[str, dict[str, float]]:
    """What knows nothing reaches on the same text."""
    targets = np.concatenate([np.delete(s.tokens, s.offsets[:-1]) for s in streams]).astype(np.int64)
    size = max(1, int(lengths_V[targets].sum()))
    share_V = (frequency_V + 1) / (frequency_V.sum() + len(frequency_V))
    bits = -np.log2(share_V[targets]).sum()
    likeliest = int(share_V.argmax())
    V, text = len(frequency_V), b"".join(texts)
    return {
        "uniform": {"bits_per_byte": float(len(targets) * math.log2(V) / size), "acc": 1 / V},
        "token frequency": {"bits_per_byte": float(bits / size), "acc": float((targets == likeliest).mean())},
        "xz -9": {"bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / max(1, len(text))},
    }


HIGHER = {"bits_per_byte": False, "ce": False, "acc": True, "exact_match": True}


def results_json(scores: list[Score], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The file: lm-evaluation-harness's keys, and beside them the intervals and chance that it has no place for.

    Args:
        facts: model, date (seconds since 1970), git_hash, command, seq_len, device, dtype, machine.
    """
    results: dict[str, Any] = {}
    for score in scores:
        row: dict[str, Any] = {"alias": score.task}
        for name, (value, error, _, _) in score.metrics.items():
            row[f"{name},none"] = value
            row[f"{name}_stderr,none"] = "N/A" if error is None else error
        results[score.task] = row
    parts = [s.task for s in scores if s.task.startswith(ALL + "_")]
    return {
        "results": results,
        "group_subtasks": {ALL: parts, **{s.task: [] for s in scores if s.task != ALL}}
        if parts
        else {s.task: [] for s in scores},
        "configs": {
            s.task: {"task": s.task, "num_fewshot": 0, "description": s.what, "metric_list": [{"metric": m} for m in s.metrics]}
            for s in scores
        },
        "versions": {s.task: 1 for s in scores},
        "n-shot": {s.task: 0 for s in scores},
        "higher_is_better": {s.task: {m: HIGHER.get(m, True) for m in s.metrics} for s in scores},
        "n-samples": {s.task: {"original": s.samples, "effective": s.samples} for s in scores},
        "config": {"model": "seekling", "model_args": facts["model"], "device": facts["device"], "dtype": facts["dtype"]},
        "git_hash": facts["git_hash"],
        "date": facts["date"],
        "model_name": facts["model"],
        "intervals": {
            "level": LEVEL,
            "method": f"held-out text: bootstrap over documents, {DRAWS} draws; problems: Wilson",
            "values": {s.task: {m: [low, high] for m, (_, _, low, high) in s.metrics.items()} for s in scores},
        },
        "chance": {s.task: s.chance for s in scores if s.chance},
        "command": facts["command"],
        "machine": facts["machine"],
    }
