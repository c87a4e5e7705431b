"""From an engine's deltas to what was said: reasoning, content, tool calls, log-probabilities, why it ended.

Every surface (OpenAI, Anthropic, Ollama) reads the same `Step`s. Stop strings end the content and never the reasoning; what
may still become one is held back, and so is half a character and half a mark.
"""

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seekling.engine.handle import Handle
from seekling.engine.runner import Experts
from seekling.engine.sampling import Delta, Sampling
from seekling.engine.stop import StopFilter
from seekling.errors import DataError
from seekling.serve.barriers import Record
from seekling.serve.clock import Clock
from seekling.serve.model import Model
from seekling.serve.state import Server
from seekling.text.events import CallEnd, CallStart, Content, Event, Note, Reasoning


@dataclass(frozen=True)
class Job:
    """A prompt on its way to the engine.

    Attributes:
        model: the one that answers.
        stop: stop strings for the content (not in ``sampling``, where they would end the reasoning too).
        tools: what the prompt declared, for the reader of the answer.
        adapter: one of the engine's, None for the base.
        early_calls: tell tool calls as they come; only where a grammar keeps them whole.
        asker: the key's id; notes: what the input was flagged for; system: its system messages.
    """

    model: Model
    prompt_ids: list[int]
    sampling: Sampling
    stop: tuple[str, ...] = ()
    tools: Sequence[dict[str, Any]] | None = None
    early_calls: bool = False
    tenant: Hashable = None
    adapter: str | None = None
    asker: Hashable = None
    notes: tuple[str, ...] = ()
    system: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """One token with its log-probabilities and, where asked for, its experts; ``thought``: it belongs to the reasoning."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    experts: Experts | None = None
    thought: bool = False


@dataclass(frozen=True)
class Step:
    """What one delta of one answer brought; ``finish`` is set in an answer's last."""

    index: int
    events: list[Event]
    said: list[Said]
    finish: str | None = None


class Choice:
    """One of the answers, as far as it has come."""

    def __init__(self, job: Job, index: int):
        self.index, self.finish = index, ""
        self.tokens = self.reasoning_tokens = 0
        self._parser = job.model.tokenizer.reply_parser(job.prompt_ids, tools=job.tools, early_calls=job.early_calls)
        self._filter = StopFilter(job.stop)
        self._ends = job.model.end_ids
        self._thinking, self._answering, self._called = bool(self._parser._in_reasoning), False, False
        self._waiting: list[Said] = []
        self._stop, self._content = job.stop, ""
        self.stopped_by: str | None = None

    def push(self, delta: Delta) -> Step | None:
        """Take a delta; None where nothing may be shown yet."""
        if self.finish:
            return None
        events: list[Event] = []
        for place, token in enumerate(delta.token_ids):
            self.tokens += 1
            if delta.finish_reason == "stop" and token in self._ends:
                continue
            with suppress(DataError):  # a vocabulary padded beyond its tokenizer's: such ids have no text
                events += self._read(self._parser.push_token(token))
            thought = self._thinking and not self._answering
            self.reasoning_tokens += thought
            if delta.logprobs:
                top = delta.top_logprobs[place] if delta.top_logprobs else []
                experts = delta.experts[place] if delta.experts else None
                self._waiting.append(Said(token, delta.logprobs[place], top, experts, thought))
        if delta.finish_reason is not None and not self._filter.stopped:
            events += self._read(self._parser.finish())
            events += self._text(self._filter.flush())
        if self._filter.stopped:
            self.finish = "stop"
            self._waiting.clear()
        elif delta.finish_reason is not None:
            self.finish = "length" if delta.finish_reason == "length" else "stop"
        if self._called and self.finish == "stop":
            self.finish = "tool_calls"
        if not events and not self.finish:
            return None
        said, self._waiting = self._waiting, []
        return Step(self.index, events, said, self.finish or None)

    def _read(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if self._filter.stopped:
                break
            if isinstance(event, Note):
                continue
            if isinstance(event, Content):
                self._answering = True
                self._content += event.text if self._stop else ""
                out += self._text(self._filter.push(event.text))
                if self._filter.stopped:
                    self.stopped_by = first_stop(self._content, self._stop)
                continue
            if isinstance(event, Reasoning):
                self._thinking = True
            else:
                self._answering = True
                out += self._text(self._filter.flush())
                self._called |= isinstance(event, CallEnd) and not event.problem
            out.append(event)
        return out

    @staticmethod
    def _text(text: str) -> list[Event]:
        return [Content(text)] if text else []


def first_stop(text: str, stops: Sequence[str]) -> str | None:
    """The stop string that completes first in a text, the longest of those."""
    return min((s for s in stops if s in text), key=lambda s: (text.index(s) + len(s), -len(s)), default=None)


@dataclass
class Usage:
    """Tokens of a request, all its answers together."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )

    def openai(self) -> dict[str, Any]:
        """With DeepSeek's names beside OpenAI's."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
            "prompt_cache_hit_tokens": self.cached,
            "prompt_cache_miss_tokens": self.prompt - self.cached,
        }


