"""One answer on its way: what it was given, what it has drawn, and when it is over."""

import contextlib
import hashlib
import secrets
from collections.abc import Collection, Hashable
from typing import Protocol

import torch
from torch import Tensor

from seekling.engine.runner import Experts
from seekling.engine.sampling import Completion, Delta, FinishReason, Sampling, Top
from seekling.engine.stop import StopFilter
from seekling.engine.thinking import ThinkingGuard, in_a_loop
from seekling.errors import DataError


class TextDecoder(Protocol):
    """Token ids to text, whole characters only (`seekling.text.Tokenizer.stream`)."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class Matcher(Protocol):
    """Which tokens may come next (`seekling.engine.constrain.Matcher`)."""

    def allowed(self) -> Tensor: ...

    def push(self, token_id: int) -> None: ...

    def forced(self) -> list[int]: ...

    @property
    def finished(self) -> bool: ...


class Request:
    """State of one answer. The engine feeds it a token at a time with `accept`.

    Args:
        prompt_ids: the prompt, at least one token.
        sampling: its settings.
        room: tokens the context still holds after the prompt, at least 1.
        end_ids: the model's own end tokens.
        decoder: makes text of tokens; None where there is no tokenizer (the text stays empty).
        vocab_size: length of a logits row.
        guard: watches the reasoning, where the prompt opened one.
        matcher: of the constraint, if any.
        index: which of the n answers it is.
        priority: larger goes first.
        tenant: who may share its cache.
        adapter: name of the adapter it is computed with.

    Attributes (the scheduler's, beside the arguments):
        ids: prompt and answer so far; computed: how many of them the cache holds, in `pages`.
        prefilled: all it held when it (last) began to run is computed: it decodes, a token at a time.
        stop_ids: tokens that end the answer.
        epoch: of the cache's weights when it (last) began to run.
        admitted: when it first began to run, seconds of `time.perf_counter`.
        after: another request whose prompt must be in the cache first (the n answers of one prompt).
    """

    def __init__(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        room: int,
        end_ids: Collection[int],
        decoder: TextDecoder | None,
        vocab_size: int,
        *,
        guard: ThinkingGuard | None = None,
        matcher: Matcher | None = None,
        index: int = 0,
        priority: int = 0,
        tenant: Hashable = None,
        adapter: str | None = None,
    ):
        self.prompt_ids, self.sampling, self.index = prompt_ids, sampling, index
        self.limit = min(sampling.max_tokens, room)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[Top] = []
        self.experts: list[Experts] = []
        self.prompt_logprobs: list[float | None] = [None]
        self.prompt_top_logprobs: list[Top] = [[]]
        self.finish_reason: FinishReason | None = None
        self.guard, self.matcher = guard, matcher
        self.cached_tokens = self.drafted = self.accepted = 0
        self.contexts: set[tuple[int, ...]] = set()  # the watermark's, each marked once
        # penalties
        self.seen_V: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen_V = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen_V[prompt_ids] = True
        self.counts_V: Tensor | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            self.counts_V = torch.zeros(vocab_size)
        # the scheduler's
        self.ids = list(prompt_ids)
        self.computed = 0
        self.pages: list[int] = []
        self.priority, self.arrival, self.adapter = priority, 0, adapter
        self.salt = tenant, adapter
        self.admitted: float | None = None
        self.after: Request | None = None
        self.prefilled = False
        self.epoch = -1
        # text
        self.stop_ids = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else end_ids)}
        self._reasoning_V: Tensor | None = None
        if matcher is not None and guard is not None:
            self._reasoning_V = torch.ones(vocab_size, dtype=torch.bool)
            self._reasoning_V[[token for token in end_ids if token < vocab_size]] = False
        self._seed = secrets.randbits(62) if sampling.seed is None else int(sampling.seed) + index
        self._decoder = decoder
        self._filter = StopFilter(sampling.stop)
        self._text: list[str] = []

    @property
    def remaining(self) -> int:
        """Tokens it holds that the cache does not: 1 while decoding."""
        return len(self.ids) - self.computed

    @property
    def may_reuse(self) -> bool:
        """Whether it may begin with cached tokens, for which there are no logits."""
        return not self.scoring

    @property
    def scoring(self) -> bool:
        """Whether log-probabilities of its prompt are still missing."""
        return self.sampling.prompt_logprobs and len(self.prompt_logprobs) < len(self.prompt_ids)

    @property
    def foreseeable(self) -> bool:
        """Whether nothing but logits, settings and place decides its tokens: a row can be drawn before the one before it."""
        plain = self.guard is None and self.matcher is None and self.seen_V is None and self.counts_V is None
        return plain and self.sampling.watermark is None

    def uniform(self, ahead: int = 0) -> float:
        """The number in [0, 1) that draws its next token, or the one after so many: a function of seed and place alone."""
        return uniform(self._seed, len(self.token_ids) + ahead)

    def forced(self) -> int | None:
        """The token that must come next whatever the model says."""
        return None if self.guard is None else self.guard.forced()

    def allowed_V(self) -> Tensor | None:
        """Which tokens the constraint allows next (bool); None where it does not bind. Reasoning before it is free, but may not
        end the answer, which would lack its form."""
        if self.matcher is None:
            return None
        return self._reasoning_V if self.guard is not None and self.guard.active else self.matcher.allowed()

    def forced_ids(self) -> list[int]:
        """What the constraint leaves no choice about."""
        return [] if self.matcher is None or (self.guard is not None and self.guard.active) else self.matcher.forced()

    def accept(self, token_id: int, logprob: float | None, top: Top | None = None, experts: Experts | None = None) -> Delta:
        """Take the token just drawn; return what the caller may see of it."""
        reasoning = self.guard is not None and self.guard.active
        self.ids.append(token_id)
        self.token_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if top is not None:
            self.top_logprobs.append(top)
        if experts is not None:
            self.experts.append(experts)
        if self.seen_V is not None:
            self.seen_V[token_id] = True
        if self.counts_V is not None:
            self.counts_V[token_id] += 1
        ended = token_id in self.stop_ids
        if self.matcher is not None and not reasoning and not ended:
            self.matcher.push(token_id)
        text = ""
        if self._decoder is not None and not ended:
            # A model's vocabulary may be padded beyond its tokenizer's; those ids have no text.
            with contextlib.suppress(DataError):
                text = self._filter.push(self._decoder.push(token_id))
        if self.guard is not None:
            self.guard.push(token_id, text, self.token_ids)
        formed = self.matcher is not None and not reasoning and self.matcher.finished
        if ended or self._filter.stopped or formed:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.limit:
            self.finish_reason = "length"
        elif self.sampling.stop_loops and not reasoning and in_a_loop(self.token_ids):
            self.finish_reason = "loop"
        if self.finish_reason is not None:
            text += self._flush()
        self._text.append(text)
        return Delta(
            text,
            [token_id],
            self.finish_reason,
            None if logprob is None else [logprob],
            None if top is None else [top],
            self.index,
            None if experts is None else [experts],
        )

    def cancel(self) -> Delta:
        """End it where it is."""
        self.finish_reason = "cancelled"
        self._text.append(self._flush())
        return Delta(self._text[-1], [], "cancelled", index=self.index)

    def _flush(self) -> str:
        if self._decoder is None:
            return ""
        # The bytes of a character that never completed may still finish a stop string, hence through the filter.
        text = self._filter.push(self._decoder.flush()) + self._filter.flush()
        if self._filter.stopped and self.finish_reason != "cancelled":
            self.finish_reason = "stop"
        return text

    def completion(self) -> Completion:
        """The finished answer."""
        s = self.sampling
        return Completion(
            text="".join(self._text),
            token_ids=self.token_ids,
            logprobs=self.logprobs if s.logprobs else None,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt_ids),
            top_logprobs=self.top_logprobs if s.top_logprobs else None,
            prompt_logprobs=self.prompt_logprobs if s.prompt_logprobs else None,
            prompt_top_logprobs=self.prompt_top_logprobs if s.prompt_logprobs and s.top_logprobs else None,
            index=self.index,
            experts=self.experts if s.experts else None,
            cached_tokens=self.cached_tokens,
            drafted=self.drafted,
            accepted=self.accepted,
        )


def uniform(seed: int, index: int) -> float:
    """A uniform number in [0, 1) by counter: 53 bits of a hash of seed and index."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
