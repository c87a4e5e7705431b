"""Held-out scores: bits per byte for each source and in all, next-token accuracy, expert balance.

Bits per byte = Σ −ln p(token) / ln 2 / bytes of the text, over every token a document holds but its begin mark: comparable
between tokenizers. A document longer than the row is cut; the tokens behind a cut see only what lies before them in their row.
Nothing here draws random numbers or changes the model: routers are read, not moved.

Shapes: B rows, T positions, N tokens, L routers, E experts.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seekling.data import Packed, TokenStream, bits_per_byte
from seekling.errors import DataError
from seekling.model import Decoder, Trace
from seekling.train.loop import max_violation
from seekling.train.loss import IGNORE, loads, targets_of, token_losses

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

ROW_TOKENS = 4096  # tokens of one forward pass


@dataclass(frozen=True)
class Score:
    """Sums over one source. ``share`` is the part of its held-out tokens that was used."""

    ce_sum: float
    right: int
    targets: int
    text_bytes: int
    share: float
    loads_LE: Tensor

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.ce_sum, self.text_bytes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "bpb": round(self.bits_per_byte, 6),
            "ce": round(self.ce_sum / max(1, self.targets), 6),
            "accuracy": round(self.right / max(1, self.targets), 6),
            "tokens": self.targets,
            "bytes": self.text_bytes,
            "share": round(self.share, 6),
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores by source, and their sum."""

    sources: dict[str, Score]

    @property
    def total(self) -> Score:
        parts = list(self.sources.values())
        used = sum(s.targets for s in parts)
        whole = sum(s.targets / s.share for s in parts if s.share > 0)
        return Score(
            sum(s.ce_sum for s in parts),
            sum(s.right for s in parts),
            used,
            sum(s.text_bytes for s in parts),
            used / max(1.0, whole),
            torch.stack([s.loads_LE for s in parts]).sum(0),
        )

    def to_dict(self) -> dict[str, Any]:
        """What the log line holds: the total's numbers, MaxVio and expert loads of every router that ran, and the sources."""
        total = self.total
        out = total.to_dict()
        if total.loads_LE.numel():
            out["maxvio"] = max_violation(total.loads_LE)
            out["loads"] = total.loads_LE.tolist()
        return out | {"sources": {name: score.to_dict() for name, score in self.sources.items()}}


def byte_lengths(tokenizer: "Tokenizer") -> np.ndarray:
    """Bytes of text each token id stands for, 0 for control tokens (vocab_size,)."""
    control = set(tokenizer.special.values())
    return np.array([0 if i in control else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int64)


def held_out(heldout: Mapping[str, TokenStream]) -> dict[str, TokenStream]:
    """The streams with something to score: text of one short document has none."""
    return {name: stream for name, stream in heldout.items() if len(stream) > 1}


@torch.no_grad()
def evaluate(
    model: Decoder,
    heldout: Mapping[str, TokenStream],
    seq_len: int,
    token_bytes_V: np.ndarray,
    tokens: int | None = None,
) -> Evaluation:
    """Score a model on held-out streams.

    Args:
        model: left in the mode it was in.
        seq_len: positions of a row, no more than the model's.
        token_bytes_V: see :func:`byte_lengths`.
        tokens: most tokens of each source, from its beginning; None uses all. The share used is part of the result.

    Raises:
        DataError: there is no held-out text.
    """
    streams = held_out(heldout)
    if not streams:
        raise DataError("no held-out text: raise --heldout or add text")
    training = model.training
    model.eval()
    try:
        return Evaluation({n: score(model, s, seq_len, token_bytes_V, tokens) for n, s in streams.items()})
    finally:
        model.train(training)


def score(model: Decoder, stream: TokenStream, seq_len: int, token_bytes_V: np.ndarray, tokens: int | None) -> Score:
    """Score one source on its first ``tokens`` tokens."""
    used = cut(stream, tokens)
    depth = model.config.num_nextn_predict_layers
    packed = Packed(used, seq_len, extra=depth, seed=None)
    step = max(1, ROW_TOKENS // seq_len)
    ce_sum, right, targets, text_bytes = 0.0, 0, 0, 0
    loads_LE = torch.zeros(len(model.routers()), model.config.n_routed_experts, dtype=torch.int64)
    device = model.lm_head.weight.device
    for first in range(0, packed.n_rows, step):
        batch = packed.batch(first, min(step, packed.n_rows - first))
        trace = Trace()
        losses_BT, right_BT = token_losses(model, batch.to(device), trace=trace)
        goal_BT = targets_of(batch, seq_len, 1)
        asked_BT = goal_BT != IGNORE
        ce_sum += float(losses_BT.double().sum())
        right += int(right_BT.sum())
        targets += int(asked_BT.sum())
        text_bytes += int(token_bytes_V[goal_BT[asked_BT].numpy()].sum())
        if batch.mask_BS is not None:  # the last row is filled up; what fills it is not text
            keep_N = batch.mask_BS[:, :seq_len].flatten().to(device)
            trace.routings = [dataclasses.replace(r, indices_NK=r.indices_NK[keep_N]) for r in trace.routings]
        loads_LE += loads(model, trace)
    return Score(ce_sum, right, targets, text_bytes, len(used) / len(stream), loads_LE)


def cut(stream: TokenStream, tokens: int | None) -> TokenStream:
    """The first ``tokens`` tokens of a stream (at least two); the last document may lose its end."""
    if tokens is None or tokens >= len(stream):
        return stream
    n = max(2, tokens)
    documents = int(np.searchsorted(stream.offsets, n, side="left"))
    offsets = np.append(stream.offsets[:documents], n)
    return TokenStream(stream.tokens[:n], offsets, stream.text_bytes[:documents], stream.source_of[:documents], stream.names)
