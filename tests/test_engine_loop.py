"""Submitting, waiting, cancelling, preempting, failing: nothing hangs, nothing leaks, nothing changes an answer."""

import asyncio
import gc
import random
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engine_tiny import TOKENIZER, one_thread, scripted_lm, tiny_lm  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling import Engine, Sampling, SeeklingError
from seekling.engine import QueueFull
from seekling.engine.runner import PAGE
from seekling.kernels import infer

native = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
GREEDY = Sampling(max_tokens=20, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def pages_left(engine):
    """Pages still held once the prefix tree is emptied."""
    engine._loop.cache.tree.clear()
    return engine.stats()["pages_used"]


class Slow:
    """Wraps a runner: each step takes a while, waits for `go` once ``hold`` steps are done, fails when told to."""

    def __init__(self, engine, seconds=0.0, hold=None):
        self.inner, self.seconds, self.error, self.chunks = engine._loop.cache.runner, seconds, None, []
        self.hold, self.held, self.go = hold, threading.Event(), threading.Event()
        self.page_tokens = self.inner.page_tokens
        engine._loop.cache.runner = self

    @property
    def chosen(self):
        return self.inner.chosen

    def bytes(self):
        return self.inner.bytes()

    def step(self, chunks):
        if len(self.chunks) == self.hold:
            self.held.set()
            assert self.go.wait(60)
        time.sleep(self.seconds)
        self.chunks.append(chunks)
        if self.error is not None:
            raise self.error
        return self.inner.step(chunks)

    def copy_page(self, src, dst):
        self.inner.copy_page(src, dst)


# ---- handles ---------------------------------------------------------------------------------------------------------


def test_a_submitted_prompt_gives_the_answer_of_generate(lm):
    expected = Engine(lm).generate(["abc"], GREEDY)[0]
    with Engine(lm) as engine:
        handle = engine.submit("abc", GREEDY)
        deltas = list(handle)
        assert [t for d in deltas for t in d.token_ids] == expected.token_ids
        assert "".join(d.text for d in deltas) == expected.text
        assert handle.done and handle.result().token_ids == expected.token_ids
        assert handle.prompt_tokens == 4


def test_many_threads_submit_and_each_gets_its_own_answer(lm):
    prompts = [[i, i + 1, i + 2] for i in range(10, 30)]
    expected = [c.token_ids for c in Engine(lm).generate(prompts, GREEDY)]
    with Engine(lm, max_rows=4) as engine, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: engine.submit(p, GREEDY).result().token_ids, prompts)) == expected
        assert engine.generate(prompts[0], GREEDY)[0].token_ids == expected[0]  # beside the running thread


def test_a_handle_can_be_awaited(lm):
    expected = Engine(lm).generate(["abc"], GREEDY)[0]

    async def read(engine):
        return [d async for d in engine.submit("abc", GREEDY)]

    async def both(engine):
        return await asyncio.gather(read(engine), read(engine))

    with Engine(lm) as engine:
        for deltas in asyncio.run(both(engine)):
            assert [t for d in deltas for t in d.token_ids] == expected.token_ids


def test_prompts_are_checked_before_they_are_queued(lm):
    with Engine(lm) as engine, pytest.raises(SeeklingError, match="context holds"):
        engine.submit([9] * 500)


# ---- cancelling and closing ------------------------------------------------------------------------------------------


def test_a_cancelled_answer_ends_within_a_step_and_keeps_its_text(lm):
    with Engine(lm) as engine:
        slow = Slow(engine, hold=2)
        handle = engine.submit("abc", Sampling(max_tokens=80, temperature=0, ignore_eos=True))
        first = next(iter(handle))
        assert slow.held.wait(60)
        handle.cancel()
        steps = len(slow.chunks)
        slow.go.set()
        answer = handle.result()
        assert answer.finish_reason == "cancelled"
        assert answer.token_ids[0] == first.token_ids[0] and 1 <= len(answer.token_ids) < 80
        assert len(slow.chunks) <= steps + 1
        assert pages_left(engine) == 0


