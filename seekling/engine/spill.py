"""Pages that the prefix cache gave up, kept in files and read back instead of computing a prompt again.

A file holds one full page. Its name is a chain of hashes over everything the page's numbers follow from: weights, code,
instructions and page layout, who asks (tenant, adapter), and all tokens up to its end. So a name that fits is the page that was
computed; what is damaged is told by a checksum. Nothing here ever fails an answer: whatever goes wrong is a miss with a reason.

>>> spill = Spill("/var/cache/seekling", 4 << 30)
>>> spill.bind(engine_fingerprint, page_bytes)
>>> key = spill.key(spill.root((tenant, None)), block_of_32_tokens)
>>> spill.put(key, page)
>>> spill.get(key)                       # also in a later process
"""

import contextlib
import hashlib
import logging
import os
import re
import stat
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seekling.errors import MachineError

MAGIC = b"seekling page 1\n"
SUM = 32  # bytes of SHA-256, before the content and, over name and content, after it
WAITING_BYTES = 256 << 20  # most that waits to be written; what comes beyond is not kept
REST = 60.0  # seconds without writing after the disk refused
_NAME = re.compile(r"[0-9a-f]{64}\.page")
_log = logging.getLogger("seekling")


@dataclass
class SpillStats:
    """Counts since the engine began. ``problem`` is the last thing that made a miss of what should have been a hit."""

    spilled_pages: int = 0
    spilled_bytes: int = 0
    reloaded_pages: int = 0
    reloaded_bytes: int = 0
    removed_files: int = 0
    damaged: int = 0
    unwritten: int = 0
    problem: str | None = None


