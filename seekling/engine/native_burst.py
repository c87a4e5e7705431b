"""Several tokens of one sequence in one native call (csrc/infer_burst.cpp): what a step costs in Python is paid once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seekling.engine.native_runner import CHOICE, NativeRunner
from seekling.engine.runner import PAGE, Chosen
from seekling.engine.sampling import Sampling
from seekling.kernels.infer_model import CBurst


class Drafts(NamedTuple):
    """How a burst drafts: at most ``tokens`` a round, looked up in the sequence or else by the MTP layer.

    That layer first reads ``states`` (T, D padded), raw ones of the last T computed tokens, and stops below the chance
    ``least``. ``states`` without drafts are only kept.
    """

    tokens: int = 0
    look: bool = False
    least: float = 0.0
    states: np.ndarray | None = None


class Round(NamedTuple):
    """One step of a burst: tokens it drafted (−1: it tried, and none was likely enough), how many were right, and seconds."""

    drafted: int
    right: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """Of a burst.

    Attributes:
        tokens: drawn one after another, with their ``logprobs`` where wanted.
        rounds: its steps.
        damaged: behind these tokens came a row without numbers.
        states: raw states the MTP layer has not read, of the last computed tokens; None where they were not kept.
        chosen: the experts of the first round's rows, where asked for.
    """

    tokens: list[int]
    logprobs: list[float] | None
    rounds: list[Round]
    damaged: bool
    states: np.ndarray | None
    chosen: Chosen | None


def burst(
    runner: NativeRunner,
    ids: Sequence[int],
    pages: Sequence[int],
    enough: int,
    most: int,
    sampling: Sampling,
    hurry: np.ndarray,
    *,
    uniforms: Sequence[float] = (),
    stops: Collection[int] = (),
    drafts: Drafts = Drafts(),  # noqa: B008 - immutable
    adapter: str | None = None,
    experts: bool = False,
) -> Outcome:
    """Go on behind ``ids``, all but the last of which the cache holds.

    Args:
        pages: for at least ``len(ids) + most - 1`` tokens.
        enough: tokens to draw; fewer where one of ``stops`` comes or ``hurry`` (int32, one number) stops being 0.
        most: with what was foretold beyond them.
        uniforms: what draws each of ``most``, unless greedy.
        experts: tell which experts the first round's rows chose.
    """
    states = drafts.states
    unread = 0 if states is None else len(states)
    tail = list(ids if drafts.look else ids[-1 - unread :])
    runner.check(tail, pages, min(len(pages) * PAGE, len(ids) + most - 1 + drafts.tokens))
    known = len(tail)
    numbers = np.array([*tail, *[0] * (most + drafts.tokens), *pages, *stops, *[0] * (2 * most)], np.int32)
    places = (np.cumsum([0, known + most + drafts.tokens, len(pages), len(stops)]) * 4 + _address(numbers)).tolist()
    floats = np.empty((2, most), np.float32)
    kept = routed = None
    if states is not None:
        kept = np.empty((unread + most + drafts.tokens + 1, runner.state_floats), np.float32)
        kept[:unread] = states
    if experts:
        layers = sum(map(runner.config.is_moe, range(runner.config.num_hidden_layers)))
        routed = np.zeros((1 + drafts.tokens, layers, runner.config.num_experts_per_tok), CHOICE)
    drawn_by = None if sampling.greedy else np.array(uniforms, np.float64)
    number = -1 if adapter is None else runner.adapters[adapter]
    drawn_to = _address(floats) if sampling.logprobs else None
    pointers = [
        *places[:2], _or_null(drawn_by), places[2], _address(hurry), _or_null(kept), drawn_to, _or_null(routed), places[3],
        _address(floats) + 4 * most,
    ]  # fmt: skip
    call = CBurst(
        *pointers, sampling.top_p, sampling.temperature, sampling.min_p, drafts.least,
        min(sampling.top_k, runner.config.vocab_size), known, len(ids),
        len(pages), len(stops), unread, enough, most, drafts.tokens, drafts.look, number, runner.team(), 0, 0, 0,
    )  # fmt: skip
    runner.burst(call)
    count, rounds = call.count, numbers[-2 * most :].reshape(most, 2)[: call.round_count].tolist()
    chosen = None
    if routed is not None:
        first = routed[: 1 + max(0, rounds[0][0])]
        chosen = Chosen(first["expert"], first["weight"])
    return Outcome(
        numbers[known : known + count].tolist(),
        floats[0, :count].tolist() if sampling.logprobs else None,
        [Round(drafted, right, took) for (drafted, right), took in zip(rounds, floats[1].tolist(), strict=False)],
        bool(call.damaged),
        None if kept is None else kept[: call.unread],
        chosen,
    )


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _or_null(array: np.ndarray | None) -> int | None:
    return None if array is None else _address(array)
