"""``/openapi.json``: every path, made of the models that read the requests, so that it cannot say anything else than they do.

Answers are described by the keys they always have.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from seekling import __version__
from seekling.serve.anthropic import CountRequest, MessagesRequest
from seekling.serve.failures import KINDS, reply
from seekling.serve.fields import (
    ChatRequest,
    CompletionRequest,
    DetectRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    ExplainRequest,
    TokenizeRequest,
)
from seekling.serve.ollama import OllamaChat, OllamaEmbed, OllamaGenerate, OllamaShow
from seekling.serve.responses import ResponsesRequest
from seekling.serve.state import Server

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
STREAM = "text/event-stream"
LINES = "application/x-ndjson"
REQUESTS: dict[str, type[BaseModel]] = {
    "/chat/completions": ChatRequest,
    "/completions": CompletionRequest,
    "/embeddings": EmbeddingRequest,
    "/responses": ResponsesRequest,
    "/messages": MessagesRequest,
    "/messages/count_tokens": CountRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/cache/explain": ExplainRequest,
    "/watermark/detect": DetectRequest,
    "/api/chat": OllamaChat,
    "/api/generate": OllamaGenerate,
    "/api/embed": OllamaEmbed,
    "/api/show": OllamaShow,
}


def _object(**keys: Json) -> Json:
    return {"type": "object", "required": list(keys), "properties": keys}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _const(word: str) -> Json:
    return {"const": word}


MODEL = _object(
    id=TEXT,
    object=_const("model"),
    created=COUNT,
    owned_by=TEXT,
    max_model_len=COUNT,
    thinking={"enum": ["never", "always", "either"]},
    experts={"type": ["object", "null"]},
    cache=_object(bytes_per_token={"type": "number"}, tokens=COUNT),
)
USAGE = _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
HEAD = {"id": TEXT, "created": COUNT, "model": TEXT, "usage": USAGE}
CHOICE = _object(index=COUNT, finish_reason=TEXT, message=_object(role=_const("assistant")))
BLOCKS = _list(_object(type=TEXT))
ANY: Json = {"type": "object"}
TRUTH: Json = {"type": "boolean"}
OLLAMA = {"model": TEXT, "created_at": TEXT, "done": TRUTH}
RESPONSE = _object(id=TEXT, object=_const("response"), status=TEXT, output=_list(_object(id=TEXT, type=TEXT)))
ANSWERS: dict[str, tuple[str, Json]] = {
    "/chat/completions": ("Chat", _object(**HEAD, object=_const("chat.completion"), choices=_list(CHOICE))),
    "/completions": (
        "Text continued, scored or filled in",
        _object(**HEAD, object=_const("text_completion"), choices=_list(_object(index=COUNT, text=TEXT, finish_reason=TEXT))),
    ),
    "/embeddings": ("Vectors of texts", _object(object=_const("list"), data=_list(_object(index=COUNT)), model=TEXT)),
    "/responses": ("Chat in items", RESPONSE),
    "/responses/{name}": ("A response that was kept", RESPONSE),
    "/responses/{name}/input_items": ("What came before it", _object(object=_const("list"), data=_list(_object(id=TEXT)))),
    "/messages": ("Anthropic's chat", _object(id=TEXT, type=_const("message"), role=_const("assistant"), content=BLOCKS)),
    "/messages/count_tokens": ("Tokens of a prompt", _object(input_tokens=COUNT)),
    "/tokenize": ("Ids of a text or of messages", _object(count=COUNT, max_model_len=COUNT, tokens=_list(COUNT))),
    "/detokenize": ("Text of ids", _object(prompt=TEXT)),
    "/cache/explain": ("What the cache holds of a prompt", _object(prompt_tokens=COUNT, cached_tokens=COUNT, reason=TEXT)),
    "/api/chat": ("Ollama's chat", _object(**OLLAMA, message=_object(role=TEXT, content=TEXT))),
    "/api/generate": ("Ollama's answer to one prompt", _object(**OLLAMA, response=TEXT)),
    "/api/show": ("What a model is", _object(details=ANY, model_info=ANY, capabilities=_list(TEXT))),
    "/api/embed": ("Vectors of texts", _object(model=TEXT, embeddings=_list(_list({"type": "number"})))),
    "/api/ps": ("What is loaded", _object(models=_list(_object(name=TEXT, model=TEXT)))),
    "/api/tags": ("Models, Ollama's list", _object(models=_list(_object(name=TEXT, model=TEXT)))),
    "/api/version": ("Version", _object(version=TEXT)),
    "/models": ("Models", _object(object=_const("list"), data=_list(MODEL))),
    "/models/{name}": ("One model", MODEL),
    "/about": ("How this server labels, moderates and logs", _object(models=_list(TEXT))),
    "/watermark/detect": (
        "How likely a text came without this server's mark",
        _object(key=TEXT, tokens=COUNT, bits=COUNT, ones=COUNT, share={"type": "number"}, p_value={"type": "number"}),
    ),
    "/health": ("Whether it can answer", _object(status=TEXT, running=COUNT, waiting=COUNT, models=ANY)),
}  # fmt: skip
FORGOTTEN = _object(id=TEXT, deleted={"const": True})
STREAMED = {"/chat/completions": STREAM, "/completions": STREAM, "/responses": STREAM, "/messages": STREAM}
STREAMED |= {"/api/chat": LINES, "/api/generate": LINES}
PLAIN = {"/": ("The page", "text/html"), "/metrics": ("Counters for Prometheus", "text/plain")}
WORDS = {400: "what is wrong, by its name", 401: "a key is needed", 403: "not from here, or not with this key"}
WORDS |= {
    404: "not here",
    405: "not with this method",
    408: "too slow",
    413: "too large",
    429: "too much for now",
    503: "too many wait",
}


async def openapi(server: Server, request: Request) -> Response:
    """``/openapi.json``."""
    return reply(document(request.app.routes))


def document(routes: Any) -> Json:
    """The document of an application's routes."""
    models = sorted(set(REQUESTS.values()), key=lambda model: model.__name__)
    places, defined = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Json] = {}
    for route in routes:
        if not route.include_in_schema:  # the page's files are nobody's interface
            continue
        path = route.path.replace(":path}", "}")
        for method in sorted(route.methods - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(path, method, places)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Seekling", "version": __version__, "description": "Models behind several clients' APIs."},
        "paths": paths,
        "components": {
            "schemas": defined.get("$defs", {}),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(path: str, method: str, places: Any) -> Json:
    short = _short(path)
    if short in PLAIN or short == "/openapi.json":
        summary, kind = PLAIN.get(short, ("This document", "application/json"))
        return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}, **_errors(path)}}
    summary, answer = ANSWERS[short]
    if method == "DELETE":
        summary, answer = "Forget it", FORGOTTEN
    content: Json = {"application/json": {"schema": answer}}
    if method == "POST" and short in STREAMED:
        content[STREAMED[short]] = {}  # a schema here would be one of the whole text for some readers, of each event for others
    out: Json = {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **_errors(path)}}
    if method == "POST":
        schema = places[REQUESTS[short], "validation"]
        out["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{name}" in path:
        out["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    return out


def _short(path: str) -> str:
    """A path without the prefixes that mean the same."""
    for prefix in ("/anthropic", "/beta", "/v1"):
        path = path.removeprefix(prefix)
    return path


def _errors(path: str) -> Json:
    text: Json = {"type": ["string", "null"]}
    if path.startswith("/api/"):
        form = _object(error=TEXT)
    elif "/messages" in path:
        form = _object(type=_const("error"), error=_object(type=TEXT, message=TEXT))
    else:
        form = _object(error=_object(message=TEXT, type=TEXT, param=text, code=text))
    return {
        str(status): {"description": WORDS[status], "content": {"application/json": {"schema": form}}}
        for status in KINDS
        if status in WORDS
    }
