"""The paged cache of an engine: pages, the prefix tree over them, and the runner that fills them.

A request comes with `begin` (what is cached already is shared or copied), `grow`s while it runs, and `end`s; what it computed
stays in the tree until the room is needed.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from seekling.engine.pages import OutOfPages, PagePool
from seekling.engine.prefix import Match, Miss, PrefixTree
from seekling.engine.request import Request
from seekling.engine.runner import Runner
from seekling.engine.spill import Spill


@dataclass
class CacheStats:
    """Counts since the engine began. ``looked_up`` and ``hit`` are prompt tokens (recomputed ones count again)."""

    looked_up: int = 0
    hit: int = 0
    evicted_pages: int = 0
    copied_pages: int = 0
    last_miss: Miss | None = None


class PagedCache:
    """Pages of one runner, handed to requests.

    Args:
        runner: computes into the pages; its pool is allocated here.
        pages: size of the pool.
        prefix: keep finished requests' pages for reuse.
        spill: where evicted pages go, and come back from.
        fingerprint: of what computes the pages; asked once for each version of the weights.
    """

    def __init__(
        self,
        runner: Runner,
        pages: int,
        prefix: bool = True,
        spill: Spill | None = None,
        fingerprint: Callable[[], str] = str,
    ):
        self.runner, self.page_tokens, self.prefix = runner, runner.page_tokens, prefix
        runner.allocate(pages)
        self.stats = CacheStats()
        self.epoch = 0  # of the weights: what an earlier one computed is of no use
        self._version: object = None
        self.spill, self._fingerprint = spill, fingerprint
        self.pool = PagePool(pages)
        self.tree = self._new_tree()
        self._bind()

    def _new_tree(self) -> PrefixTree:
        return PrefixTree(self.pool, self.page_tokens, self.spill, None if self.spill is None else self.runner.read_page)

    def _bind(self) -> None:
        if self.spill is not None:
            self.spill.bind(self._fingerprint(), self.runner.page_bytes)

    def close(self) -> None:
        """Put what the tree holds into files, and let go of them."""
        if self.spill is not None:
            self.tree.spill_all()
            self.spill.close()

    def clear_all(self, requests: Iterable[Request] = ()) -> None:
        """Start anew with every page free, whoever held it; ``requests``: those that are given up."""
        for request in requests:
            self._forget(request)
        self.pool = PagePool(self.pool.size)
        self.tree = self._new_tree()

    def use_version(self, version: object) -> None:
        """Forget the tree when the weights are no longer those it was computed with."""
        if version != self._version:
            known, self._version = self._version is not None, version
            self.renew(bind=known)

    def renew(self, bind: bool = True) -> None:
        """Forget the tree, and do not take into it what running requests computed: the weights are others now."""
        self.epoch += 1
        self.tree.clear()
        if bind:
            self._bind()

    @property
    def tokens(self) -> int:
        """Tokens all pages hold together."""
        return self.pool.size * self.page_tokens

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    def begin(self, request: Request) -> None:
        """Give a request every page its tokens need: shared, copied or new.

        Raises:
            OutOfPages: there is not room enough; the request then holds nothing.
        """
        request.epoch = self.epoch
        match = self._match(request) if self.prefix and request.may_reuse else None
        if match is not None:
            request.pages = [self.pool.share(page) for page in match.pages]
            request.computed = len(match.pages) * self.page_tokens
        try:
            if match is not None:
                self._begin_tail(request, match)
            self.grow(request, len(request.ids))
        except OutOfPages:
            self.drop(request)
            raise
        self.stats.looked_up += len(request.ids)
        self.stats.hit += request.computed
        if match is not None:
            self.stats.last_miss = match.miss
        if not request.token_ids:  # what a preempted request finds again is its own
            request.cached_tokens = request.computed

    def _match(self, request: Request) -> Match:
        """What the tree holds of it, or the first answer to its prompt, whose last page is not full and so in no tree."""
        match, first, shared = self.tree.match(request.salt, request.ids), request.after, len(request.prompt_ids) - 1
        if first is None or request.token_ids or match.tokens >= shared:
            return match
        if first.epoch != self.epoch or first.computed < shared:
            return match
        full, tail = divmod(shared, self.page_tokens)
        return Match(first.pages[:full], first.pages[full] if tail else None, tail, shared, Miss(shared, None, ()))

    def _begin_tail(self, request: Request, match: Match) -> None:
        """Go on behind the shared pages: with pages read back from files, else a copy of the page the tree leaves it in."""
        held = None if match.tail is None else self.pool.share(match.tail)  # making room must not take it away
        try:
            if self._read_back(request) or held is None:
                return
            try:
                self.grow(request, request.computed + 1)
            except OutOfPages:
                return  # it needs the very page: computed anew once that is let go
            self.runner.copy_page(held, request.pages[-1])
            request.computed += match.tail_tokens
            self.stats.copied_pages += 1
        finally:
            if held is not None:
                self.pool.release(held)

    def _read_back(self, request: Request) -> int:
        """Full pages behind the shared ones that lie in files; the tree has them from now on."""
        first = len(request.pages)
        for key in self.spilled(request.salt, request.ids, first):
            content = None if self.spill is None else self.spill.get(key)
            if content is None:
                break
            try:
                request.pages.append(self._take())
            except OutOfPages:
                break  # the tree keeps what was read, until there is room for the request
            self.runner.write_page(request.pages[-1], content)
            request.computed += self.page_tokens
        if len(request.pages) > first:
            self.tree.insert(request.salt, request.ids[: request.computed], request.pages)
        return len(request.pages) - first

    def spilled(self, salt: Hashable, ids: Sequence[int], first: int) -> Iterator[bytes]:
        """Keys of the pages of ``ids`` from page ``first`` on that lie in files, as far as they follow each other."""
        if self.spill is None or not len(self.spill):
            return
        key = self.spill.root(salt)
        for number in range((len(ids) - 1) // self.page_tokens):
            if key is None:
                return
            key = self.spill.key(key, ids[number * self.page_tokens : (number + 1) * self.page_tokens])
            if number >= first:
                if key not in self.spill:
                    return
                yield key

    def grow(self, request: Request, tokens: int) -> None:
        """Make sure the request's pages hold ``tokens`` tokens.

        Raises:
            OutOfPages: no page is free and none can be evicted.
        """
        while len(request.pages) < self.pages_for(tokens):
            request.pages.append(self._take())

    def remember(self, request: Request, *, partial: bool = False) -> None:
        """Put what the request has computed into the tree: its full pages and, with ``partial``, the one begun."""
        if not self.prefix or request.epoch != self.epoch:
            return
        count = request.computed if partial else request.computed // self.page_tokens * self.page_tokens
        self.tree.insert(request.salt, request.ids[:count], request.pages[: self.pages_for(count)])

    def end(self, request: Request) -> None:
        """Take the pages back; the tree keeps what may be of use again."""
        self.remember(request, partial=True)
        self.drop(request)

    def drop(self, request: Request) -> None:
        """Take the pages back without remembering them."""
        self._forget(request)
        for page in request.pages:
            self.pool.release(page)
        request.pages, request.computed = [], 0

    def _forget(self, request: Request) -> None:
        if request.pages and hasattr(self.runner, "forget"):  # runners that keep something of a row beside its pages
            self.runner.forget(request.pages[0])

    def _take(self) -> int:
        try:
            return self.pool.take()
        except OutOfPages:
            # A few more than needed, since every eviction walks the tree.
            self.stats.evicted_pages += self.tree.evict(1 + self.pool.size // 64)
            return self.pool.take()
