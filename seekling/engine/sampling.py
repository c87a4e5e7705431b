"""What a caller asks for and gets back: `Sampling`, `Completion`, `Delta`.

>>> Sampling(max_tokens=40, temperature=0).greedy
True
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from seekling.errors import SeeklingError, raise_all

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to draw the tokens of one answer. Everything is checked at once; an unknown keyword is a ``TypeError``.

    The order is: repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
        max_tokens: most tokens to generate, at least 1. The answer also ends where the model's context is full.
        temperature: divides the logits; 0 is greedy. The default of 0.7 suits reading small models' text; use 1.0 for
            samples of the model's own distribution (reinforcement learning, likelihoods).
        top_p: keep the fewest most likely tokens whose probabilities reach this sum; 1.0 keeps all.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely one; 0 drops none.
        repetition_penalty: tokens seen in prompt or answer have positive logits divided by it and negative ones
            multiplied (Keskar et al. 2019); 1.0 is off.
        seed: fixes the draws of this request, whatever runs beside it. None draws a fresh seed. Equal prompts with an
            equal seed give equal answers: pass a list of `Sampling` with different seeds to get different ones.
        stop: a string, or several, that end the answer; the text ends before it.
        stop_token_ids: token ids that end the answer, besides the model's own end token.
        ignore_eos: go on past the model's own end token (for measurements).
        logprobs: compute `Completion.logprobs`.
    """

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = True

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        for name, value in (("stop", stop), ("stop_token_ids", self.stop_token_ids)):
            if isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(value))
        raise_all(SeeklingError, self._problems(), "sampling")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def _problems(self) -> Iterable[str]:
        if not _whole(self.max_tokens, 1):
            yield f"max_tokens is {self.max_tokens!r}: give a whole number of at least 1"
        if not _real(self.temperature, 0):
            yield f"temperature is {self.temperature!r}: give a number of at least 0 (0 is greedy)"
        if not _real(self.top_p, 0, 1) or self.top_p == 0:
            yield f"top_p is {self.top_p!r}: give a number above 0 and at most 1 (for greedy use temperature=0)"
        if not _whole(self.top_k, 0):
            yield f"top_k is {self.top_k!r}: give a whole number of at least 0 (0 keeps every token)"
        if not _real(self.min_p, 0, 1):
            yield f"min_p is {self.min_p!r}: give a number from 0 to 1"
        if not _real(self.repetition_penalty, 0) or self.repetition_penalty == 0:
            yield f"repetition_penalty is {self.repetition_penalty!r}: give a number above 0 (1 is off)"
        if self.seed is not None and not _whole(self.seed, 0):
            yield f"seed is {self.seed!r}: give a whole number of at least 0, or None"
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            yield f"stop is {self.stop!r}: give a string or a list of strings, none of them empty"
        if not isinstance(self.stop_token_ids, tuple) or not all(_whole(i, 0) for i in self.stop_token_ids):
            yield f"stop_token_ids is {self.stop_token_ids!r}: give a list of token ids"
        for name in ("ignore_eos", "logprobs"):
            if not isinstance(getattr(self, name), bool):
                yield f"{name} is {getattr(self, name)!r}: give True or False"


@dataclass(frozen=True)
class Completion:
    """One finished answer.

    Attributes:
        text: the answer without control tokens and without the stop string.
        token_ids: every token sampled, the one that ended the answer included (so a policy can be trained on it).
        logprobs: for each of `token_ids`, its natural-log probability under the model's own distribution: softmax of
            the raw logits in float32, before penalty, temperature and truncation. None with ``logprobs=False``.
        finish_reason: "stop" (end token, stop token or stop string) or "length" (max_tokens or the context's end).
        prompt_tokens: number of tokens the prompt took.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason
    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """One step of a stream. Joined, the deltas of a request are its `Completion`.

    Attributes:
        text: new text, possibly empty: half a character and what may become a stop string are held back.
        token_ids: the tokens sampled in this step.
        finish_reason: None until the last delta.
        logprobs: as in `Completion`, for this step's tokens.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[float] | None = None


def _whole(value: object, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _real(value: object, low: float, high: float = math.inf) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= float(value) <= high
