"""Pages in files: what was evicted comes back bit for bit, after a restart too; whatever is wrong with a file is a miss."""

import os
import resource
from types import SimpleNamespace

import pytest
import torch
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_mtp import GQA

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.runner import PAGE
from seekling.engine.spill import Spill
from seekling.errors import MachineError
from seekling.formats.adapters import Adapter, LowRank
from seekling.kernels import infer

native = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
S = Sampling(max_tokens=6, temperature=0, ignore_eos=True)
LONG = [7 + i % 200 for i in range(90)]  # two full pages and a part of a third
OTHER = [[i] * 70 for i in range(10, 16)]


def engine_over(folder, lm, tokens=4 * PAGE, **more):
    return Engine(lm, cache_tokens=tokens, max_rows=1, cache_spill=folder, **more)


def told(completion):
    return completion.token_ids, completion.logprobs


KINDS = {
    "mla, bf16": ({}, dict(runner="native")),
    "mla, int8": ({}, dict(runner="native", cache_dtype="int8")),
    "gqa, bf16": (GQA, dict(runner="native")),
    "gqa, int8": (GQA, dict(runner="native", cache_dtype="int8")),
    "mla with mtp": (dict(num_nextn_predict_layers=1), dict(runner="native", speculate="mtp")),
    "mla, torch": ({}, dict(runner="torch")),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if "torch" in k else native) for k in KINDS])
def test_evicted_pages_come_back_and_answers_keep_their_bits(tmp_path, kind):
    changes, options = KINDS[kind]
    lm = tiny_lm(dtype=torch.float32, **changes)
    plain = told(Engine(lm, **options).generate(LONG, S)[0])
    with engine_over(tmp_path / "pages", lm, **options) as engine:
        assert told(engine.generate(LONG, S)[0]) == plain
        engine.generate(OTHER, S)  # no room for all of them
        engine._loop.cache.spill.flush()
        found = engine.explain(LONG)
        assert (found["cached_tokens"], found["spilled_tokens"]) == (0, 2 * PAGE)
        assert "tokens 0 to 63 lie in the spill folder" in found["reason"]
        again = engine.generate(LONG, S)[0]
        assert again.cached_tokens == 2 * PAGE
        if "torch" not in kind:  # where chunks may change the rounding
            assert told(again) == plain
        assert again.token_ids == plain[0]
        stats = engine.stats()
        assert stats["reloaded_pages"] == 2 and stats["reloaded_bytes"] == 2 * engine._backend.runner.page_bytes
        assert stats["spilled_pages"] >= 2 and stats["spill_problem"] is None


@native
def test_pages_survive_a_restart_but_only_for_the_same_weights_and_tenant(tmp_path):
    lm, quant = tiny_lm(dtype=torch.float32), dict(quant="int8")
    with engine_over(tmp_path, lm, **quant) as engine:
        plain = told(engine.generate(LONG, S, tenant="ann")[0])
        assert engine.stats()["spilled_pages"] == 0
    assert all(oct(file.stat().st_mode & 0o777) == "0o600" for file in tmp_path.iterdir())
    with engine_over(tmp_path, lm, **quant) as engine:
        assert engine.explain(LONG)["spilled_tokens"] == engine.explain(LONG, tenant="bob")["spilled_tokens"] == 0
        again = engine.generate(LONG, S, tenant="ann")[0]
        assert told(again) == plain and again.cached_tokens == 2 * PAGE
    with engine_over(tmp_path, tiny_lm(dtype=torch.float32, seed=1), **quant) as engine:
        assert engine.generate(LONG, S, tenant="ann")[0].cached_tokens == 0
    with engine_over(tmp_path, lm, **quant, cache_dtype="int8") as engine:
        assert engine.generate(LONG, S, tenant="ann")[0].cached_tokens == 0


@native
def test_an_adapter_with_other_numbers_finds_no_pages_of_its_name_in_the_files(tmp_path):
    lm, name = tiny_lm(dtype=torch.float32), "model.layers.0.self_attn.o_proj.weight"
    one, other = (Adapter({name: LowRank(torch.ones(2, 16), torch.full((32, 2), by), 1.0)}) for by in (0.1, 0.2))
    right = [told(Engine(lm, runner="native", adapters={"a": a}).generate(LONG, S, adapter="a")[0]) for a in (one, other)]
    with engine_over(tmp_path, lm, runner="native", adapters={"a": one}) as engine:
        assert told(engine.generate(LONG, S, adapter="a")[0]) == right[0]
        engine._loop.cache.tree.spill_all()
        engine.set_adapter("a", other)
        assert told(engine.generate(LONG, S, adapter="a")[0]) == right[1]
    with engine_over(tmp_path, lm, runner="native") as engine:  # which it was given after it was made
        engine.set_adapter("a", one)
        again = engine.generate(LONG, S, adapter="a")[0]
        assert told(again) == right[0] and again.cached_tokens == 2 * PAGE


