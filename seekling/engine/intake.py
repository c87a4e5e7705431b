"""What a caller asks for becomes requests: prompts encoded, settings checked against the model, all problems listed at once."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

from seekling.engine.constrain import Grammars
from seekling.engine.prompt import Prompt, encode_prompts
from seekling.engine.request import Request
from seekling.engine.sampling import Sampling, whole
from seekling.engine.thinking import ThinkingGuard
from seekling.errors import SeeklingError, raise_all
from seekling.text.special import THINK, THINK_END


class Intake:
    """Makes `Request`s for one model.

    Args:
        config: `ModelConfig`; tokenizer: `seekling.text.Tokenizer` or None.
        context: most tokens of prompt and answer.
        adapters: names that a request may choose.
    """

    def __init__(self, config: Any, tokenizer: Any, context: int, adapters: Collection[str]):
        self.config, self.tokenizer, self.context, self.adapters = config, tokenizer, context, adapters

    def requests(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None,
        *,
        thinking: bool = False,
        priority: int = 0,
        tenant: Hashable = None,
        adapter: str | None = None,
    ) -> list[list[Request]]:
        """The answers asked for, those to one prompt together; arguments as in `Engine.generate` and `submit`.

        Raises:
            SeeklingError: lists everything that is wrong with the settings, or with the prompts.
        """
        if sampling is None or isinstance(sampling, Sampling):
            settings = [sampling or Sampling()] * len(prompts)
        else:
            settings = list(sampling)
        raise_all(SeeklingError, self._problems(prompts, settings, priority, tenant, adapter))
        encoded = encode_prompts(prompts, self.tokenizer, self.config, thinking=thinking, context=self.context)
        return [self._answers(ids, s, priority, tenant, adapter) for ids, s in zip(encoded, settings, strict=True)]

    def _answers(self, ids: list[int], s: Sampling, priority: int, tenant: Hashable, adapter: str | None) -> list[Request]:
        out: list[Request] = []
        for index in range(s.n):
            request = Request(
                ids,
                s,
                room=self.context - len(ids),
                end_ids=self.end_ids,
                decoder=None if self.tokenizer is None else self.tokenizer.stream(),
                vocab_size=self.config.vocab_size,
                guard=self._guard(ids, s),
                matcher=None if s.constraint is None else self._grammars.matcher(s.constraint),
                index=index,
                priority=priority,
                tenant=tenant,
                adapter=adapter,
            )
            request.after = out[0] if out else None
            out.append(request)
        return out

    def _problems(
        self, prompts: Sequence[Prompt], settings: list[Sampling], priority: Any, tenant: Any, adapter: str | None
    ) -> Iterator[str]:
        if len(settings) != len(prompts):
            yield f"{len(prompts)} prompts and {len(settings)} samplings: give one for each, or one for all"
        if any(not isinstance(s, Sampling) for s in settings):
            yield "sampling is not a seekling.Sampling: write seekling.Sampling(max_tokens=…)"
        else:
            yield from dict.fromkeys(line for s in settings for line in self._sampling_problems(s))
        if not whole(priority):
            yield f"priority is {priority!r}: give a whole number"
        try:
            hash(tenant)
        except TypeError as error:
            yield f"tenant is a {type(tenant).__name__}, {error}: give a name, a number or another thing that can be hashed"
        if adapter is not None and adapter not in self.adapters:
            yield f"there is no adapter {adapter!r}; this engine has {', '.join(self.adapters) or 'none'}"

    def _sampling_problems(self, s: Sampling) -> Iterator[str]:
        size = self.config.vocab_size
        if self.tokenizer is None and s.stop:
            yield "stop strings need a tokenizer, this model folder has none: use stop_token_ids"
        if self.tokenizer is None and s.constraint is not None:
            yield "a constraint needs a tokenizer, this model folder has none"
        if s.thinking_budget is not None and self._marks[1] is None:
            yield f"thinking_budget needs a model that ends its reasoning with {THINK_END}; this one has no such token"
        if s.experts and not any(map(self.config.is_moe, range(self.config.num_hidden_layers))):
            yield "experts asks which experts computed each token, and this model has none: leave it out"
        for name, tokens in (("logit_bias", [token for token, _ in s.bias]), ("stop_token_ids", s.stop_token_ids)):
            beyond = sorted({token for token in tokens if token >= size})
            if beyond:
                yield f"{name} names tokens outside 0…{size - 1}: {', '.join(map(str, beyond[:5]))}"

    def _guard(self, ids: list[int], s: Sampling) -> ThinkingGuard | None:
        """Watches the reasoning where the prompt leaves one open."""
        begin, end = self._marks
        if begin is None or end is None:
            return None
        last = next((token for token in reversed(ids) if token in (begin, end)), end)
        return ThinkingGuard(end, s.thinking_budget, s.stop_loops or s.thinking_budget is not None) if last == begin else None

    @cached_property
    def _marks(self) -> tuple[int | None, int | None]:
        """The tokens that begin and end reasoning."""
        special = {} if self.tokenizer is None else self.tokenizer.special
        return special.get(THINK), special.get(THINK_END)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.config.vocab_size, sorted(self.end_ids))

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens with which the model ends an answer."""
        return frozenset([*self.config.eos_token_ids, *(() if self.tokenizer is None else self.tokenizer.end_ids)])