class Spill:
    """Files of one folder, at most so many bytes; the least recently used go first.

    Args:
        folder: made where it is missing; used by one engine at a time.
        most_bytes: of all its files together.
        adapters: hash of each adapter by name (an adapter's pages are its own); looked up anew each time.

    Raises:
        MachineError: the folder cannot be used, others may write to it, or another engine uses it.
    """

    def __init__(self, folder: str | os.PathLike, most_bytes: int, adapters: Mapping[str, str] | None = None):
        self.folder, self.most_bytes, self.stats = Path(folder), most_bytes, SpillStats()
        self.bytes = 0
        self._adapters: Mapping[str, str] = {} if adapters is None else adapters
        self._held: OrderedDict[bytes, int] = OrderedDict()  # bytes of each file, by key; least recently used first
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()
        self._waiting_bytes = 0
        self._base = b""
        self._rest_until = 0.0
        self._told: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._lock = self._open()
        self._writer = threading.Thread(target=self._write_all, name="seekling-spill", daemon=True)
        self._writer.start()

    # ---- names -----------------------------------------------------------------------------------------------------

    def bind(self, fingerprint: str, page_bytes: int) -> None:
        """Name pages of this engine from now on."""
        self._base, self.page_bytes = f"{fingerprint} {page_bytes}".encode(), page_bytes

    def root(self, salt: Hashable) -> bytes | None:
        """Where the keys of a tenant's and adapter's sequences begin; None where the salt means nothing to a later process."""
        if not isinstance(salt, tuple) or len(salt) != 2 or not self._base or not _lasting(salt):
            return None
        adapter = "" if salt[1] is None else self._adapters.get(salt[1])
        return None if adapter is None else _digest(self._base, repr(salt).encode(), adapter.encode())

    @staticmethod
    def key(before: bytes, block: Sequence[int]) -> bytes:
        """Of the page that holds these tokens behind everything ``before`` names."""
        return _digest(before, struct.pack(f"<{len(block)}q", *block))

    # ---- pages -----------------------------------------------------------------------------------------------------

    def __contains__(self, key: bytes) -> bool:
        return key in self._held or key in self._waiting

    def __len__(self) -> int:
        return len(self._held) + len(self._waiting)

    def put(self, key: bytes, content: bytes, patient: bool = False) -> None:
        """Keep a page, which a thread writes. Returns at once, or where ``patient`` when there is room to wait for the disk."""
        with self._changed:
            if patient:
                self._changed.wait_for(lambda: self._waiting_bytes + len(content) <= WAITING_BYTES or not self._waiting)
            if key in self:
                if key in self._held:
                    self._held.move_to_end(key)
                return
            if self._closed or time.monotonic() < self._rest_until:
                self.stats.unwritten += 1
                return
            if self._waiting_bytes + len(content) > WAITING_BYTES:
                self.stats.unwritten += 1
                self._problem("pages come faster than the disk takes them: some are not kept")
                return
            self._waiting[key] = content
            self._waiting_bytes += len(content)
            self._changed.notify_all()

    def get(self, key: bytes) -> bytes | None:
        """A page that was kept; None where it is gone or damaged, `stats.problem` then says why."""
        with self._changed:
            content = self._waiting.get(key)
            if content is None and key not in self._held:
                return None
        if content is None:
            content = self._read(key)
        if content is not None:
            self.stats.reloaded_pages += 1
            self.stats.reloaded_bytes += len(content)
        return content

    def flush(self) -> None:
        """Wait until everything is written or given up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """Write what waits, and let another engine have the folder."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._writer.join()
        os.close(self._lock)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """Take the folder, forget what was left half written, see what is there. Returns the lock's descriptor."""
        import fcntl

        where, lock = self.folder, -1
        try:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            if where.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise MachineError(f"others may write to {where}, whose pages would be believed: chmod 700 {where}")
            lock = os.open(where / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MachineError(f"another engine keeps its pages in {where}: give each one a folder of its own") from None
            found = []
            for entry in os.scandir(where):
                if entry.name.endswith(".page.part"):
                    os.unlink(entry.path)
                elif _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_mtime_ns, entry.name, about.st_size))
        except MachineError:
            if lock >= 0:
                os.close(lock)
            raise
        except OSError as error:
            raise MachineError(f"cannot keep pages in {where}: {error.strerror}") from None
        for _, name, size in sorted(found):
            self._held[bytes.fromhex(name[:64])] = size
            self.bytes += size
        self._make_room(0)
        return lock

    def _path(self, key: bytes) -> Path:
        return self.folder / f"{key.hex()}.page"

    def _write_all(self) -> None:
        """The writing thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                key, content = next(iter(self._waiting.items()))
            size = self._write(key, content)
            with self._changed:
                del self._waiting[key]
                self._waiting_bytes -= len(content)
                if size:
                    self._held[key] = size
                    self.bytes += size
                    self.stats.spilled_pages += 1
                    self.stats.spilled_bytes += len(content)
                else:
                    self.stats.unwritten += 1
                self._changed.notify_all()

    def _write(self, key: bytes, content: bytes) -> int:
        """Bytes of the new file, 0 where there is none."""
        size = len(MAGIC) + SUM + len(content) + SUM
        if size > self.most_bytes:
            self._problem(f"a page of {size} bytes is more than the {self.most_bytes} bytes this folder may take")
            return 0
        if time.monotonic() < self._rest_until:
            return 0
        with self._changed:
            self._make_room(size)
        path = self._path(key)
        part = path.with_suffix(".page.part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
                for piece in (MAGIC, key, content, _digest(key, content)):
                    file.write(piece)
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            self._rest_until = time.monotonic() + REST
            self._problem(f"{self.folder} takes no page: {error.strerror}; trying again in {REST:.0f} s")
            return 0
        return size

    def _read(self, key: bytes) -> bytes | None:
        path, bad = self._path(key), None
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
                whole = file.read()
                os.utime(file.fileno())
        except OSError as error:
            bad, whole = error.strerror or "unreadable", b""
        content = whole[len(MAGIC) + SUM : -SUM]
        if bad is None and len(content) != self.page_bytes:
            bad = f"{len(whole)} bytes in place of {len(MAGIC) + 2 * SUM + self.page_bytes}: cut off, or of another kind"
        elif bad is None and (whole[: len(MAGIC)], whole[len(MAGIC) : len(MAGIC) + SUM]) != (MAGIC, key):
            bad = "written under another name"
        elif bad is None and _digest(key, content) != whole[-SUM:]:
            bad = "its checksum does not fit"
        if bad is None:
            with self._changed:
                if key in self._held:
                    self._held.move_to_end(key)
            return content
        self.stats.damaged += 1
        self._problem(f"{path}: {bad}; computed again")
        with self._changed:
            self._remove(key)
        return None

    def _make_room(self, size: int) -> None:
        while self._held and self.bytes + size > self.most_bytes:
            self._remove(next(iter(self._held)))
            self.stats.removed_files += 1

    def _remove(self, key: bytes) -> None:
        self.bytes -= self._held.pop(key, 0)
        with contextlib.suppress(OSError):
            os.unlink(self._path(key))

    def _problem(self, text: str) -> None:
        self.stats.problem = text
        kind = text.rpartition(": ")[2]
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("cache spill: %s", text)


def _digest(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _lasting(value: Hashable) -> bool:
    """Whether its text is the same in every process."""
    if isinstance(value, tuple):
        return all(map(_lasting, value))
    return value is None or type(value) in (str, int, bool, bytes)
