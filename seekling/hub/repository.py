"""Pull a hub's repository into a folder: list, choose, check the disk, download, verify, declare complete."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.data.stream import file_sha256
from seekling.errors import CheckpointError, DataError, MachineError
from seekling.formats.folder import INDEX, SINGLE
from seekling.hub import choose
from seekling.hub.http import Client, Refused
from seekling.hub.names import RECORD, Repository, loadable, models_folder, read_record, write_record
from seekling.hub.progress import Quiet
from seekling.hub.remote import HUBS, Hub, Listing, RemoteFile, explained

PARTIAL = ".seekling-partial"
SPARE = 64 << 20  # bytes of disk left beside a download


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: ``path`` is what loads; ``size`` all bytes of it, ``fetched`` those that came over the network."""

    name: str
    path: Path
    licence: str | None
    size: int
    fetched: int
    revision: str
    notes: tuple[str, ...] = ()


def pull_repository(
    wanted: Repository,
    *,
    source: str = "hf",
    endpoint: str | None = None,
    file: str | None = None,
    quant: str | None = None,
    out: Path | None = None,
    anyway: bool = False,
    bar: Quiet | None = None,
    pause: float = 1.0,
    tries: int = 5,
) -> Pulled:
    """Bring the files of a repository that a model needs, each verified, going on where an earlier pull stopped.

    Args:
        source: "hf" or "modelscope"; ``endpoint``: its address, see `seekling.hub.remote`.
        file, quant: which GGUF (or safetensors) file, where there are several.
        out: a folder to pull to instead of the cache.
        anyway: also pull a model that this version could not load.
        pause, tries: see `Client`.

    Raises:
        DataError: no such repository, no access, no weights to read, or what arrives is not what is listed.
        MachineError: the disk is full, or would be.
    """
    bar = bar or Quiet()
    hub = HUBS[source]
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DataError(f"HF_HUB_OFFLINE is set, so {wanted} is not asked for; unset it to pull")
    client = Client(hub.endpoint(endpoint), hub.token(), cookie=hub.cookie, pause=pause, tries=tries, say=bar.say)
    folder = out if out is not None else models_folder() / wanted.folder
    with locked(folder, bar):
        try:
            listing = hub.listing(client, wanted)
            return _Pull(wanted, hub, client, listing, folder, bar).run(file, quant, anyway)
        except Refused as refused:
            raise explained(refused, wanted, hub) from None


