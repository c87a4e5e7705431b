"""Who runs in the next step, and for how many tokens: continuous batching with chunked prefill. No tensor is touched here.

Every step gives each decoding request its token; what is left of the step's token budget goes to prompts. Requests of higher
priority come first; among equals the budget is shared evenly (a short prompt behind a long one is through soon, the long one
keeps at least its share), and the earliest is admitted first. When pages run out the least urgent, latest request gives its
pages back and is computed again later: its tokens are kept and go on where they were.
"""

import bisect
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from seekling.engine.cache import PagedCache
from seekling.engine.pages import OutOfPages
from seekling.engine.request import Request

SCORED_ROWS = 64  # rows of logits a step computes for prompt log-probabilities: bounds their memory


@dataclass(slots=True)
class Work:
    """A request's part in a step: its next ``count`` tokens, then ``draft`` tokens that somebody proposed."""

    request: Request
    count: int
    draft: list[int] = field(default_factory=list)

    @property
    def speaks(self) -> bool:
        """Whether the request draws a token after this step."""
        return self.count == self.request.remaining


class Scheduler:
    """The queue and the running batch.

    Args:
        cache: where pages come from.
        max_rows: most requests running together.
        step_tokens: token budget of a step. Prompts get at least a quarter of it, however many decode.
    """

    def __init__(self, cache: PagedCache, max_rows: int, step_tokens: int):
        self.cache, self.max_rows, self.step_tokens = cache, max_rows, step_tokens
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.preempted = 0
        self._arrivals = 0

    def add(self, request: Request) -> None:
        """Put a new request at the end of its priority's queue."""
        self._arrivals += 1
        request.arrival = self._arrivals
        self._wait(request)

    def remove(self, request: Request, *, remember: bool = True) -> None:
        """Take a request out, wherever it is, and its pages back."""
        (self.running if request in self.running else self.waiting).remove(request)
        if remember:
            self.cache.end(request)
        else:
            self.cache.drop(request)

    def __iter__(self) -> Iterator[Request]:
        return iter([*self.running, *self.waiting])

    def plan(self) -> list[Work]:
        """The next step; empty when there is nothing to do."""
        self._admit()
        ready = self._with_room()
        if not self.running and self.waiting:  # one alone had to give its pages back, and now there is room for it
            self._admit()
            ready = self._with_room()
        work = [Work(request, 1) for request in ready]
        decoding = {id(w.request) for w in work}
        budget = max(self.step_tokens - len(work), self.step_tokens // 4, 1)
        prompts = [request for request in self.running if id(request) not in decoding]
        return work + [Work(request, count) for request, count in _shares(prompts, budget)]

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _wait(self, request: Request) -> None:
        bisect.insort(self.waiting, request, key=_rank)

    def _admit(self) -> None:
        full = bool(self.waiting) and len(self.running) >= self.max_rows
        if full and self.waiting[0].priority <= min(r.priority for r in self.running):
            return  # the usual case, without a look at the whole queue
        for request in list(self.waiting):
            if request.after is not None and not _ready(request.after):
                continue  # the answers of one prompt share it: the first computes it
            victim = max(self.running, key=_rank, default=None)
            if len(self.running) >= self.max_rows:
                if victim is None or victim.priority >= request.priority:
                    return
                self._preempt(victim)
            while True:
                try:
                    self.cache.begin(request)
                    break
                except OutOfPages:
                    victim = max(self.running, key=_rank, default=None)
                    if victim is None or victim.priority >= request.priority:
                        return
                    self._preempt(victim)
            self.waiting.remove(request)
            self.running.append(request)
            request.admitted = request.admitted or time.perf_counter()

    def _with_room(self) -> list[Request]:
        """The decoding requests, each with room for its next token; those without are preempted."""
        for request in sorted(self.running, key=_rank):
            while request in self.running and request.remaining == 1:
                try:
                    self.cache.grow(request, len(request.ids))
                    break
                except OutOfPages:
                    self._preempt(max(self.running, key=_rank))
        return [request for request in self.running if request.remaining == 1]

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.cache.end(request)
        request.prefilled = False  # it reads its own tokens again
        self.preempted += 1
        self._wait(request)


def _rank(request: Request) -> tuple[int, int]:
    return -request.priority, request.arrival


def _ready(first: Request) -> bool:
    return first.prefilled or first.finish_reason is not None


def _shares(requests: list[Request], budget: int) -> Iterator[tuple[Request, int]]:
    """Even shares of the budget inside a priority; what a short prompt leaves goes to the longer ones."""
    for priority in sorted({r.priority for r in requests}, reverse=True):
        group = sorted((r for r in requests if r.priority == priority), key=lambda r: (r.remaining, r.arrival))
        for number, request in enumerate(group):
            share = -(-budget // (len(group) - number))
            count = min(request.remaining, share, SCORED_ROWS if request.scoring else share)
            if count < 1:
                return
            budget -= count
            yield request, count
