"""Keys that open the server: only their hashes are kept, in a file that only its owner may read.

A key is ``sk-seekling-`` and 43 random characters (256 bits), so a plain SHA-256 is hash enough. The file is read again when it
changes: a key that was revoked is refused at the next request.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from seekling.errors import DataError, RecipeError

SCOPES = ("infer", "metrics", "admin")
PREFIX = "sk-seekling-"


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
        id: short, for people; sha256: of the whole key; scopes: of `SCOPES` ("admin" includes all).
        created, expires: seconds since 1970; expires None for never.
        rpm, concurrent, daily_tokens: its own limits in place of the server's; 0 is none.
    """

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    rpm: int | None = None
    concurrent: int | None = None
    daily_tokens: int | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and time.time() >= self.expires

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def keys_file() -> Path:
    """``SEEKLING_KEYS``, else keys.json in the user's configuration folder."""
    given = os.environ.get("SEEKLING_KEYS")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "seekling" / "keys.json"


class Keys:
    """The keys of a file. Every call may come from any thread."""

    def __init__(self, path: Path | None = None):
        self.path = path or keys_file()
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: list[Key] = []

    def all(self) -> list[Key]:
        """The keys as the file has them now.

        Raises:
            DataError: the file is damaged, or others may read it.
        """
        with self._lock:
            try:
                facts = self.path.stat()
            except FileNotFoundError:
                self._seen, self._keys = None, []
                return []
            seen = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if seen != self._seen:
                if facts.st_mode & 0o077:
                    raise DataError(f"{self.path} can be read by others: chmod 600 it")
                self._keys, self._seen = self._read(), seen
            return list(self._keys)

    def check(self, secret: str) -> Key | None:
        """The key behind a secret, None when there is none or it has expired. Takes the same time for every wrong one."""
        digest = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
        found = None
        for key in self.all():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or found.expired else found

    def add(
        self, name: str, scopes: Sequence[str] = ("infer",), days: float | None = None, **limits: int | None
    ) -> tuple[Key, str]:
        """A new key and its secret, which is shown this once; ``limits`` are those of `Key`.

        Raises:
            RecipeError: unknown scopes, a name that is taken or empty, days or limits that are none.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise RecipeError(f"scope {', '.join(unknown) or 'missing'}: known are {', '.join(SCOPES)}")
        if days is not None and not days > 0:
            raise RecipeError(f"--days is {days}: give a number above 0")
        for limit, value in limits.items():
            if value is not None and value < 0:
                raise RecipeError(f"--{limit.replace('_', '-')} is {value}: give a whole number, 0 for no limit")
        if not name.strip() or len(name) > 80:
            raise RecipeError("a key needs a name of at most 80 characters")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        key = Key(
            secrets.token_hex(4),
            name,
            hashlib.sha256(secret.encode()).hexdigest(),
            tuple(dict.fromkeys(scopes)),
            now,
            None if days is None else now + days * 86400,
            **limits,
        )
        with self._changing() as keys:
            if any(other.name == name for other in keys):
                raise RecipeError(f"there is a key named {name!r}: revoke it first or take another name")
            keys.append(key)
        return key, secret

    def revoke(self, which: str) -> Key:
        """Take a key away, by its id or name. RecipeError when there is none."""
        with self._changing() as keys:
            found = [key for key in keys if which in (key.id, key.name)]
            if not found:
                raise RecipeError(f"there is no key {which!r}: seekling keys list shows them")
            keys.remove(found[0])
        return found[0]

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, written back whole when the block ends well; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self.all()
            yield keys
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")  # mode 0600
            with os.fdopen(handle, "w") as file:
                json.dump({"keys": [asdict(key) for key in keys]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)

    def _read(self) -> list[Key]:
        try:
            rows = json.loads(self.path.read_text("utf-8"))["keys"]
            return [Key(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}): mend it, or remove it and make new keys") from None