class _Pull:
    """One pull, while the folder is locked."""

    def __init__(self, wanted: Repository, hub: Hub, client: Client, listing: Listing, folder: Path, bar: Quiet) -> None:
        self.wanted, self.hub, self.client, self.listing, self.folder, self.bar = wanted, hub, client, listing, folder, bar
        self.files: dict[str, dict[str, Any]] = {}
        self.fetched = 0
        self.known = ((read_record(folder) or {}) if folder.is_dir() else {}).get("files", {})

    def run(self, file: str | None, quant: str | None, anyway: bool) -> Pulled:
        files = self.listing.files
        tensors = any(name.endswith(".safetensors") and "/" not in name for name in files)
        ggufs = any(name.endswith(".gguf") for name in files)
        indexed = False
        if quant is not None or (file or "").endswith(".gguf") or (file is None and ggufs and not tensors):
            # config and tokenizer are inside; a second config beside the file would be another model's
            small = choose.matching(files, choose.CARD)
            weights = choose.gguf_files(files, file, quant, self.wanted)
        else:
            small = choose.matching(files, (*choose.CARD, *choose.SMALL))
            indexed = INDEX in files and SINGLE not in files and file is None
            weights = [] if indexed else choose.weight_names(files, None, file, self.wanted)
        with self.bar:
            self._room([*small, *weights])
            self._take(small)
            if "config.json" in small and not anyway:
                self._would_load()
            if indexed:
                weights = choose.weight_names(files, self._weight_map(), file, self.wanted)
                self._room(weights)
            self._take(weights)
        return self._finish()

    def _would_load(self) -> None:
        """Refuse a model of no use here while it has cost nothing: by its config, before its weights."""
        from seekling.inspection.look import config_problems

        bad = config_problems(self.folder / "config.json")
        if bad:
            more = f" (and {len(bad) - 1} more reasons)" if len(bad) > 1 else ""
            raise DataError(f"{self.wanted} would not load here: {bad[0]}{more}; its weights were not fetched (--anyway does)")

    def _weight_map(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / INDEX).read_text("utf-8"))["weight_map"]
            if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
                raise TypeError("weight_map maps no names to files")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{self.wanted}: its {INDEX} is damaged ({error}); report it to its owner") from None
        return found

    def _room(self, paths: list[str]) -> None:
        """Refuse what does not fit on the disk before anything is fetched."""
        need = sum(self.listing.files[p].size - self._held(self.listing.files[p]) for p in paths)
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free
        if need + SPARE > free:
            from seekling.plan import size_text

            raise MachineError(
                f"{self.wanted} needs {size_text(need)} and {place} has {size_text(free)} free: free some space, or choose "
                "another place with --out or SEEKLING_CACHE"
            )

    def _held(self, file: RemoteFile) -> int:
        """Bytes of a file that need not be fetched."""
        for path in (self.folder / choose.local_name(file.path), self._partial(file)):
            if path.is_file() and path.stat().st_size <= file.size:
                return path.stat().st_size
        return 0

    def _partial(self, file: RemoteFile) -> Path:
        e = file.expected
        mark = (e.sha256 or e.git_sha1 or f"{self.listing.revision}-{e.size}")[:20]
        return self.folder / PARTIAL / f"{choose.local_name(file.path)}.{re.sub('[^A-Za-z0-9-]', '_', mark)}"

    def _take(self, paths: list[str]) -> None:
        for path in paths:
            file = self.listing.files[path]
            name = choose.local_name(path)
            if name in self.files:
                raise DataError(f"{self.wanted} has two files for {name}: choose one with --file")
            target = self.folder / name
            self.files[name] = {"bytes": file.size, "sha256": self._present(target, file) or self._fetch(file, target)}

    def _present(self, target: Path, file: RemoteFile) -> str | None:
        """The SHA-256 of a file that is here already and is the one listed."""
        e = file.expected
        if not target.is_file() or target.is_symlink() or target.stat().st_size != e.size:
            return None
        digest = file_sha256(target)
        if e.sha256 is not None:
            return digest if digest == e.sha256 else None
        return digest if e.git_sha1 is not None and git_sha1(target) == e.git_sha1 else None

    def _fetch(self, file: RemoteFile, target: Path) -> str:
        partial = self._partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = partial.stat().st_size if partial.is_file() and partial.stat().st_size <= file.size else 0

        def progress(n: int) -> None:
            self.fetched += max(n, 0)
            self.bar.advance(n)

        self.bar.file(target.name, file.size, done)
        digest = self.client.download(file.request, partial, file.expected, progress)
        (self.folder / RECORD).unlink(missing_ok=True)  # from here on no complete model, until this pull ends
        os.replace(partial, target)
        return digest

    def _finish(self) -> Pulled:
        """Remove what an earlier pull left and declare the folder complete."""
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
        for name in self.known:
            if name not in self.files and choose.local_name(name) == name:
                (self.folder / name).unlink(missing_ok=True)
        licence = self.listing.licence or card_licence(self.folder)
        write_record(
            self.folder,
            {
                "name": str(self.wanted), "source": self.hub.name, "revision": self.listing.revision, "licence": licence,
                "files": self.files,
            },
        )  # fmt: skip
        path = loadable(self.folder)
        if path is None:
            raise CheckpointError(f"{self.folder} changed while it was pulled; pull it again")
        size = sum(facts["bytes"] for facts in self.files.values())
        return Pulled(str(self.wanted), path, licence, size, self.fetched, self.listing.revision, self._notes())

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if any(name.endswith(".py") for name in self.listing.files):
            notes.append("the repository carries Python code, which was not pulled and is never run")
        return tuple(notes)


def git_sha1(path: Path) -> str:
    """The name git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def card_licence(folder: Path) -> str | None:
    """``license:`` of the front matter of README.md, None where there is none."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 16)
    except OSError:
        return None
    matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", head, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([^\"'\n#]+)", matter[1], re.MULTILINE) if matter else None
    name = re.search(r"^license_name:\s*[\"']?([^\"'\n#]+)", matter[1], re.MULTILINE) if matter else None
    if found is None:
        return None
    return name[1].strip() if found[1].strip() == "other" and name else found[1].strip()


@contextlib.contextmanager
def locked(folder: Path, bar: Quiet) -> Iterator[None]:
    """Only one process pulls to a folder at a time; the others wait and then find the files there."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system; files still appear only when they are whole
        yield
        return
    place = folder.parent / f".{folder.name}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise MachineError(f"{place} cannot be written ({error.strerror}): choose another place with --out") from None
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    bar.say(f"another process is pulling to {folder}; waiting for it")
                    told = True
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)
