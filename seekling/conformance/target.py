"""A server under test, asked over plain HTTP: what is checked are its bytes, not what a client library makes of them."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]


class Failed(Exception):
    """The server does it otherwise."""


class Skipped(Exception):
    """Cannot be told of this server."""


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """Its body. Failed where that is no JSON."""
        try:
            return json.loads(self.raw.decode("utf-8"))
        except ValueError:
            raise Failed(f"the body is no JSON: {self.raw[:80]!r}") from None


@dataclass
class Event:
    """One server-sent event: its name if it had one, its data, and how many seconds after the request it came."""

    name: str | None
    data: str
    at: float
    comments: int = 0

    @property
    def json(self) -> Json:
        try:
            return json.loads(self.data)
        except ValueError:
            raise Failed(f"an event holds no JSON: {self.data[:80]!r}") from None


@dataclass
class Target:
    """Where to ask, as whom, for which model.

    Raises (from every request):
        OSError: nobody answers.
    """

    url: str
    model: str = ""
    key: str | None = None
    timeout: float = 120.0
    seen: dict[str, Any] = field(default_factory=dict)

    def request(
        self, method: str, path: str, body: Any = None, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask and read to the end. ``raw`` is sent as it is."""
        connection = self._connect()
        try:
            self._send(connection, method, path, body, raw, headers or {})
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        except http.client.HTTPException as error:
            raise Failed(f"the connection broke: {error!r}") from None
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, headers=headers)

    def ok(self, path: str, body: Any) -> Json:
        """The JSON of a 200, Failed for anything else."""
        answer = self.post(path, body)
        if answer.status != 200:
            raise Failed(f"{answer.status}: {answer.raw[:160].decode('utf-8', 'replace')}")
        return answer.json

    @contextmanager
    def open(self, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        """An answer to be read as it comes; leaving the block hangs up."""
        connection = self._connect()
        try:
            self._send(connection, "POST", path, body, None, {})
            yield connection.getresponse()
        finally:
            connection.close()

    def events(self, path: str, body: Any) -> list[Event]:
        """All server-sent events of an answer. Failed where it is none, or not in UTF-8."""
        began = time.perf_counter()
        with self.open(path, body) as got:
            if got.status != 200:
                raise Failed(f"{got.status}: {got.read()[:160].decode('utf-8', 'replace')}")
            kind = got.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise Failed(f"the content type of the stream is {kind!r}")
            return list(_events(got, began))

    def lines(self, path: str, body: Any) -> list[Json]:
        """All lines of JSON of an answer."""
        with self.open(path, body) as got:
            if got.status != 200:
                raise Failed(f"{got.status}: {got.read()[:160].decode('utf-8', 'replace')}")
            try:
                return [json.loads(line) for line in got if line.strip()]
            except ValueError:
                raise Failed("a line of the stream is no JSON") from None

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.timeout)

    def _send(self, connection: Any, method: str, path: str, body: Any, raw: bytes | None, more: dict[str, str]) -> None:
        headers = {"Content-Type": "application/json", "anthropic-version": "2023-06-01"}
        if self.key:
            headers |= {"Authorization": f"Bearer {self.key}", "x-api-key": self.key}
        headers |= more
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        base = urlsplit(self.url).path.rstrip("/")
        connection.request(method, base + path, sent, headers)


def _events(lines: Any, began: float) -> Iterator[Event]:
    name, data, comments = None, [], 0
    for raw in lines:
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise Failed(f"a line of the stream is no UTF-8: {raw[:60]!r}") from None
        if line.startswith(":"):
            comments += 1
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield Event(name, "\n".join(data), time.perf_counter() - began, comments)
            name, data, comments = None, [], 0


def need(true: Any, otherwise: str) -> None:
    """Failed unless something holds."""
    if not true:
        raise Failed(otherwise)
