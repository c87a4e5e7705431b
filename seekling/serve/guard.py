"""What stands before every route: Host and Origin, keys and scopes, rates and the number of requests at a time.

Once there is a key every path needs one, but for `OPEN`. Nothing is allowed to other origins unless they were named.
"""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seekling.errors import DataError
from seekling.serve.app import refuse
from seekling.serve.failures import ApiError, as_api_error, stopping
from seekling.serve.keys import Key, Keys
from seekling.serve.ledger import LedgerError
from seekling.serve.page import PAGE
from seekling.serve.rates import Rates
from seekling.serve.state import Server

OPEN = {"/health", "/about", "/"}  # the page and its files hold no secret; it asks for a key and sends it with its requests
LOCAL = {"localhost", "127.0.0.1", "::1"}
EXPOSED = ("x-", "retry-after", "www-authenticate")  # what else than the body a foreign page may read
ASKED = "Authorization, Content-Type, X-Api-Key"


@dataclass(frozen=True)
class Doors:
    """Who may come in.

    Attributes:
        hosts: names a request may be addressed to; empty for any.
        origins: other origins whose pages may ask.
        closed: a key is needed even when there is none (the last was revoked).
    """

    keys: Keys | None = None
    hosts: frozenset[str] = frozenset(LOCAL)
    origins: frozenset[str] = frozenset()
    closed: bool = False


class Guard:
    """ASGI middleware. The key that was shown is in ``scope["seekling.key"]``."""

    def __init__(self, app: ASGIApp, server: Server, doors: Doors):
        self._app, self._server, self._doors = app, server, doors
        self._rates = Rates(server.limits, server.ledger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, origin, told = Headers(scope=scope), None, {}  # type: Headers, str | None, dict[str, str]
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                out = MutableHeaders(scope=message)
                out.setdefault("X-Content-Type-Options", "nosniff")
                out.update(told)
                if origin is not None:
                    out["Access-Control-Allow-Origin"] = origin
                    out["Access-Control-Expose-Headers"] = ", ".join(name for name in out if name.startswith(EXPOSED))
                    out.add_vary_header("Origin")
            await send(message)

        try:
            size = sum(len(name) + len(value) for name, value in scope["headers"])
            if size > self._server.limits.head_bytes:
                raise ApiError(431, f"the headers have {size} bytes, this server takes {self._server.limits.head_bytes}")
            origin = self._place(headers)
            if origin is not None and scope["method"] == "OPTIONS":
                await _preflight(headers, sending)
                return
            scope["seekling.key"] = key = self._key(scope["path"], headers)
            counted = scope["method"] == "POST"
            told = self._rates.enter(key) if counted else {}
        except (ApiError, LedgerError) as error:
            await refuse(self._server, as_api_error(error), scope["path"])(scope, receive, sending)
            return
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:  # the time to drain is over: no failure that uvicorn should log
            if not began:
                await refuse(self._server, stopping(), scope["path"])(scope, receive, sending)
        finally:
            if counted:
                self._rates.leave(key)

    def _place(self, headers: Headers) -> str | None:
        """The foreign origin that may ask, None for our own or none at all."""
        host = headers.get("host", "")
        hosts = self._doors.hosts
        if hosts and _name(host) not in hosts:
            raise ApiError(403, f"this server does not answer for the host {host!r}: start it with --allow-host", code="host")
        origin = headers.get("origin")
        if origin is None or (host and origin.partition("://")[2] == host):
            return None
        if origin in self._doors.origins:
            return origin
        raise ApiError(403, f"pages of {origin!r} may not ask this server: start it with --allow-origin", code="origin")

    def _key(self, path: str, headers: Headers) -> Key | None:
        keys = self._doors.keys
        if keys is None or path in OPEN or path.startswith(PAGE):
            return None
        try:
            known = keys.all()
        except DataError as error:
            raise ApiError(503, f"the keys cannot be read: {error}") from None
        if not known and not self._doors.closed:
            return None  # at home, nobody has made a key yet
        kind, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        asked = {"WWW-Authenticate": "Bearer"}
        if not secret:
            raise ApiError(401, "a key is needed: Authorization: Bearer …", code="missing_api_key", headers=asked)
        key = keys.check(secret)
        if key is None:
            raise ApiError(401, "this key is wrong, revoked or expired", code="invalid_api_key", headers=asked)
        scope = "metrics" if path == "/metrics" else "infer"
        if not key.may(scope):
            raise ApiError(403, f"this key has not the scope {scope!r}", code="insufficient_scope")
        return key


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


async def _preflight(asked: Headers, send: Send) -> None:
    """What a page may send: all it asks for. Clients have headers of their own (``x-stainless-…``, ``anthropic-version``)."""
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": asked.get("access-control-request-headers") or ASKED,
        "Access-Control-Max-Age": "600",
        "Vary": "Access-Control-Request-Headers",
    }
    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 204, "headers": raw})
    await send({"type": "http.response.body", "body": b""})
