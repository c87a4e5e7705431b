"""What a caller asks for and gets back: `Sampling`, `Completion`, `Delta`.

>>> Sampling(max_tokens=40, temperature=0).greedy
True
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, cast

from seekling.errors import SeeklingError, raise_all

if TYPE_CHECKING:
    from seekling.engine.constrain import Constraint
    from seekling.engine.runner import Experts
    from seekling.engine.watermark import Watermark

FinishReason = Literal["stop", "length", "cancelled", "loop"]
MAX_TOP = 100  # most alternatives reported for a token
MAX_CHOICES = 128


@dataclass(frozen=True)
class Sampling:
    """How to draw the tokens of one answer. Everything is checked at once; an unknown keyword is a ``TypeError``.

    The order is: repetition penalty, frequency and presence penalty, logit bias, constraint, temperature, top-k, top-p, min-p.

    Attributes:
        max_tokens: most tokens to generate, at least 1. The answer also ends where the model's context is full.
        temperature: divides the logits; 0 is greedy. The default of 0.7 suits reading small models' text; use 1.0 for
            samples of the model's own distribution (reinforcement learning, likelihoods).
        top_p: keep the fewest most likely tokens whose probabilities reach this sum; 1.0 keeps all.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely one; 0 drops none.
        repetition_penalty: tokens seen in prompt or answer have positive logits divided by it and negative ones
            multiplied (Keskar et al. 2019); 1.0 is off.
        presence_penalty: taken from the logit of every token the answer holds already, -2 … 2.
        frequency_penalty: taken from a token's logit once for each time the answer holds it, -2 … 2.
        logit_bias: token id → number added to its logit (-100 forbids it, 100 all but forces it).
        seed: fixes the draws of this request, whatever runs beside it. None draws a fresh seed. Equal prompts with an
            equal seed give equal answers: ask for ``n`` answers, or pass a list of `Sampling` with different seeds.
        n: answers to one prompt, which they share. Answer i draws with seed + i, so each can be repeated alone.
        stop: a string, or several, that end the answer; the text ends before it.
        stop_token_ids: token ids that end the answer, besides the model's own end token.
        ignore_eos: go on past the model's own end token (for measurements).
        logprobs: compute `Completion.logprobs`.
        top_logprobs: report this many likeliest tokens for each token of the answer.
        prompt_logprobs: compute `Completion.prompt_logprobs` (the prompt is then computed without the prefix cache).
        constraint: what the answer must look like (`seekling.engine.constrain.Constraint`); reasoning before it is free.
        thinking_budget: most tokens of reasoning. Near it the reasoning is closed at the end of a sentence, at it at once.
        stop_loops: end an answer that only repeats itself, with finish reason "loop"; reasoning in a loop is closed.
        experts: report which experts computed each token (`Completion.experts`); only models that have some.
        watermark: a keyed mark in what is drawn (`seekling.engine.watermark`); greedy answers bear none.
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    n: int = 1
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    constraint: "Constraint | None" = None
    thinking_budget: int | None = None
    stop_loops: bool = False
    experts: bool = False
    watermark: "Watermark | None" = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        bias = tuple(self.logit_bias.items()) if isinstance(self.logit_bias, Mapping) else self.logit_bias
        for name, value in (("stop", stop), ("stop_token_ids", self.stop_token_ids), ("logit_bias", bias)):
            if isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(value))
        raise_all(SeeklingError, self._problems(), "sampling")
        for name in ("max_tokens", "top_k", "n", "top_logprobs", "seed", "thinking_budget"):  # NumPy's integers become Python's
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def bias(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as (token id, number) pairs."""
        return cast(tuple[tuple[int, float], ...], self.logit_bias)

    def _problems(self) -> Iterable[str]:
        if not whole(self.max_tokens, 1):
            yield f"max_tokens is {self.max_tokens!r}: give a whole number of at least 1"
        if not _real(self.temperature, 0):
            yield f"temperature is {self.temperature!r}: give a number of at least 0 (0 is greedy)"
        if not _real(self.top_p, 0, 1) or self.top_p == 0:
            yield f"top_p is {self.top_p!r}: give a number above 0 and at most 1 (for greedy use temperature=0)"
        if not whole(self.top_k, 0):
            yield f"top_k is {self.top_k!r}: give a whole number of at least 0 (0 keeps every token)"
        if not _real(self.min_p, 0, 1):
            yield f"min_p is {self.min_p!r}: give a number from 0 to 1"
        if not _real(self.repetition_penalty, 0.01, 100):
            yield f"repetition_penalty is {self.repetition_penalty!r}: give a number from 0.01 to 100 (1 is off)"
        for name in ("presence_penalty", "frequency_penalty"):
            if not _real(getattr(self, name), -2, 2):
                yield f"{name} is {getattr(self, name)!r}: give a number from -2 to 2 (0 is off)"
        if not isinstance(self.logit_bias, tuple) or not all(_bias(pair) for pair in self.logit_bias):
            yield f"logit_bias is {self.logit_bias!r}: give a mapping from token ids to numbers from -100 to 100"
        if self.seed is not None and not whole(self.seed, 0):
            yield f"seed is {self.seed!r}: give a whole number of at least 0, or None"
        if not whole(self.n, 1) or self.n > MAX_CHOICES:
            yield f"n is {self.n!r}: give a whole number from 1 to {MAX_CHOICES}"
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            yield f"stop is {self.stop!r}: give a string or a list of strings, none of them empty"
        if not isinstance(self.stop_token_ids, tuple) or not all(whole(i, 0) for i in self.stop_token_ids):
            yield f"stop_token_ids is {self.stop_token_ids!r}: give a list of token ids"
        if not whole(self.top_logprobs, 0) or self.top_logprobs > MAX_TOP:
            yield f"top_logprobs is {self.top_logprobs!r}: give a whole number from 0 to {MAX_TOP}"
        if self.thinking_budget is not None and not whole(self.thinking_budget, 0):
            yield f"thinking_budget is {self.thinking_budget!r}: give a whole number of at least 0, or None"
        for name in ("ignore_eos", "logprobs", "prompt_logprobs", "stop_loops", "experts"):
            if not isinstance(getattr(self, name), bool):
                yield f"{name} is {getattr(self, name)!r}: give True or False"
        if self.watermark is not None and not hasattr(self.watermark, "weights"):
            yield f"watermark is a {type(self.watermark).__name__}: make one with seekling.engine.watermark.Watermark"
        if self.constraint is not None and not hasattr(self.constraint, "grammar"):
            yield f"constraint is a {type(self.constraint).__name__}: make one with seekling.engine.constrain.Constraint"


Top = list[tuple[int, float]]  # (token id, natural-log probability), likeliest first


@dataclass(frozen=True)
class Completion:
    """One finished answer.

    Attributes:
        text: the answer without control tokens and without the stop string.
        token_ids: every token sampled, the one that ended the answer included (so a policy can be trained on it).
        logprobs: for each of `token_ids`, its natural-log probability under the model's own distribution: softmax of
            the raw logits in float32, before penalty, temperature and truncation. None with ``logprobs=False``.
        finish_reason: "stop" (end token, stop token or stop string), "length" (max_tokens or the context's end), "loop" or
            "cancelled".
        prompt_tokens: number of tokens the prompt took.
        top_logprobs: for each of `token_ids` the likeliest tokens; None where not asked for.
        prompt_logprobs: for each prompt token its log-probability, None for the first; None where not asked for.
        prompt_top_logprobs: the likeliest tokens at each place of the prompt, none for the first.
        index: which of the ``n`` answers to its prompt this is.
        experts: for each of `token_ids` the experts that computed the logits it was drawn from, layer by layer: every MoE
            layer's (expert, weight) pairs, by expert number. None where not asked for.
        cached_tokens: prompt tokens that were in the cache already.
        drafted, accepted: tokens that speculation proposed, and those of them that were right.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason
    prompt_tokens: int
    top_logprobs: list[Top] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top_logprobs: list[Top] | None = None
    index: int = 0
    experts: "list[Experts] | None" = None
    # How the answer was computed is not part of what was answered.
    cached_tokens: int = field(default=0, compare=False)
    drafted: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Delta:
    """One step of a stream. Joined, the deltas of a request are its `Completion`.

    Attributes:
        text: new text, possibly empty: half a character and what may become a stop string are held back.
        token_ids: the tokens sampled in this step; none in the last delta of a cancelled answer.
        finish_reason: None until the last delta.
        logprobs, top_logprobs, experts: as in `Completion`, for this step's tokens.
        index: which of the ``n`` answers it belongs to.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[Top] | None = None
    index: int = 0
    experts: "list[Experts] | None" = None


def whole(value: object, low: float = -math.inf) -> bool:
    """Whether it is a whole number, Python's or NumPy's but no bool, of at least ``low``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _real(value: object, low: float, high: float = math.inf) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and low <= float(value) <= high


def _bias(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and whole(pair[0], 0) and _real(pair[1], -100, 100)
