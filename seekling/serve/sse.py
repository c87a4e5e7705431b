"""Streams that end when their reader goes away, and one-piece answers that do too."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seekling.serve.failures import ApiError, as_api_error, stopping, to_json

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def data(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    return (b"" if event is None else b"event: " + event.encode() + b"\n") + b"data: " + to_json(value) + b"\n\n"


class Stream(Response):
    """Sends what ``parts`` yields. The reader's hanging up closes ``parts``, which cancels the generation; so does the end of
    the drain, which a last event tells.

    Args:
        parts: bytes as they come; an ApiError or other exception from it becomes a last event made by ``failed``.
        keep_alive: seconds of silence after which ``quiet`` is sent.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        *,
        keep_alive: float,
        media_type: str = "text/event-stream",
        quiet: bytes | None = KEEP_ALIVE,
        failed: Callable[[ApiError], bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(None, 200, {**HEADERS, **(headers or {})}, media_type)
        if "content-length" in self.headers:
            del self.headers["content-length"]
        self._parts, self._keep_alive, self._quiet = parts, keep_alive, quiet
        self._failed = failed or (lambda error: data(error.body("")))
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except asyncio.CancelledError:
            await _cancelled(sending)
            if self._began:
                with suppress(OSError, TimeoutError):  # who does not read is not waited for
                    last = {"type": "http.response.body", "body": self._failed(stopping()), "more_body": False}
                    await asyncio.wait_for(send(last), 1.0)
            raise
        finally:
            await _cancelled(gone, sending)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._began = True
        self._wrote = time.monotonic()
        pulse = asyncio.ensure_future(self._pulse(send)) if self._quiet else None
        try:
            async for part in self._parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self._wrote = time.monotonic()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # the reader has gone while we wrote
            pass
        except Exception as error:
            with suppress(OSError):
                await send({"type": "http.response.body", "body": self._failed(as_api_error(error)), "more_body": False})
        finally:
            if pulse is not None:
                await _cancelled(pulse)
            await self._parts.aclose()  # type: ignore[attr-defined]

    async def _pulse(self, send: Send) -> None:
        """Say something whenever nothing was written for a while. One timer for the whole stream, not one for each part."""
        while True:
            rest = self._wrote + self._keep_alive - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
                continue
            with suppress(OSError):
                await send({"type": "http.response.body", "body": self._quiet, "more_body": True})
            self._wrote = time.monotonic()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client hangs up.

    Raises:
        ApiError: 499, which nobody reads any more.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "the client has gone")
    finally:
        await _cancelled(task, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        if not task.done():
            task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
