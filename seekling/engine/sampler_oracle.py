"""The sampler one row at a time, in plain Python: what `sampler.sample` must give."""

import math
from collections.abc import Sequence

from seekling.engine.sampling import Sampling


def distribution(
    logits: Sequence[float],
    s: Sampling,
    *,
    seen: Sequence[int] = (),
    answer: Sequence[int] = (),
    allowed: Sequence[int] | None = None,
) -> list[float]:
    """Probabilities a token is drawn from.

    Args:
        logits: one row.
        seen: tokens of prompt and answer (repetition penalty); answer: tokens of the answer (presence, frequency).
        allowed: tokens the constraint allows, None for all.
    """
    x = list(logits)
    for token in set(seen) if s.repetition_penalty != 1 else ():
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
    for token in set(answer):
        x[token] -= s.presence_penalty + s.frequency_penalty * list(answer).count(token)
    for token, value in dict(s.logit_bias).items():
        x[token] += value if value > -100 else -1e9
    if allowed is not None:
        x = [value if token in allowed else -math.inf for token, value in enumerate(x)]
    best = max(x)
    if s.greedy:
        return [float(token == x.index(best)) for token in range(len(x))]
    p = [math.exp((value - best) / s.temperature) for value in x]
    order = sorted(range(len(p)), key=lambda token: (-p[token], token))
    kept = order[: s.top_k or len(p)]
    if s.top_p < 1:
        total, before, nucleus = sum(p[token] for token in kept), 0.0, []
        for token in kept:
            if before < s.top_p * total:
                nucleus.append(token)
            before += p[token]
        kept = nucleus
    kept = [token for token in kept if p[token] >= s.min_p]
    total = sum(p[token] for token in kept)
    return [p[token] / total if token in kept else 0.0 for token in range(len(p))]


def draw(p: Sequence[float], u: float) -> int:
    """The token at ``u`` of the cumulative distribution in vocabulary order."""
    above = 0.0
    for token, value in enumerate(p):
        above += value
        if u < above:
            return token
    return max(token for token, value in enumerate(p) if value)
