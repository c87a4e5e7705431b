"""Texts as vectors, from any decoder: its final-normed states, averaged or taken at the last token, at length 1.

Tensor suffixes: N texts, T tokens, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from seekling.engine.native_runner import NativeRunner
from seekling.errors import SeeklingError

if TYPE_CHECKING:
    from seekling.engine.loop import Loop

Pooling = Literal["mean", "last"]
TURN = 256  # tokens, or a few more, that are computed natively before the engine's steps go on: with pieces of 512 at most 767


def embed_natively(
    runner: NativeRunner,
    encoded: Sequence[list[int]],
    pooling: Pooling,
    loop: "Loop",
    between: Callable[[], None],
) -> Tensor:
    """The same from packed weights, text by text, in turns with the steps of ``loop``."""
    _check(pooling)
    out = torch.empty(len(encoded), runner.config.hidden_size)
    pieces, more = _pieces(runner, encoded, pooling, out), True
    while more:
        with loop.paused():
            more = _turn(pieces)
        if more:
            between()
            loop.driver.give_way()
    return torch.nn.functional.normalize(out, dim=-1)


def _pieces(runner: NativeRunner, encoded: Sequence[list[int]], pooling: Pooling, out_ND: Tensor) -> Iterator[int]:
    """Compute all texts into ``out_ND``, giving the tokens of every piece that was."""
    for number, ids in enumerate(encoded):
        total_D = torch.zeros(runner.config.hidden_size, dtype=torch.float64)
        for states_RD in runner.states_of(ids):
            total_D = total_D + states_RD.double().sum(0) if pooling == "mean" else states_RD[-1].double()
            yield len(states_RD)
        out_ND[number] = total_D


def _turn(pieces: Iterator[int]) -> bool:
    """Compute `TURN` tokens; whether there are more."""
    done = 0
    for tokens in pieces:
        done += tokens
        if done >= TURN:
            return True
    return False


def _check(pooling: str) -> None:
    if pooling not in ("mean", "last"):
        raise SeeklingError(f"pooling is {pooling!r}: give 'mean' or 'last'")


def embed(model: Any, encoded: Sequence[list[int]], pooling: Pooling, between: Callable[[], None]) -> Tensor:
    """Vectors (N, D), float32, of Euclidean length 1. Texts of equal length are computed together, up to 16, and ``between`` is
    called after each such group.

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
                between()
    return torch.nn.functional.normalize(out, dim=-1)
