"""Texts as vectors, from any decoder: its final-normed states, averaged or taken at the last token, at length 1.

Tensor suffixes: N texts, T tokens, D hidden.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from seekling.engine.native_runner import NativeRunner
from seekling.errors import SeeklingError

Pooling = Literal["mean", "last"]


def embed_natively(runner: NativeRunner, encoded: Sequence[list[int]], pooling: Pooling) -> Tensor:
    """The same from packed weights, text by text; nothing may step the runner meanwhile."""
    _check(pooling)
    out = torch.empty(len(encoded), runner.config.hidden_size)
    for number, ids in enumerate(encoded):
        total = torch.zeros(runner.config.hidden_size, dtype=torch.float64)
        for states_RD in runner.states_of(ids):
            total = total + states_RD.double().sum(0) if pooling == "mean" else states_RD[-1].double()
        out[number] = total
    return torch.nn.functional.normalize(out, dim=-1)


def _check(pooling: str) -> None:
    if pooling not in ("mean", "last"):
        raise SeeklingError(f"pooling is {pooling!r}: give 'mean' or 'last'")


def embed(model: Any, encoded: Sequence[list[int]], pooling: Pooling) -> Tensor:
    """Vectors (N, D), float32, of Euclidean length 1. Texts of equal length are computed together.

    Raises:
        SeeklingError: unknown pooling.
    """
    _check(pooling)
    out = torch.empty(len(encoded), model.config.hidden_size)
    groups: dict[int, list[int]] = {}
    for number, ids in enumerate(encoded):
        groups.setdefault(len(ids), []).append(number)
    device = next(model.parameters()).device
    with torch.no_grad():
        for members in groups.values():
            for some in (members[i : i + 16] for i in range(0, len(members), 16)):
                h_NTD = model.hidden(torch.tensor([encoded[i] for i in some], device=device)).float()
                out[some] = (h_NTD.mean(1) if pooling == "mean" else h_NTD[:, -1]).cpu()
    return torch.nn.functional.normalize(out, dim=-1)
