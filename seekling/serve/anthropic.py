"""Anthropic's ``/v1/messages``: their blocks become the turns of a chat, and what is said becomes their blocks again.

Reasoning is a ``thinking`` block whose signature is empty; sent back, it is taken as the reasoning of that turn.
"""

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.serve.answers import Answers, Job
from seekling.serve.asking import bad, chat_job, only_keys
from seekling.serve.failures import reply
from seekling.serve.fields import UNKNOWN, ChatRequest, Json, Many, Strict, Thinking, few
from seekling.serve.reading import read_body, who
from seekling.serve.sse import Stream, data, unless_gone
from seekling.serve.state import Server
from seekling.text.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
# What is read of a block and of a tool, and what changes no answer: the cache works by itself.
BLOCK_KEYS = {
    "text": {"type", "text", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "tool_use": {"type", "id", "name", "input", "cache_control"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
}
TOOL_KEYS = {"type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"}


class OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(Strict):
    """`cache_control` inside blocks is taken and has no effect: the prefix cache works by itself."""

    model: str
    messages: Many[Json]
    max_tokens: int | None = Field(default=None, ge=1)
    system: str | Many[Json] | None = None
    stop_sequences: Many[str] | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = None
    top_k: int | None = None
    tools: Many[Json] | None = None
    tool_choice: Json | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: Annotated[dict[Literal["user_id"], str | None], few(UNKNOWN)] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class MessagesRequest(CountRequest):
    max_tokens: int = Field(ge=1)  # type: ignore[assignment]


async def messages(server: Server, request: Request) -> Response:
    """The endpoint."""
    body = await read_body(request, MessagesRequest)
    job = await run_in_threadpool(lambda: chat_job(server, as_chat(body), who(request)))
    answers = Answers(server, job)
    if body.stream:
        return Stream(
            _stream(server, answers, body.model, job),
            keep_alive=server.keep_alive,
            quiet=data({"type": "ping"}, "ping"),
            failed=lambda error: data(error.body("/messages"), "error"),
            headers=answers.record.headers,
        )
    return reply(await unless_gone(request, _whole(server, answers, body.model, job)), headers=answers.record.headers)


async def count_tokens(server: Server, request: Request) -> Response:
    """``/v1/messages/count_tokens``."""
    body = await read_body(request, CountRequest)
    job = await run_in_threadpool(partial(chat_job, server, as_chat(body), who(request)))
    return reply({"input_tokens": len(job.prompt_ids)})


# ---- in --------------------------------------------------------------------------------------------------------------


def as_chat(body: CountRequest) -> ChatRequest:
    """The same request in OpenAI's form. Raises ApiError naming what has no counterpart."""
    turns: list[Json] = []
    if body.system:
        turns.append({"role": "system", "content": _text(body.system, "system")})
    for number, message in enumerate(body.messages):
        turns += _turns(message, f"messages.{number}")
    if turns and turns[-1]["role"] == "assistant":
        turns[-1]["prefix"] = True
    choice, parallel = _choice(body.tool_choice)
    user = (body.metadata or {}).get("user_id")
    return ChatRequest(
        model=body.model,
        messages=turns,
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        tools=[_tool(tool, number) for number, tool in enumerate(body.tools)] if body.tools else None,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        thinking=body.thinking,
        reasoning_effort=body.output_config.effort if body.output_config else None,
        user_id=user,
    )


def _turns(message: Json, where: str) -> Iterator[Json]:
    """A message of blocks as one or more turns: results of tools are turns of their own."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise bad(f"{where}.role", f"{role!r}: give user or assistant")
    only_keys(message, {"role", "content"}, where)
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    if not isinstance(content, list):
        raise bad(f"{where}.content", "must be text or a list of blocks")
    text: list[str] = []
    calls: list[Json] = []
    thought = ""
    for place, block in enumerate(content):
        kind, at = (block.get("type") if isinstance(block, dict) else None), f"{where}.content.{place}"
        if isinstance(kind, str) and kind in BLOCK_KEYS:
            only_keys(block, BLOCK_KEYS[kind], at)
        if kind == "text" and isinstance(block.get("text"), str):
            text.append(block["text"])
        elif kind == "thinking" and role == "assistant":
            thought += str(block.get("thinking", ""))
        elif kind == "tool_use" and role == "assistant":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {}, ensure_ascii=False)}
            calls.append({"id": str(block.get("id", "")), "type": "function", "function": function})
        elif kind == "tool_result" and role == "user":
            said = _text(block.get("content") or "", at)
            if block.get("is_error"):
                said = f"error: {said}"
            yield {"role": "tool", "tool_call_id": str(block.get("tool_use_id", "")), "content": said}
        else:
            raise bad(at, f"a block of type {kind!r} cannot be read here in a message of the {role}")
    if role == "assistant":
        turn: Json = {"role": role, "content": "".join(text)}
        yield turn | ({"tool_calls": calls} if calls else {}) | ({"reasoning_content": thought} if thought else {})
    elif text:
        yield {"role": role, "content": "\n\n".join(text)}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad(where, "must be text or blocks of text")
    parts = []
    for place, block in enumerate(content):
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise bad(f"{where}.{place}", "this server reads blocks of text only")
        parts.append(block["text"])
    return "\n\n".join(parts)


def _tool(tool: Json, number: int) -> Json:
    if tool.get("type", "custom") != "custom" or not isinstance(tool.get("input_schema"), dict):
        raise bad(f"tools.{number}", "this server knows tools with an input_schema only")
    only_keys(tool, TOOL_KEYS, f"tools.{number}")
    function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    more = {key: tool[key] for key in ("description", "strict") if tool.get(key)}
    return {"type": "function", "function": function | more}


def _choice(choice: Json | None) -> tuple[Any, bool | None]:
    if choice is None:
        return None, None
    kind, parallel = choice.get("type"), False if choice.get("disable_parallel_tool_use") else None
    only_keys(choice, {"type", "disable_parallel_tool_use"} | ({"name"} if kind == "tool" else set()), "tool_choice")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}, parallel
    words = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in words:
        raise bad("tool_choice.type", f"{kind!r}: give auto, any, tool or none")
    return words[kind], parallel


# ---- out -------------------------------------------------------------------------------------------------------------


class Blocks:
    """Events → blocks, each begun and ended in turn."""

    def __init__(self) -> None:
        self.blocks: list[Json] = []
        self._open = False

    def push(self, event: Event) -> Iterator[Json]:
        """What a stream says of an event."""
        if isinstance(event, Reasoning):
            yield from self._ensure("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self.blocks[-1]["thinking"] += event.text
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, Content):
            yield from self._ensure("text", {"type": "text", "text": ""})
            self.blocks[-1]["text"] += event.text
            yield self._delta({"type": "text_delta", "text": event.text})
        elif isinstance(event, CallStart):
            yield from self.end()
            block = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": event.name, "input": {}}
            self.blocks.append(block | {"json": ""})
            self._open = True
            yield {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": block}
        elif isinstance(event, CallArguments):
            self.blocks[-1]["json"] += event.text
            yield self._delta({"type": "input_json_delta", "partial_json": event.text})
        elif isinstance(event, CallEnd):
            self.blocks[-1]["whole"] = not event.problem
            yield from self.end()

    def end(self) -> Iterator[Json]:
        """End the open block."""
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": len(self.blocks) - 1}

    def finished(self) -> list[Json]:
        """The blocks of a whole message. A call that max_tokens cut is not among them: half of one must not be made."""
        return [self._finished(block) for block in self.blocks if "json" not in block or block.get("whole")]

    def remember(self, server: Server, job: Job) -> None:
        """Reasoning for clients that drop it, by the ids of the calls."""
        thought = "".join(block.get("thinking", "") for block in self.blocks)
        for block in self.blocks:
            if thought and block["type"] == "tool_use":
                server.remembered.put(job.tenant, block["id"], thought)

    def _ensure(self, kind: str, block: Json) -> Iterator[Json]:
        if self._open and self.blocks[-1]["type"] == kind:
            return
        yield from self.end()
        self.blocks.append(dict(block))
        self._open = True
        yield {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    @staticmethod
    def _finished(block: Json) -> Json:
        out = {key: value for key, value in block.items() if key not in ("json", "whole")}
        return out | {"input": json.loads(block["json"] or "{}")} if "json" in block else out


def _message(answers: Answers, name: str, content: list[Json], reason: str | None) -> Json:
    return {
        "id": f"msg_{answers.record.id}",
        "type": "message",
        "role": "assistant",
        "model": name,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": _usage(answers),
    }


def _usage(answers: Answers) -> Json:
    usage = answers.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion,
    }


def _reason(answers: Answers) -> tuple[str, str | None]:
    choice = answers.choices[0]
    stop = choice.stopped_by
    return ("stop_sequence", stop) if stop is not None else (REASONS[choice.finish], None)


async def _whole(server: Server, answers: Answers, name: str, job: Job) -> Json:
    blocks = Blocks()
    async for step in answers.steps():
        for event in step.events:
            list(blocks.push(event))
    blocks.remember(server, job)
    reason, stop = _reason(answers)
    return _message(answers, name, blocks.finished(), reason) | {"stop_sequence": stop} | answers.record.fields()


async def _stream(server: Server, answers: Answers, name: str, job: Job) -> AsyncIterator[bytes]:
    blocks, steps = Blocks(), answers.steps()

    def told(event: Json) -> bytes:
        return data(event, event["type"])

    try:
        yield told({"type": "message_start", "message": _message(answers, name, [], None)})
        async for step in steps:
            for event in step.events:
                for part in blocks.push(event):
                    yield told(part)
        for part in blocks.end():
            yield told(part)
        blocks.remember(server, job)
        reason, stop = _reason(answers)
        usage = _usage(answers)
        yield told({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": stop}, "usage": usage})
        yield told({"type": "message_stop", **answers.record.fields()})
    finally:
        await steps.aclose()  # type: ignore[attr-defined]
        answers.close()