def test_one_of_several_answers_is_cancelled_and_the_others_go_on(lm):
    s = Sampling(max_tokens=12, n=3, seed=5, ignore_eos=True)
    with Engine(lm) as engine:
        whole = engine.generate([1, 2, 3], s)
        slow = Slow(engine, hold=1)
        handle = engine.submit([1, 2, 3], s)
        handle.cancel(1)
        slow.go.set()
        cut = handle.results()
    assert [a.finish_reason for a in cut] == ["length", "cancelled", "length"]
    assert [cut[i].token_ids for i in (0, 2)] == [whole[i].token_ids for i in (0, 2)] and len(cut[1].token_ids) < 12


def test_a_cancelled_prompt_that_still_waits_never_runs(lm):
    with Engine(lm, max_rows=1) as engine:
        slow = Slow(engine, hold=0)
        first, second = engine.submit("abc", GREEDY), engine.submit("xyz", GREEDY)
        second.cancel()
        slow.go.set()
        assert second.result().token_ids == [] and second.result().finish_reason == "cancelled"
        assert len(first.result().token_ids) == 20


def test_closing_a_stream_gives_its_pages_back(lm):
    engine = Engine(lm)
    stream = engine.stream("abc", GREEDY)
    next(stream)
    stream.close()
    assert engine.stats()["running"] == 0 and pages_left(engine) == 0


def test_closing_the_engine_ends_its_thread_and_fails_what_is_open(lm):
    engine = Engine(lm)
    Slow(engine, seconds=0.1)
    handle = engine.submit("abc", Sampling(max_tokens=80, ignore_eos=True))
    thread = engine._loop.driver._thread
    engine.close()
    engine.close()
    assert not thread.is_alive()
    with pytest.raises(SeeklingError, match="closed before"):
        handle.result()
    with pytest.raises(SeeklingError, match="closed"):
        engine.submit("abc")
    with pytest.raises(SeeklingError, match="closed"):
        engine.generate("abc")


def test_an_engine_nobody_holds_any_more_ends_its_thread(lm):
    engine = Engine(lm)
    engine.submit("abc", GREEDY).result()
    thread, gone = engine._loop.driver._thread, weakref.ref(engine)
    del engine
    gc.collect()
    thread.join(60)
    assert gone() is None and not thread.is_alive()


def test_a_handle_keeps_its_engine_alive(lm):
    handle = Engine(lm).submit("abc", GREEDY)
    gc.collect()
    assert len(handle.result().token_ids) == 20


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [True, False])
def test_a_failure_in_a_step_reaches_every_caller_and_the_engine_goes_on(lm, threaded):
    with Engine(lm, max_rows=2) as engine:
        slow = Slow(engine, hold=0 if threaded else None)
        if threaded:
            handles = [engine.submit("abc", GREEDY) for _ in range(4)]
            slow.error = ValueError("broken")
            slow.go.set()
            for handle in handles:
                with pytest.raises(RuntimeError, match="broken"):
                    handle.result()
        else:
            slow.error = ValueError("broken")
            with pytest.raises(RuntimeError, match="broken"):
                engine.generate(["abc"] * 4, GREEDY)
        slow.error = None
        assert pages_left(engine) == 0
        assert len(engine.generate("abc", GREEDY)[0].token_ids) == 20


def test_an_error_a_user_can_mend_arrives_as_itself(lm):
    with Engine(lm) as engine:
        Slow(engine).error = SeeklingError("the disk is full: empty it")
        with pytest.raises(SeeklingError, match="disk is full"):
            engine.submit("abc").result()


def test_an_interrupted_caller_leaves_the_engine_usable(lm):
    engine = Engine(lm)
    slow = Slow(engine)
    slow.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.generate("abc", GREEDY)
    slow.error = None
    assert len(engine.generate("abc", GREEDY)[0].token_ids) == 20
    assert pages_left(engine) == 0


