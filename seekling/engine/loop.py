"""The engine's heart: one step after another over everything that runs.

Nothing runs by itself at first: whoever waits for an answer drives the steps, one caller at a time, and answers of others come
along. `start` gives the driving to a background thread, for callers that must not wait (a server). A failure reaches every
caller that waits, as its error.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from seekling.engine.cache import PagedCache
from seekling.engine.handle import Handle
from seekling.engine.request import Request
from seekling.engine.runner import Chunk
from seekling.engine.sampler import DAMAGED, damaged_rows, draw, token_logprobs, top_logprobs
from seekling.engine.sampling import Delta
from seekling.engine.scheduler import Scheduler, Work
from seekling.engine.speculate import Drafter
from seekling.errors import SeeklingError

Result = TypeVar("Result")


class QueueFull(SeeklingError):
    """As many requests wait as the engine's ``max_queue`` allows: try again later."""


class Loop:
    """Runs requests to their end.

    Args:
        cache: the pages, and the runner that computes.
        scheduler: over that cache.
        max_queue: most requests of `submit` that may wait.
        version: of the weights; a change empties the prefix tree.
        drafter: proposes tokens (speculation), or None.
    """

    def __init__(
        self,
        cache: PagedCache,
        scheduler: Scheduler,
        max_queue: int,
        version: Callable[[], object],
        drafter: Drafter | None = None,
    ):
        self.cache, self.scheduler, self.drafter = cache, scheduler, drafter
        self.steps = self.tokens = 0
        self._max_queue, self._version = max_queue, version
        self._inbox: deque[Handle] = deque()
        self._handles: dict[Request, Handle] = {}
        self._stepping = threading.RLock()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    # ---- from any thread -------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request], *, bounded: bool = True) -> Handle:
        """Take the answers to one prompt into the queue.

        Raises:
            QueueFull: ``bounded`` and too many wait already; SeeklingError: the engine is closed.
        """
        with self._wake:
            if self._closed:
                raise SeeklingError("the engine is closed: make a new one")
            waiting = len(self.scheduler.waiting) + sum(len(handle.requests) for handle in self._inbox)
            if bounded and waiting + len(requests) > self._max_queue:
                raise QueueFull(f"{waiting} requests wait and the queue holds {self._max_queue}: try again later")
            handle = Handle(self, requests)
            self._inbox.append(handle)
            self._wake.notify_all()
        return handle

    def start(self) -> None:
        """Let a background thread do the steps from now on."""
        with self._wake:
            if not self._closed and not self.threaded:
                self._thread = threading.Thread(target=self._serve, name="seekling-engine", daemon=True)
                self._thread.start()

    @property
    def threaded(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End everything: whoever still waits gets an error. May be called twice and from anywhere."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._stepping:
            self._fail(SeeklingError("the engine was closed before this answer was complete"))

    def wake(self) -> None:
        """Something changed that the thread should look at (a cancellation)."""
        with self._wake:
            self._wake.notify_all()

    def step(self) -> bool:
        """One step; False when there was nothing to do. Errors go to the callers that wait, and are not raised here."""
        with self._stepping:
            try:
                return self._step()
            except Exception as error:
                self._fail(error)
                return True
            except BaseException:  # Ctrl-C in whoever drives: nothing half done may stay behind
                self._fail(SeeklingError("generation was interrupted"))
                raise

    # ---- inside, one thread at a time ------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._inbox and not self._handles:
                    self._wake.wait()
                if self._closed:
                    return
            self.step()

    def _step(self) -> bool:
        while self._inbox:
            handle = self._inbox.popleft()
            for request in handle.requests:
                self._handles[request] = handle
                self.scheduler.add(request)
        for request in [request for request in self._handles if request.cancelled]:
            self._hand_over(request, request.cancel())
        if not self._handles:
            return False
        if self.scheduler.waiting:
            self.cache.use_version(self._version())
        works = self.scheduler.plan()
        if not works:
            raise RuntimeError("requests wait and none can run")
        self._propose(works)
        chunks = [self._chunk(work) for work in works]
        logits_RV = self.cache.runner.step(chunks)
        self.steps += 1
        if self.drafter is not None:
            self.drafter.observe(chunks, [work.request for work in works])
        speakers: list[tuple[Work, int]] = []  # and the row of each one's last own token
        row = 0
        for work, chunk in zip(works, chunks, strict=True):
            request = work.request
            if request.scoring:
                self._score(work, logits_RV[row : row + work.count])
            speaks = work.speaks
            request.computed += work.count
            if not request.prefilled:
                self.cache.remember(request)
                request.prefilled = speaks
            if speaks:
                speakers.append((work, row + chunk.rows - 1 - len(work.draft)))
            row += chunk.rows
        self._speak(speakers, logits_RV)
        return True

    def _propose(self, works: list[Work]) -> None:
        """Give the decoding requests drafts, where there are pages for them: what a grammar forces, else the drafter's."""
        able = [w for w in works if w.speaks and w.request.prefilled and not w.request.scoring]
        free = [w for w in able if w.request.matcher is None]
        if self.drafter is not None:
            for work in free:
                self._room(work.request, self.drafter.tokens)
            for work, draft in zip(free, self.drafter.propose([w.request for w in free]), strict=True):
                work.draft = draft
        for work in able:
            request = work.request
            if request.matcher is not None:
                work.draft = request.forced_ids()
            most = min(self._room(request, len(work.draft)), request.limit - len(request.token_ids) - 1)
            work.draft = work.draft[: max(0, most)]

    def _room(self, request: Request, drafts: int) -> int:
        """Tokens its pages hold beyond its own; a page that lies free is taken for ``drafts``, none is taken from anybody."""
        size = self.cache.page_tokens
        if len(request.ids) + drafts > len(request.pages) * size and self.cache.pool.free:
            self.cache.grow(request, len(request.pages) * size + 1)
        return len(request.pages) * size - len(request.ids)

    def _chunk(self, work: Work) -> Chunk:
        request = work.request
        ids = request.ids[request.computed : request.computed + work.count] + work.draft
        if request.scoring or work.draft:
            return Chunk(ids, request.computed, request.pages, "all")
        return Chunk(ids, request.computed, request.pages, "last" if work.speaks else "none")

    def _score(self, work: Work, logits_TV: Tensor) -> None:
        """Log-probabilities of the prompt tokens after those just computed."""
        request, top = work.request, work.request.sampling.top_logprobs
        targets = request.prompt_ids[request.computed + 1 : request.computed + work.count + 1]
        first = len(request.prompt_logprobs) - request.computed - 1  # scored before it was preempted
        targets, logits_TV = targets[first:], logits_TV[first : len(targets)]
        if targets:
            request.prompt_logprobs += token_logprobs(logits_TV, torch.tensor(targets, device=logits_TV.device)).tolist()
            if top:
                request.prompt_top_logprobs += top_logprobs(logits_TV, [top] * len(targets))

    def _speak(self, speakers: list[tuple[Work, int]], logits_RV: Tensor) -> None:
        """Draw a token for every speaker, and one more for each whose draft foretold it."""
        place = 0
        for row in damaged_rows(logits_RV):
            for request in [work.request for work, first in speakers if first <= row <= first + len(work.draft)]:
                self._give_up(request, SeeklingError(DAMAGED))
        while speakers := [(work, row) for work, row in speakers if work.request in self._handles]:
            requests = [work.request for work, _ in speakers]
            allowed = [self._attempt(request, request.allowed_V) for request in requests]
            rows = [row + place for _, row in speakers]
            whole = rows == list(range(len(logits_RV)))
            logits_BV = logits_RV if whole else logits_RV[rows]
            tokens = [
                drawn if forced is None else forced
                for drawn, forced in zip(_draw(requests, logits_BV, allowed), (r.forced() for r in requests), strict=True)
            ]
            logprobs, tops = _report(requests, logits_BV, tokens)
            going_on = []
            for (work, row), token, logprob, top in zip(speakers, tokens, logprobs, tops, strict=True):
                request = work.request
                delta = self._attempt(request, request.accept, token, logprob, top)
                if delta is None:
                    continue
                self.tokens += 1
                foretold = place < len(work.draft) and work.draft[place] == token
                if foretold:
                    request.computed += 1
                    request.accepted += 1
                if request.finish_reason is None and foretold:
                    going_on.append((work, row))
                elif work.draft:
                    request.drafted += len(work.draft)
                    if self.drafter is not None and request.matcher is None:
                        self.drafter.learn(request, len(work.draft), place + foretold)
                self._hand_over(request, delta)
            speakers, place = going_on, place + 1

    def _hand_over(self, request: Request, delta: Delta) -> None:
        """Give a delta to the caller; a finished request leaves."""
        handle = self._handles[request]
        if request.finish_reason is not None:
            del self._handles[request]
            self.scheduler.remove(request)
            if self.drafter is not None:
                self.drafter.forget(request)
        handle.put(delta, ended=request.finish_reason is not None)

    def _attempt(self, request: Request, call: Callable[..., Result], *args: object) -> Result | None:
        """Call something that concerns one request only: where it fails (a constraint), the others go on."""
        if request not in self._handles:
            return None
        try:
            return call(*args)
        except SeeklingError as error:
            self._give_up(request, error)
            return None

    def _give_up(self, request: Request, error: Exception) -> None:
        """End one caller's answers with an error; nobody else is concerned."""
        handle = self._handles.get(request)
        for other in [] if handle is None else handle.requests:
            if self._handles.pop(other, None) is not None:
                self.scheduler.remove(other, remember=False)
                if self.drafter is not None:
                    self.drafter.forget(other)
        if handle is not None:
            handle.fail(error)

    def _fail(self, error: Exception) -> None:
        """Hand the error to everyone who waits and begin anew with an empty cache."""
        handles = list(dict.fromkeys([*self._handles.values(), *self._inbox]))
        self._inbox.clear()
        if self.drafter is not None:
            for request in self._handles:
                self.drafter.forget(request)
        self._handles.clear()
        self.scheduler.waiting.clear()
        self.scheduler.running.clear()
        self.cache.clear_all()
        for handle in handles:
            handle.fail(error)


def _draw(requests: Sequence[Request], logits_BV: Tensor, allowed: Sequence[Tensor | None]) -> list[int]:
    return draw(
        logits_BV,
        [r.sampling for r in requests],
        [0.0 if r.sampling.greedy else r.uniform() for r in requests],
        [r.seen_V for r in requests],
        [r.counts_V for r in requests],
        allowed,
    ).tolist()


def _report(requests: Sequence[Request], logits_BV: Tensor, tokens: list[int]) -> tuple[Iterable, Iterable]:
    """Log-probabilities and top log-probabilities, for those that asked; None for the others."""
    settings = [r.sampling for r in requests]
    logprobs: list[float | None] = [None] * len(requests)
    tops: list[list[tuple[int, float]] | None] = [None] * len(requests)
    if any(s.logprobs for s in settings):
        values = token_logprobs(logits_BV, torch.tensor(tokens, device=logits_BV.device)).tolist()
        logprobs = [value if s.logprobs else None for value, s in zip(values, settings, strict=True)]
    if any(s.top_logprobs for s in settings):
        found = top_logprobs(logits_BV, [s.top_logprobs for s in settings])
        tops = [top if s.top_logprobs else None for top, s in zip(found, settings, strict=True)]
    return logprobs, tops
