"""Pages and the prefix tree: no leak, no double free, nothing read that was not written, all pages back at the end."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seekling.engine.cache import PagedCache
from seekling.engine.pages import OutOfPages, PagePool
from seekling.engine.prefix import PrefixTree
from seekling.engine.request import Request
from seekling.engine.sampling import Sampling

P = 4


class FakeRunner:
    """A runner whose cache is the tokens themselves, so that every read can be checked."""

    page_tokens = P

    def allocate(self, pages):
        self.slots = {}

    def write(self, page, slot, token):
        self.slots[page, slot] = token

    def read(self, pages, count):
        return [self.slots.get((pages[t // P], t % P)) for t in range(count)]

    def copy_page(self, src, dst):
        for slot in range(P):
            self.slots[dst, slot] = self.slots.get((src, slot))


def paged(pages, prefix=True):
    return PagedCache(FakeRunner(), pages, prefix)


def request(ids, room=100, salt=None):
    return Request(list(ids), Sampling(max_tokens=room), room, (), None, 10, tenant=salt)


def compute(cache, req):
    """What a step does: fill the slots of all tokens that are not computed."""
    for t in range(req.computed, len(req.ids)):
        cache.runner.write(req.pages[t // P], t % P, req.ids[t])
    req.computed = len(req.ids)


def answered(cache, ids, **kw):
    """A request that ran to its end; returns how many of its tokens were cached."""
    req = request(ids, **kw)
    cache.begin(req)
    compute(cache, req)
    cache.end(req)
    return req.cached_tokens


# ---- the pool --------------------------------------------------------------------------------------------------------


def test_a_page_is_free_again_when_its_last_holder_lets_go():
    pool = PagePool(2)
    page = pool.take()
    pool.share(page)
    pool.release(page)
    assert pool.used == 1
    pool.release(page)
    assert pool.used == 0 and pool.take() == page


def test_an_empty_pool_and_a_second_release_are_errors():
    pool = PagePool(1)
    page = pool.take()
    with pytest.raises(OutOfPages):
        pool.take()
    pool.release(page)
    with pytest.raises(RuntimeError, match="free already"):
        pool.release(page)
    with pytest.raises(RuntimeError, match="cannot be shared"):
        pool.share(page)


# ---- the tree --------------------------------------------------------------------------------------------------------


def test_a_second_request_finds_all_but_its_last_token():
    cache = paged(10)
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert answered(cache, ids) == 0
    assert answered(cache, ids) == 8
    assert answered(cache, [*ids, 1, 1]) == 9


def test_reuse_ends_at_the_token_that_differs_and_not_at_the_page():
    cache = paged(10)
    answered(cache, [1, 2, 3, 4, 5, 6, 7, 8])
    req = request([1, 2, 3, 4, 5, 6, 0, 8])
    cache.begin(req)
    assert req.computed == 6
    assert cache.runner.read(req.pages, 6) == [1, 2, 3, 4, 5, 6]
    miss = cache.stats.last_miss
    assert (miss.position, miss.token, miss.cached) == (6, 0, (7,))
    assert str(miss) == "token 6 is 0, the cache goes on with 7"


def test_a_shared_page_is_copied_before_it_is_written():
    cache = paged(10)
    answered(cache, [1, 2, 3, 4, 5, 6])
    a, b = request([1, 2, 3, 4, 5, 6, 7]), request([1, 2, 3, 4, 5, 6, 8])
    cache.begin(a)
    cache.begin(b)
    assert a.pages[0] == b.pages[0] and a.pages[1] != b.pages[1]
    compute(cache, a)
    compute(cache, b)
    assert cache.runner.read(a.pages, 7)[-1] == 7 and cache.runner.read(b.pages, 7)[-1] == 8


def test_tenants_do_not_see_each_other_s_prompts():
    cache = paged(10)
    ids = [1, 2, 3, 4, 5, 6]
    answered(cache, ids, salt="a")
    assert answered(cache, ids, salt="b") == 0
    assert answered(cache, ids, salt="a") == 5


def test_the_least_recently_used_beginning_goes_first():
    cache = paged(6)
    answered(cache, [1] * 8)
    answered(cache, [2] * 8)
    answered(cache, [1] * 8)  # used again
    answered(cache, [3] * 12)
    assert answered(cache, [1] * 8) > 0
    assert cache.stats.evicted_pages > 0
    assert cache.tree.match((None, None), [2] * 8).tokens < 8


def test_what_a_running_request_holds_is_never_evicted():
    cache = paged(4)
    answered(cache, [1] * 8)
    holder = request([1] * 9)
    cache.begin(holder)  # two shared pages and one of its own
    with pytest.raises(OutOfPages):
        cache.begin(request([2] * 8))
    assert cache.runner.read(holder.pages, 8) == [1] * 8


def test_a_request_that_finds_no_room_holds_nothing():
    cache = paged(2)
    req = request([1] * 20)
    with pytest.raises(OutOfPages):
        cache.begin(req)
    assert cache.pool.used == 0 and req.pages == [] and req.computed == 0


def test_new_weights_empty_the_tree_and_what_the_old_ones_computed_is_not_kept():
    cache = paged(10)
    cache.use_version(1)
    answered(cache, [1] * 8)
    running = request([2] * 8)
    cache.begin(running)
    compute(cache, running)
    cache.use_version(2)
    assert cache.tree.pages == 0
    cache.end(running)
    assert cache.pool.used == 0


def test_a_longer_block_takes_the_place_of_its_own_beginning():
    cache = paged(10)
    answered(cache, [1, 2, 3, 4, 5])
    answered(cache, [1, 2, 3, 4, 5, 6, 7])
    assert cache.tree.pages == 2
    answered(cache, [1, 2, 3, 4, 5])
    assert cache.tree.pages == 2


def test_without_the_prefix_cache_nothing_is_kept():
    cache = paged(4, prefix=False)
    answered(cache, [1] * 8)
    assert cache.pool.used == 0
    assert answered(cache, [1] * 8) == 0


def test_the_tree_alone_holds_each_page_once():
    pool = PagePool(4)
    tree = PrefixTree(pool, P)
    pages = [pool.take(), pool.take()]
    tree.insert(None, [1, 2, 3, 4, 5], pages)
    tree.insert(None, [1, 2, 3, 4, 5], pages)
    assert [pool.holders(p) for p in pages] == [2, 2]
    tree.clear()
    assert [pool.holders(p) for p in pages] == [1, 1]


# ---- everything at once ----------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 1), min_size=1, max_size=14)


class Pages(RuleBasedStateMachine):
    """Requests come, grow, are dropped and end in any order; the fake cache shows what each would read."""

    @initialize(pages=st.integers(4, 12), prefix=st.booleans())
    def start(self, pages, prefix):
        self.cache, self.live = paged(pages, prefix), []

    @rule(ids=IDS, salt=st.sampled_from([None, "t"]))
    def begin(self, ids, salt):
        req = request(ids, salt=salt)
        try:
            self.cache.begin(req)
        except OutOfPages:
            return
        assert req.computed < len(ids)
        compute(self.cache, req)
        self.cache.remember(req)
        self.live.append(req)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), token=st.integers(0, 1))
    def decode(self, which, token):
        req = self.live[which % len(self.live)]
        try:
            self.cache.grow(req, len(req.ids) + 1)
        except OutOfPages:
            return
        req.ids.append(token)
        compute(self.cache, req)

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), remember=st.booleans())
    def end(self, which, remember):
        req = self.live.pop(which % len(self.live))
        (self.cache.end if remember else self.cache.drop)(req)

    @rule()
    def evict(self):
        self.cache.tree.evict(2)

    @rule(version=st.integers(0, 1))
    def change(self, version):
        self.cache.use_version(version)

    @invariant()
    def every_request_reads_its_own_tokens(self):
        for req in getattr(self, "live", []):
            assert self.cache.runner.read(req.pages, req.computed) == req.ids[: req.computed]

    @invariant()
    def every_page_is_accounted_for(self):
        if not hasattr(self, "cache"):
            return
        pool, tree = self.cache.pool, self.cache.tree
        held = [page for req in self.live for page in req.pages] + [node.page for node in tree._nodes()]
        assert [pool.holders(p) for p in range(pool.size)] == [held.count(p) for p in range(pool.size)]
        assert tree.pages == len(tree._nodes())

    def teardown(self):
        if hasattr(self, "cache"):
            for req in self.live:
                self.cache.end(req)
            self.cache.tree.clear()
            assert self.cache.pool.used == 0


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30)
