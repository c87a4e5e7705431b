"""One request on its way: what it was given, what it has drawn, and when it is over."""

import contextlib
import random
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from seekling.engine.sampling import Completion, Delta, FinishReason, Sampling
from seekling.engine.stop import StopFilter
from seekling.errors import DataError


class TextDecoder(Protocol):
    """Token ids to text, whole characters only (`seekling.text.Tokenizer.stream`)."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class Request:
    """State of one prompt being answered. The engine feeds it a token a step with `accept`.

    Args:
        prompt_ids: the prompt, at least one token.
        sampling: its settings.
        room: tokens the model's context still holds after the prompt, at least 1.
        end_ids: the model's own end tokens.
        decoder: makes text of tokens; None where there is no tokenizer (the text stays empty).
        vocab_size: length of a logits row.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        room: int,
        end_ids: Collection[int],
        decoder: TextDecoder | None,
        vocab_size: int,
    ):
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.limit = min(sampling.max_tokens, room)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.seen_V: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen_V = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen_V[prompt_ids] = True
        self._stop_ids = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else end_ids)}
        self._random = random.Random(None if sampling.seed is None else int(sampling.seed))
        self._decoder = decoder
        self._filter = StopFilter(sampling.stop)
        self._text: list[str] = []

    @property
    def slots(self) -> int:
        """Cache slots it may need: the last token is never fed back."""
        return len(self.prompt_ids) + self.limit - 1

    def uniform(self) -> float:
        """The next number of this request's own stream, in [0, 1)."""
        return self._random.random()

    def accept(self, token_id: int, logprob: float | None) -> Delta:
        """Take the token just drawn; return what the caller may see of it."""
        self.token_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.seen_V is not None:
            self.seen_V[token_id] = True
        ended = token_id in self._stop_ids
        text = ""
        if self._decoder is not None and not ended:
            # A model's vocabulary may be padded beyond its tokenizer's; those ids have no text.
            with contextlib.suppress(DataError):
                text = self._filter.push(self._decoder.push(token_id))
        if ended or self._filter.stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._decoder is not None:
            # The bytes of a character that never completed may still finish a stop string, hence through the filter.
            text += self._filter.push(self._decoder.flush()) + self._filter.flush()
            if self._filter.stopped:
                self.finish_reason = "stop"
        self._text.append(text)
        return Delta(text, [token_id], self.finish_reason, None if logprob is None else [logprob])

    def completion(self) -> Completion:
        """The finished answer."""
        return Completion(
            text="".join(self._text),
            token_ids=self.token_ids,
            logprobs=self.logprobs if self.sampling.logprobs else None,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt_ids),
        )
