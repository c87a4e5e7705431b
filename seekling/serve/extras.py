"""Beside the answers: ``/tokenize``, ``/detokenize``, ``/v1/embeddings``, ``/cache/explain``, ``/metrics``."""

import base64
from collections.abc import Hashable
from typing import Any

import torch
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from seekling.engine.prompt import encode_prompts
from seekling.engine.watermark import Detection, detect
from seekling.serve.asking import bad, encode_chat, room_for, tenant_of, tidy
from seekling.serve.failures import ApiError, reply
from seekling.serve.fields import DetectRequest, DetokenizeRequest, EmbeddingRequest, ExplainRequest, TokenizeRequest
from seekling.serve.reading import read_body, who
from seekling.serve.state import Server
from seekling.text.messages import read_tools


async def tokenize(server: Server, request: Request) -> Response:
    """Ids of a text or of messages, vLLM's form."""
    body = await read_body(request, TokenizeRequest)
    server.check_model(body.model)

    def work() -> list[int]:
        if body.messages is not None and body.prompt is None:
            return _chat_ids(server, body.messages, body.tools, body.add_generation_prompt is not False)
        if body.prompt is None or body.messages is not None:
            raise bad("prompt", "give either prompt or messages")
        bos = server.tokenizer.adds_bos and body.add_special_tokens is not False
        return server.tokenizer.encode(body.prompt, bos=bos)

    ids = await run_in_threadpool(work)
    out: dict[str, Any] = {"count": len(ids), "max_model_len": server.engine.context, "tokens": ids}
    if body.return_token_strs:
        out["token_strs"] = [server.tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]
    return reply(out)


async def detokenize(server: Server, request: Request) -> Response:
    """The text of ids, marks included."""
    body = await read_body(request, DetokenizeRequest)
    server.check_model(body.model)
    return reply({"prompt": server.tokenizer.decode(body.tokens, skip_special=False)})


async def explain(server: Server, request: Request) -> Response:
    """How much of a prompt the prefix cache holds now, and which token ends it."""
    body = await read_body(request, ExplainRequest)
    adapter = server.check_model(body.model)
    tenant = tenant_of(who(request), body.user_id, body.cache_salt)

    def work() -> dict[str, Any]:
        if (body.prompt is None) == (body.messages is None):
            raise bad("prompt", "give either prompt or messages")
        prompt: Any = body.prompt
        if body.messages is not None:
            prompt = _chat_ids(server, body.messages, body.tools)
        return server.engine.explain(prompt, tenant=tenant, adapter=adapter)

    return reply(await run_in_threadpool(work))


async def embeddings(server: Server, request: Request) -> Response:
    """Vectors of length 1, as numbers or as base64 of little-endian float32."""
    body = await read_body(request, EmbeddingRequest)
    vectors_ND, tokens = await vectors(server, body, who(request))

    def written(vector_D: torch.Tensor) -> Any:
        if body.encoding_format == "base64":
            return base64.b64encode(vector_D.numpy().astype("<f4").tobytes()).decode()
        return vector_D.tolist()

    rows = [{"object": "embedding", "index": n, "embedding": written(v_D)} for n, v_D in enumerate(vectors_ND)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply({"object": "list", "data": rows, "model": body.model or server.name, "usage": usage})


async def vectors(server: Server, body: EmbeddingRequest, asker: Hashable) -> tuple[torch.Tensor, int]:
    """Vectors (N, dimensions) of length 1 and the tokens they took, written down before they are returned.

    Raises:
        ApiError: what is wrong, as a 400.
    """
    if server.check_model(body.model) is not None:
        raise bad("model", f"{body.model!r} is an adapter, and vectors are the base's: ask {server.name!r}")
    given: Any = body.input
    many = isinstance(given, list) and not (given and isinstance(given[0], int))
    texts = list(given) if many else [given]
    if not 1 <= len(texts) <= server.limits.embeddings:
        raise bad("input", f"{len(texts)} texts; this server takes 1 to {server.limits.embeddings}")
    size = server.engine.config.hidden_size
    if body.dimensions is not None and body.dimensions > size:
        raise bad("dimensions", f"{body.dimensions}; this model's vectors have {size}")

    def work() -> tuple[torch.Tensor, int]:
        encoded = encode_prompts(texts, server.tokenizer, server.engine.config, thinking=False, must_fit=False)
        for ids in encoded:
            room_for(server, ids)
        return server.embed(encoded, body.pooling or "mean"), sum(map(len, encoded))

    vectors_ND, tokens = await run_in_threadpool(work)
    server.charge(tenant_of(asker, None, None), prompt=tokens, requests=1, now=True)
    if body.dimensions is not None:
        vectors_ND = torch.nn.functional.normalize(vectors_ND[:, : body.dimensions], dim=-1)
    return vectors_ND, tokens


async def about(server: Server, request: Request) -> Response:
    """``/about``: how this server labels, moderates and logs, for pages and people; needs no key."""
    return reply({"model": server.name, **server.barriers.about()})


async def detect_watermark(server: Server, request: Request) -> Response:
    """``/watermark/detect``: how likely a text came without this server's mark."""
    body = await read_body(request, DetectRequest)
    watermark = server.barriers.watermark
    if watermark is None:
        raise ApiError(404, "this server marks nothing: start it with --watermark KEYFILE", code="no_watermark")
    if (body.text is None) == (body.tokens is None):
        raise bad("text", "give either text or tokens")

    def work() -> Detection:
        return detect(watermark, server.tokenizer.encode(body.text) if body.tokens is None else body.tokens)

    found = await run_in_threadpool(work)
    facts = {"tokens": found.tokens, "bits": found.bits, "ones": found.ones, "share": found.share, "p_value": found.p_value}
    return reply({"key": watermark.name, **facts})


async def metrics(server: Server, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _chat_ids(server: Server, messages: list[dict[str, Any]], tools: Any, generation_prompt: bool = True) -> list[int]:
    tidied, prefix = tidy(server, messages, None)
    if tools:
        read_tools(tools)
    if not generation_prompt:
        return server.tokenizer.encode_chat(tidied, tools=tools, add_generation_prompt=False)
    return encode_chat(server, tidied, tools, server.tokenizer.chat.thinks == "always", prefix)


__all__ = ["about", "detect_watermark", "detokenize", "embeddings", "explain", "metrics", "tokenize"]