# ---- the queue -------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_an_error_and_generate_waits_in_line(lm):
    with Engine(lm, max_rows=1, max_queue=2) as engine:
        slow = Slow(engine, hold=0)
        handles = [engine.submit("abc", GREEDY)]
        assert slow.held.wait(60)
        handles += [engine.submit("abc", GREEDY) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait"):
            engine.submit("abc", GREEDY)
        slow.go.set()
        assert len(engine.generate(["xyz"] * 5, GREEDY)) == 5
        assert all(len(h.result().token_ids) == 20 for h in handles)


def test_higher_priority_goes_first_and_takes_a_running_answer_s_place_without_changing_it(lm):
    low, high = [5, 6, 7], [8, 9]
    long = Sampling(max_tokens=60, temperature=1.0, seed=3, ignore_eos=True)
    expected = [Engine(lm).generate(p, s)[0].token_ids for p, s in ((low, long), (high, GREEDY))]
    with Engine(lm, max_rows=1) as engine:
        slow = Slow(engine, hold=5)
        first = engine.submit(low, long)
        assert slow.held.wait(60)
        urgent = engine.submit(high, GREEDY, priority=1)
        slow.go.set()
        assert urgent.result().token_ids == expected[1]
        assert first.result().token_ids == expected[0]
        assert slow.chunks[-1][0].start > len(high) + 20  # the last step was of the first
        assert engine.stats()["preempted"] == 1


def test_a_short_prompt_does_not_wait_for_a_long_one(lm):
    with Engine(lm, step_tokens=8, prefix_cache=False) as engine:
        slow = Slow(engine, hold=1)
        long = engine.submit(list(range(10, 90)), Sampling(max_tokens=1))
        assert slow.held.wait(60)
        short = engine.submit([5, 6, 7, 8], Sampling(max_tokens=1))
        slow.go.set()
        assert short.result().prompt_tokens == 4 and long.result().prompt_tokens == 80
        last = max(i for i, chunks in enumerate(slow.chunks) if any(5 in chunk.ids for chunk in chunks))
        assert last <= 3 < len(slow.chunks) - 1


def test_answers_being_written_go_on_while_a_long_prompt_is_computed(lm):
    with Engine(lm, step_tokens=8, prefix_cache=False) as engine:
        slow = Slow(engine, hold=3)
        writing = engine.submit([5], Sampling(max_tokens=60, ignore_eos=True))
        assert slow.held.wait(60)
        reading = engine.submit(list(range(10, 90)), Sampling(max_tokens=1))
        slow.go.set()
        reading.result(), writing.result()
        beside = [c for c in slow.chunks if len(c) == 2]
        assert len(beside) >= 80 // 8
        assert all(sorted(len(chunk.ids) for chunk in c)[0] == 1 for c in beside)
        assert all(sum(len(chunk.ids) for chunk in c) <= 8 for c in beside)


# ---- too little room -------------------------------------------------------------------------------------------------


def test_when_pages_run_out_an_answer_is_put_off_and_not_lost(lm):
    prompts = [[i] * 30 for i in (10, 20, 30, 40)]
    s = Sampling(max_tokens=60, temperature=1.0, seed=1, ignore_eos=True)
    expected = [Engine(lm).generate(p, s)[0].token_ids for p in prompts]
    engine = Engine(lm, cache_tokens=4 * PAGE)
    assert [c.token_ids for c in engine.generate(prompts, s)] == expected
    assert engine.stats()["preempted"] > 0
    assert pages_left(engine) == 0


@pytest.mark.parametrize("runner", ["torch", pytest.param("native", marks=native)])
def test_an_answer_that_alone_gives_its_pages_back_to_itself_goes_on(runner):
    """Two prompts begin alike and are computed in one step; the second's pages hang below the first's in the tree."""
    lm = tiny_lm(dtype=torch.float32, max_position_embeddings=192)
    same = list(range(10, 42))
    prompts = [[*same, 80], same + list(range(100, 140))]
    each = [Sampling(max_tokens=count, temperature=0, ignore_eos=True) for count in (2, 115)]
    answers = Engine(lm, runner=runner, cache_tokens=192, max_rows=2).generate(prompts, each)
    assert [len(answer.token_ids) for answer in answers] == [2, 115]


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(priority="high"), "priority is 'high': give a whole number"),
        (dict(tenant=["x"]), "tenant is a list"),
        (dict(tenant=("x", ["y"])), "tenant is a tuple"),
        (dict(sampling=Sampling(stop_token_ids=(2**31,))), r"stop_token_ids names tokens outside"),
        (dict(sampling=Sampling(n=3)), "3 answers were asked for at once, and the queue holds 2"),
    ],
)
def test_an_argument_that_would_fail_a_step_is_refused_and_nobody_else_is_harmed(lm, given, said):
    with Engine(lm, max_queue=2) as engine:
        good = engine.submit("abc", GREEDY)
        with pytest.raises(SeeklingError, match=said):
            engine.submit("abc", **given)
        assert len(good.results()[0].token_ids) == 20


