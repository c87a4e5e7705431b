"""From logits to tokens, each row by its own `Sampling`.

A row's token is a function of its own logits, settings and one uniform number: the inverse of the cumulative distribution in
vocabulary order. Vocabulary order (not sorted order) makes it continuous in the logits, so that rounding differences hardly
ever change a token. Rows are worked on one by one, in the order of memory and on one thread: no bit depends on the company.

Array suffixes: B rows, V vocabulary, K kept tokens in ascending order.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from seekling.engine.sampling import Sampling, Top
from seekling.errors import SeeklingError

Array = np.ndarray
Row = Tensor | Array | None
FORBIDDEN = -1e9  # what a bias of -100 adds: finite, so that a constraint which leaves nothing else still has its way
DAMAGED = (
    "the model's output is not a number: its weights are damaged or its training diverged; "
    "use an earlier checkpoint, or dtype='float32' if this was a lower precision"
)
_BLOCK = 256


def sample(
    logits_BV: Tensor,
    settings: Sequence[Sampling],
    uniform: Sequence[float],
    seen_BV: Sequence[Row] | None = None,
    counts_BV: Sequence[Row] | None = None,
    allowed_BV: Sequence[Row] | None = None,
) -> Tensor:
    """Draw one token a row.

    Args:
        logits_BV: raw logits, any float type; not changed.
        settings: one `Sampling` a row.
        uniform: one number in [0, 1) a row; greedy rows ignore theirs.
        seen_BV: for rows with a repetition penalty a bool (V,) of the tokens to penalise, else None.
        counts_BV: for rows with a presence or frequency penalty how often the answer holds each token (V,), else None.
        allowed_BV: for rows under a constraint a bool (V,) of the tokens that may come, else None.

    Returns:
        int64 (B,) token ids.

    Raises:
        SeeklingError: where a row's largest logit is not a finite number.
    """
    none: list[Row] = [None] * len(settings)
    rows = zip(as_rows(logits_BV), settings, uniform, seen_BV or none, counts_BV or none, allowed_BV or none, strict=True)
    return torch.tensor([draw(adjusted(x, s, *more), s, u) for x, s, u, *more in rows])


def draw(x_V: Array, s: Sampling, u: float, weighed: tuple[Array | None, Array] | None = None) -> int:
    """One token of an adjusted row; ``weighed`` in place of what `kept` gives (a watermark's)."""
    if s.greedy:
        return int(x_V.argmax())
    ids_K, weights_K = kept(x_V, s) if weighed is None else weighed
    if ids_K is None:  # all: find the block first, then the token in it
        padded = np.zeros(-(-len(weights_K) // _BLOCK) * _BLOCK, weights_K.dtype)
        padded[: len(weights_K)] = weights_K
        blocks = padded.reshape(-1, _BLOCK)
        ends = blocks.sum(1, dtype=np.float64).cumsum()
        block = _place(ends, u * ends[-1])
        return block * _BLOCK + _place(
            blocks[block].cumsum(dtype=np.float64), u * ends[-1] - (ends[block - 1] if block else 0.0)
        )
    cumulative = weights_K.cumsum(dtype=np.float64)
    return int(ids_K[_place(cumulative, u * cumulative[-1])])


def kept(x_V: Array, s: Sampling) -> tuple[Array | None, Array]:
    """Tokens that temperature, top-k, top-p and min-p leave (None: all of them) and their weights, not normalised."""
    top = x_V.max()
    if not s.top_k and s.top_p == 1:
        weights_V = np.exp((x_V - top) / s.temperature)  # shifted first, so that a tiny temperature cannot overflow
        if not s.min_p:
            return None, weights_V
        ids_K = np.flatnonzero(weights_V >= s.min_p)
        return ids_K, weights_V[ids_K]
    total = None if s.top_k else float(np.exp((x_V - top) / s.temperature).sum(dtype=np.float64))
    count = min(s.top_k or 64, len(x_V))
    while True:
        ids_K = best(x_V, count)  # likeliest first
        weights_K = np.exp((x_V[ids_K].astype(np.float64) - top) / s.temperature)
        if s.top_p < 1:
            inside = weights_K.cumsum() - weights_K < s.top_p * (weights_K.sum() if total is None else total)
            if total is not None and inside.all() and count < len(x_V):
                count = min(8 * count, len(x_V))
                continue
            ids_K, weights_K = ids_K[inside], weights_K[inside]
        break
    if s.min_p:
        ids_K, weights_K = ids_K[weights_K >= s.min_p], weights_K[weights_K >= s.min_p]
    order = ids_K.argsort()
    return ids_K[order], weights_K[order]


def best(x_V: Array, count: int) -> Array:
    """The ``count`` tokens with the largest logits, largest first; of equal ones the lower id; none that is forbidden."""
    blocks, least = len(x_V) // _BLOCK, -np.inf
    if blocks > count:  # at least that many tokens reach the count-th largest of the blocks' maxima
        least = np.partition(x_V[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(1), blocks - count)[blocks - count]
    elif 8 * count < len(x_V):
        least = np.partition(x_V, len(x_V) - count)[len(x_V) - count]
    ids = np.flatnonzero(x_V >= least if least > -np.inf else x_V > least)
    return ids[np.argsort(-x_V[ids], kind="stable")[:count]]


def probabilities(logits_BV: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """The distribution each row is drawn from, float64 (B, V), not normalised; greedy rows are one-hot."""
    out_BV = np.zeros(logits_BV.shape)
    for x_V, s, out_V in zip(as_rows(logits_BV), settings, out_BV, strict=True):
        if s.greedy:
            out_V[x_V.argmax()] = 1.0
            continue
        ids_K, weights_K = kept(x_V, s)
        out_V[slice(None) if ids_K is None else ids_K] = weights_K
    return torch.from_numpy(out_BV)


def adjusted(x_V: Array, s: Sampling, seen: Row = None, counts: Row = None, allowed: Row = None) -> Array:
    """The logits after penalties, bias and constraint; the same array where nothing changes.

    Raises:
        SeeklingError: where the largest logit is not a finite number.
    """
    if not math.isfinite(x_V.max()):
        raise SeeklingError(DAMAGED)
    if seen is None and counts is None and allowed is None and not s.bias:
        return x_V
    out_V = x_V.copy()
    if seen is not None:
        ids = np.flatnonzero(seen)
        values = out_V[ids]
        out_V[ids] = np.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if counts is not None:
        ids = np.flatnonzero(counts)
        out_V[ids] -= s.presence_penalty + s.frequency_penalty * np.asarray(counts)[ids].astype(out_V.dtype)
    for token, value in s.bias:
        out_V[token] += FORBIDDEN if value <= -100 else value
    if allowed is not None:
        out_V[~np.asarray(allowed)] = -np.inf
    return out_V


def token_logprobs(logits_BV: Tensor, token_B: Tensor | Sequence[int]) -> Tensor:
    """Float32 (B,) log-probability of each row's token under the raw logits (temperature 1, nothing removed)."""
    tokens: Iterable[int] = token_B.tolist() if isinstance(token_B, Tensor) else token_B
    return torch.tensor([logprob(x, token) for x, token in zip(as_rows(logits_BV), tokens, strict=True)], dtype=torch.float32)


def logprob(x_V: Array, token: int) -> float:
    """Log-probability of a token under the raw logits."""
    return float(np.float32(float(x_V[token]) - normaliser(x_V)))


def top_logprobs(logits_BV: Tensor, counts: Sequence[int]) -> list[Top]:
    """The likeliest ``counts[b]`` tokens of each row with their log-probabilities under the raw logits, likeliest first."""
    return [tops(x, count) for x, count in zip(as_rows(logits_BV), counts, strict=True)]


def tops(x_V: Array, count: int) -> Top:
    """`top_logprobs` of one row."""
    ids = best(x_V, min(count, len(x_V)))
    total = normaliser(x_V)
    return [(i, float(np.float32(v - total))) for i, v in zip(ids.tolist(), x_V[ids].tolist(), strict=True)]


def normaliser(x_V: Array) -> float:
    """log Σ exp of a row."""
    top = x_V.max()
    return float(top) + math.log(float(np.exp(x_V - top).sum(dtype=np.float64)))


def as_rows(logits_BV: Tensor) -> Array:
    """Rows as numpy: float32, or float64 as given."""
    if logits_BV.dtype == torch.float32 and logits_BV.device.type == "cpu" and not logits_BV.requires_grad:
        return logits_BV.numpy()
    logits_BV = logits_BV.detach()
    return (logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()).cpu().numpy()


def _place(cumulative: Array, target: float) -> int:
    """Index of the first entry above ``target``; rounding may lift the target to the total itself, where none is left."""
    last = np.nextafter(cumulative[-1], 0.0)
    return int(np.searchsorted(cumulative, min(max(target, 0.0), last), side="right"))
