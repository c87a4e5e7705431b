"""The engine: prompts in, tokens out. What it is made of is told in ``docs/walk-of-a-request.md``.

>>> engine = Engine("runs/first")
>>> engine.generate(["Once upon a time"], Sampling(max_tokens=40, seed=1))[0].text
>>> with Engine("runs/first") as engine:
...     for delta in engine.submit("Once upon a time"): print(delta.text, end="")
"""

import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

from seekling.engine.cache import PagedCache
from seekling.engine.constrain import Grammars
from seekling.engine.handle import Handle
from seekling.engine.loop import Loop
from seekling.engine.prompt import Prompt, as_prompts, encode_prompts
from seekling.engine.quant import quantised
from seekling.engine.request import Request
from seekling.engine.sampling import Completion, Delta, Sampling
from seekling.engine.scheduler import Scheduler
from seekling.engine.speculate import NgramDrafter
from seekling.engine.thinking import ThinkingGuard
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import SeeklingError, raise_all
from seekling.text.special import THINK, THINK_END

Quant = Literal["int8", "int4"]
CACHE_BYTES = 1 << 30  # default most memory of the cache; one whole context always fits


class Engine:
    """Generates with a model. Its calls may come from any thread.

    Args:
        path_or_lm: a run or checkpoint folder, or what `seekling.load` returned (then its weights are shared, not copied,
            and an engine over a model in training always uses the current weights).
        quant: None keeps the weights; "int8" / "int4" make a smaller quantised copy (`seekling.engine.quant`).
        dtype: of a model loaded from a path; default "float32".
        max_rows: most answers computed together; more wait in order.
        step_tokens: most tokens of a step; longer prompts are computed in parts, beside the answers being written.
        cache_tokens: size of the cache; default room for ``max_rows`` whole contexts, but no more than 1 GiB. A smaller one
            also bounds the context.
        max_queue: most requests of `submit` that may wait before it raises `QueueFull`.
        prefix_cache: keep what was computed for later prompts that begin alike.
        speculate: "ngram" proposes what followed the last words before; answers stay the same, they only come sooner.
        draft_tokens: most tokens proposed a step.

    A request's tokens depend on its own prompt, settings and seed. What runs beside it can change only the rounding of
    its logits, because torch picks matrix kernels by batch shape.

    Raises:
        SeeklingError: unknown settings, a folder that is no model, a `dtype` beside an already loaded model.
    """

    def __init__(
        self,
        path_or_lm: Any,
        quant: Quant | None = None,
        *,
        dtype: str | None = None,
        max_rows: int = 16,
        step_tokens: int = 512,
        cache_tokens: int | None = None,
        max_queue: int = 1024,
        prefix_cache: bool = True,
        speculate: Literal["ngram"] | None = None,
        draft_tokens: int = 4,
    ):
        problems = []
        if quant not in (None, "int8", "int4"):
            problems.append(f"quant is {quant!r}: give None, 'int8' or 'int4'")
        numbers = {"max_rows": max_rows, "step_tokens": step_tokens, "max_queue": max_queue, "draft_tokens": draft_tokens}
        if cache_tokens is not None:
            numbers["cache_tokens"] = cache_tokens
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problems.append(f"{name} is {value!r}: give a whole number of at least 1")
        if speculate not in (None, "ngram"):
            problems.append(f"speculate is {speculate!r}: give None or 'ngram'")
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
        self.model = model = path_or_lm.model if quant is None else quantised(path_or_lm.model, quant)
        self.runner = TorchRunner(self.model, self.config)
        cache = PagedCache(self.runner, self._pages(cache_tokens), prefix_cache)
        self.context = min(self.config.max_position_embeddings, cache.tokens)
        drafter = NgramDrafter(draft_tokens) if speculate == "ngram" else None
        self._grammars: Grammars | None = None
        self._loop = Loop(cache, Scheduler(cache, max_rows, step_tokens), max_queue, lambda: weights_version(model), drafter)
        weakref.finalize(self, self._loop.close)

    # ---- the public calls ------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        *,
        thinking: bool = False,
        tenant: Hashable = None,
    ) -> list[Completion]:
        """Answer every prompt, in order; the n answers to one prompt stand together.

        Args:
            prompts: each a string, a list of token ids, or a list of chat messages (``{"role": …, "content": …}``). A
                single prompt is taken as a list of one.
            sampling: for all prompts, or a list with one for each; default ``Sampling()``.
            thinking: open a thinking part in chat prompts.
            tenant: as in `submit`.

        Raises:
            SeeklingError: lists every prompt that is empty of meaning, too long or not of this model.
        """
        groups = self._requests(as_prompts(prompts), sampling, thinking, 0, tenant)
        handles = [self._submit(group, bounded=False) for group in groups]
        try:
            return [completion for handle in handles for completion in handle.results()]
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, *, thinking: bool = False, tenant: Hashable = None
    ) -> Iterator[Delta]:
        """Answer one prompt token by token; the last `Delta` carries the finish reason. Close it to stop early.

        Checked at once, not at the first token; errors as in `generate`.
        """
        return self._stream(self._requests([prompt], sampling, thinking, 0, tenant)[0])

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        thinking: bool = False,
        priority: int = 0,
        tenant: Hashable = None,
    ) -> Handle:
        """Put a prompt into the queue and return at once; the engine's own thread answers it.

        Args:
            priority: larger goes first, and may take the place of a running answer of lower priority.
            tenant: answers share cached prompts only within a tenant.

        Raises:
            QueueFull: too many wait; SeeklingError: as in `generate`, or the engine is closed.
        """
        handle = self._submit(self._requests([prompt], sampling, thinking, priority, tenant)[0])
        self._loop.start()
        return handle

    def prompt_tokens(self, prompt: Prompt, *, thinking: bool = False) -> int:
        """Number of tokens a prompt takes, also one too long for the model."""
        return len(encode_prompts([prompt], self.tokenizer, self.config, thinking=thinking, must_fit=False)[0])

    def explain(self, prompt: Prompt, *, thinking: bool = False, tenant: Hashable = None) -> dict[str, Any]:
        """How much of a prompt the prefix cache holds now, and which token ends it: prompt_tokens, cached_tokens, reason."""
        ids = encode_prompts([prompt], self.tokenizer, self.config, thinking=thinking, must_fit=False)[0]
        match = self._loop.cache.tree.match(tenant, ids)
        return {
            "prompt_tokens": len(ids),
            "cached_tokens": match.tokens,
            "position": match.miss.position,
            "token": match.miss.token,
            "cached": list(match.miss.cached),
            "reason": str(match.miss),
        }

    def stats(self) -> dict[str, Any]:
        """Counts since the engine began, and what it holds now."""
        loop = self._loop
        cache, stats = loop.cache, loop.cache.stats
        out: dict[str, Any] = {
            "running": len(loop.scheduler.running),
            "waiting": len(loop.scheduler.waiting),
            "steps": loop.steps,
            "tokens": loop.tokens,
            "preempted": loop.scheduler.preempted,
            "page_tokens": cache.page_tokens,
            "pages": cache.pool.size,
            "pages_used": cache.pool.used,
            "pages_cached": cache.tree.pages,
            "pages_evicted": stats.evicted_pages,
            "prefix_looked_up": stats.looked_up,
            "prefix_hit": stats.hit,
            "prefix_last_miss": None if stats.last_miss is None else str(stats.last_miss),
            "runner": self.runner.path,
        }
        if loop.drafter is not None:
            out |= {
                "drafted": loop.drafter.drafted,
                "accepted": loop.drafter.accepted,
                "tokens_per_step": 1 + loop.drafter.accepted / max(1, loop.drafter.steps),
            }
        return out

    def weights_changed(self) -> None:
        """Forget the prefix cache. Only needed after a change of weights that torch does not count, as through ``.data``."""
        self._loop.cache.version = None

    def close(self) -> None:
        """End the engine's thread; answers still open fail. Also at the end of a ``with`` block."""
        self._loop.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _pages(self, cache_tokens: int | None) -> int:
        context = self.config.max_position_embeddings
        if cache_tokens is None:
            weight = next(self.model.parameters())
            a_token = self.config.kv_elements_per_token() * weight.element_size()
            cache_tokens = max(min(self.max_rows * context, CACHE_BYTES // a_token), context)
        return -(-cache_tokens // self.runner.page_tokens)

    def _submit(self, requests: list[Request], *, bounded: bool = True) -> Handle:
        handle = self._loop.submit(requests, bounded=bounded)
        handle.owner = self
        return handle

    def _stream(self, requests: list[Request]) -> Iterator[Delta]:
        handle = self._submit(requests, bounded=False)
        try:
            yield from handle
        finally:
            if not handle.done:
                handle.cancel()
                if not self._loop.threaded:
                    self._loop.step()

    def _requests(
        self,
        prompts: list[Prompt],
        sampling: Sampling | Sequence[Sampling] | None,
        thinking: bool,
        priority: int,
        tenant: Hashable,
    ) -> list[list[Request]]:
        """The answers asked for, those to one prompt together."""
        if sampling is None or isinstance(sampling, Sampling):
            settings = [sampling or Sampling()] * len(prompts)
        else:
            settings = list(sampling)
        problems = []
        if len(settings) != len(prompts):
            problems.append(f"{len(prompts)} prompts and {len(settings)} samplings: give one for each, or one for all")
        if any(not isinstance(s, Sampling) for s in settings):
            problems.append("sampling is not a seekling.Sampling: write seekling.Sampling(max_tokens=…)")
        else:
            problems += dict.fromkeys(line for s in settings for line in self._sampling_problems(s))
        raise_all(SeeklingError, problems)
        encoded = encode_prompts(prompts, self.tokenizer, self.config, thinking=thinking, context=self.context)
        return [self._answers(ids, s, priority, tenant) for ids, s in zip(encoded, settings, strict=True)]

    def _answers(self, ids: list[int], s: Sampling, priority: int, tenant: Hashable) -> list[Request]:
        out: list[Request] = []
        for index in range(s.n):
            request = Request(
                ids,
                s,
                room=self.context - len(ids),
                end_ids=self._end_ids(),
                decoder=None if self.tokenizer is None else self.tokenizer.stream(),
                vocab_size=self.config.vocab_size,
                guard=self._guard(ids, s),
                matcher=None if s.constraint is None else self._compiled().matcher(s.constraint),
                index=index,
                priority=priority,
                salt=tenant,
            )
            request.after = out[0] if out else None
            out.append(request)
        return out

    def _sampling_problems(self, s: Sampling) -> Iterator[str]:
        size = self.config.vocab_size
        if self.tokenizer is None and s.stop:
            yield "stop strings need a tokenizer, this model folder has none: use stop_token_ids"
        if self.tokenizer is None and s.constraint is not None:
            yield "a constraint needs a tokenizer, this model folder has none"
        if s.thinking_budget is not None and self._mark(THINK_END) is None:
            yield f"thinking_budget needs a model that ends its reasoning with {THINK_END}; this one has no such token"
        beyond = sorted({token for token, _ in s.bias if token >= size})
        if beyond:
            yield f"logit_bias names tokens outside 0…{size - 1}: {', '.join(map(str, beyond[:5]))}"

    def _guard(self, ids: list[int], s: Sampling) -> ThinkingGuard | None:
        """Watches the reasoning where the prompt leaves one open."""
        begin, end = self._mark(THINK), self._mark(THINK_END)
        if begin is None or end is None:
            return None
        last = next((token for token in reversed(ids) if token in (begin, end)), end)
        return ThinkingGuard(end, s.thinking_budget, s.stop_loops or s.thinking_budget is not None) if last == begin else None

    def _compiled(self) -> Grammars:
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self.config.vocab_size, sorted(self._end_ids()))
        return self._grammars

    def _mark(self, name: str) -> int | None:
        return None if self.tokenizer is None else self.tokenizer.special.get(name)

    def _end_ids(self) -> set[int]:
        found = [*self.config.eos_token_ids, None if self.tokenizer is None else self.tokenizer.eos_id]
        return {i for i in found if i is not None}


def weights_version(model: Any) -> object:
    """Changes whenever a parameter or buffer was written to by torch or replaced."""
    return [(t.data_ptr(), t._version) for t in (*model.parameters(), *model.buffers()) if not t.is_inference()]
