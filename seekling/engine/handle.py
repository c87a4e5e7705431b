"""What a caller holds of a submitted request: iterate its deltas, wait for its answers, cancel it.

>>> handle = engine.submit("Once upon a time", Sampling(max_tokens=40))
>>> for delta in handle: print(delta.text, end="")
>>> handle.result().finish_reason
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from seekling.engine.request import Request
from seekling.engine.sampling import Completion, Delta
from seekling.errors import SeeklingError

if TYPE_CHECKING:
    from seekling.engine.loop import Loop

Listener = tuple[asyncio.AbstractEventLoop, Callable[[], object]]  # whom to wake, and how


class Handle:
    """The answers to one prompt, on their way. Deltas may be read once, by one reader; everything else from any thread."""

    def __init__(self, loop: "Loop", requests: Sequence[Request]):
        self._loop, self.requests = loop, list(requests)
        self.owner: object = None  # the engine, which must live as long as somebody waits
        self._deltas: queue.SimpleQueue[Delta | None] = queue.SimpleQueue()  # None: no more
        self._open = len(self.requests)
        self._error: Exception | None = None
        self._listener: Listener | None = None
        self._read_to_end = False

    # ---- the caller's ----------------------------------------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        return len(self.requests[0].prompt_ids)

    @property
    def done(self) -> bool:
        """Whether every answer is complete, or has failed."""
        return self._open == 0

    def cancel(self, index: int | None = None) -> None:
        """End the answers where they are, or one of them, within one step, with finish reason "cancelled"."""
        self._loop.cancel(self, index)

    def __iter__(self) -> Iterator[Delta]:
        """Deltas as they come, of all answers mixed (`Delta.index` tells them apart).

        Raises:
            Whatever made the engine fail.
        """
        while not self._read_to_end:
            delta = self._next()
            if delta is None:
                self._read_to_end = True
                break
            yield delta
        self._check()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The same for asyncio; the engine must run in its thread (`Engine.submit`)."""
        came = asyncio.Event()
        self._listener = asyncio.get_running_loop(), came.set
        while not self._read_to_end:
            came.clear()
            while not self._deltas.empty():
                delta = self._deltas.get()
                if delta is None:
                    self._read_to_end = True
                    break
                yield delta
            else:
                await came.wait()
        self._check()

    def results(self) -> list[Completion]:
        """Wait for all answers; in order of their index."""
        for _ in self:
            pass
        return [request.completion() for request in self.requests]

    def result(self) -> Completion:
        """Wait for the one answer."""
        if len(self.requests) != 1:
            raise SeeklingError(f"{len(self.requests)} answers were asked for: use results()")
        return self.results()[0]

    # ---- the loop's ------------------------------------------------------------------------------------------------

    def put(self, delta: Delta, ended: bool) -> None:
        """A delta; ``ended`` where it is the last of its answer. Readers in asyncio sleep on until `wake`."""
        self._deltas.put(delta)
        if ended:
            self._open -= 1
            if not self._open:
                self._deltas.put(None)

    def fail(self, error: Exception) -> None:
        """No answer will come."""
        self._error, self._open = error, 0
        self._deltas.put(None)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _next(self) -> Delta | None:
        while True:
            try:
                if self._loop.threaded:
                    return self._deltas.get(timeout=1.0)  # the thread may have been closed meanwhile
                return self._deltas.get_nowait()
            except queue.Empty:
                if not self._loop.threaded and not self._loop.step() and self._deltas.empty():
                    raise RuntimeError("the engine has nothing to do and this answer is not complete") from None

    def _check(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, SeeklingError):
            raise type(self._error)(str(self._error))  # a fresh one: several callers may raise it
        raise RuntimeError(f"the engine failed while this answer was computed: {self._error}") from self._error


def wake(handles: Iterable[Handle]) -> None:
    """Wake those that wait for these in asyncio: one call for each event loop, whose wake-ups cost more than the rest."""
    sleepers: dict[asyncio.AbstractEventLoop, list[Callable[[], object]]] = {}
    for handle in handles:
        if handle._listener is not None:
            loop, came = handle._listener
            sleepers.setdefault(loop, []).append(came)
    for loop, calls in sleepers.items():
        with suppress(RuntimeError):  # it was closed meanwhile; nobody waits
            loop.call_soon_threadsafe(_all, calls)


def _all(calls: Iterable[Callable[[], object]]) -> None:
    for call in calls:
        call()
