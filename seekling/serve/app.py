"""The application: which path goes where, and that nothing leaves it but answers and errors in the caller's own form."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seekling.serve import ollama
from seekling.serve.anthropic import count_tokens, messages
from seekling.serve.chat import chat_completions
from seekling.serve.completions import completions
from seekling.serve.extras import about, detect_watermark, detokenize, embeddings, explain, metrics, tokenize
from seekling.serve.failures import ApiError, as_api_error, reply
from seekling.serve.openapi import openapi
from seekling.serve.page import PAGE, page, part
from seekling.serve.responses import forget, input_items, responses, retrieve
from seekling.serve.state import Server

Endpoint = Callable[[Server, Request], Awaitable[Response]]
PREFIXES = ("/v1", "", "/beta", "/beta/v1")  # OpenAI's, DeepSeek's bare and beta paths


def make_app(server: Server) -> Starlette:
    """The ASGI application around a server's state; closing it closes the engines."""
    routes: list[Route] = []

    def add(path: str, endpoint: Endpoint, method: str = "POST", prefixes: tuple[str, ...] = ("",)) -> None:
        routes.extend(Route(prefix + path, _guarded(server, endpoint), methods=[method]) for prefix in prefixes)

    add("/chat/completions", chat_completions, prefixes=PREFIXES)
    add("/completions", completions, prefixes=PREFIXES)
    add("/embeddings", embeddings, prefixes=PREFIXES)
    add("/responses", responses, prefixes=PREFIXES)
    add("/responses/{name}", retrieve, "GET", PREFIXES)
    add("/responses/{name}", forget, "DELETE", PREFIXES)
    add("/responses/{name}/input_items", input_items, "GET", PREFIXES)
    for path, endpoint in (("/tokenize", tokenize), ("/detokenize", detokenize), ("/cache/explain", explain)):
        add(path, endpoint)
    anthropic = ("/v1", "/anthropic/v1")
    add("/messages", messages, prefixes=anthropic)
    add("/messages/count_tokens", count_tokens, prefixes=anthropic)
    add("/api/chat", ollama.chat)
    add("/api/generate", ollama.generate)
    add("/api/embed", ollama.embed)
    add("/api/show", ollama.show)
    add("/api/ps", ollama.running, "GET")
    add("/api/tags", ollama.tags, "GET")
    add("/api/version", ollama.version, "GET")
    add("/", page, "GET")
    routes.append(Route(PAGE + "{version}/{name}", _guarded(server, part), methods=["GET"], include_in_schema=False))
    add("/metrics", metrics, "GET")
    add("/models", models, "GET", PREFIXES)
    add("/models/{name:path}", one_model, "GET", PREFIXES)
    add("/about", about, "GET")
    add("/watermark/detect", detect_watermark)
    add("/health", health, "GET")
    add("/openapi.json", openapi, "GET")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.know_fingerprints()
        yield
        for model in server.models:
            await asyncio.to_thread(model.engine.close)
        server.ledger.close()

    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error}, lifespan=lifespan)
    app.state.server = server
    return app


def _guarded(server: Server, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        try:
            return await endpoint(server, request)
        except Exception as error:
            return refuse(server, as_api_error(error), request.url.path)

    return handle


def refuse(server: Server, error: ApiError, path: str) -> Response:
    """An error as the clients of this path expect it."""
    server.metrics.refused(error.status)
    return reply(error.body(path), error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    api_error = ApiError(error.status_code, words.get(error.status_code, error.detail), headers=error.headers)
    return refuse(request.app.state.server, api_error, request.url.path)


# ---- small endpoints -------------------------------------------------------------------------------------------------


async def models(server: Server, request: Request) -> Response:
    """``/v1/models``: every name that may be asked for."""
    return reply({"object": "list", "data": [_row(server, name) for name in server.names]})


async def one_model(server: Server, request: Request) -> Response:
    """``/v1/models/NAME``."""
    return reply(_row(server, request.path_params["name"]))


def _row(server: Server, name: str) -> dict[str, Any]:
    model = server.find(name)
    facts = {"id": name, "object": "model", "created": server.created, "owned_by": "seekling"}
    return {**facts, "root": model.name, "parent": model.name if name in model.adapters else None, **model.card()}


async def health(server: Server, request: Request) -> Response:
    """``/health``: 200 while the engines can answer; what runs and waits in all and by model."""
    stats = {model.name: model.engine.stats() for model in server.models}
    by_model = {name: {"running": one["running"], "waiting": one["waiting"]} for name, one in stats.items()}
    total = {key: sum(one[key] for one in by_model.values()) for key in ("running", "waiting")}
    return reply({"status": "ok", **total, "models": by_model})
