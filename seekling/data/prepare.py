"""From a corpus's name, or folders of text, to a tokenizer, training tokens and held-out tokens, once; then from the cache.

    python -m seekling.data default 1024  # prints the manifest of the default corpus with a vocabulary of 1024

Everything that determines the result is hashed into the name of the cache folder, so a folder is either right or not there.
"""

import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.cache_root import cache_root
from seekling.data.build import Builder, Plan
from seekling.data.fetch import Fetched, fetch
from seekling.data.sources import Corpus, corpora, corpus_named, own_sources, unique_names
from seekling.data.stream import TokenStream, open_stream, read_index, write_index
from seekling.errors import DataError
from seekling.text.tokenizer import Tokenizer


@dataclass
class Prepared:
    """What training and evaluation read.

    ``heldout`` a stream per source; ``notes`` what the user should be told; ``from_cache`` that nothing had to be done.
    """

    tokenizer: Tokenizer
    train: TokenStream
    heldout: dict[str, TokenStream]
    manifest: dict[str, Any]
    folder: Path
    from_cache: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def save(self, run: str | Path) -> None:
        """Write ``data_manifest.json`` and ``tokenizer/`` into a run folder."""
        run = Path(run)
        self.tokenizer.save(run / "tokenizer")
        partial = run / "data_manifest.json.partial"
        partial.write_text(json.dumps(self.manifest, ensure_ascii=False, indent=2) + "\n", "utf-8")
        os.replace(partial, run / "data_manifest.json")


def prepare(
    corpus: str | None = None,
    data: Sequence[str | Path] = (),
    *,
    vocab_size: int = 1024,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    heldout: float = 0.02,
    fim_rate: float = 0.0,
    generated_share: float | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    like: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Make text ready to train on.

    Args:
        corpus: a built-in corpus by name, "none", or None: "default", or "none" when ``data`` is given.
        data: folders and files of text, or .toml files that declare sources.
        vocab_size: of the tokenizer to be trained; ignored when ``tokenizer`` is given.
        seed: of the split and of generated text.
        heldout: share of each source's documents that is kept from training.
        fim_rate: share of the training documents (not conversations) that is re-ordered for fill-in-the-middle.
        generated_share: of the training tokens; None: what the corpus says, 0 for own data.
        offline: ask no package index.
        like: manifest of an earlier preparation; sources that were missing then are left out again, so a resumed run reads
            the same text although an index may be in reach now.
        progress: is told what is being done, a line at a time.

    Raises:
        DataError: unknown corpus, no text, unreadable text, a vocabulary larger than the text allows.
    """
    clock = time.perf_counter()
    cache = cache_root(cache_dir)
    plan = _plan(corpus, data, vocab_size, tokenizer, seed, heldout, fim_rate, generated_share)
    notes: list[str] = []
    if like is not None and like.get("missing"):
        plan, notes = _without(plan, set(like["missing"])), list(like["notes"])
    prepared = _from_cache(cache, plan)
    if prepared is None:
        fetched = fetch(plan.sources, cache, offline=offline, progress=progress)
        if fetched.missing:
            gone = {source.name for source in plan.sources if source.archive in fetched.missing}
            plan = _without(plan, gone)
            notes += _about_missing(plan, "; ".join(dict.fromkeys(fetched.missing.values())))
            prepared = _from_cache(cache, plan)
        if prepared is None:
            prepared = _build(cache, plan, fetched, notes, progress)
    prepared.seconds = time.perf_counter() - clock
    return prepared


def _plan(corpus, data, vocab_size, tokenizer, seed, heldout, fim_rate, generated_share) -> Plan:
    own = own_sources(data)
    name = corpus or ("none" if own else "default")
    chosen: Corpus | None = None if name == "none" else corpus_named(name)
    share = generated_share if generated_share is not None else chosen.generated_share if chosen else 0.0
    if not 0 <= share <= 1 or not 0 < heldout <= 0.5 or not 0 <= fim_rate <= 1:
        raise DataError("generated_share and fim_rate lie between 0 and 1, heldout between 0 and 0.5")
    given = unique_names([*(chosen.sources if chosen else ()), *own])
    sources = tuple(source for source in given if source.kind != "generated")
    declared = tuple(source for source in given if source.kind == "generated")
    generated = declared or (chosen.generated if chosen else corpora()["generated"].generated)
    if declared and generated_share is None:
        share = max(share, 0.25 if sources else 1.0)
    if not sources and not share:
        raise DataError("there is nothing to read: name a --corpus, or a folder with --data")
    share = share if sources else 1.0
    if sources and share == 1:
        sources = ()
    return Plan(sources, generated if share else (), share, vocab_size, tokenizer, seed, heldout, fim_rate)


def _without(plan: Plan, gone: set[str]) -> Plan:
    """The plan for what is left; where that is nothing, generated text alone."""
    left = tuple(source for source in plan.sources if source.name not in gone)
    missing = tuple(sorted(gone.union(plan.missing)))
    if left:
        return dataclasses.replace(plan, sources=left, missing=missing)
    generated = plan.generated or corpora()["generated"].generated
    return dataclasses.replace(plan, sources=(), generated=generated, generated_share=1.0, missing=missing)


def _about_missing(plan: Plan, reasons: str) -> list[str]:
    notes = [f"could not be fetched and are left out: {', '.join(plan.missing)} ({reasons})"]
    if not plan.sources:
        notes.append("no source of real text is in reach: training on generated simple stories, numbers and talk alone")
    return notes


# ---- the cache -------------------------------------------------------------------------------------------------------


def _from_cache(cache: Path, plan: Plan) -> Prepared | None:
    folder = cache / "prepared" / plan.key()[:32]
    if not folder.is_dir():
        return None
    try:
        return _opened(folder)
    except DataError:  # damaged: made again from the sources
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _opened(folder: Path) -> Prepared:
    index = read_index(folder)
    manifest, names = index["manifest"], tuple(index["names"])
    tokenizer = Tokenizer.load(folder / "tokenizer")
    train = open_stream(folder, "train", names, tokenizer.vocab_size)
    kept = open_stream(folder, "heldout", names, tokenizer.vocab_size)
    heldout = {name: kept.of_source(name) for name in names if manifest["sources"][name]["heldout"]["documents"]}
    return Prepared(tokenizer, train, heldout, manifest, folder, from_cache=True, notes=list(manifest["notes"]))


def _build(cache: Path, plan: Plan, fetched: Fetched, notes: list[str], progress: Callable[[str], None]) -> Prepared:
    folder = cache / "prepared" / plan.key()[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        try:
            names, manifest = Builder(plan, fetched, cache, fresh, notes, progress).build()
            write_index(fresh, {"names": names, "manifest": manifest})
            try:
                os.rename(fresh, folder)
            except OSError:
                if not (folder / "index.json").is_file():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}): free some space, or set SEEKLING_CACHE to another folder") from None
    prepared = _opened(folder)
    prepared.from_cache = False
    return prepared
