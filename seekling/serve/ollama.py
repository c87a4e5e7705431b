"""Ollama's ``/api``: chat, generate, embed, tags, ps, show and version, for the clients that know only these.

Answers stream as lines of JSON unless ``stream`` is false; durations are in nanoseconds.
"""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling import __version__
from seekling.engine.measure import cache_bytes_a_token, weight_bytes, weight_format
from seekling.kernels.infer import BLOCKS
from seekling.serve.answers import Answers, Job
from seekling.serve.asking import bad, chat_job
from seekling.serve.chat import Talk
from seekling.serve.extras import vectors
from seekling.serve.failures import ApiError, reply, to_json
from seekling.serve.fields import ChatRequest, EmbeddingRequest, Json, Many, Strict
from seekling.serve.model import Model
from seekling.serve.reading import read_body, who
from seekling.serve.sse import Stream, unless_gone
from seekling.serve.state import Server

NEVER = "9999-12-31T23:59:59Z"  # when a model leaves memory
OPTIONS = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty")
RENAMED = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}


class Asked(Strict):
    """What both requests share. `keep_alive` has no effect: the model stays."""

    model: str
    stream: bool | None = None
    format: str | Json | None = None
    options: Json | None = None
    keep_alive: str | int | float | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None


class OllamaChat(Asked):
    messages: Many[Json] = Field(default_factory=list)
    tools: Many[Json] | None = None


class OllamaGenerate(Asked):
    prompt: str | None = None
    system: str | None = None
    images: Many[str] | None = Field(default=None, max_length=0)


class OllamaEmbed(Strict):
    """`truncate: true` is refused: a text that does not fit is an error."""

    model: str
    input: str | Many[str]
    dimensions: int | None = Field(default=None, ge=1)
    truncate: Literal[False] | None = None
    keep_alive: str | int | float | None = None


class OllamaShow(Strict):
    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


