"""The prefix tree: which beginnings of token sequences lie in the cache, shared by all requests of a tenant.

A node is one page: the tokens of one block below the blocks before it. Only a leaf may hold fewer tokens than a page. A new
request shares the full pages of the longest beginning it has in common with the tree and gets a copy of the page in which it
leaves it (copy on write), so that reuse ends at a token and not at a page.
"""

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Optional

from seekling.engine.pages import PagePool
from seekling.engine.spill import Spill

_SCAN = 128  # newest children compared token by token where no whole block fits


@dataclass(eq=False)
class _Node:
    tokens: tuple[int, ...] = ()
    page: int = -1
    parent: Optional["_Node"] = None
    children: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)
    used: int = 0  # the tree's clock when last matched or inserted
    key: bytes | None = None  # its name in the spill; None where it was not asked for yet, or has none


@dataclass(frozen=True)
class Miss:
    """Why a prompt was not cached to its end.

    Attributes:
        position: index of the first token that had to be computed.
        token: the prompt's token there; None where it is the last one, which is always computed.
        cached: tokens that the cache holds there instead; empty where it ends.
    """

    position: int
    token: int | None
    cached: tuple[int, ...]

    def __str__(self) -> str:
        if self.token is None:
            return f"cached up to the last token ({self.position}), which is always computed"
        if not self.cached:
            return f"nothing is cached from token {self.position} on"
        return f"token {self.position} is {self.token}, the cache goes on with {', '.join(map(str, self.cached))}"


@dataclass(frozen=True)
class Match:
    """What the cache holds of a prompt: shared full ``pages``, then ``tail_tokens`` tokens of page ``tail`` to be copied."""

    pages: list[int]
    tail: int | None
    tail_tokens: int
    tokens: int
    miss: Miss


class PrefixTree:
    """Holds pages of `PagePool` for reuse and gives up the least recently used ones.

    Args:
        pool: where its pages come from; the tree is one holder of each.
        page_tokens: tokens a page holds.
        spill: where full pages go that are given up; ``read`` gives a page's content.
    """

    def __init__(
        self, pool: PagePool, page_tokens: int, spill: Spill | None = None, read: Callable[[int], bytes] | None = None
    ):
        self._pool, self._size, self._spill, self._read = pool, page_tokens, spill, read
        self._roots: dict[Hashable, _Node] = {}
        self._clock = 0
        self.pages = 0

    def match(self, salt: Hashable, ids: Sequence[int]) -> Match:
        """The longest cached beginning of ``ids``, at most all but its last token. Nothing is held for the caller yet.

        Args:
            salt: who asks (tenant, adapter): only what was inserted under an equal salt is found.
        """
        self._clock += 1
        limit, at, node = len(ids) - 1, 0, self._roots.get(salt)
        pages: list[int] = []
        while node is not None and at + self._size <= limit:
            child = node.children.get(tuple(ids[at : at + self._size]))
            if child is None:
                break
            child.used = self._clock
            pages.append(child.page)
            at, node = at + self._size, child
        tail, tail_tokens = None, 0
        for child in list(reversed(node.children.values()))[:_SCAN] if node is not None else ():
            common = _common(child.tokens, ids[at : min(at + self._size, limit)])
            if common > tail_tokens:
                tail, tail_tokens, child.used = child.page, common, self._clock
        return Match(pages, tail, tail_tokens, at + tail_tokens, self._miss(node, ids, at, tail_tokens))

    def insert(self, salt: Hashable, ids: Sequence[int], pages: Sequence[int]) -> None:
        """Remember that ``pages`` hold ``ids``; blocks that are there already keep their page."""
        self._clock += 1
        node = self._roots.get(salt)
        if node is None:
            node = self._roots[salt] = _Node(key=None if self._spill is None else self._spill.root(salt))
        for number, page in enumerate(pages):
            block = tuple(ids[number * self._size : (number + 1) * self._size])
            if not block:
                break
            child = node.children.get(block)
            if child is None:
                if len(block) < self._size and any(other[: len(block)] == block for other in node.children):
                    break  # a longer block says it already
                for shorter in [b for b in node.children if len(b) < len(block) and block[: len(b)] == b]:
                    self._drop(node.children[shorter])
                child = node.children[block] = _Node(block, self._pool.share(page), node)
                self.pages += 1
            child.used = self._clock
            node = child

    def evict(self, count: int) -> int:
        """Give up to ``count`` pages back that nobody else holds, least recently used leaves first; returns how many."""
        heap = [(leaf.used, id(leaf), leaf) for leaf in self._leaves() if self._pool.holders(leaf.page) == 1]
        heapq.heapify(heap)
        freed = 0
        while heap and freed < count:
            leaf = heapq.heappop(heap)[2]
            parent = leaf.parent
            self._keep(leaf)
            self._drop(leaf)
            freed += 1
            inner = parent is not None and parent.parent is not None and not parent.children
            if inner and parent is not None and self._pool.holders(parent.page) == 1:
                heapq.heappush(heap, (parent.used, id(parent), parent))
        return freed

    def clear(self) -> None:
        """Forget everything (the weights changed)."""
        for node in self._nodes():
            self._pool.release(node.page)
        self._roots, self.pages = {}, 0

    def spill_all(self) -> None:
        """Put every full page into files, the least recently used first; they stay in the tree."""
        for node in sorted(self._nodes(), key=lambda node: node.used):
            self._keep(node, patient=True)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _miss(self, node: _Node | None, ids: Sequence[int], at: int, tail_tokens: int) -> Miss:
        position = at + tail_tokens
        if position >= len(ids) - 1:
            return Miss(position, None, ())
        start = tuple(ids[at:position])
        blocks = () if node is None else node.children
        there = [b[tail_tokens] for b in blocks if len(b) > tail_tokens and b[:tail_tokens] == start]
        return Miss(position, ids[position], tuple(dict.fromkeys(there[-4:])))

    def _nodes(self) -> list[_Node]:
        found, stack = [], list(self._roots.values())
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            if node.parent is not None:
                found.append(node)
        return found

    def _leaves(self) -> list[_Node]:
        return [node for node in self._nodes() if not node.children]

    def _keep(self, node: _Node, patient: bool = False) -> None:
        """Put a full page into a file, where there is a place for them."""
        if self._spill is None or self._read is None or len(node.tokens) < self._size:
            return
        path, at = [], node
        while at.key is None and at.parent is not None:
            path.append(at)
            at = at.parent
        for below in reversed(path):  # the root has no key where the salt has none
            below.key = None if at.key is None else self._spill.key(at.key, below.tokens)
            at = below
        if node.key is not None and node.key not in self._spill:
            self._spill.put(node.key, self._read(node.page), patient)

    def _drop(self, leaf: _Node) -> None:
        """Take a leaf out of the tree."""
        if leaf.parent is not None:
            del leaf.parent.children[leaf.tokens]
        self._pool.release(leaf.page)
        self.pages -= 1


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
