"""From logits to tokens, for a batch whose rows each have their own `Sampling`.

Tensor suffixes: B rows, V vocabulary, W the rows among B that need sorting.

A row's token is a function of its own logits, settings and one uniform number: the inverse of the cumulative
distribution in vocabulary order. Vocabulary order (not sorted order) makes it continuous in the logits, so that rounding
differences between batch shapes hardly ever change a token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seekling.engine.sampling import Sampling
from seekling.errors import SeeklingError

Rows = Sequence[Tensor | None] | None
FORBIDDEN = -1e9  # what a bias of -100 adds


DAMAGED = (
    "the model's output is not a number: its weights are damaged or its training diverged; "
    "use an earlier checkpoint, or dtype='float32' if this was a lower precision"
)


def damaged_rows(logits_BV: Tensor) -> list[int]:
    """Rows whose largest logit is not a finite number."""
    fine_B = torch.isfinite(logits_BV.amax(-1))
    return [] if bool(fine_B.all()) else (~fine_B).nonzero()[:, 0].tolist()


def sample(
    logits_BV: Tensor,
    settings: Sequence[Sampling],
    uniform: Sequence[float],
    seen_BV: Sequence[Tensor | None] | None = None,
    counts_BV: Sequence[Tensor | None] | None = None,
    allowed_BV: Sequence[Tensor | None] | None = None,
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
    if damaged_rows(logits_BV):
        raise SeeklingError(DAMAGED)
    return draw(logits_BV, settings, uniform, seen_BV, counts_BV, allowed_BV)


def draw(
    logits_BV: Tensor, settings: Sequence[Sampling], uniform: Sequence[float], seen_BV: Rows, counts_BV: Rows, allowed_BV: Rows
) -> Tensor:
    """`sample` of rows known to be undamaged."""
    logits_BV = adjusted(logits_BV, settings, seen_BV, counts_BV, allowed_BV)
    if all(s.greedy for s in settings):
        return logits_BV.argmax(-1)
    probs_BV = probabilities(logits_BV, settings)
    cumulative_BV = probs_BV.cumsum(-1)
    total_B = cumulative_BV[:, -1]
    u_B = torch.tensor(uniform, dtype=torch.float64, device=logits_BV.device)
    # Rounding may lift u·total to total itself, where no token is left: stay just below it.
    target_B = torch.minimum(u_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    return torch.searchsorted(cumulative_BV, target_B[:, None], right=True)[:, 0]


def probabilities(logits_BV: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """The distribution a row is drawn from, after temperature, top-k, top-p and min-p; greedy rows are one-hot.

    Float64 (B, V), not normalised: sums above 0.
    """
    x_BV = logits_BV.double()
    x_BV = x_BV - x_BV.amax(-1, keepdim=True)  # first, so that a tiny temperature cannot overflow
    greedy_B = torch.tensor([s.greedy for s in settings], device=x_BV.device)
    temperature_B = torch.tensor([s.temperature or 1.0 for s in settings], dtype=torch.float64, device=x_BV.device)
    probs_BV = (x_BV / temperature_B[:, None]).exp()  # the most likely token has 1
    sort = [i for i, s in enumerate(settings) if not s.greedy and (s.top_k or s.top_p < 1)]
    if sort:
        probs_BV[sort] = _truncated(probs_BV[sort], [settings[i] for i in sort])
    min_p_B = torch.tensor([s.min_p for s in settings], dtype=torch.float64, device=x_BV.device)
    probs_BV = probs_BV.masked_fill(probs_BV < min_p_B[:, None], 0.0)
    if bool(greedy_B.any()):
        best_BV = torch.zeros_like(probs_BV).scatter_(-1, logits_BV.argmax(-1, keepdim=True), 1.0)
        probs_BV = torch.where(greedy_B[:, None], best_BV, probs_BV)
    return probs_BV


def token_logprobs(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    """Float32 (B,) log-probability of each row's token under the raw logits (temperature 1, nothing removed)."""
    x_BV = logits_BV.float()
    return x_BV.gather(-1, token_B[:, None])[:, 0] - x_BV.logsumexp(-1)


