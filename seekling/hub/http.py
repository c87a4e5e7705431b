"""HTTP for model hubs: tries again what may pass, resumes what was cut, checks what arrived.

The token goes to the hub's own origin only: a redirect to another host (a content network) is followed without it. Proxies are
those of the environment (``HTTPS_PROXY``, ``NO_PROXY``, …).
"""

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.errors import DataError, MachineError

CHUNK = 1 << 20
PASSING = (408, 429, 500, 502, 503, 504)
MAX_JSON_BYTES = 64 << 20
LONGEST_WAIT = 120.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Progress = Callable[[int], None]


class Refused(DataError):
    """The hub's answer was a status that trying again does not mend. ``status`` is that number."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Expected:
    """What a file must be: its length and, where the hub tells, its SHA-256 or git blob SHA-1."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None


class Client:
    """One hub.

    Args:
        endpoint: scheme, host and perhaps a path, without a slash at the end.
        token: sent as a bearer token to that origin, and as the cookie ``cookie`` where the hub has such a one.
        tries: attempts in a row that bring nothing before an error is raised.
        pause: seconds before the second attempt; doubles from one to the next.
        say: gets a line when a pause is long enough to wonder about.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        cookie: str | None = None,
        tries: int = 5,
        pause: float = 1.0,
        timeout: float = 30.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.endpoint = checked_endpoint(endpoint, token)
        self._secrets = {"Authorization": f"Bearer {token}"} if token else {}
        if token and cookie:
            self._secrets["Cookie"] = f"{cookie}={token}"
        self._tries, self._pause, self._timeout, self._say = max(1, tries), pause, timeout, say
        self._opener = urllib.request.build_opener(_Redirects())

    # ---- requests ------------------------------------------------------------------------------------------------

    def json(self, path: str) -> Any:
        """The JSON answer of ``endpoint + path``.

        Raises:
            Refused: the hub refuses; DataError: no connection, or no JSON.
        """
        for attempt in range(self._tries):
            try:
                with self._open(path, {}) as answer:
                    raw = answer.read(MAX_JSON_BYTES + 1)
                break
            except _Passing as passing:
                self._wait(attempt, passing)
            except (OSError, http.client.HTTPException) as error:
                self._wait(attempt, _Passing(f"the answer was cut ({error})"))
        if len(raw) > MAX_JSON_BYTES:
            raise DataError(f"{self.endpoint}: an answer of more than {MAX_JSON_BYTES >> 20} MB is refused; check --endpoint")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise DataError(f"{self.endpoint} does not answer as a model hub does (no JSON); check --endpoint") from None

    def download(self, path: str, partial: Path, expected: Expected, progress: Progress = lambda n: None) -> str:
        """Bring a file into ``partial``, going on where that file ends; returns its SHA-256.

        Args:
            progress: told the number of bytes that count as done now; negative where some have to be thrown away.

        Raises:
            Refused, DataError: it cannot be had, or what arrives is not what was listed.
            MachineError: the disk is full.
        """
        what = Path(urllib.parse.unquote(path)).name
        attempt = 0
        wrong = False
        while True:
            taking = _Taking(partial, expected, progress)
            try:
                before = taking.done
                if taking.done < expected.size or not taking.resumed:
                    self._take(path, taking)
                if taking.done < expected.size:
                    raise _Passing(f"the connection ended after {taking.done} of {expected.size} bytes")
            except _Passing as passing:
                attempt = 0 if taking.done > before else attempt
                self._wait(attempt, passing)
                attempt += 1
                continue
            except OSError as error:
                raise MachineError(f"{partial.parent} cannot be written ({error.strerror}): free some space") from None
            finally:
                taking.close()
            if taking.matches():
                return taking.sha256.hexdigest()
            partial.unlink(missing_ok=True)
            progress(-taking.done)
            if wrong:
                raise DataError(
                    f"{what} is not the file that the hub lists (another sha256, twice): do not trust it; "
                    "check the proxy and --endpoint, or try again later"
                )
            wrong = True

    def _take(self, path: str, taking: "_Taking") -> None:
        headers = {"Range": f"bytes={taking.done}-"} if taking.done else {}
        try:
            answer = self._open(path, headers)
        except Refused as refused:
            if refused.status != 416 or not taking.done:
                raise
            taking.restart()  # the server's file is shorter than what is here
            answer = self._open(path, {})
        with answer:
            if taking.done and not _continues(answer, taking.done, taking.expected.size):
                if answer.status == 206:
                    taking.restart()
                    raise _Passing("the server continued at another place than asked")
                taking.restart()
            length = answer.headers.get("Content-Length")
            if length is not None and length.isdecimal() and taking.done + int(length) != taking.expected.size:
                raise DataError(
                    f"{Path(urllib.parse.unquote(path)).name}: the hub lists {taking.expected.size} bytes and sends "
                    f"{taking.done + int(length)}; check --endpoint, or try again later"
                )
            while True:
                try:
                    chunk = answer.read(CHUNK)
                except http.client.IncompleteRead as cut:
                    taking.add(cut.partial)
                    return
                except (OSError, http.client.HTTPException) as error:
                    raise _Passing(str(error) or type(error).__name__) from None
                if not chunk:
                    return
                taking.add(chunk)

    def _open(self, path: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(self.endpoint + path, headers={"User-Agent": "seekling", **headers})
        for name, value in self._secrets.items():
            request.add_unredirected_header(name, value)
        try:
            return self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in PASSING:
                    raise _Passing(f"status {error.code}", _retry_after(error.headers)) from None
                detail = _detail(error)
            raise Refused(error.code, f"the hub answered {error.code}{detail}") from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _Passing(f"no connection ({reason})") from None

    def _wait(self, attempt: int, passing: "_Passing") -> None:
        """Sleep before the next attempt, or give up."""
        pause = self._pause * 2**attempt if passing.after is None else passing.after
        if attempt + 1 >= self._tries or pause > LONGEST_WAIT:
            wait = f", which asks to wait {pause:.0f} s" if passing.after is not None and pause > LONGEST_WAIT else ""
            raise DataError(
                f"{self.endpoint} cannot be reached{wait} ({passing}): check the connection, the proxy and --endpoint; "
                "the same command goes on where it stopped"
            )
        if pause >= 2:
            self._say(f"{passing}; trying again in {pause:.0f} s")
        time.sleep(pause)


class _Passing(Exception):
    """Something that may be gone at the next attempt. ``after``: the seconds the server asks for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the token stays with its origin, and encryption is never given up."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise DataError(f"the hub redirects from {old.scheme} to {new.scheme}, which is refused; check --endpoint")
        fresh = super().redirect_request(req, fp, code, msg, headers, newurl)
        if fresh is not None and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            for name in ("Authorization", "Cookie"):
                if name in req.unredirected_hdrs:
                    fresh.add_unredirected_header(name, req.unredirected_hdrs[name])
        return fresh


