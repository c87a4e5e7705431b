"""``/v1/responses``: OpenAI's newer form of the same chat, in items and typed events.

Responses are kept in memory, the newest few hundred of them, so that ``previous_response_id`` and retrieval work until the
server ends; ``store: false`` keeps nothing. A response belongs to the key that asked for it.
"""

import secrets
import time
from collections.abc import AsyncIterator, Hashable
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.serve.answers import Answers, Job
from seekling.serve.asking import bad, chat_job
from seekling.serve.chat import entry
from seekling.serve.failures import ApiError, as_api_error, reply
from seekling.serve.fields import ChatRequest, Json, Many, Strict
from seekling.serve.items import Items, turns
from seekling.serve.reading import read_body, who
from seekling.serve.sse import Stream, data, unless_gone
from seekling.serve.state import Server

CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}  # finish reason → why it is incomplete


class ReasoningOptions(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] | None = None
    summary: Literal["auto"] | None = None  # none is made: the reasoning itself is told


class TextOptions(Strict):
    format: Json | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesStreamOptions(Strict):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Strict):
    """`user`, `metadata` and the like say who asks; `summary: auto` gives none, as the reasoning itself is told."""

    model: str | None = None
    input: str | Many[Json]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Many[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: Many[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Json | None = None
    user: str | None = None
    user_id: str | None = Field(default=None, max_length=512)
    cache_salt: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Page(BaseModel):
    """Which of the items to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


# ---- endpoints -------------------------------------------------------------------------------------------------------


async def responses(server: Server, request: Request) -> Response:
    """The endpoint."""
    body = await read_body(request, ResponsesRequest)
    work = await run_in_threadpool(partial(Work, server, body, who(request)))
    answers = Answers(server, work.job)
    if body.stream:
        headers = answers.record.headers
        return Stream(work.stream(answers), keep_alive=server.keep_alive, failed=_failed, headers=headers)
    return reply(await unless_gone(request, work.whole(answers)), headers=answers.record.headers)


def _failed(error: ApiError) -> bytes:
    return data({"type": "error", "code": error.code, "message": error.message, "param": error.param}, "error")


async def retrieve(server: Server, request: Request) -> Response:
    """``GET /v1/responses/ID``."""
    return reply(server.kept.get(who(request), request.path_params["name"])[0])


async def input_items(server: Server, request: Request) -> Response:
    """``GET /v1/responses/ID/input_items``: what came before it, newest first."""
    rows = server.kept.get(who(request), request.path_params["name"])[1]
    asked = Page.model_validate(dict(request.query_params))
    rows = rows if asked.order == "asc" else rows[::-1]
    if asked.after is not None:
        places = [place for place, row in enumerate(rows) if row.get("id") == asked.after]
        if not places:
            raise bad("after", f"{asked.after!r} is none of these items")
        rows = rows[places[0] + 1 :]
    shown = rows[: asked.limit]
    first, last = (shown[0].get("id"), shown[-1].get("id")) if shown else (None, None)
    more = len(shown) < len(rows)
    return reply({"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more})


async def forget(server: Server, request: Request) -> Response:
    """``DELETE /v1/responses/ID``."""
    name = request.path_params["name"]
    server.kept.drop(who(request), name)
    return reply({"id": name, "object": "response", "deleted": True})


# ---- one response ----------------------------------------------------------------------------------------------------


class Work:
    """A request on its way to a response.

    Raises:
        ApiError, SeeklingError: what is wrong, as a 400 or 404.
    """

    def __init__(self, server: Server, body: ResponsesRequest, asker: Hashable):
        self.server, self.body, self.asker = server, body, asker
        self.came = self._before() + [_listed(item) for item in _items(body.input)]
        self.job: Job = chat_job(server, as_chat(body, turns(self.came)), asker)
        self.items = Items(seal="reasoning.encrypted_content" in (body.include or ()))
        self.id, self.created = f"resp_{secrets.token_hex(20)}", int(time.time())

    async def whole(self, answers: Answers) -> Json:
        """In one piece."""
        async for step in answers.steps():
            self._push(step)
        list(self._end(answers))
        return self._finish(answers)

    async def stream(self, answers: Answers) -> AsyncIterator[bytes]:
        """Typed events with rising numbers; the last one carries the whole response."""
        number = 0

        def told(kind: str, fields: Json) -> bytes:
            nonlocal number
            number += 1
            return data({"type": kind, "sequence_number": number - 1, **fields}, kind)

        steps = answers.steps()
        try:
            yield told("response.created", {"response": self.shown("in_progress")})
            yield told("response.in_progress", {"response": self.shown("in_progress")})
            try:
                async for step in steps:
                    for event in self._push(step):
                        yield told(*event)
                for event in self._end(answers):
                    yield told(*event)
            except Exception as error:
                failed = as_api_error(error)
                problem = {"code": "server_error" if failed.status >= 500 else "invalid_prompt", "message": failed.message}
                yield told("response.failed", {"response": self.shown("failed", error=problem)})
                return
            response = self._finish(answers)
            yield told(f"response.{response['status']}", {"response": response})
        finally:
            await steps.aclose()  # type: ignore[attr-defined]
            answers.close()

    def shown(self, status: str, **more: Any) -> Json:
        """The response as it stands; settings that were not given are shown as null."""
        body = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model or self.job.model.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": self.job.sampling.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [{"description": None, "parameters": None, "strict": None, **tool} for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self.job.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata or {},
            **more,
        }

    def _before(self) -> list[Json]:
        """The items of the response that this one goes on from."""
        if self.body.previous_response_id is None:
            return []
        response, came = self.server.kept.get(self.asker, self.body.previous_response_id)
        return [*came, *response["output"]]

    def _push(self, step: Any) -> list[tuple[str, Json]]:
        logs = [
            {key: value for key, value in entry(self.job.model, said.token, said.logprob).items()}
            | {"top_logprobs": [entry(self.job.model, *top) for top in said.top]}
            for said in (step.said if self._logs else ())
            if not said.thought
        ]
        told: list[tuple[str, Json]] = []
        for event in step.events:
            told += self.items.push(event, logs)
            logs = []  # with the first event of a step
        return told

    @property
    def _logs(self) -> bool:
        return "message.output_text.logprobs" in (self.body.include or ())

    def _end(self, answers: Answers) -> list[tuple[str, Json]]:
        return list(self.items.end("incomplete" if answers.choices[0].finish in CUT else "completed"))

    def _finish(self, answers: Answers) -> Json:
        """The complete response, kept if it may be."""
        if self.items.reasoning:
            for call_id in self.items.call_ids:
                self.server.remembered.put(self.job.tenant, call_id, self.items.reasoning)
        usage, cut = answers.usage, CUT.get(answers.choices[0].finish)
        response = self.shown(
            "incomplete" if cut else "completed",
            output=self.items.items,
            incomplete_details={"reason": cut} if cut else None,
            completed_at=None if cut else int(time.time()),
            usage={
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.prompt - usage.cached},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                "total_tokens": usage.prompt + usage.completion,
            },
            **answers.record.fields(),
        )
        if self.body.store is not False:
            self.server.kept.put(self.asker, response, self.came)
        return response


def as_chat(body: ResponsesRequest, messages: list[Json]) -> ChatRequest:
    """The same request in the form of a chat."""
    logs = "message.output_text.logprobs" in (body.include or ())
    if body.top_logprobs and not logs:
        raise bad("top_logprobs", "only with message.output_text.logprobs in include")
    if not messages:
        raise bad("input", "is empty")
    front = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if body.stream_options is not None and not body.stream:
        raise bad("stream_options", "only with stream=true")
    return ChatRequest(
        model=body.model,
        messages=[*front, *messages],
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        tools=[_tool(tool, number) for number, tool in enumerate(body.tools)] if body.tools else None,
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text.format if body.text else None),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        logprobs=logs,
        top_logprobs=body.top_logprobs,
        user_id=body.user_id,
        cache_salt=body.cache_salt,
    )


def _items(given: str | list[Json]) -> list[Json]:
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _listed(item: Json) -> Json:
    """An item of a client in full, as it is listed: with an id, its type, and parts in place of a text."""
    if not isinstance(item, dict):
        return item
    out = {**item, "id": item.get("id") or f"item_{secrets.token_hex(12)}"}
    if "role" in item:
        out.setdefault("type", "message")
        if isinstance(item.get("content"), str):
            kind = "output_text" if item["role"] == "assistant" else "input_text"
            out["content"] = [{"type": kind, "text": item["content"]}]
    return out


def _tool(tool: Json, number: int) -> Json:
    if tool.get("type") != "function":
        raise bad(f"tools.{number}.type", f"{tool.get('type')!r}: this server knows function tools only")
    known = {"type", "name", "description", "parameters", "strict"}
    unknown = sorted(key for key in tool if key not in known and tool[key] is not None)
    if unknown:
        raise bad(f"tools.{number}.{unknown[0]}", "this server does not support this field")
    function = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _choice(choice: str | Json | None) -> str | Json | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise bad("tool_choice.type", f"{choice.get('type')!r}: give none, auto, required or a function")
    return {"type": "function", "function": {"name": choice.get("name")}}


def _format(form: Json | None) -> Json | None:
    if form is None or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