def top_logprobs(logits_BV: Tensor, counts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The likeliest ``counts[b]`` tokens of each row with their log-probabilities under the raw logits, likeliest first."""
    x_BV = logits_BV.float()
    values, ids = x_BV.topk(min(max(counts), x_BV.shape[-1]), dim=-1)
    values = values - x_BV.logsumexp(-1, keepdim=True)
    return [list(zip(i[:n], v[:n], strict=True)) for i, v, n in zip(ids.tolist(), values.tolist(), counts, strict=True)]


def adjusted(logits_BV: Tensor, settings: Sequence[Sampling], seen: Rows, counts: Rows, allowed: Rows) -> Tensor:
    """The logits after penalties, bias and constraint; the same tensor where nothing changes."""
    out_BV = logits_BV
    rows, seen_WV = _present(seen, logits_BV)
    if seen_WV is not None:
        out_BV = logits_BV.clone()
        penalty_W = _column([settings[i].repetition_penalty for i in rows], logits_BV)
        x_WV = out_BV[rows]
        out_BV[rows] = torch.where(seen_WV, torch.where(x_WV > 0, x_WV / penalty_W, x_WV * penalty_W), x_WV)
    rows, counts_WV = _present(counts, logits_BV)
    if counts_WV is not None:
        out_BV = logits_BV.clone() if out_BV is logits_BV else out_BV
        presence_W = _column([settings[i].presence_penalty for i in rows], logits_BV)
        frequency_W = _column([settings[i].frequency_penalty for i in rows], logits_BV)
        out_BV[rows] -= presence_W * (counts_WV > 0) + frequency_W * counts_WV
    # Finite, so that a constraint which leaves only forbidden tokens still has its way.
    biased = [(i, token, FORBIDDEN if value <= -100 else value) for i, s in enumerate(settings) for token, value in s.bias]
    if biased:
        out_BV = logits_BV.clone() if out_BV is logits_BV else out_BV
        row, token, value = zip(*biased, strict=True)
        where = (torch.tensor(row, device=out_BV.device), torch.tensor(token, device=out_BV.device))
        out_BV.index_put_(where, torch.tensor(value, dtype=out_BV.dtype, device=out_BV.device), accumulate=True)
    rows, allowed_WV = _present(allowed, logits_BV)
    if allowed_WV is not None:
        out_BV = logits_BV.clone() if out_BV is logits_BV else out_BV
        out_BV[rows] = out_BV[rows].masked_fill(~allowed_WV, float("-inf"))
    return out_BV


def _present(rows: Rows, like: Tensor) -> tuple[list[int], Tensor | None]:
    """Indices of the rows that have something, and that stacked (W, V)."""
    found = [(i, row.to(like.device)) for i, row in enumerate(rows or ()) if row is not None]
    return [i for i, _ in found], torch.stack([row for _, row in found]) if found else None


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _truncated(probs_WV: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Set all but the top-k, then all but the top-p of what is left, to 0. Ties keep the lower token id."""
    size = probs_WV.shape[-1]
    device = probs_WV.device
    top_k_W = torch.tensor([s.top_k or size for s in settings], device=device)
    top_p_W = torch.tensor([s.top_p for s in settings], dtype=torch.float64, device=device)
    sorted_WV, order_WV = probs_WV.sort(dim=-1, descending=True, stable=True)
    sorted_WV = sorted_WV.masked_fill(torch.arange(size, device=device) >= top_k_W[:, None], 0.0)
    before_WV = sorted_WV.cumsum(-1) - sorted_WV
    enough_WV = before_WV >= top_p_W[:, None] * sorted_WV.sum(-1, keepdim=True)
    enough_WV &= (top_p_W < 1)[:, None]
    return torch.zeros_like(probs_WV).scatter_(-1, order_WV, sorted_WV.masked_fill(enough_WV, 0.0))