async def chat(server: Server, request: Request) -> Response:
    """``/api/chat``; without messages it only says that the model is there."""
    body = await read_body(request, OllamaChat)
    if not body.messages:
        server.find(_plain(server, body.model))
        return reply(_head(body.model) | {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"})
    return await _answer(server, request, body, _turns(body.messages), body.tools, True)


async def generate(server: Server, request: Request) -> Response:
    """``/api/generate``: one question through the model's chat format."""
    body = await read_body(request, OllamaGenerate)
    if not body.prompt:
        server.find(_plain(server, body.model))
        return reply(_head(body.model) | {"response": "", "done": True, "done_reason": "load"})
    turns = [{"role": "system", "content": body.system}] if body.system else []
    return await _answer(server, request, body, [*turns, {"role": "user", "content": body.prompt}], None, False)


async def tags(server: Server, request: Request) -> Response:
    """``/api/tags``: ``size`` is that of the weights as they are kept, ``digest`` their SHA-256, for which the first waits."""
    made = datetime.fromtimestamp(server.created, UTC).isoformat()
    return reply({"models": [row | {"modified_at": made} for _, row in await _rows(server)]})


async def running(server: Server, request: Request) -> Response:
    """``/api/ps``: all that is served is loaded, and nothing unloads it. ``size``: weights and cache."""

    def more(model: Model, row: Json) -> Json:
        stats = model.engine.stats()
        size = row["size"] + round(cache_bytes_a_token(model.engine) * stats["pages"] * stats["page_tokens"])
        return {"size": size, "size_vram": 0, "expires_at": NEVER, "context_length": model.engine.context}

    return reply({"models": [row | more(model, row) for model, row in await _rows(server)]})


async def _rows(server: Server) -> list[tuple[Model, Json]]:
    """What both lists tell of each name."""

    def rows() -> list[tuple[Model, Json]]:
        out = []
        for model in server.models:
            model.know_fingerprint()
            told = {"size": weight_bytes(model.engine), "digest": model.engine.weights_digest, "details": _details(model)}
            out += [(model, {"name": name, "model": name} | told) for name in model.names]
        return out

    return await run_in_threadpool(rows)


async def embed(server: Server, request: Request) -> Response:
    """``/api/embed``."""
    began = time.perf_counter()
    body = await read_body(request, OllamaEmbed)
    asked = EmbeddingRequest(model=_plain(server, body.model), input=body.input, dimensions=body.dimensions)
    vectors_ND, tokens = await vectors(server, asked, request)
    told = {"total_duration": int((time.perf_counter() - began) * 1e9), "load_duration": 0, "prompt_eval_count": tokens}
    return reply({"model": body.model, "embeddings": vectors_ND.tolist(), **told})


async def show(server: Server, request: Request) -> Response:
    """``/api/show``."""
    body = await read_body(request, OllamaShow)
    model = server.find(_plain(server, body.model or body.name or ""))
    config, chat_format = model.engine.config, model.tokenizer.chat
    able = {"completion": True, "tools": bool(chat_format.grammar.calls), "thinking": chat_format.thinks != "never"}
    facts = {
        "general.architecture": config.model_type,
        "general.parameter_count": config.parameters().total,
        f"{config.model_type}.context_length": model.engine.context,
        f"{config.model_type}.embedding_length": config.hidden_size,
        f"{config.model_type}.block_count": config.num_hidden_layers,
    }
    template = model.tokenizer.chat_template or ""
    said = {
        "template": template,
        "details": _details(model),
        "model_info": facts,
        "capabilities": [word for word, can in able.items() if can],
    }
    return reply(said)


async def version(server: Server, request: Request) -> Response:
    """``/api/version``."""
    return reply({"version": __version__})


# ---- in --------------------------------------------------------------------------------------------------------------


def _plain(server: Server, name: str) -> str:
    """Ollama's clients may add the tag ``:latest`` to a name."""
    return name if any(name in model.names for model in server.models) else name.removesuffix(":latest")


def as_chat(body: Asked, name: str, turns: list[Json], tools: list[Json] | None) -> ChatRequest:
    """The same request in OpenAI's form; options that have no counterpart are refused by name."""
    fields: Json = {"model": name, "messages": turns, "tools": tools or None}
    for name, value in (body.options or {}).items():
        if name in ("num_ctx", "num_keep", "num_thread", "num_gpu", "num_batch", "use_mmap", "low_vram") or value is None:
            continue  # how to run, not what to say
        if name not in (*OPTIONS, *RENAMED):
            raise bad(f"options.{name}", "this server does not support this option")
        if name == "num_predict" and value in (-1, -2):
            continue  # as long as it likes
        if name == "num_predict" and value == 0:
            raise bad("options.num_predict", "0: give at least 1, or -1 for as long as it likes")
        fields[RENAMED.get(name, name)] = value
    if body.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif isinstance(body.format, dict):
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": body.format}}
    elif body.format:
        raise bad("format", f"{body.format!r}: give json or a schema")
    if isinstance(body.think, bool):
        fields["thinking"] = {"type": "enabled" if body.think else "disabled"}
    elif body.think:
        fields["reasoning_effort"] = body.think
    return ChatRequest.model_validate(fields)


def _turns(messages: list[Json]) -> list[Json]:
    """Ollama's messages in OpenAI's form: calls without ids get them, and results take them by name, else in order."""
    out: list[Json] = []
    waiting: list[tuple[str, Any]] = []  # id and function of each call without a result
    for number, message in enumerate(messages):
        turn = {key: value for key, value in message.items() if value is not None and key not in ("images", "tool_name")}
        if message.get("images"):
            raise bad(f"messages.{number}.images", "this server reads text only")
        if "thinking" in turn:
            turn["reasoning_content"] = turn.pop("thinking")
        if isinstance(turn.get("tool_calls"), list):
            calls, waiting = [], []
            for place, call in enumerate(turn["tool_calls"]):
                function = call.get("function") if isinstance(call, dict) else None
                if not isinstance(function, dict):
                    raise bad(f"messages.{number}.tool_calls.{place}", "has no function")
                waiting.append((str(call.get("id") or f"call_{number}_{place}"), function.get("name")))
                arguments = function.get("arguments") or {}
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                called = {"name": function.get("name"), "arguments": text}
                calls.append({"id": waiting[-1][0], "type": "function", "function": called})
            turn["tool_calls"] = calls
        if turn.get("role") == "tool" and waiting:
            name = message.get("tool_name")
            fitting = [call_id for call_id, called in waiting if name in (None, called)]
            if not (fitting or turn.get("tool_call_id")):
                raise bad(f"messages.{number}.tool_name", f"{name!r} is none of the calls that have no result yet")
            turn["tool_call_id"] = turn.get("tool_call_id") or fitting[0]
            waiting = [call for call in waiting if call[0] != turn["tool_call_id"]]
        out.append(turn)
    return out


# ---- out -------------------------------------------------------------------------------------------------------------


async def _answer(
    server: Server, request: Request, body: Asked, turns: list[Json], tools: list[Json] | None, chatting: bool
) -> Response:
    began = time.perf_counter()
    job = await run_in_threadpool(
        lambda: chat_job(server, as_chat(body, _plain(server, body.model), turns, tools), who(request))
    )
    answers = Answers(server, job)
    told, headers = Told(server, answers, job, body.model, chatting, began), answers.record.headers
    if body.stream is not False:
        kind = "application/x-ndjson"
        return Stream(told.stream(), keep_alive=server.keep_alive, media_type=kind, quiet=None, failed=_failed, headers=headers)
    return reply(await unless_gone(request, told.whole()), headers=headers)


def _failed(error: ApiError) -> bytes:
    return to_json({"error": error.message}) + b"\n"


class Told:
    """One answer in Ollama's words."""

    def __init__(self, server: Server, answers: Answers, job: Job, model: str, chatting: bool, began: float):
        self._server, self._answers, self._job, self._model = server, answers, job, model
        self._chatting, self._began, self._talk = chatting, began, Talk()

    async def stream(self) -> AsyncIterator[bytes]:
        """Lines of JSON."""
        steps = self._answers.steps()
        try:
            async for step in steps:
                for event in step.events:
                    delta = self._talk.delta(event) or {}
                    text, thought = delta.get("content", ""), delta.get("reasoning_content", "")
                    if text or thought:
                        yield self._line(text, thought)
            for call in self._calls():
                yield self._line("", "", [call])
            yield to_json(self._part("", "") | self._end()) + b"\n"
        finally:
            await steps.aclose()  # type: ignore[attr-defined]
            self._answers.close()

    async def whole(self) -> Json:
        """In one piece."""
        async for step in self._answers.steps():
            for event in step.events:
                self._talk.delta(event)
        return self._part(self._talk.content, self._talk.reasoning, self._calls()) | self._end()

    def _line(self, text: str, thought: str, calls: list[Json] | None = None) -> bytes:
        return to_json(self._part(text, thought, calls) | {"done": False}) + b"\n"

    def _part(self, text: str, thought: str, calls: list[Json] | None = None) -> Json:
        extra = {"thinking": thought} if thought else {}
        if not self._chatting:
            return _head(self._model) | {"response": text} | extra
        message: Json = {"role": "assistant", "content": text} | extra
        return _head(self._model) | {"message": message | ({"tool_calls": calls} if calls else {})}

    def _calls(self) -> list[Json]:
        self._talk.remember(self._server, self._job)
        out = []
        for call in self._talk.calls.values():
            try:
                arguments: Any = json.loads(call["function"]["arguments"] or "{}")
            except ValueError:  # cut off by num_predict
                continue
            out.append({"id": call["id"], "function": {"name": call["function"]["name"], "arguments": arguments}})
        return out

    def _end(self) -> Json:
        usage, now = self._answers.usage, time.perf_counter()
        began, first = self._answers.clock.began, self._answers.clock.first or now
        finish = self._answers.choices[0].finish
        reason = finish if finish in ("length", "content_filter") else "stop"
        return {
            "done": True,
            "done_reason": reason,
            "total_duration": int((now - self._began) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": int((first - began) * 1e9),
            "eval_count": usage.completion,
            "eval_duration": int((now - first) * 1e9),
            **self._answers.record.fields(),
        }


def _head(model: str) -> Json:
    return {"model": model, "created_at": datetime.now(UTC).isoformat()}


def _details(model: Model) -> Json:
    config, kept = model.engine.config, weight_format(model.engine)
    family, count = config.model_type, config.parameters().total
    unit, name = next((unit, name) for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if count >= unit)
    return {
        "format": "gguf" if kept in BLOCKS else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{count / unit:.2f}{name}",
        "quantization_level": kept.upper(),
    }