@native
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda whole: whole[:-1], "cut off"),
        (lambda whole: b"", "cut off"),
        (lambda whole: b"x" * len(whole), "another name"),
        (lambda whole: whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], "checksum"),
        (None, "No such file"),
    ],
)
def test_a_damaged_file_is_a_miss_with_a_reason(tmp_path, damage, reason, caplog):
    lm = tiny_lm(dtype=torch.float32)
    with engine_over(tmp_path, lm, runner="native") as engine:
        plain = told(engine.generate(LONG, S)[0])
    with engine_over(tmp_path, lm, runner="native") as engine:
        for file in tmp_path.glob("*.page"):
            file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
        again = engine.generate(LONG, S)[0]
        assert told(again) == plain and again.cached_tokens == 0
        stats = engine.stats()
        assert stats["spill_damaged"] == 1 and reason in stats["spill_problem"] and reason in caplog.text


@native
def test_a_full_disk_and_foreign_files_harm_nobody(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"{'0' * 64}.page").write_text("of somebody else")
    (tmp_path / f"{'1' * 64}.page.part").write_text("half written")
    lm, limits = tiny_lm(dtype=torch.float32), resource.getrlimit(resource.RLIMIT_FSIZE)
    with engine_over(tmp_path, lm, runner="native") as engine:
        plain = told(engine.generate(LONG, S)[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # every write beyond fails
        try:
            engine.generate(OTHER, S)
            engine._loop.cache.spill.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        stats = engine.stats()
        assert (
            stats["spilled_pages"] == 0 < stats["spill_unwritten"] and "takes no page: File too large" in stats["spill_problem"]
        )
        assert told(engine.generate(LONG, S)[0]) == plain
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob("*.part"))


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 6))
@settings(max_examples=20)
def test_the_folder_keeps_its_bound_and_what_was_used_last(tmp_path_factory, keys, most):
    folder, size = tmp_path_factory.mktemp("pages"), 1000
    whole = size + 16 + 64
    spill, used = Spill(folder, most * whole), []
    spill.bind("engine", size)
    names = {n: spill.key(spill.root(("ann", None)), [n]) for n in range(13)}
    for n in keys:
        if spill.get(names[n]) is None:
            spill.put(names[n], bytes([n]) * size)
            spill.flush()
        used = [*(u for u in used if u != n), n][-most:]
        assert spill.bytes == sum(os.stat(f).st_size for f in folder.glob("*.page")) <= most * whole
        assert [n in used for n in names] == [names[n] in spill for n in names]
    spill.close()
    again = Spill(folder, most * whole)
    again.bind("engine", size)
    assert all(bytes(again.get(names[n]) or b"") == bytes([n]) * size for n in used)
    again.close()


def test_salts_that_mean_nothing_later_have_no_files(tmp_path):
    spill = Spill(tmp_path, 10**6, {"a": "1", "b": "2"})
    spill.bind("engine", 100)
    roots = [spill.root(salt) for salt in ((None, None), ("x", None), (("x", "y", None), None), (None, "a"), (None, "b"))]
    assert len(set(roots)) == 5 and None not in roots
    assert spill.root((object(), None)) is None and spill.root((SimpleNamespace(), "a")) is None
    spill.close()


def test_a_folder_in_use_or_open_to_others_is_refused(tmp_path):
    spill = Spill(tmp_path / "a", 10**6)
    with pytest.raises(MachineError, match="another engine keeps its pages"):
        Spill(tmp_path / "a", 10**6)
    spill.close()
    Spill(tmp_path / "a", 10**6).close()
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(0o777)
    with pytest.raises(MachineError, match="chmod 700"):
        Spill(tmp_path / "b", 10**6)
    (tmp_path / "c").write_text("")
    with pytest.raises(MachineError, match="cannot keep pages"):
        Spill(tmp_path / "c", 10**6)
    with pytest.raises(SeeklingError, match="cache_spill keeps pages of the prefix cache"):
        Engine(tiny_lm(), prefix_cache=False, cache_spill=tmp_path / "d")
