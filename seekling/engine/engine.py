"""The engine: prompts in, tokens out, with a latent cache and absorbed decode.

Simple and exact: every prompt is prefilled by itself, then all running requests take one step together, each at its own
length; a finished one leaves its cache row to the next prompt in the queue.

>>> engine = Engine("runs/first")
>>> engine.generate(["Once upon a time"], Sampling(max_tokens=40, seed=1))[0].text

Tensor suffixes: B rows, T time, D hidden, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from seekling.engine.prompt import Prompt, as_prompts, encode_prompts
from seekling.engine.quant import quantised
from seekling.engine.request import Request
from seekling.engine.sampler import sample, token_logprobs
from seekling.engine.sampling import Completion, Delta, Sampling
from seekling.errors import SeeklingError, raise_all
from seekling.model.cache import LatentCache

Quant = Literal["int8", "int4"]
PREFILL_CHUNK = 512  # tokens; bounds the attention scores of a long prompt to heads × 512 × context numbers


class Engine:
    """Generates with a model. Thread-compatible: calls do not share state, so use one engine from several threads freely.

    Args:
        path_or_lm: a run or checkpoint folder, or what `seekling.load` returned (then its weights are shared, not copied,
            and an engine over a model in training always uses the current weights).
        quant: None keeps the weights; "int8" / "int4" make a smaller quantised copy (`seekling.engine.quant`).
        dtype: of a model loaded from a path; default "float32".
        max_rows: most requests decoded together; more prompts wait in order.

    A request's tokens depend on its own prompt, settings and seed. What runs beside it can change only the rounding of
    its logits, because torch picks matrix kernels by batch shape.

    Raises:
        SeeklingError: unknown `quant`, a folder that is no model, a `dtype` beside an already loaded model.
    """

    def __init__(self, path_or_lm: Any, quant: Quant | None = None, *, dtype: str | None = None, max_rows: int = 16):
        problems = []
        if quant not in (None, "int8", "int4"):
            problems.append(f"quant is {quant!r}: give None, 'int8' or 'int4'")
        if not isinstance(max_rows, int) or max_rows < 1:
            problems.append(f"max_rows is {max_rows!r}: give a whole number of at least 1")
        loaded = hasattr(path_or_lm, "model") and hasattr(path_or_lm, "config")
        if loaded and dtype is not None:
            problems.append("dtype is for a path; this model is loaded already: give the dtype to seekling.load")
        raise_all(SeeklingError, problems, "engine")
        if not loaded:
            from seekling.lm import load

            path_or_lm = load(path_or_lm, dtype=dtype or "float32")
        self.config = path_or_lm.config
        self.tokenizer = path_or_lm.tokenizer
        self.quant = quant
        self.max_rows = max_rows
        self.model = path_or_lm.model if quant is None else quantised(path_or_lm.model, quant)

    # ---- the public calls ------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        *,
        thinking: bool = False,
    ) -> list[Completion]:
        """Answer every prompt, in order.

        Args:
            prompts: each a string, a list of token ids, or a list of chat messages (``{"role": …, "content": …}``). A
                single prompt is taken as a list of one.
            sampling: for all prompts, or a list with one for each; default ``Sampling()``.
            thinking: open a thinking part in chat prompts.

        Raises:
            SeeklingError: lists every prompt that is empty of meaning, too long or not of this model.
        """
        requests = self._requests(as_prompts(prompts), sampling, thinking)
        for _ in self._run(requests):
            pass
        return [request.completion() for request in requests]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None, *, thinking: bool = False) -> Iterator[Delta]:
        """Answer one prompt token by token; the last `Delta` carries the finish reason. Close it to stop early.

        Checked at once, not at the first token; errors as in `generate`.
        """
        requests = self._requests([prompt], sampling, thinking)
        return (delta for _, delta in self._run(requests))

    def prompt_tokens(self, prompt: Prompt, *, thinking: bool = False) -> int:
        """Number of tokens a prompt takes, also one too long for the model."""
        return len(encode_prompts([prompt], self.tokenizer, self.config, thinking=thinking, must_fit=False)[0])

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _requests(self, prompts: list[Prompt], sampling: Sampling | Sequence[Sampling] | None, thinking: bool) -> list[Request]:
        if sampling is None or isinstance(sampling, Sampling):
            settings = [sampling or Sampling()] * len(prompts)
        else:
            settings = list(sampling)
        problems = []
        if len(settings) != len(prompts):
            problems.append(f"{len(prompts)} prompts and {len(settings)} samplings: give one for each, or one for all")
        if any(not isinstance(s, Sampling) for s in settings):
            problems.append("sampling is not a seekling.Sampling: write seekling.Sampling(max_tokens=…)")
        elif self.tokenizer is None and any(s.stop for s in settings):
            problems.append("stop strings need a tokenizer, this model folder has none: use stop_token_ids")
        raise_all(SeeklingError, problems)
        context = self.config.max_position_embeddings
        encoded = encode_prompts(prompts, self.tokenizer, self.config, thinking=thinking)
        return [
            Request(
                ids,
                s,
                room=context - len(ids),
                end_ids=self._end_ids(),
                decoder=None if self.tokenizer is None else self.tokenizer.stream(),
                vocab_size=self.config.vocab_size,
            )
            for ids, s in zip(encoded, settings, strict=True)
        ]

    def _end_ids(self) -> set[int]:
        found = [*self.config.eos_token_ids, None if self.tokenizer is None else self.tokenizer.eos_id]
        return {i for i in found if i is not None}

    def _run(self, requests: list[Request]) -> Iterator[tuple[Request, Delta]]:
        """Drive all requests to their end, yielding every step's deltas as they come."""
        if not requests:
            return
        weight = next(self.model.parameters())
        rows = min(self.max_rows, len(requests))
        cache = LatentCache(
            self.config, rows, max(request.slots for request in requests), dtype=weight.dtype, device=weight.device
        )
        waiting, free = deque(requests), list(range(rows))
        running: dict[int, Request] = {}
        while waiting or running:
            while waiting and free:
                row, request = free.pop(0), waiting.popleft()
                cache.reset(row)
                yield request, self._step([request], self._prefill(request.prompt_ids, cache, row))[0]
                if request.finish_reason is None:
                    running[row] = request
                else:
                    free.append(row)
            if not running:
                continue
            batch = list(running.items())
            logits_BV = self._decode([request.token_ids[-1] for _, request in batch], cache, [row for row, _ in batch])
            for (row, request), delta in zip(batch, self._step([r for _, r in batch], logits_BV), strict=True):
                yield request, delta
                if request.finish_reason is not None:
                    del running[row]
                    free.append(row)

    def _step(self, requests: list[Request], logits_BV: Tensor) -> list[Delta]:
        """Draw one token for each request and hand it over."""
        settings = [request.sampling for request in requests]
        seen = [None if request.seen_V is None else request.seen_V.to(logits_BV.device) for request in requests]
        token_B = sample(logits_BV, settings, [request.uniform() for request in requests], seen)
        logprobs: list[float | None] = [None] * len(requests)
        if any(s.logprobs for s in settings):
            all_B = token_logprobs(logits_BV, token_B).tolist()
            logprobs = [value if s.logprobs else None for value, s in zip(all_B, settings, strict=True)]
        return [r.accept(t, p) for r, t, p in zip(requests, token_B.tolist(), logprobs, strict=True)]

    def _prefill(self, ids: list[int], cache: LatentCache, row: int) -> Tensor:
        """Logits (1, V) after the whole prompt, which the cache row then holds."""
        with self._evaluating():
            for start in range(0, len(ids), PREFILL_CHUNK):
                h_BTD = self.model.extend(self._ids([ids[start : start + PREFILL_CHUNK]]), cache, rows=[row])
            return self.model.head(h_BTD[:, -1])

    def _decode(self, tokens: list[int], cache: LatentCache, rows: list[int]) -> Tensor:
        """Logits (B, V) after one more token in each of the given rows."""
        with self._evaluating():
            h_BTD = self.model.extend(self._ids([[token] for token in tokens]), cache, rows=rows)
            return self.model.head(h_BTD[:, -1])

    def _ids(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=next(self.model.parameters()).device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        # Around one step, never around a yield: the caller may train the same model between two tokens. no_grad and not
        # inference_mode, because tables the model builds lazily here must stay usable in its training.
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()