@pytest.mark.parametrize("runner", ["torch", pytest.param("native", marks=native)])
def test_integers_of_numpy_and_a_top_k_beyond_the_vocabulary_mean_what_they_say(runner):
    lm = tiny_lm(dtype=torch.float32)
    plain = Sampling(max_tokens=5, temperature=1.0, seed=1, ignore_eos=True)
    odd = Sampling(max_tokens=np.int64(5), temperature=1.0, seed=np.int64(1), top_k=2**32 + 1, n=np.int64(1), ignore_eos=True)
    engine = Engine(lm, runner=runner, max_rows=np.int64(2))
    assert all(type(value) is int for value in (odd.max_tokens, odd.seed, odd.top_k, odd.n))
    assert engine.generate(["abc"], odd)[0].token_ids == engine.generate(["abc"], plain)[0].token_ids


@pytest.mark.parametrize("runner", ["torch", pytest.param("native", marks=native)])
def test_what_a_running_answer_computed_with_old_weights_is_not_found_by_the_next(runner):
    lm, prompt = tiny_lm(dtype=torch.float32), list(range(10, 80))
    engine = Engine(lm, runner=runner, step_tokens=32)
    running = engine._loop.submit(engine._intake.requests([prompt], GREEDY)[0])
    for _ in range(4):
        engine._loop.step()
    engine.weights_changed()
    other = engine._loop.submit(engine._intake.requests([[1, 2, 3]], GREEDY)[0])
    assert running.results() and other.results()
    assert engine.generate([prompt], GREEDY)[0].cached_tokens == 0


