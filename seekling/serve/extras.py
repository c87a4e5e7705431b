"""Beside the answers: ``/tokenize``, ``/detokenize``, ``/v1/embeddings``, ``/cache/explain``, ``/metrics``."""

import base64
from collections.abc import Callable, Hashable
from typing import Any

import torch
from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.engine.prompt import encode_prompts
from seekling.engine.watermark import Detection, detect
from seekling.serve.asking import bad, encode_chat, room_for, tenant_of, tidy
from seekling.serve.failures import ApiError, reply
from seekling.serve.fields import DetectRequest, DetokenizeRequest, EmbeddingRequest, ExplainRequest, TokenizeRequest
from seekling.serve.model import Model
from seekling.serve.reading import read_body, who
from seekling.serve.sse import unless_gone
from seekling.serve.state import Server
from seekling.text.messages import read_tools

Messages = list[dict[str, Any]]


async def tokenize(server: Server, request: Request) -> Response:
    """Ids of a text or of messages, vLLM's form."""
    body = await read_body(request, TokenizeRequest)
    model = server.find(body.model)

    def ids() -> list[int]:
        if body.messages is not None and body.prompt is None:
            return _chat_ids(server, model, body, generation_prompt=body.add_generation_prompt is not False)
        if body.prompt is None or body.messages is not None:
            raise bad("prompt", "give either prompt or messages")
        bos = model.tokenizer.adds_bos and body.add_special_tokens is not False
        return model.tokenizer.encode(body.prompt, bos=bos)

    def work() -> dict[str, Any]:
        tokens = ids()
        out: dict[str, Any] = {"count": len(tokens), "max_model_len": model.engine.context, "tokens": tokens}
        if body.return_token_strs:
            out["token_strs"] = [model.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in tokens]
        return out

    return reply(await run_in_threadpool(work))


async def detokenize(server: Server, request: Request) -> Response:
    """The text of ids, marks included."""
    body = await read_body(request, DetokenizeRequest)
    model = server.find(body.model)
    return reply({"prompt": await run_in_threadpool(lambda: model.tokenizer.decode(body.tokens, skip_special=False))})


async def explain(server: Server, request: Request) -> Response:
    """How much of a prompt the prefix cache holds now, and which token ends it: of the prompt as the model would see it."""
    body, asker = await read_body(request, ExplainRequest), who(request)
    model, tenant = server.find(body.model), tenant_of(asker, body.user_id, body.cache_salt)

    def work() -> dict[str, Any]:
        if (body.prompt is None) == (body.messages is None):
            raise bad("prompt", "give either prompt or messages")
        prompt: Any = body.prompt
        if body.messages is not None:
            prompt = _chat_ids(server, model, body, tenant, lambda m: server.barriers.messages(m, [], asker, body.tools or ()))
        elif isinstance(prompt, str):
            prompt = server.barriers.text(prompt, [], asker, "prompt")
        return model.engine.explain(prompt, tenant=tenant, adapter=model.adapter(body.model))

    return reply(await run_in_threadpool(work))


