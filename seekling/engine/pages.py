"""Which cache page is whose: a pool of page numbers with reference counts.

A page holds a fixed number of tokens of the runner's cache. A request and the prefix tree may hold the same page; it is free
again when the last of them lets go. Only a page with a single holder may be written to.
"""

import heapq


class OutOfPages(Exception):
    """No page is free. The scheduler answers it by evicting or preempting; it never reaches a user."""


class PagePool:
    """Page numbers 0 … ``size`` − 1. The lowest free one is taken first, so a runner's memory grows with use."""

    def __init__(self, size: int):
        self.size = size
        self._free = list(range(size))  # sorted, hence already a heap
        self._holders = [0] * size

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.size - len(self._free)

    def holders(self, page: int) -> int:
        """How many hold the page."""
        return self._holders[page]

    def take(self) -> int:
        """A free page, held once.

        Raises:
            OutOfPages: all are held.
        """
        if not self._free:
            raise OutOfPages
        page = heapq.heappop(self._free)
        self._holders[page] = 1
        return page

    def share(self, page: int) -> int:
        """Hold a page that somebody holds already; returns it."""
        if self._holders[page] < 1:
            raise RuntimeError(f"page {page} is free and cannot be shared")
        self._holders[page] += 1
        return page

    def release(self, page: int) -> None:
        """Let go of a page."""
        if self._holders[page] < 1:
            raise RuntimeError(f"page {page} is free already")
        self._holders[page] -= 1
        if not self._holders[page]:
            heapq.heappush(self._free, page)
