"""One connection, and how long it may keep us waiting: for the head of a request, and for its reader to read.

uvicorn bounds neither. A body is bounded where it is read (`reading.py`), silence between requests by uvicorn's keep-alive.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from seekling.serve.state import Limits

SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def lines(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol within these limits."""

    class Line(HttpToolsProtocol):
        _head = 0  # bytes of a head that is not complete
        _waiting: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            self._read()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self.transport.is_closing():
                self._came()
            elif before is None or before.response_complete:
                self._head += len(data)
                if self._head > limits.head_bytes:
                    self._end(LARGE)
                elif self._waiting is None:
                    self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(limits.reader_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read()

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(limits.head_seconds, lambda: self._end(SLOW if self._head else b""))

        def _came(self) -> None:
            self._head = 0
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _end(self, last_words: bytes) -> None:
            self._came()
            if not self.transport.is_closing():
                self.transport.write(last_words)
                self.transport.close()

    return Line