class _Taking:
    """A partial file while it grows, with the hashes of what it holds."""

    def __init__(self, path: Path, expected: Expected, progress: Progress) -> None:
        self.path, self.expected, self._progress = path, expected, progress
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = os.fdopen(os.open(path, flags, 0o644), "r+b")
        except OSError as error:
            raise MachineError(f"{path} cannot be written ({error.strerror}): remove it, or choose another folder") from None
        self._fresh()
        self.resumed = 0
        while chunk := self._file.read(CHUNK):
            self._hash(chunk)
        self.resumed = self.done
        if self.done > expected.size:
            self.restart()

    def _fresh(self) -> None:
        self.done = 0
        self.sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self.expected.size, usedforsecurity=False)

    def _hash(self, chunk: bytes) -> None:
        self.sha256.update(chunk)
        if self.expected.git_sha1:
            self._git.update(chunk)
        self.done += len(chunk)

    def add(self, chunk: bytes) -> None:
        """Append bytes. DataError when there are more than the hub listed."""
        if self.done + len(chunk) > self.expected.size:
            raise DataError(f"{self.path.name}: the hub sends more than the {self.expected.size} bytes it lists; refused")
        self._file.write(chunk)
        self._hash(chunk)
        self._progress(len(chunk))

    def restart(self) -> None:
        """Throw away what is there."""
        self._progress(-self.done)
        self._file.seek(0)
        self._file.truncate()
        self._fresh()

    def matches(self) -> bool:
        """Whether length and hashes are those expected."""
        e = self.expected
        return (
            self.done == e.size and e.sha256 in (None, self.sha256.hexdigest()) and e.git_sha1 in (None, self._git.hexdigest())
        )

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def checked_endpoint(endpoint: str, token: str | None) -> str:
    """The endpoint without a slash at its end.

    Raises:
        DataError: no http(s) address, or one over which a token would travel unencrypted.
    """
    parts = urllib.parse.urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise DataError(f"the endpoint {endpoint!r} is no address; give one such as https://HOST")
    if parts.username or parts.password:
        raise DataError("the endpoint carries a password; put the token into HF_TOKEN or MODELSCOPE_API_TOKEN instead")
    if token and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise DataError(f"{endpoint} is not encrypted: a token is not sent there; use https, or unset the token's variable")
    return endpoint.rstrip("/")


def _continues(answer: Any, start: int, size: int) -> bool:
    return answer.status == 206 and answer.headers.get("Content-Range", "").replace(" ", "") in (
        f"bytes{start}-{size - 1}/{size}",
        f"bytes{start}-{size - 1}/*",
    )


def _retry_after(headers: Any) -> float | None:
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _detail(error: urllib.error.HTTPError) -> str:
    """What the hub says about a refusal, in one short printable line."""
    text = error.headers.get("X-Error-Message") or ""
    if not text:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            body = json.loads(error.read(4096))
            text = str(body.get("error") or body.get("Message") or "") if isinstance(body, dict) else ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f" ({text[:200]})" if text else ""
