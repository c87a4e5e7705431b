"""What each key has used, in a file that outlives the process: tokens and requests by day (UTC), and the state of the rates.

An SQLite database in WAL mode: what was committed is there after ``kill -9``, and several servers may share it. Tokens are
added up in memory and committed at the latest when an answer ends, before its last piece leaves; of an answer that is still
being written a crash loses what the last `EVERY` seconds brought.
"""

import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from seekling.errors import DataError

EVERY = 0.5  # seconds between commits while answers are being written
DAY = 86400
PATIENCE = 5.0  # seconds to wait for another server that writes
_CREATE = threading.Lock()  # to close any descriptor of a file lifts SQLite's locks on it in this process
TABLES = """
CREATE TABLE IF NOT EXISTS used (
    key TEXT, day INTEGER, prompt INTEGER, completion INTEGER, requests INTEGER, PRIMARY KEY (key, day)
);
CREATE TABLE IF NOT EXISTS rates (key TEXT PRIMARY KEY, level REAL, at REAL);
"""
ADD = """
INSERT INTO used VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, day) DO UPDATE SET
prompt = prompt + excluded.prompt, completion = completion + excluded.completion, requests = requests + excluded.requests
"""


class LedgerError(DataError):
    """What was used cannot be read or written: nobody is answered who has a quota."""


@dataclass(frozen=True)
class Used:
    """Of one key on one day."""

    prompt: int = 0
    completion: int = 0
    requests: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: "Used") -> "Used":
        return Used(self.prompt + other.prompt, self.completion + other.completion, self.requests + other.requests)


class Ledger:
    """The file. Every call may come from any thread.

    Args:
        path: None keeps everything in memory only. Opened when first used.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        self._open: dict[tuple[str, int], Used] = {}
        self._committed = time.monotonic()

    def open(self) -> None:
        """Open the file now, not when it is first used.

        Raises:
            LedgerError: it cannot be opened or is no such database.
        """
        with self._lock:
            self._db.execute("SELECT 1")

    @property
    def _db(self) -> sqlite3.Connection:
        if self._opened is None:
            path = self.path
            try:
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    with _CREATE:
                        if not path.exists():
                            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                made = sqlite3.connect(path or ":memory:", timeout=PATIENCE, check_same_thread=False, isolation_level=None)
                _to_wal(made)
                made.execute("PRAGMA synchronous=NORMAL")
                made.executescript(TABLES)
            except (OSError, sqlite3.Error) as error:
                raise LedgerError(
                    f"{path} cannot keep what was used ({error}): mend or remove it, or give another --usage"
                ) from None
            self._opened = made
        return self._opened

    def add(self, key: str, *, prompt: int = 0, completion: int = 0, requests: int = 0, now: bool = False) -> None:
        """Count; ``now`` commits before it returns.

        Raises:
            LedgerError: it cannot be written.
        """
        with self._lock:
            place = key, today()
            self._open[place] = self._open.get(place, Used()) + Used(prompt, completion, requests)
            if now or time.monotonic() - self._committed > EVERY:
                self.commit()

    def used(self, key: str, day: int | None = None) -> Used:
        """Of one key, today unless another day (since 1970) is given; of all processes together."""
        place = key, today() if day is None else day
        with self._lock:
            row = self._do("SELECT prompt, completion, requests FROM used WHERE key = ? AND day = ?", place)
            return Used(*row) + self._open.get(place, Used())

    def commit(self) -> None:
        """Write what is still open."""
        with self._lock:
            self._committed = time.monotonic()
            if not self._open:
                return
            rows = [(key, day, u.prompt, u.completion, u.requests) for (key, day), u in self._open.items()]
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._db.executemany(ADD, rows)
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path}: what was used cannot be written ({error})") from None
            self._open.clear()

    def rate(self, key: str) -> tuple[float, float] | None:
        """Level of a key's bucket and when it was so (seconds since 1970)."""
        with self._lock:
            level, at, *_ = self._do("SELECT level, at, 0 FROM rates WHERE key = ?", (key,))
            return None if not at else (level, at)

    def keep_rate(self, key: str, level: float, at: float) -> None:
        """Remember it."""
        with self._lock:
            try:
                self._db.execute("INSERT OR REPLACE INTO rates VALUES (?, ?, ?)", (key, level, at))
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path}: the rate cannot be written ({error})") from None

    def close(self) -> None:
        """Write and close. May be called twice."""
        with self._lock:
            self.commit()
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _do(self, query: str, values: tuple) -> tuple:
        try:
            return self._db.execute(query, values).fetchone() or (0, 0, 0)
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: what was used cannot be read ({error})") from None


def _to_wal(connection: sqlite3.Connection) -> None:
    """Turn to WAL. Of several that do so with a new file at once SQLite refuses all but one at once, whatever their timeout."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.005)


def today() -> int:
    """The day (UTC) since 1970."""
    return int(time.time() // DAY)


def until_tomorrow() -> int:
    """Seconds until the next day begins (UTC)."""
    return int(DAY - time.time() % DAY) + 1
