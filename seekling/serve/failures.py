"""What goes wrong on the way to an answer, as HTTP: one exception, three ways of writing it down.

Nothing a client can send may become a 5xx, except that the queue is full (503). Messages name the field or the count.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from seekling.engine.loop import QueueFull
from seekling.errors import SeeklingError
from seekling.serve.ledger import LedgerError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
log = logging.getLogger("seekling.serve")


class ApiError(Exception):
    """An answer with an error status.

    Args:
        status: of HTTP.
        message: for the caller, one line.
        param: the field that is wrong; code: a word for programs; headers: such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        return KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")

    def body(self, path: str) -> dict[str, Any]:
        """As the clients of this path expect it."""
        if path.startswith("/api/"):
            return {"error": self.message}
        if path.endswith(("/messages", "/messages/count_tokens")):
            return {"type": "error", "error": {"type": self.kind, "message": self.message}}
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def stopping() -> ApiError:
    """To those whose answers were not complete when the time to drain was over."""
    return ApiError(503, "the server is being stopped", code="stopping", headers={"Retry-After": "10"})


def to_json(value: Any) -> bytes:
    """Compact UTF-8 JSON; half a surrogate pair, which a client may have sent, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(to_json(value), status, dict(headers or {}), "application/json")


def as_api_error(error: Exception) -> ApiError:
    """What a caller may know of an exception; an unforeseen one is logged and becomes a bare 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, QueueFull):
        return ApiError(503, str(error), code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, LedgerError):
        return ApiError(503, str(error), code="ledger")
    if isinstance(error, SeeklingError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):
        return ApiError(400, "the request is nested too deeply")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why", code="internal_error")


def _invalid(error: ValidationError) -> ApiError:
    lines, first = [], None
    for problem in error.errors(include_input=False, include_url=False)[:10]:
        where = ".".join(str(part) for part in problem["loc"])
        first = first or where
        unknown = problem["type"] == "extra_forbidden"
        lines.append(f"{where}: this server does not support this field" if unknown else f"{where}: {problem['msg']}")
    return ApiError(400, "; ".join(dict.fromkeys(lines)), param=first)
