"""Doors: keys that are none, paths and headers that go around them, requests within requests."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from seekling.conformance.target import Failed, Skipped, Target
from seekling.redteam.cases import alive, case, chat

SHUT = {400, 401, 403, 404, 405, 411, 413, 414, 421, 431, 501}


def _keyless(act: Callable[[Target], None]) -> Callable[[Target], None]:
    """Only where the server asks for keys."""

    def run(target: Target) -> None:
        if replace(target, key=None).get("/v1/models").status == 200:
            raise Skipped("this server asks for no key")
        act(replace(target, key=None))

    return run


def _shut(method: str, path: str, headers: dict[str, str] | None = None) -> Callable[[Target], None]:
    def act(target: Target) -> None:
        body = {"model": target.model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        answer = target.request(method, path, body if method == "POST" else None, headers=headers)
        if answer.status not in SHUT:
            raise Failed(f"{method} {path} without a key answered {answer.status}")

    return _keyless(act)


CHAT = "/v1/chat/completions"
KEYS = {
    "no key at all": {},
    "an empty key": {"Authorization": "Bearer "},
    "a wrong key": {"Authorization": "Bearer sk-seekling-" + "A" * 43},
    "the word null": {"Authorization": "Bearer null"},
    "another scheme": {"Authorization": "Basic YWRtaW46YWRtaW4="},
    "a key of 10,000 letters": {"Authorization": "Bearer " + "k" * 10_000},
    "x-api-key of blanks": {"x-api-key": "   "},
    "claims to come from here": {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    "another address in a header": {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"},
    "another method in a header": {"X-HTTP-Method-Override": "GET"},
    "an admin by header": {"X-User": "admin", "X-Scope": "admin"},
}
PATHS = (
    "//v1/chat/completions",
    "/health/../v1/chat/completions",
    "/v1/%63hat/completions",
    "/V1/chat/completions",
    "/v1/chat/completions?api_key=x",
    "/v1/chat/completions/",
    "/health;/v1/chat/completions",
)
READ = ("/metrics", "/v1/models", "/openapi.json", "/docs", "/admin", "/v1/responses/resp_x")
ESCAPES = ("/../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2f..%2fetc/passwd", "/%00")


def _origin(origin: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        answer = target.request("OPTIONS", CHAT, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        if answer.headers.get("access-control-allow-origin") in ("*", origin):
            raise Failed(f"pages of {origin} may ask this server")

    return run


def _host(target: Target) -> None:
    if urlsplit(target.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise Skipped("a public server answers for any name")
    answer = target.request("GET", "/v1/models", headers={"Host": "evil.example"})
    about = target.get("/v1/models").status
    if answer.status == 200 and about == 200 and replace(target, key=None).get("/v1/models").status == 200:
        raise Failed("a page may rebind its name to this server: it answers for evil.example without a key")


def _no_file(path: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        answer = target.request("GET", path)
        if answer.status == 200 or b"root:" in answer.raw:
            raise Failed(f"GET {path} answered {answer.status}")

    return run


def _raw(target: Target, data: bytes, wait: float = 5.0) -> bytes:
    parts = urlsplit(target.url)
    if parts.scheme != "http":
        raise Skipped("only over plain HTTP")
    with socket.create_connection((parts.hostname or "", parts.port or 80), wait) as connection:
        connection.sendall(data)
        got = b""
        try:
            while more := connection.recv(65536):
                got += more
        except (TimeoutError, ConnectionError):
            pass
    return got


def _smuggling(target: Target) -> None:
    inner = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n" % (5 + len(inner))
    got = _raw(target, head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 3.0)
    if got.count(b"HTTP/1.1 200") > 0:
        raise Failed("a request inside another one was answered")


def _long_header(target: Target) -> None:
    got = _raw(target, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n")
    if got.startswith(b"HTTP/1.1 200"):
        raise Failed("a header of a megabyte was taken")


def _slow(target: Target) -> None:
    """Half requests, left open: others must still be answered."""
    parts = urlsplit(target.url)
    held = []
    try:
        for _ in range(60):
            connection = socket.create_connection((parts.hostname or "", parts.port or 80), 5)
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            held.append(connection)
        began = time.monotonic()
        alive(target)
        if time.monotonic() - began > 20:
            raise Failed("sixty half requests make everybody wait")
    finally:
        for connection in held:
            connection.close()


def _split(target: Target) -> None:
    """A name of the model with line ends must not become headers."""
    answer = chat(replace(target, model="x\r\nX-Injected: 1"), "x")
    if "x-injected" in answer.headers or answer.status == 200:
        raise Failed("a line end in a field became a header, or the model of that name was served")


def add() -> None:
    """Put these attacks on the list."""
    for name, headers in KEYS.items():
        case("auth bypass", name, _shut("POST", CHAT, headers))
    for path in PATHS:
        case("auth bypass", f"POST {path}", _shut("POST", path))
    for path in READ:
        case("auth bypass", f"GET {path}", _shut("GET", path))
    for origin in ("https://evil.example", "null"):
        case("header tricks", f"origin {origin}", _origin(origin))
    case("header tricks", "another host (DNS rebinding)", _host)
    case("header tricks", "length and chunks (smuggling)", _smuggling)
    case("header tricks", "a header of a megabyte", _long_header)
    case("header tricks", "line ends in a field", _split)
    case("header tricks", "sixty half requests", _slow)
    for path in ESCAPES:
        case("header tricks", f"GET {path}", _no_file(path))
