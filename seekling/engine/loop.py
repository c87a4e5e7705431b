"""The engine's heart: one step after another over everything that runs.

Nothing runs by itself at first: whoever waits for an answer drives the steps, one caller at a time, and answers of others come
along. `start` gives the driving to a background thread (`driver.py`), for callers that must not wait (a server). A failure
reaches every caller that waits, as its error.
"""

import contextlib
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from seekling.engine.cache import PagedCache
from seekling.engine.drawing import Ask, Drawn, drawn
from seekling.engine.driver import Driver
from seekling.engine.handle import Handle, wake
from seekling.engine.native_burst import Drafts, Outcome, burst
from seekling.engine.native_runner import NativeRunner
from seekling.engine.request import Request
from seekling.engine.runner import Chunk, Experts
from seekling.engine.sampler import DAMAGED, Array, as_rows, logprob, tops
from seekling.engine.sampling import Delta
from seekling.engine.scheduler import Scheduler, Work
from seekling.engine.speculate import Drafter
from seekling.errors import SeeklingError

WATCHED = 16  # the load of experts is counted in one step of so many
# A burst draws several tokens of the only request there is in one native call, and ends when somebody comes. These are its
# bounds, so that text comes evenly.
BURST_TOKENS, BURST_SECONDS, FIRST_BURST = 32, 0.01, 4


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
        goes_back: over how many wrong drafts the cache can go back (a running state: none).
        experts: number of routed experts of a MoE layer, whose load is watched; 0 where there are none.
        driver: another loop's, to take turns with it; default one of its own.

    Attributes:
        load: tokens each expert of each MoE layer computed, int64 (L, experts), in one step of `WATCHED`; None before.
    """

    def __init__(
        self,
        cache: PagedCache,
        scheduler: Scheduler,
        max_queue: int,
        version: Callable[[], object],
        drafter: Drafter | None = None,
        goes_back: int = sys.maxsize,
        experts: int = 0,
        driver: Driver | None = None,
    ):
        self.cache, self.scheduler, self.drafter, self.goes_back = cache, scheduler, drafter, goes_back
        self.steps = self.tokens = 0
        self.load: np.ndarray | None = None
        self._experts, self._watch_at = experts, 0
        self._token_seconds = BURST_SECONDS / FIRST_BURST  # of the last burst
        self._max_queue, self._version = max_queue, version
        self._inbox: deque[Handle] = deque()
        self._cancelled: deque[tuple[Handle, list[Request]]] = deque()
        self._handles: dict[Request, Handle] = {}
        self._told: dict[Handle, None] = {}  # got something in this step
        self.driver = driver or Driver()
        self._stepping, self._wake = self.driver.stepping, self.driver.wake
        self._closed = False

    # ---- from any thread -------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request], *, bounded: bool = True) -> Handle:
        """Take the answers to one prompt into the queue.

        Raises:
            QueueFull: ``bounded`` and too many wait already; SeeklingError: more than ever could, or the engine is closed.
        """
        with self._wake:
            if self._closed:
                raise SeeklingError("the engine is closed: make a new one")
            if bounded and len(requests) > self._max_queue:
                raise SeeklingError(f"{len(requests)} answers were asked for at once, and the queue holds {self._max_queue}")
            waiting = len(self.scheduler.waiting) + sum(len(handle.requests) for handle in self._inbox)
            if bounded and waiting + len(requests) > self._max_queue:
                raise QueueFull(f"{waiting} requests wait and the queue holds {self._max_queue}: try again later")
            handle = Handle(self, requests)
            self._inbox.append(handle)
            self.driver.hurry[0] = 1
            self._wake.notify_all()
        return handle

    def start(self) -> None:
        """Let a background thread do the steps from now on."""
        with self._wake:
            if not self._closed and not self.threaded:
                self.driver.join(self)

    @property
    def threaded(self) -> bool:
        """Whether the background thread steps it."""
        return self.driver.drives(self)

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._inbox or self._handles)

    def close(self) -> None:
        """End everything: whoever still waits gets an error. May be called twice and from anywhere."""
        with self._wake:
            self._closed = True
            self.driver.hurry[0] = 1
        self.driver.leave(self)
        with self._stepping:
            self.cache.close()
            self._fail(SeeklingError("the engine was closed before this answer was complete"))
            self._wake_told()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No step runs meanwhile; waits for one step at most."""
        self.driver.hurry[0] = 1
        with self.driver.door, self._stepping:
            yield

    def cancel(self, handle: Handle, index: int | None = None) -> None:
        """End a handle's answers, or one of them, at the next step."""
        self._cancelled.append((handle, handle.requests if index is None else [handle.requests[index]]))
        self.driver.hurry[0] = 1
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
            finally:
                self._wake_told()

    # ---- inside, one thread at a time ------------------------------------------------------------------------------

    def _step(self) -> bool:
        self.driver.hurry[0] = 0  # whoever comes from here on sets it again
        if self._inbox:
            with self._wake:  # who counts those that wait must not meet half of it
                came = [(request, handle) for handle in self._inbox for request in handle.requests]
                self._handles.update(came)
                for request, _ in came:
                    self.scheduler.add(request)
                self._inbox.clear()
        for _ in range(len(self._cancelled)):
            handle, requests = self._cancelled.popleft()
            for request in requests:
                if request in self._handles:
                    self._hand_over(request, request.cancel())
            if not handle.done and any(request.finish_reason is None for request in requests):
                self._cancelled.append((handle, requests))  # it came in after the queue was looked at
        if not self._handles:
            return False
        if self.scheduler.waiting:
            self.cache.use_version(self._version())
        works = self.scheduler.plan()
        if not works:
            raise RuntimeError("requests wait and none can run")
        drafts = self._alone(works)
        if drafts is not None:
            self._burst(works[0].request, drafts)
            return True
        start = time.perf_counter()
        self._propose(works)
        watched = self._watched()
        chunks = [self._chunk(work, watched) for work in works]
        logits_RV = self.cache.runner.step(chunks)
        self.steps += 1
        decoding = self.drafter is not None and all(work.request.prefilled for work in works)
        if self.drafter is not None:
            self.drafter.observe(chunks, [work.request for work in works])
        if watched and self.cache.runner.chosen is not None:
            self._watch(self.cache.runner.chosen.experts)
        self._hear(works, chunks, as_rows(logits_RV))
        if self.drafter is not None and decoding:
            self.drafter.timed(len(works), sum(len(work.draft) for work in works), time.perf_counter() - start)
        return True

    # ---- several tokens at once ------------------------------------------------------------------------------------

    def _alone(self, works: list[Work]) -> Drafts | None:
        """Drafts for a burst, where one request decodes alone and nothing but native code is needed between its tokens."""
        request = works[0].request
        s = request.sampling
        if len(works) > 1 or not request.prefilled or request.remaining > 1 or not isinstance(self.cache.runner, NativeRunner):
            return None
        if not request.foreseeable or request.scoring or s.bias or s.top_logprobs or s.experts:
            return None
        if self.scheduler.waiting or self.driver.others_wait(self):
            return None
        return Drafts() if self.drafter is None else self.drafter.burst(request)

    def _burst(self, request: Request, drafts: Drafts) -> None:
        runner = self.cache.runner
        assert isinstance(runner, NativeRunner)
        wanted = min(BURST_TOKENS, max(1, int(BURST_SECONDS / self._token_seconds)))
        room = self._room(request, wanted + drafts.tokens)
        most = min(wanted + drafts.tokens, request.limit - len(request.token_ids), room + 1)
        s, watched, start = request.sampling, self._watched(), time.perf_counter()
        uniforms = [] if s.greedy else [request.uniform(ahead) for ahead in range(most)]
        outcome = burst(
            runner, request.ids, request.pages, min(wanted, most), most, s, self.driver.hurry,
            uniforms=uniforms, stops=request.stop_ids, drafts=drafts, adapter=request.adapter, experts=watched,
        )  # fmt: skip
        if outcome.tokens:
            self._token_seconds = (time.perf_counter() - start) / len(outcome.tokens)
        self.steps += len(outcome.rounds)
        if outcome.chosen is not None:
            self._watch(outcome.chosen.experts)
        self._hear_burst(request, outcome)

    def _hear_burst(self, request: Request, outcome: Outcome) -> None:
        """Take what a burst gave. Tokens behind a stop string are dropped."""
        request.drafted += sum(one.drafted for one in outcome.rounds if one.drafted > 0)
        request.accepted += sum(one.right for one in outcome.rounds)
        logprobs = itertools.repeat(None) if outcome.logprobs is None else outcome.logprobs
        for token, value in zip(outcome.tokens, logprobs, strict=False):
            request.computed += 1
            delta = request.accept(token, value)
            self.tokens += 1
            if request.finish_reason is not None:
                break
            self._hand_over(request, delta)
        if self.drafter is not None:
            self.drafter.heard(request, outcome)
        if request.finish_reason is not None:
            self._hand_over(request, delta)
        elif outcome.damaged:
            self._give_up(request, SeeklingError(DAMAGED))

    # ---- a step of whatever there is -------------------------------------------------------------------------------

    def _hear(self, works: list[Work], chunks: list[Chunk], rows: Array) -> None:
        """Take what a step gave: ``rows`` are the logits asked for (R, V)."""
        chosen, row = self.cache.runner.chosen, 0
        spoken: list[tuple[Work, int, int]] = []  # with the rows of its token and its draft
        for work, chunk in zip(works, chunks, strict=True):
            first, row = row, row + chunk.rows
            request, speaks = work.request, work.speaks
            if request.scoring:
                self._score(work, rows[first:row])
            request.computed += work.count
            if not request.prefilled:
                self.cache.remember(request)
                request.prefilled = speaks
            if speaks:
                spoken.append((work, row - 1 - len(work.draft), row))
        asks, counts = [], []
        for work, first, end in spoken:
            end = end if work.request.foreseeable else first + 1
            asks += [Ask(work.request, rows[row], row - first) for row in range(first, end)]
            counts.append(end - first)
        known = iter(drawn(asks, self._threads()))
        for (work, first, end), count in zip(spoken, counts, strict=True):
            tokens = list(itertools.islice(known, count))
            if work.request not in self._handles:  # another answer to its prompt failed just now
                continue
            experts = None
            if chosen is not None and work.request.sampling.experts:
                experts = [chosen.row(row) for row in range(first, end)]
            self._speak(work, rows[first:end], tokens, experts)

    def _threads(self) -> int | None:
        """Threads of the runner: a team of another size would have to be made anew each time."""
        runner = self.cache.runner
        return runner.team() if isinstance(runner, NativeRunner) else None

    def _propose(self, works: list[Work]) -> None:
        """Give the decoding requests drafts, where there are pages for them: what a grammar forces, else the drafter's."""
        if not self.goes_back:
            return
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
            most = min(self._room(request, len(work.draft)), request.limit - len(request.token_ids) - 1, self.goes_back)
            work.draft = work.draft[: max(0, most)]

    def _room(self, request: Request, drafts: int) -> int:
        """Tokens its pages hold beyond its own; a page that lies free is taken for ``drafts``, none is taken from anybody."""
        size = self.cache.page_tokens
        if len(request.ids) + drafts > len(request.pages) * size and self.cache.pool.free:
            self.cache.grow(request, len(request.pages) * size + 1)
        return len(request.pages) * size - len(request.ids)

    def _watched(self) -> bool:
        """Whether the load of experts is counted in the step that begins."""
        if not self._experts or self.steps < self._watch_at:
            return False
        self._watch_at = self.steps + WATCHED
        return True

    def _watch(self, experts_RLK: np.ndarray) -> None:
        """Count which experts computed the rows of a step."""
        rows, layers, _ = experts_RLK.shape
        if not rows:
            return
        if self.load is None:
            self.load = np.zeros((layers, self._experts), np.int64)
        for layer in range(layers):
            self.load[layer] += np.bincount(experts_RLK[:, layer].ravel(), minlength=self._experts)[: self._experts]

    def _chunk(self, work: Work, watched: bool = False) -> Chunk:
        request = work.request
        ids = request.ids[request.computed : request.computed + work.count] + work.draft
        want: Literal["all", "last", "none"] = "all" if request.scoring or work.draft else "last" if work.speaks else "none"
        return Chunk(
            ids, request.computed, request.pages, want, request.adapter, watched or (work.speaks and request.sampling.experts)
        )

    def _score(self, work: Work, rows: Array) -> None:
        """Log-probabilities of the prompt tokens after those just computed."""
        request, top = work.request, work.request.sampling.top_logprobs
        for place, x_V in enumerate(rows[: work.count], request.computed + 1):
            if place != len(request.prompt_logprobs) or place == len(request.prompt_ids):
                continue  # scored before it was preempted, or an answer's token
            request.prompt_logprobs.append(logprob(x_V, request.prompt_ids[place]))
            if top:
                request.prompt_top_logprobs.append(tops(x_V, top))

    def _speak(self, work: Work, rows: Array, known: list[Drawn | SeeklingError], experts: list[Experts] | None) -> None:
        """Accept the next token, and one more for each token of the draft that was foretold.

        ``rows`` are their logits, ``known`` the tokens of the first of them; those behind are drawn as they come.
        """
        request, foretold = work.request, 0
        for place, x_V in enumerate(rows):
            one = known[place] if place < len(known) else drawn([Ask(request, x_V)])[0]
            try:
                if isinstance(one, SeeklingError):
                    raise one
                token = one.token
                delta = request.accept(token, one.logprob, one.top, None if experts is None else experts[place])
            except SeeklingError as error:  # a damaged row, a constraint that failed: the others go on
                self._give_up(request, error)
                return
            self.tokens += 1
            right = place < len(work.draft) and work.draft[place] == token
            foretold += right
            request.computed += right
            if request.finish_reason is not None or not right:
                break
            self._hand_over(request, delta)
        if work.draft:
            request.drafted += len(work.draft)
            request.accepted += foretold
            if self.drafter is not None and request.matcher is None:
                self.drafter.learn(request, len(work.draft), foretold)
        self._hand_over(request, delta)

    def _hand_over(self, request: Request, delta: Delta) -> None:
        """Give a delta to the caller; a finished request leaves."""
        handle = self._handles[request]
        if request.finish_reason is not None:
            del self._handles[request]
            self.scheduler.remove(request)
            if self.drafter is not None:
                self.drafter.forget(request)
        handle.put(delta, ended=request.finish_reason is not None)
        self._told[handle] = None

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
            self._told[handle] = None

    def _fail(self, error: Exception) -> None:
        """Hand the error to everyone who waits and begin anew with an empty cache."""
        with self._wake:  # nobody comes in between, or nobody would answer him
            handles = list(dict.fromkeys([*self._handles.values(), *self._inbox]))
            self._inbox.clear()
        if self.drafter is not None:
            for request in self._handles:
                self.drafter.forget(request)
        self._handles.clear()
        self.cache.clear_all(self.scheduler)
        self.scheduler.waiting.clear()
        self.scheduler.running.clear()
        for handle in handles:
            handle.fail(error)
            self._told[handle] = None

    def _wake_told(self) -> None:
        told, self._told = self._told, {}
        wake(told)
