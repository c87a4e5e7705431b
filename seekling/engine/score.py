"""How well a runner foretells text: the loss of every token, and two runners compared over the same tokens.

>>> plain, small = token_losses(runner, rows), token_losses(quantised, rows)
>>> Difference.of(plain, small).percent                      # of the perplexity; with its standard error
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.engine.runner import Chunk, Runner

STEP = 128  # tokens whose logits are held at once


def token_losses(runner: Runner, rows: Sequence[Sequence[int]], tell: Callable[[int], None] = lambda tokens: None) -> Tensor:
    """−ln p of every token but the first of each row, float64 (N,). The runner's cache is allocated anew.

    Args:
        rows: token ids, each row by itself from an empty cache.
        tell: is given the number of tokens of each step.
    """
    size = runner.page_tokens
    pages = list(range(-(-max(map(len, rows)) // size)))
    runner.allocate(len(pages))
    losses = []
    for row in rows:
        for first in range(0, len(row) - 1, STEP):
            part = list(row[first : first + STEP])[: len(row) - 1 - first]
            logits = runner.step([Chunk(part, first, pages, "all")]).double()
            target = torch.tensor(row[first + 1 : first + 1 + len(part)])
            losses.append(logits.logsumexp(-1) - logits.gather(1, target[:, None])[:, 0])
            tell(len(part))
    return torch.cat(losses)


@dataclass(frozen=True)
class Difference:
    """Change of the perplexity in percent, and its standard error over tokens taken in pairs."""

    percent: float
    error: float

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> "Difference":
        d = after - before
        return cls(100 * math.expm1(float(d.mean())), 100 * float(d.std()) / math.sqrt(max(1, len(d))))