class Answers:
    """The answers to one job. Iterate `steps`; whatever ends the iteration early cancels the rest.

    Raises:
        QueueFull: too many wait; SeeklingError: a prompt that does not fit.
    """

    def __init__(self, server: Server, job: Job):
        self._counters = server.counters[job.model]
        self.choices = [Choice(job, index) for index in range(job.sampling.n)]
        self.record = Record(
            server.barriers,
            prompts=[job.prompt_ids],
            choices=job.sampling.n,
            greedy=job.sampling.greedy,
            asker=job.asker,
            model=job.model.name,
            notes=job.notes,
            system=job.system,
        )
        self._said: list[list[Said]] = [[] for _ in self.choices]
        engine = job.model.engine
        self.handle: Handle = engine.submit(job.prompt_ids, job.sampling, tenant=job.tenant, adapter=job.adapter)
        self.clock = Clock(server, job.model, self.handle, job.tenant)

    async def steps(self) -> AsyncIterator[Step]:
        """What is said, as it comes."""
        try:
            await self.record.began()
            async for delta in self.handle:
                self.clock.count(delta)
                choice = self.choices[delta.index]
                step = choice.push(delta)
                step = step and self._moderated(choice, step)
                if step is None:
                    continue
                if step.finish is not None:
                    self._counters.finished(step.finish)
                    if delta.finish_reason is None:  # a stop string or the policy, which the engine knows nothing of
                        self.handle.cancel(step.index)
                if self.over:
                    await self.record.ended([choice.finish for choice in self.choices], self.usage.completion)
                yield step
                if self.over:
                    break
        finally:
            self.close()

    @property
    def over(self) -> bool:
        """Whether all answers have ended."""
        return all(choice.finish for choice in self.choices)

    def _moderated(self, choice: Choice, step: Step) -> Step | None:
        """A step after the policy; log-probabilities, which name the tokens, wait until all of the answer may be shown."""
        watched, kept = self.record.choices[choice.index], self._said[choice.index]
        events = watched.events(step.events, step.finish is not None)
        if not watched.moderated:
            return step
        kept += step.said
        if watched.blocked is not None:
            choice.finish = "content_filter"
            return Step(step.index, events, [], choice.finish)
        if step.finish is None:
            return Step(step.index, events, []) if events else None
        return Step(step.index, events, [] if watched.masked else kept, step.finish)

    def close(self) -> None:
        """Cancel what still runs, count what was said."""
        if not self.handle.done:
            self.handle.cancel()
        self.clock.stop()
        self.record.gone(self.usage.completion)

    @property
    def usage(self) -> Usage:
        """As far as it has come; cached tokens are known once the prompt was computed."""
        return Usage(
            self.handle.prompt_tokens,
            self.handle.requests[0].cached_tokens,
            sum(choice.tokens for choice in self.choices),
            sum(choice.reasoning_tokens for choice in self.choices),
        )


__all__ = ["Answers", "CallStart", "Choice", "Job", "Said", "Step", "Usage"]
