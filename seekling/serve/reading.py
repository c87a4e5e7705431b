"""Reading a request: its body within the cap, its JSON, its fields; and who sent it."""

import asyncio
import json
import math
from collections.abc import Hashable
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from seekling.serve.failures import ApiError
from seekling.startup import without_collecting
from seekling.text.reading import no_constant

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request) -> Any:
    """The body as JSON. Raises ApiError: too large (413), too slow (408), or no JSON (400)."""
    limits = request.app.state.server.limits
    most, raw = limits.body_bytes, bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.stream():
                raw += piece
                if len(raw) > most:
                    raise ApiError(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})
    except TimeoutError:
        message = f"the body was not complete after {limits.body_seconds:g} seconds"
        raise ApiError(408, message, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(499, "the client has gone") from None
    try:
        with without_collecting():
            return json.loads(raw.decode("utf-8"), parse_constant=no_constant, parse_float=_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is no JSON: {reason}", code="invalid_json") from None


async def read_body(request: Request, model: type[Model]) -> Model:
    """The body as one of the request models; pydantic's ValidationError names the fields that are wrong."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, not {type(value).__name__}")
    with without_collecting():
        return model.model_validate(value)


def who(request: Request) -> Hashable:
    """The id of the key that was shown; None where the server has none."""
    key = request.scope.get("seekling.key")
    return None if key is None else key.id


def _number(written: str) -> float | int:
    """JSON knows no difference between 1.0 and 1, and no infinity that an answer could give back."""
    value = float(written)
    if math.isinf(value):
        short = written if len(written) <= 40 else written[:40] + "…"
        raise ApiError(400, f"the number {short} is too large: give one below 1.8e308", code="invalid_number")
    return int(value) if value.is_integer() else value
