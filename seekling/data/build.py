"""One preparation, from sources to a complete folder: survey, held-out split, tokenizer, tokens, manifest."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tokenizers

from seekling.data.documents import Draw, Shelf, documents_of, fingerprint
from seekling.data.encode import encode_documents, pieces_of
from seekling.data.filters import Content
from seekling.data.sources import Source
from seekling.data.stream import StreamWriter
from seekling.errors import DataError
from seekling.text.bpe import train_tokenizer
from seekling.text.tokenizer import Tokenizer

FORMAT = 1  # of the cache folder and of how documents become tokens; goes up when either changes
GENERATED_ALONE_BYTES = 16_000_000  # of generated text, where there is no other to measure its share by
TOKENIZER_SAMPLE_BYTES = 8_000_000  # the tokenizer is learned from so much of the training text: more hardly changes it
PROBE = 200  # generated documents from which the mean length is estimated


@dataclass(frozen=True)
class Plan:
    """All that determines the result."""

    sources: tuple[Source, ...]
    generated: tuple[Source, ...]
    generated_share: float
    vocab_size: int
    tokenizer: Tokenizer | None
    seed: int
    heldout: float
    fim_rate: float
    missing: tuple[str, ...] = ()

    def key(self) -> str:
        facts = {
            "format": FORMAT,
            "tokenizers": tokenizers.__version__,
            "sources": [fingerprint(source) for source in (*self.sources, *self.generated)],
            "tokenizer": None if self.tokenizer is None else tokenizer_sha256(self.tokenizer),
            **{name: getattr(self, name) for name in ("generated_share", "seed", "heldout", "fim_rate", "missing")},
            "vocab_size": self.vocab_size if self.tokenizer is None else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Builder:
    """One preparation: survey the sources, learn the tokenizer, write the tokens, describe all of it."""

    def __init__(self, plan, fetched, cache, folder, notes, progress) -> None:
        self.plan: Plan = plan
        self.fetched, self.cache, self.folder = fetched, cache, folder
        self.notes: list[str] = notes
        self.progress = progress
        self.forced: set[int] = set()

    def build(self) -> tuple[list[str], dict[str, Any]]:
        plan = self.plan
        self.progress("reading text")
        shelves = [self._shelf(source) for source in plan.sources]
        if plan.sources and not any(shelf.bytes for shelf in shelves):
            raise DataError(f"{', '.join(s.where for s in plan.sources)}: there is no text in it; add documents")
        probe = {source.name: self._shelf(source, PROBE) for source in plan.generated}
        sampled = 0
        if plan.tokenizer is None:
            self.progress(f"training a tokenizer of {plan.vocab_size} tokens")
            sample = self._sample(shelves, probe)
            sampled = sum(len(text.encode("utf-8", "surrogatepass")) for text in sample)
            tokenizer = train_tokenizer(sample, plan.vocab_size)
        else:
            tokenizer = plan.tokenizer
        tokenizer.save(self.folder / "tokenizer")
        self.progress("turning text into tokens")
        streams = {name: StreamWriter(self.folder, name, tokenizer.vocab_size) for name in ("train", "heldout")}
        rows = [self._write(shelf, number, tokenizer, streams) for number, shelf in enumerate(shelves)]
        counts = self._generated_counts(probe, tokenizer, streams["train"].tokens)
        shelves += [self._shelf(source, counts[source.name]) for source in plan.generated]
        rows += [self._write(shelf, len(rows) + n, tokenizer, streams) for n, shelf in enumerate(shelves[len(rows) :])]
        for stream in streams.values():
            stream.close()
        if streams["train"].tokens < 2:
            raise DataError("there is too little text to train on: add documents")
        self.notes += [note for shelf in shelves for note in shelf.notes]
        return [row["name"] for row in rows], self._manifest(rows, tokenizer, sampled)

    def _shelf(self, source: Source, count: int = 0) -> Shelf:
        read, notes = documents_of(source, self.fetched, self.cache, self.plan.seed, count)
        shelf = Shelf(source, read, self.plan.seed, notes=list(notes))
        shelf.survey(self.plan.heldout)
        self.forced |= shelf.forced
        return shelf

    def _is_held_out(self, shelf: Shelf, drawn: Draw) -> bool:
        """Held out of its own source, or equal to a document that had to be held out of another."""
        return shelf.held_out(drawn) or drawn.key in self.forced

    def _sample(self, shelves: list[Shelf], probe: dict[str, Shelf]) -> list[str]:
        """Training text for the tokenizer: at most so many bytes, chosen by draw, generated text in its share."""
        share = self.plan.generated_share
        real = sum(shelf.bytes * shelf.source.weight for shelf in shelves)
        total = real / (1 - share) if real else GENERATED_ALONE_BYTES
        rate = min(1.0, TOKENIZER_SAMPLE_BYTES / total)
        texts: list[str] = []
        for shelf in shelves:
            chance = rate * shelf.source.weight
            for content, drawn, _ in shelf.walk():
                if not self._is_held_out(shelf, drawn) and drawn.sample < chance:
                    texts += texts_of(content)
        weights = sum(source.weight for source in self.plan.generated)
        for source in self.plan.generated:
            mean = probe[source.name].bytes / PROBE
            count = int(total * rate * share * source.weight / weights / mean) + 1
            texts += [
                text
                for content, drawn, _ in self._shelf(source, count).walk()
                if drawn.split >= self.plan.heldout
                for text in texts_of(content)
            ]
        return texts

    def _generated_counts(self, probe: dict[str, Shelf], tokenizer: Tokenizer, real_tokens: int) -> dict[str, int]:
        """How many documents each generator writes, so that all of them make up their share of the tokens."""
        share, counts = self.plan.generated_share, {}
        weights = sum(source.weight for source in self.plan.generated)
        for source in self.plan.generated:
            shelf = probe[source.name]
            tokens = sum(map(len, encode_documents(tokenizer, (pieces_of(content) for content, _, _ in shelf.walk()))))
            if real_tokens:
                wanted = real_tokens * share / (1 - share) / (tokens / PROBE * (1 - self.plan.heldout))
            else:
                wanted = GENERATED_ALONE_BYTES / (shelf.bytes / PROBE)
            counts[source.name] = max(2, round(wanted * source.weight / weights))
        return counts

    def _write(self, shelf: Shelf, number: int, tokenizer: Tokenizer, streams: dict[str, StreamWriter]) -> dict[str, Any]:
        """Tokenise a source into the training or the held-out stream; its row of the manifest."""
        source, plan = shelf.source, self.plan
        placed: list[tuple[str, int, int]] = []  # stream, bytes, copies; filled as `documents` is read
        row: dict[str, Any] = {"name": source.name, "repeated": 0, "fim": 0}
        for name in streams:
            row[name] = {"documents": 0, "bytes": 0, "tokens": 0}

        def documents() -> Iterable[list[str]]:
            for content, drawn, size in shelf.walk():
                apart = self._is_held_out(shelf, drawn)
                copies = 1 if apart else int(source.weight) + (drawn.repeat < source.weight % 1)
                if source.kind == "generated":
                    copies = 1  # its weight is in how many there are
                if not copies:
                    continue
                fim = not apart and isinstance(content, str) and drawn.fim < plan.fim_rate
                row["fim"] += fim
                placed.append(("heldout" if apart else "train", size, copies))
                yield pieces_of(content, drawn if fim else None)

        for at, ids in enumerate(encode_documents(tokenizer, documents())):
            name, size, copies = placed[at]
            placed[at] = ("", 0, 0)
            for _ in range(copies):
                streams[name].add(ids, size, number)
            row[name]["documents"] += 1
            row[name]["bytes"] += size
            row[name]["tokens"] += len(ids) * copies
            row["repeated"] += copies - 1
        row["duplicates"] = shelf.documents - shelf.distinct
        row["source"] = source
        return row

    def _manifest(self, rows: list[dict[str, Any]], tokenizer: Tokenizer, sampled: int) -> dict[str, Any]:
        plan = self.plan
        total = sum(row["train"]["tokens"] for row in rows)
        return {
            "format": FORMAT,
            "key": plan.key(),
            "seed": plan.seed,
            "heldout_share": plan.heldout,
            "fim_rate": plan.fim_rate,
            "generated_share": plan.generated_share,
            "train": {what: sum(row["train"][what] for row in rows) for what in ("documents", "bytes", "tokens")},
            "heldout": {what: sum(row["heldout"][what] for row in rows) for what in ("documents", "bytes", "tokens")},
            "tokenizer": {
                "sha256": tokenizer_sha256(tokenizer),
                "vocab_size": tokenizer.vocab_size,
                "learned_from_bytes": sampled,
                "about": "learned from a sample of the training documents" if sampled else "given",
            },
            "sources": {row["name"]: source_row(row, total) for row in rows},
            "missing": list(plan.missing),
            "notes": list(dict.fromkeys(self.notes)),
        }


def source_row(row: dict[str, Any], total_tokens: int) -> dict[str, Any]:
    """A source in the manifest: where it is from, under what terms, and how much of it there is."""
    source: Source = row["source"]
    facts = {
        "kind": source.kind,
        "where": source.where,
        "about": source.about,
        "licence": source.licence,
        "attribution": source.attribution,
        "language": source.language,
        "weight": source.weight,
    }
    if source.kind == "package":
        facts |= {"registry": source.registry, "version": source.version, "sha256": source.sha256, "files": list(source.files)}
    elif source.kind == "hub":
        facts |= {"version": source.version, "split": source.split, "field": source.field}
    else:
        version = fingerprint(source)
        facts |= {"version": version["version"]} if source.kind == "generated" else {"files": version["where"]}
    facts |= row["train"] | {"share": round(row["train"]["tokens"] / total_tokens, 6), "heldout": row["heldout"]}
    return facts | {key: row[key] for key in ("duplicates", "repeated", "fim") if row[key]}


def texts_of(content: Content) -> list[str]:
    """The texts of a document, without marks."""
    return [content] if isinstance(content, str) else [message["content"] for message in content]


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Of its tokenizer.json's content."""
    return hashlib.sha256(json.dumps(tokenizer.spec, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
