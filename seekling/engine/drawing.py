"""Which tokens requests go on with: the rows of a step drawn together, natively where the library is built.

A row is drawn ahead of the rows before it where nothing but the model and the place decides it; a request with penalties, a
constraint, reasoning under watch or a watermark knows what its next row needs only once the last token is accepted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from seekling.engine.request import Request
from seekling.engine.sampler import DAMAGED, Array, adjusted, draw, logprob, tops
from seekling.engine.sampling import Top
from seekling.engine.watermark import CANDIDATES, LAYERS
from seekling.errors import SeeklingError
from seekling.kernels import sampling as native


class Ask(NamedTuple):
    """A row of logits (V,), for the token of a request that comes after ``ahead`` others which are not accepted yet."""

    request: Request
    x_V: Array
    ahead: int = 0


class Drawn(NamedTuple):
    """A token, its log-probability and the likeliest tokens, the last two where they were asked for."""

    token: int
    logprob: float | None
    top: Top | None


def drawn(asks: Sequence[Ask], threads: int | None = None) -> list[Drawn | SeeklingError]:
    """A token for each row, or why there is none: a damaged row, a constraint that failed."""
    out: list[Drawn | SeeklingError | None] = [None] * len(asks)
    rows, places, kept = [], [], []  # kept: changed rows, alive while their addresses are in use
    for place, ask in enumerate(asks):
        s = ask.request.sampling
        try:
            if ask.x_V.dtype != np.float32 or not native.available():
                out[place] = _slowly(ask)
                continue
            x_V = _changed(ask)
        except SeeklingError as error:
            out[place] = error
            continue
        kept.append(x_V)
        forced, mark = ask.request.forced(), None
        if s.watermark is not None and forced is None and not s.greedy:
            mark = s.watermark.marks(ask.request.ids, ask.request.contexts)
        raw = _address(ask.x_V)
        rows.append(
            native.CDraw(
                raw if x_V is ask.x_V else _address(x_V), raw if s.logprobs else None,
                0.0 if s.greedy else ask.request.uniform(ask.ahead), s.top_p, s.temperature, s.min_p,
                min(s.top_k, len(x_V)), len(x_V), mark or 0, 0 if mark is None else LAYERS, CANDIDATES,
                -1 if forced is None else forced,
            )
        )  # fmt: skip
        places.append(place)
    if rows:
        for place, row in zip(places, native.draw(rows, threads or torch.get_num_threads()), strict=True):
            ask = asks[place]
            s = ask.request.sampling
            if row.token < 0:
                out[place] = SeeklingError(DAMAGED)
                continue
            top = tops(ask.x_V, s.top_logprobs) if s.top_logprobs else None
            out[place] = Drawn(row.token, row.logprob if s.logprobs else None, top)
    return out  # type: ignore[return-value]


def _changed(ask: Ask) -> Array:
    """`_adjusted` for the native draw, which looks for damage itself: where nothing changes the row is not read."""
    return ask.x_V if ask.request.foreseeable and not ask.request.sampling.bias else _adjusted(ask)


def _adjusted(ask: Ask) -> Array:
    """The logits after the request's penalties, bias and constraint."""
    request = ask.request
    return adjusted(ask.x_V, request.sampling, request.seen_V, request.counts_V, request.allowed_V())


def _slowly(ask: Ask) -> Drawn:
    """The same by numpy."""
    request, s, forced = ask.request, ask.request.sampling, ask.request.forced()
    x_V = _adjusted(ask)
    if forced is None:
        marked = None if s.watermark is None or s.greedy else s.watermark.weights(x_V, s, request.ids, request.contexts)
        token = draw(x_V, s, 0.0 if s.greedy else request.uniform(ask.ahead), marked)
    else:
        token = forced
    return Drawn(
        token, logprob(ask.x_V, token) if s.logprobs else None, tops(ask.x_V, s.top_logprobs) if s.top_logprobs else None
    )


def _address(x_V: Array) -> int:
    return x_V.__array_interface__["data"][0]