async def embeddings(server: Server, request: Request) -> Response:
    """Vectors of length 1, as numbers or as base64 of little-endian float32."""
    body = await read_body(request, EmbeddingRequest)
    vectors_ND, tokens = await vectors(server, body, request)

    def written(vector_D: torch.Tensor) -> Any:
        if body.encoding_format == "base64":
            return base64.b64encode(vector_D.numpy().astype("<f4").tobytes()).decode()
        return vector_D.tolist()

    rows = [{"object": "embedding", "index": n, "embedding": written(v_D)} for n, v_D in enumerate(vectors_ND)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply({"object": "list", "data": rows, "model": body.model or server.find(None).name, "usage": usage})


async def vectors(server: Server, body: EmbeddingRequest, request: Request) -> tuple[torch.Tensor, int]:
    """Vectors (N, dimensions) of length 1 and the tokens they took, charged before they are computed and logged before they are
    returned. The client's hanging up ends it.

    Raises:
        ApiError: what is wrong, as a 400; QueueFull.
    """
    model, asker = server.find(body.model), who(request)
    if model.adapter(body.model) is not None:
        raise bad("model", f"{body.model!r} is an adapter, and vectors are the base's: ask {model.name!r}")
    given: Any = body.input
    many = isinstance(given, list) and not (given and isinstance(given[0], int))
    texts = list(given) if many else [given]
    if not 1 <= len(texts) <= server.limits.embeddings:
        raise bad("input", f"{len(texts)} texts; this server takes 1 to {server.limits.embeddings}")
    size = model.engine.config.hidden_size
    if body.dimensions is not None and body.dimensions > size:
        raise bad("dimensions", f"{body.dimensions}; this model's vectors have {size}")

    notes: list[str] = []
    begun: list[list[int]] = []  # what is computed, also for a client that leaves

    def work(cancelled: Callable[[], bool]) -> torch.Tensor:
        read, barriers = texts, server.barriers
        if barriers.reads_embeddings:
            read = [barriers.text(text, notes, asker, "input") if isinstance(text, str) else text for text in texts]
        encoded = encode_prompts(read, model.tokenizer, model.engine.config, thinking=False, must_fit=False)
        for text, ids in zip(read, encoded, strict=True):
            room_for(model, ids, "input", spare=0)
            if barriers.reads_embeddings and not isinstance(text, str):
                barriers.ids(ids, model.tokenizer, notes, asker, "input")
        server.charge(tenant_of(asker, None, None), prompt=sum(map(len, encoded)), requests=1, now=True)
        begun.extend(encoded)
        return model.engine.embed(encoded, body.pooling or "mean", cancelled=cancelled)

    try:
        vectors_ND = await unless_gone(request, model.embedding(work))
    finally:
        if begun:
            with CancelScope(shield=True):
                await server.barriers.embedded(begun, notes, asker, model.name)
    if body.dimensions is not None:
        vectors_ND = torch.nn.functional.normalize(vectors_ND[:, : body.dimensions], dim=-1)
    return vectors_ND, sum(map(len, begun))


async def about(server: Server, request: Request) -> Response:
    """``/about``: how this server labels, moderates and logs, for pages and people; needs no key."""
    return reply({"models": [model.name for model in server.models], **server.barriers.about()})


async def detect_watermark(server: Server, request: Request) -> Response:
    """``/watermark/detect``: how likely a text came without this server's mark."""
    body = await read_body(request, DetectRequest)
    watermark = server.barriers.watermark
    if watermark is None:
        raise ApiError(404, "this server marks nothing: start it with --watermark KEYFILE", code="no_watermark")
    if (body.text is None) == (body.tokens is None):
        raise bad("text", "give either text or tokens")
    model = server.find(body.model)

    def work() -> Detection:
        return detect(watermark, model.tokenizer.encode(body.text) if body.tokens is None else body.tokens)

    found = await run_in_threadpool(work)
    facts = {"tokens": found.tokens, "bits": found.bits, "ones": found.ones, "share": found.share, "p_value": found.p_value}
    return reply({"key": watermark.name, **facts})


async def metrics(server: Server, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _chat_ids(
    server: Server,
    model: Model,
    body: TokenizeRequest | ExplainRequest,
    tenant: Hashable = None,
    read: Callable[[Messages], Messages] = lambda messages: messages,
    generation_prompt: bool = True,
) -> list[int]:
    """Ids of a request's messages; ``read`` is what the barriers make of them."""
    tidied, prefix = tidy(server, body.messages or [], tenant)
    tidied = read(tidied)
    if body.tools:
        read_tools(body.tools)
    if not generation_prompt:
        return model.tokenizer.encode_chat(tidied, tools=body.tools, add_generation_prompt=False)
    return encode_chat(model, tidied, body.tools, model.tokenizer.chat.thinks == "always", prefix)


__all__ = ["about", "detect_watermark", "detokenize", "embeddings", "explain", "metrics", "tokenize"]
