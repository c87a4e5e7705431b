"""``/v1/chat/completions``: OpenAI's chat with DeepSeek's fields, in one piece or streamed."""

import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.serve.answers import Answers, Job, Said, Step
from seekling.serve.asking import chat_job
from seekling.serve.failures import reply
from seekling.serve.fields import ChatRequest
from seekling.serve.model import Model
from seekling.serve.reading import read_body, who
from seekling.serve.sse import DONE, Stream, data, unless_gone
from seekling.serve.state import Server
from seekling.text.events import CallArguments, CallStart, Content, Event, Reasoning


async def chat_completions(server: Server, request: Request) -> Response:
    """The endpoint."""
    body = await read_body(request, ChatRequest)
    job = await run_in_threadpool(partial(chat_job, server, body, who(request)))
    answers = Answers(server, job)
    head, headers = Head(job.model, "chatcmpl-" + answers.record.id, body.model), answers.record.headers
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return Stream(_stream(server, answers, head, job, usage), keep_alive=server.keep_alive, headers=headers)
    return reply(await unless_gone(request, _whole(server, answers, head, job)), headers=headers)


class Head:
    """What every piece of one response repeats."""

    def __init__(self, model: Model, id: str, name: str | None):
        self.id, self.created = id, int(time.time())
        self._model, self._name = model, name or model.name

    def make(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self._name,
            "system_fingerprint": self._model.fingerprint,
            **fields,
        }


class Talk:
    """Collects one answer: its content, reasoning and calls, and gives the calls their ids."""

    def __init__(self) -> None:
        self.content, self.reasoning = "", ""
        self.calls: dict[int, dict[str, Any]] = {}

    def delta(self, event: Event) -> dict[str, Any] | None:
        """Take an event; return what a stream says of it."""
        if isinstance(event, Content):
            self.content += event.text
            return {"content": event.text}
        if isinstance(event, Reasoning):
            self.reasoning += event.text
            return {"reasoning_content": event.text}
        if isinstance(event, CallStart):
            call_id = f"call_{secrets.token_hex(12)}"
            function = {"name": event.name, "arguments": ""}
            self.calls[event.index] = {"id": call_id, "type": "function", "function": dict(function)}
            return {"tool_calls": [{"index": len(self.calls) - 1, "id": call_id, "type": "function", "function": function}]}
        if isinstance(event, CallArguments):
            self.calls[event.index]["function"]["arguments"] += event.text
            place = list(self.calls).index(event.index)
            return {"tool_calls": [{"index": place, "function": {"arguments": event.text}}]}
        return None

    def remember(self, server: Server, job: Job) -> None:
        """Keep the reasoning for a client that will not send it back with the tools' results."""
        if self.reasoning:
            for call in self.calls.values():
                server.remembered.put(job.tenant, call["id"], self.reasoning)

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = list(self.calls.values())
        return message


async def _whole(server: Server, answers: Answers, head: Head, job: Job) -> dict[str, Any]:
    talks = [Talk() for _ in answers.choices]
    said: list[list[Said]] = [[] for _ in talks]
    async for step in answers.steps():
        for event in step.events:
            talks[step.index].delta(event)
        said[step.index] += step.said
    choices = []
    for talk, choice in zip(talks, answers.choices, strict=True):
        talk.remember(server, job)
        choices.append(
            {
                "index": choice.index,
                "message": talk.message(),
                "logprobs": logprobs(job.model, said[choice.index]) if job.sampling.logprobs else None,
                "finish_reason": choice.finish,
            }
        )
    return head.make("chat.completion", choices=choices, usage=answers.usage.openai(), **answers.record.fields())


async def _stream(server: Server, answers: Answers, head: Head, job: Job, usage: bool) -> AsyncIterator[bytes]:
    more: dict[str, Any] = {"usage": None} if usage else {}

    def chunk(
        index: int, delta: dict[str, Any], finish: str | None = None, said: list[Said] | None = None, **label: Any
    ) -> bytes:
        logs = logprobs(job.model, said) if said else None
        choice = {"index": index, "delta": delta, "logprobs": logs, "finish_reason": finish}
        return data(head.make("chat.completion.chunk", choices=[choice], **more, **label))

    talks = [Talk() for _ in answers.choices]
    steps = answers.steps()
    try:
        for choice in answers.choices:
            yield chunk(choice.index, {"role": "assistant", "content": ""})
        async for step in steps:
            talk = talks[step.index]
            for part in _deltas(talk, step):
                yield chunk(step.index, part[0], None, part[1])
            if step.finish is not None:
                talk.remember(server, job)
                label = answers.record.fields() if answers.over and not usage else {}
                yield chunk(step.index, {}, step.finish, [] if step.events else step.said, **label)
        if usage:
            used, label = answers.usage, answers.record.fields()
            timings = answers.clock.timings(used.completion)
            yield data(head.make("chat.completion.chunk", choices=[], usage=used.openai(), timings=timings, **label))
        yield DONE
    finally:
        await steps.aclose()  # type: ignore[attr-defined]
        answers.close()


def _deltas(talk: Talk, step: Step) -> list[tuple[dict[str, Any], list[Said]]]:
    """The deltas of a step; its log-probabilities go with the first."""
    deltas = [delta for delta in map(talk.delta, step.events) if delta is not None]
    return [(delta, step.said if place == 0 else []) for place, delta in enumerate(deltas)]


def logprobs(model: Model, said: list[Said]) -> dict[str, Any]:
    """OpenAI's form; ``experts`` in the entries is our own, for who sent ``return_experts``."""

    def of(one: Said) -> dict[str, Any]:
        out = {**entry(model, one.token, one.logprob), "top_logprobs": [entry(model, *t) for t in one.top]}
        if one.experts is not None:
            out["experts"] = [
                {"layer": layer, "experts": [e for e, _ in pairs], "weights": [round(w, 6) for _, w in pairs]}
                for layer, pairs in zip(model.moe_layers, one.experts, strict=True)
            ]
        return out

    return {"content": [of(one) for one in said]}


def entry(model: Model, token: int, logprob: float) -> dict[str, Any]:
    """One token: its text, its bytes, its log-probability (at least -9999, which JSON can write)."""
    raw = token_bytes(model, token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(raw)}


def token_bytes(model: Model, token: int) -> bytes:
    """A token's bytes; none for ids beyond the tokenizer's."""
    return model.tokenizer.token_bytes(token) if token < model.tokenizer.vocab_size else b""
