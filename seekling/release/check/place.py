"""A folder that nobody has vouched for: listed without following links, read only in bounded pieces, never run.

Every read opens the file without following a link, makes sure it is a regular file, and stops at a limit. What cannot be read
is a `Trouble` with one line that a finding can carry.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, SeeklingError

MOST_FILES = 50_000
DEEPEST = 24
LONGEST = 400  # characters of a path that is compared with patterns
TEXT_LIMIT = 4 << 20
JSON_LIMIT = 32 << 20
SKIPPED = (".git", ".cache", "__pycache__")


class Trouble(SeeklingError):
    """A file that cannot be read as what it should be; the message says which and why."""


@dataclass(frozen=True)
class Entry:
    """A file: path with slashes, size, kind ("file", "link" or "special"); ``sha256`` where a hub states it."""

    path: str
    size: int
    kind: str = "file"
    target: str | None = None
    executable: bool = False
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass
class Place:
    """What is checked.

    Attributes:
        root: of the files that are here.
        title: what people call it: the path, or owner/name.
        entries: every file by its path, here or only listed.
        absent: paths that a hub lists and that were not fetched.
        notes: what the listing left out.
    """

    root: Path
    title: str
    entries: dict[str, Entry]
    absent: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    remote: Mapping[str, Any] = field(default_factory=dict)
    _gguf: dict[str, dict[str, Any]] = field(default_factory=dict)

    # ---- finding -------------------------------------------------------------------------------------------------

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self.entries

    def here(self, path: str) -> bool:
        """Whether its content can be read."""
        entry = self.entries.get(path)
        return entry is not None and entry.kind == "file" and path not in self.absent

    def matching(self, pattern: str) -> list[str]:
        """Paths that fit a regular expression whole."""
        found = re.compile(pattern)
        return sorted(path for path in self.entries if len(path) <= LONGEST and found.fullmatch(path))

    def under(self, folder: str) -> list[str]:
        """Paths below a folder."""
        return sorted(path for path in self.entries if path.startswith(folder.rstrip("/") + "/"))

    # ---- reading -------------------------------------------------------------------------------------------------

    def open(self, path: str) -> Any:
        """The file, opened to read bytes. Raises Trouble."""
        if not self.here(path):
            why = (
                "was not fetched"
                if path in self.absent
                else "is a link or no regular file"
                if path in self.entries
                else "is missing"
            )
            raise Trouble(f"{path} {why}")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = None
        try:
            handle = os.open(self.root / path, flags)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Trouble(f"{path} is no regular file")
            return os.fdopen(handle, "rb")
        except OSError as error:
            raise Trouble(f"{path} cannot be read: {error.strerror or error}") from None
        except Trouble:
            if handle is not None:
                os.close(handle)
            raise

    def head(self, path: str, count: int) -> bytes:
        """The first bytes of a file. Raises Trouble."""
        with self.open(path) as file:
            return file.read(count)

    def bytes(self, path: str, limit: int = TEXT_LIMIT) -> bytes:
        """A whole small file. Raises Trouble when it is larger than ``limit``."""
        content = self.head(path, limit + 1)
        if len(content) > limit:
            raise Trouble(f"{path} is larger than {limit:,} bytes, too large for what it should be")
        return content

    def text(self, path: str, limit: int = TEXT_LIMIT) -> str:
        """A small text file. Raises Trouble."""
        return self.bytes(path, limit).decode("utf-8", "replace")

    def json(self, path: str, limit: int = JSON_LIMIT) -> Any:
        """A JSON file. Raises Trouble."""
        try:
            return json.loads(self.bytes(path, limit))
        except (ValueError, RecursionError) as error:
            raise Trouble(f"{path} is not valid JSON ({short(error)})") from None

    def mapping(self, path: str, limit: int = JSON_LIMIT) -> dict[str, Any]:
        """A JSON object. Raises Trouble."""
        found = self.json(path, limit)
        if not isinstance(found, dict):
            raise Trouble(f"{path} holds {type(found).__name__} where an object is needed")
        return found

    def gguf(self, path: str) -> dict[str, Any]:
        """The text and number values of a GGUF file's header; empty when it cannot be read."""
        from seekling.formats.gguf_file import open_gguf

        if path not in self._gguf:
            try:
                found = open_gguf(self.root / path).metadata if self.here(path) else {}
            except (SeeklingError, OSError):
                found = {}
            self._gguf[path] = {k: v for k, v in found.items() if isinstance(v, str | int | float | bool)}
        return self._gguf[path]


def open_folder(folder: Path) -> Place:
    """List a folder, following no link.

    Raises:
        CheckpointError: it does not exist, is no folder, or holds too many files.
    """
    if not folder.is_dir():
        what = "is a file; give the folder that holds it" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}")
    place = Place(folder, str(folder), {})
    for entry in _walk(folder, place.notes):
        place.entries[entry.path] = entry
        if len(place.entries) > MOST_FILES:
            raise CheckpointError(f"{folder} holds more than {MOST_FILES:,} files: refused")
    return place


def _walk(folder: Path, notes: list[str]) -> Iterator[Entry]:
    todo = [("", 0)]
    while todo:
        below, depth = todo.pop()
        try:
            found = sorted(os.scandir(folder / below), key=lambda e: e.name)
        except OSError as error:
            notes.append(f"{below or '.'} cannot be listed: {error.strerror or error}")
            continue
        for item in found:
            path = f"{below}/{item.name}" if below else item.name
            if item.is_dir(follow_symlinks=False):
                if item.name in SKIPPED:
                    notes.append(f"{path}/ was not looked into")
                elif depth >= DEEPEST:
                    notes.append(f"{path}/ lies more than {DEEPEST} folders deep and was not looked into")
                else:
                    todo.append((path, depth + 1))
                continue
            try:
                facts = item.stat(follow_symlinks=False)
                target = os.readlink(item.path) if item.is_symlink() else None
            except OSError as error:
                notes.append(f"{path} cannot be looked at: {error.strerror or error}")
                continue
            kind = "link" if target is not None else "file" if stat.S_ISREG(facts.st_mode) else "special"
            yield Entry(path, facts.st_size, kind, target, bool(facts.st_mode & 0o111) and kind == "file")


# ---- YAML ------------------------------------------------------------------------------------------------------------


def read_yaml(text: str, where: str, limit: int = 256 << 10) -> Any:
    """A YAML value: only plain data, no anchors (they can be made to expand without end). Raises Trouble."""
    import yaml

    if len(text) > limit:
        raise Trouble(f"{where} is longer than {limit:,} characters")

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise Trouble(f"{where} uses YAML aliases, which are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)
    except Trouble:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        raise Trouble(f"{where} is not valid YAML ({short(error)})") from None


def front_matter(text: str, where: str) -> tuple[dict[str, Any], str]:
    """The YAML block at the top of a card and the text after it; ({}, text) where there is none. Raises Trouble."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if match is None:
        return {}, text
    found = read_yaml(match[1], f"front matter of {where}")
    if found is None:
        return {}, text[match.end() :]
    if not isinstance(found, dict):
        raise Trouble(f"front matter of {where} is no mapping of keys to values")
    return found, text[match.end() :]


def short(error: object, limit: int = 160) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())[:limit]


def texts(value: Any, most: int = 200) -> list[str]:
    """The strings of a value that is one string or a list of them."""
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)][:most] if isinstance(value, list) else []
