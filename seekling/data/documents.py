"""Documents of a source, and the draw that decides what becomes of each: a keyed hash of its content, so equals fare alike."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.data.fetch import Fetched, members
from seekling.data.files import read_file, read_text, text_files
from seekling.data.filters import Content, apply
from seekling.data.generate import VERSION, generate
from seekling.data.sources import Source
from seekling.data.stream import file_sha256
from seekling.errors import DataError

KEPT_BYTES = 2**28  # text of a source held in memory; larger ones are read again for every pass


@dataclass(frozen=True)
class Draw:
    """Numbers in [0, 1) that follow from a document's content and the seed: ``split``, ``sample``, ``repeat``, ``fim``."""

    key: int
    split: float
    sample: float
    repeat: float
    fim: float


def draw(content: Content, seed: int) -> Draw:
    """The draw of a document."""
    data = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, sort_keys=True)
    digest = hashlib.blake2b(data.encode("utf-8", "surrogatepass"), key=str(seed).encode()[:64], digest_size=32).digest()
    parts = [int.from_bytes(digest[i : i + 8], "big") for i in range(0, 32, 8)]
    split, sample, repeat, fim = (part / 2**64 for part in parts)
    return Draw(parts[0] << 64 | parts[1], split, sample, repeat, fim)


def text_bytes(content: Content) -> int:
    """Bytes of UTF-8 text of a document; marks of the chat encoding do not count."""
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(m["content"].encode()) + len(m.get("reasoning_content", "").encode()) for m in content)


@dataclass
class Shelf:
    """A source whose documents can be walked through as often as needed, each with its draw.

    ``held_out`` says which of them are kept from training; ``forced`` has the keys of those that are although their draw alone
    would not have it so; ``notes`` what a user should know.
    """

    source: Source
    read: Callable[[], Iterable[Content]]
    seed: int
    held_out: Callable[[Draw], bool] = lambda draw: False
    forced: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)
    documents: int = 0
    distinct: int = 0
    bytes: int = 0
    _kept: list[tuple[Content, Draw, int]] | None = None

    def survey(self, share: float) -> None:
        """Count, and settle what is held out: by hash, at least one document (or the end of the only one)."""
        kept: list[tuple[Content, Draw, int]] | None = []
        seen: set[int] = set()
        smallest, any_below = (2.0, 0), False
        for content in self.read():
            size, drawn = text_bytes(content), draw(content, self.seed)
            self.documents, self.bytes = self.documents + 1, self.bytes + size
            seen.add(drawn.key)
            smallest = min(smallest, (drawn.split, drawn.key))
            any_below |= drawn.split < share
            if kept is not None:
                kept.append((content, drawn, size))
            if self.bytes > KEPT_BYTES:
                kept = None
        self.distinct, self._kept = len(seen), kept
        self.forced = frozenset() if any_below or self.distinct < 2 else frozenset({smallest[1]})
        self.held_out = lambda d: d.split < share or d.key in self.forced
        if self.distinct == 1 and kept is not None:
            self._cut_the_only_one(kept, share)

    def _cut_the_only_one(self, kept: list[tuple[Content, Draw, int]], share: float) -> None:
        content = kept[0][0]
        parts = cut_tail(content, share) if isinstance(content, str) else None
        if parts is None:
            self.held_out = lambda d: False
            self.notes.append(f"{self.source.name}: a single short document; nothing of it is held out for evaluation")
            return
        head, end = ((part, draw(part, self.seed), text_bytes(part)) for part in parts)
        self.forced = frozenset({end[1].key})
        self._kept = [*[head] * len(kept), end]
        self.documents, self.distinct, self.bytes = len(kept) + 1, 2, head[2] * len(kept) + end[2]
        self.held_out = lambda d: d.key in self.forced

    def walk(self) -> Iterator[tuple[Content, Draw, int]]:
        """(document, draw, bytes of text), in order."""
        if self._kept is not None:
            yield from self._kept
            return
        for content in self.read():
            yield content, draw(content, self.seed), text_bytes(content)


def cut_tail(text: str, share: float) -> tuple[str, str] | None:
    """A text without its last ``share``, and that; cut where a paragraph, line, sentence or word ends. None when too short."""
    target = int(len(text) * (1 - share))
    for end in ("\n\n", "\n", ". ", "。", " "):
        at = text.find(end, target)
        at = at if at >= 0 else text.rfind(end, len(text) // 2, target)
        if at >= 0 and len(text[at + len(end) :].strip()) >= 20:
            return text[: at + len(end)], text[at + len(end) :]
    return None


def documents_of(source: Source, fetched: Fetched, cache: Path, seed: int, count: int = 0) -> tuple[Callable, list[str]]:
    """A function that reads the source's documents anew each time, and notes.

    Args:
        count: documents to generate, for generated sources.

    Raises:
        DataError: a folder is missing or has no text (what is inside is read later).
    """
    if source.kind == "generated":
        return lambda: (generate(source.where, seed, index) for index in range(count)), []
    if source.kind == "package":
        return lambda: _package_documents(source, fetched.folders[source.archive]), []
    if source.kind == "hub":
        from seekling.data.hub import hub_file

        return lambda: _filtered(source, [hub_file(source, cache)]), []
    paths, notes = text_files(source.where)
    return lambda: _filtered(source, paths), notes


def _package_documents(source: Source, folder: Path) -> Iterator[Content]:
    def read(patterns: tuple[str, ...]) -> Iterator[Content]:
        for name, path in members(folder, patterns):
            yield from apply(source.filters, read_text(path), f"source {source.name}, {name}")

    left_out = {content for content in read(source.exclude) if isinstance(content, str)}
    return (content for content in read(source.files) if isinstance(content, list) or content not in left_out)


def _filtered(source: Source, paths: list[Path]) -> Iterator[Content]:
    for content in itertools.chain.from_iterable(map(read_file, paths)):
        if source.filters and isinstance(content, str):
            yield from apply(source.filters, content, f"source {source.name}")
        else:
            yield content


def fingerprint(source: Source) -> dict[str, Any]:
    """What determines a source's documents: its declaration, and for files their content."""
    facts: dict[str, Any] = {key: value for key, value in vars(source).items() if key != "about"}
    facts["filters"] = [dict(options) for options in source.filters]
    if source.kind == "generated":
        facts["version"] = VERSION
    if source.kind == "file":
        paths, _ = text_files(source.where)
        try:
            facts["where"] = [(path.name, file_sha256(path)) for path in paths]
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}): check the file's permissions") from None
    return facts
