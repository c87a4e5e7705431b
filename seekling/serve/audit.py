"""The audit log: one JSON line an event, each bound to the one before it by its hash, on disk before the caller is answered.

A file a day (``audit-YYYY-MM-DD.jsonl``, mode 0600) in a folder of its own. Every line holds ``prev``, the SHA-256 of the line
before it, over file borders too, so a line that was changed, removed or put in breaks the chain: `verify` finds where. (Lines
cut from the end leave no trace inside; keep the last hash, which ``seekling audit verify`` prints, somewhere else.) Lines are
written by one thread that gathers what waits into one fsync. What a kill -9 left of a line was never acknowledged: it is cut
off at the next start, and that start says so in the log. It holds hashes of prompts and answers, their texts only on request.
"""

import fcntl
import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from seekling.errors import DataError, MachineError, RecipeError

NAME = re.compile(r"audit-(\d{4}-\d{2}-\d{2})\.jsonl")
FIRST = "0" * 64
BATCH = 256


def default_folder() -> Path:
    """``audit`` in the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "seekling" / "audit"


def files(folder: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []


def digest(line: bytes) -> str:
    """The hash of a line without its end, as the next line's ``prev`` has it."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


class AuditLog:
    """An open log. One process a folder.

    Args:
        days: files older than this are removed when a day begins.
        texts: whether prompts and answers are kept beside their hashes.

    Raises:
        MachineError: another process writes there, or nothing can be written; RecipeError: days below 1.
    """

    def __init__(self, folder: Path, days: int = 180, texts: bool = False):
        if days < 1:
            raise RecipeError(f"--audit-days is {days}: give at least 1")
        self.folder, self.days, self.texts = folder, days, texts
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(f"another server writes the audit log in {folder}: give --audit another folder") from None
        except OSError as error:
            raise MachineError(
                f"the audit log cannot be written in {folder} ({error.strerror}): give --audit another folder"
            ) from None
        self._day, self._file = "", -1
        self._number, self._prev, cut = _end(folder)
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="seekling-audit", daemon=True)
        self._thread.start()
        self.append("started", **({"bytes_cut": cut} if cut else {})).result()

    def append(self, event: str, **facts: Any) -> "Future[None]":
        """Write a line. The future is done once it is on disk, and fails with OSError where it cannot be."""
        done: Future[None] = Future()
        now = datetime.now(UTC)
        self._waiting.put(({"at": now.isoformat(timespec="milliseconds"), "event": event, **facts}, done))
        return done

    def close(self) -> None:
        """Write what waits, and let the folder go."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
            os.close(self._lock)

    def _work(self) -> None:
        open_ = True
        while open_:
            batch = [self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            items = [item for item in batch if item is not None]
            open_ = len(items) == len(batch)
            # Whoever waits may give up (a client that hangs up); the line is written all the same.
            waiting = [done for _, done in items if done.set_running_or_notify_cancel()]
            try:
                self._write([entry for entry, _ in items])
            except Exception as error:  # told to those who wait; the thread lives on
                for done in waiting:
                    done.set_exception(error)
            else:
                for done in waiting:
                    done.set_result(None)
        if self._file >= 0:
            os.close(self._file)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            day = entry["at"][:10]
            if day != self._day:
                self._open(day)
        number, prev, lines = self._number, self._prev, []
        for entry in entries:
            number += 1
            line = json.dumps({"n": number, "prev": prev, **entry}, ensure_ascii=False, separators=(",", ":"))
            lines.append(line.encode("utf-8", "replace"))
            prev = digest(lines[-1])
        if not lines:
            return
        before = os.fstat(self._file).st_size
        try:
            data = memoryview(b"\n".join(lines) + b"\n")
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError:  # nothing half-written stays: the disk may be full
            os.ftruncate(self._file, before)
            raise
        self._number, self._prev = number, prev

    def _open(self, day: str) -> None:
        """The day's file; older ones than may stay are removed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        path = self.folder / f"audit-{day}.jsonl"
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        self._day = day
        oldest = (date.fromisoformat(day) - timedelta(days=self.days)).isoformat()
        for old in files(self.folder):
            if old.name < f"audit-{oldest}.jsonl":
                old.unlink()


def _end(folder: Path) -> tuple[int, str, int]:
    """Number and hash of the last whole line, and how many bytes of a broken one were cut off.

    Raises:
        DataError: the last line is whole and yet no line of this log.
    """
    for path in reversed(files(folder)):
        raw = path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            with open(path, "r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        if not whole:
            if raw:
                return (*_end_before(folder, path), len(raw))
            continue
        last = raw[:whole].rstrip(b"\n").rpartition(b"\n")[2]
        try:
            return int(json.loads(last)["n"]), digest(last), len(raw) - whole
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} ends with a line that is no entry ({error}): move the file away") from None
    return 0, FIRST, 0


def _end_before(folder: Path, path: Path) -> tuple[int, str]:
    path.unlink()  # nothing but half a line
    number, prev, _ = _end(folder)
    return number, prev


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What `verify` found."""

    entries: int = 0
    first: str = ""
    last: str = ""
    last_hash: str = FIRST
    problems: list[str] = field(default_factory=list)


def entries(folder: Path) -> Iterator[tuple[Path, int, bytes]]:
    """Every line: its file, its number there, its bytes."""
    for path in files(folder):
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            yield path, number, line


def verify(folder: Path) -> Report:
    """Follow the chain from the oldest line that is kept. Raises DataError where there is no log."""
    if not files(folder):
        raise DataError(f"there is no audit log in {folder}: give the folder that --audit named")
    report, expected = Report(), None
    for path in files(folder):
        if path.stat().st_mode & 0o077:
            report.problems.append(f"{path.name}: others may read it (mode {path.stat().st_mode & 0o777:o})")
    for path, number, line in entries(folder):
        where = f"{path.name}:{number}"
        if not line.endswith(b"\n"):
            report.problems.append(f"{where}: the line is not whole")
        try:
            entry = json.loads(line)
            prev, n, at = entry["prev"], entry["n"], entry["at"]
        except (ValueError, KeyError, TypeError):
            report.problems.append(f"{where}: no entry")
            expected = None
            continue
        if expected is not None and (prev, n) != expected:
            report.problems.append(f"{where}: does not follow the line before it")
        expected = digest(line), n + 1
        report.entries += 1
        report.first, report.last, report.last_hash = report.first or at, at, expected[0]
    return report


def find(folder: Path, sha256: str) -> list[dict[str, Any]]:
    """The entries whose answer has this hash."""
    found = []
    for _, _, line in entries(folder):
        if sha256.encode() in line:
            entry = json.loads(line)
            if sha256 in entry.get("output_sha256", ()):
                found.append(entry)
    return found