@pytest.fixture
def hasty_threads():
    """Threads give way to each other after ten microseconds, not five thousand."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_whoever_comes_while_others_are_taken_in_or_a_step_fails_gets_an_answer_or_an_error(lm, hasty_threads):
    engine, chance = Engine(lm), random.Random(0)
    step, until = engine._loop.cache.runner.step, time.monotonic() + 3
    told = []

    def failing(chunks):
        if chance.random() < 0.3:
            raise ValueError("injected")
        return step(chunks)

    engine._loop.cache.runner.step = failing

    def come():
        while time.monotonic() < until:
            handles = [engine.submit([10, 11], Sampling(max_tokens=1), priority=0) for _ in range(20)]
            for handle in handles:
                try:
                    told.append(handle.results())
                except RuntimeError as error:
                    told.append(str(error))

    callers = [threading.Thread(target=come, daemon=True) for _ in range(4)]  # whom nobody answers waits for ever
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert told and not any(caller.is_alive() for caller in callers)
    engine.close()


def test_many_prompts_at_once_from_many_threads(lm, hasty_threads):
    engine, until = Engine(lm), time.monotonic() + 2

    def ask():
        while time.monotonic() < until:
            assert len(engine.generate([[10]] * 200, Sampling(max_tokens=1))) == 200

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(ask) for _ in range(4)]:
            one.result(timeout=120)


def test_explaining_waits_for_the_step_that_runs(lm):
    engine, told = Engine(lm), threading.Event()
    with ThreadPoolExecutor() as pool:
        with engine._loop.paused():
            answer = pool.submit(lambda: (engine.explain([10, 11, 12]), told.set()))
            assert not told.wait(0.2)
        assert answer.result(timeout=60)[0]["prompt_tokens"] == 3


def test_explaining_knows_that_the_weights_changed():
    lm, prompt = tiny_lm(), list(range(10, 40))
    engine = Engine(lm)
    engine.generate([prompt], GREEDY)
    assert engine.explain(prompt)["cached_tokens"] == 29
    with torch.no_grad():
        lm.model.lm_head.weight.neg_()
    assert engine.explain(prompt)["cached_tokens"] == 0


def test_a_failed_step_lets_the_runner_forget_the_rows_it_had(lm):
    engine, forgotten = Engine(lm), []
    engine._loop.cache.runner.forget = forgotten.append
    handle = engine._loop.submit(engine._intake.requests(["abc"], GREEDY)[0])
    engine._loop.step()
    (request,) = engine._loop.scheduler.running
    first = request.pages[0]
    engine._loop.cache.runner.step = lambda chunks: 1 / 0
    engine._loop.step()
    assert forgotten == [first]
    with pytest.raises(RuntimeError, match="division by zero"):
        handle.results()


def test_a_cache_smaller_than_the_context_bounds_it_and_says_so(lm):
    engine = Engine(lm, cache_tokens=PAGE)
    out = engine.generate([[5] * 30], Sampling(max_tokens=50, ignore_eos=True))[0]
    assert len(out.token_ids) == 2 and out.finish_reason == "length"
    with pytest.raises(SeeklingError, match=rf"the engine's cache holds {PAGE}"):
        engine.generate([[5] * PAGE])


# ---- the prefix cache ------------------------------------------------------------------------------------------------


def test_a_repeated_prompt_is_found_and_gives_the_same_answer(lm):
    engine = Engine(lm)
    prompt = list(range(10, 60))
    first, again = (engine.generate(prompt, GREEDY)[0] for _ in range(2))
    assert (first.cached_tokens, again.cached_tokens) == (0, 49)
    assert again.token_ids == first.token_ids
    longer = engine.generate([*prompt, *first.token_ids, 7], GREEDY)[0]
    assert longer.cached_tokens == 50 + 19  # the last token drawn was never computed


def test_explain_names_the_first_token_that_differs(lm):
    engine = Engine(lm)
    engine.generate(list(range(10, 60)), GREEDY)
    told = engine.explain([*range(10, 50), 200, 201])
    assert (told["cached_tokens"], told["token"], told["cached"]) == (40, 200, [50])
    assert told["reason"] == "token 40 is 200, the cache goes on with 50"


def test_tenants_share_nothing(lm):
    engine = Engine(lm)
    prompt = list(range(10, 60))
    engine.generate(prompt, GREEDY, tenant="a")
    assert engine.generate(prompt, GREEDY, tenant="b")[0].cached_tokens == 0
    assert engine.generate(prompt, GREEDY, tenant="a")[0].cached_tokens == 49


def test_changed_weights_empty_the_prefix_cache():
    lm = tiny_lm()
    engine = Engine(lm)
    prompt = list(range(10, 60))
    engine.generate(prompt, GREEDY)
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.neg_()
    out = engine.generate(prompt, GREEDY)[0]
    assert out.cached_tokens == 0
    assert out.token_ids == Engine(lm).generate(prompt, GREEDY)[0].token_ids


@pytest.mark.parametrize("runner", ["torch", "native"])
def test_a_caller_can_say_that_weights_changed(runner):
    lm = tiny_lm(dtype=torch.float32)
    if runner == "native" and not infer.available():
        pytest.skip("the kernels are not built")
    engine = Engine(lm, runner=runner)
    prompt = list(range(10, 60))
    engine.generate(prompt, GREEDY)
    assert engine.generate(prompt, GREEDY)[0].cached_tokens == 49
    engine.weights_changed()
    assert engine.generate(prompt, GREEDY)[0].cached_tokens == 0
    assert engine.generate(prompt, GREEDY)[0].cached_tokens == 49


def test_n_answers_share_their_prompt_and_each_can_be_repeated_alone(lm):
    engine = Engine(lm)
    prompt = list(range(10, 80))
    s = Sampling(max_tokens=10, temperature=1.0, seed=5, n=3, ignore_eos=True)
    out = engine.generate(prompt, s)
    assert [c.index for c in out] == [0, 1, 2]
    assert [c.cached_tokens for c in out] == [0, 69, 69]  # all but the last token, from the one still running
    for i, answer in enumerate(out):
        alone = Engine(lm).generate(prompt, Sampling(max_tokens=10, temperature=1.0, seed=5 + i, ignore_eos=True))[0]
        assert answer.token_ids == alone.token_ids
    assert len({tuple(c.token_ids) for c in out}) == 3
    deltas = list(engine.stream(prompt, s))
    assert [[t for d in deltas if d.index == i for t in d.token_ids] for i in range(3)] == [c.token_ids for c in out]


# ---- everything at once ----------------------------------------------------------------------------------------------

EVENT = st.tuples(
    st.lists(st.integers(10, 12), min_size=1, max_size=50),  # few tokens: many common beginnings
    st.integers(1, 30),  # max_tokens
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 2),  # priority
    st.one_of(st.none(), st.integers(0, 10)),  # cancel after so many steps
    st.integers(0, 4),  # steps before the next arrives
    st.sampled_from([1, 1, 2]),  # n
)
PROPERTY_LM = tiny_lm(num_hidden_layers=2)


@settings(max_examples=15)
@given(
    st.lists(EVENT, min_size=1, max_size=7),
    st.integers(3, 8),  # pages
    st.integers(1, 4),  # rows
    st.sampled_from([5, 16, 64]),  # tokens a step
    st.sampled_from([None, "ngram"]),
)
def test_whatever_arrives_is_cancelled_or_evicted_the_others_tokens_are_those_of_the_request_alone(
    events, pages, rows, step_tokens, speculate
):
    engine = Engine(PROPERTY_LM, cache_tokens=pages * PAGE, max_rows=rows, step_tokens=step_tokens, speculate=speculate)
    open_handles = []
    for number, (ids, count, temperature, priority, cancel, pause, n) in enumerate(events):
        s = Sampling(max_tokens=count, temperature=temperature, seed=number, ignore_eos=True, n=n)
        group = engine._intake.requests([ids], s, priority=priority)[0]
        open_handles.append((ids, s, engine._loop.submit(group), cancel))
        for _ in range(pause):
            engine._loop.step()
            open_handles = [
                (i, s, h.cancel() or h if c == 0 else h, None if c is None else c - 1) for i, s, h, c in open_handles
            ]
    for ids, s, handle, _ in open_handles:
        for answer in handle.results():
            alone = alone_answer(tuple(ids), s, answer.index)
            if answer.finish_reason == "cancelled":
                assert answer.token_ids == alone[: len(answer.token_ids)]
            else:
                assert answer.token_ids == alone
    assert pages_left(engine) == 0


def alone_answer(ids, s, index):
    """The oracle: the same request in an engine of its own, without caching, chunks or drafts."""
    settings_ = Sampling(max_tokens=s.max_tokens, temperature=s.temperature, seed=s.seed + index, ignore_eos=True)
    return Engine(PROPERTY_LM, prefix_cache=False).generate(list(ids), settings_)[0].token_ids


def test_threads_streams_and_cancellations_mixed_leave_nothing_behind(lm):
    before = threading.active_count()
    with Engine(lm, max_rows=3, cache_tokens=6 * PAGE, step_tokens=16) as engine:

        def user(number):
            handle = engine.submit([10 + number % 5] * (5 + number), GREEDY, priority=number % 3)
            for i, _ in enumerate(handle):
                if number % 4 == 0 and i == 3:
                    handle.cancel()
            return handle.result().finish_reason

        with ThreadPoolExecutor(12) as pool:
            reasons = list(pool.map(user, range(24)))
        assert all(r in ("length", "cancelled") for r in reasons)
        assert reasons.count("length") >= 18
        assert pages_left(engine) == 0 and engine.stats()["running"] == engine.stats()["waiting"] == 0
    assert threading.active_count() <= before


def test_a_scripted_model_streams_through_a_handle():
    with Engine(scripted_lm("a é 🐳!")) as engine:
        assert "".join(d.text for d in engine.submit([1, 2, 3])) == "a é 🐳!"
