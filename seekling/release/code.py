"""The code of a release: its source as it is on this machine, what differs from the commit, and a lock file with hashes."""

import gzip
import io
import json
import platform
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from seekling.origin import ROOT, git, origin
from seekling.release.layout import CODE, CODE_VERSION, DIFF, LOCK

EPOCH = 315532800  # 1980-01-01, the time of every file in the archive: equal sources, equal archive
EXTRAS = ("release", "files")  # of ours, besides what every install has


def write_code(folder: Path, *, offline: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Write ``code/`` into a release; returns the ``code`` part of its manifest, and ``notes``."""
    (folder / CODE).mkdir(parents=True)
    here = origin()
    version = str(here["seekling"])
    archive = f"{CODE}/seekling-{version}.tar.gz"
    files = source_files()
    write_archive(folder / archive, files, f"seekling-{version}")
    diff = git("diff", "HEAD", "--binary") if here["dirty"] else None
    untracked = (git("ls-files", "--others", "--exclude-standard") or "").split() if here["dirty"] else []
    if diff:
        (folder / DIFF).write_text(diff, "utf-8")
    lock, unhashed = lock_text(offline=offline, say=say)
    (folder / LOCK).write_text(lock, "utf-8")
    facts = {
        "name": "seekling",
        "version": version,
        "commit": here["commit"],
        "dirty": here["dirty"],
        "archive": archive,
        "lock": LOCK,
        "diff": DIFF if diff else None,
    }
    said = {**facts, "untracked": untracked, "files": len(files), "python": platform.python_version(), "without_hash": unhashed}
    (folder / CODE_VERSION).write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    notes = [f"no hash in {LOCK} for {', '.join(unhashed)}: no package index was asked or reached"] if unhashed else []
    return {**facts, "notes": notes}


def source_files() -> list[tuple[Path, str]]:
    """Every source file with its name in the archive: what Git would keep, or the installed package where there is no
    checkout."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed is not None:
        names = sorted(name for name in listed.split("\0") if name)
        return [(ROOT / name, name) for name in names if (ROOT / name).is_file()]
    package = ROOT / "seekling"
    kept = (p for p in package.rglob("*") if p.is_file() and p.suffix not in (".pyc", ".so") and "__pycache__" not in p.parts)
    return [(p, p.relative_to(ROOT).as_posix()) for p in sorted(kept)]


def write_archive(path: Path, files: list[tuple[Path, str]], prefix: str) -> None:
    """A .tar.gz that depends on the files' names, contents and executable bits alone."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for source, name in files:
            content = source.read_bytes()
            entry = tarfile.TarInfo(f"{prefix}/{name}")
            entry.size, entry.mtime = len(content), EPOCH
            entry.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
        packed.write(held.getvalue())


# ---- the lock file ---------------------------------------------------------------------------------------------------


def installed_closure(roots: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    """Name and version of every installed package that Seekling needs here, sorted by name.

    Args:
        roots: requirements to start from; None takes those of the installed Seekling, or of its pyproject.toml.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    todo = [Requirement(text) for text in (roots if roots is not None else own_requirements())]
    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    while todo:
        wanted = todo.pop()
        for extra in ("", *sorted(wanted.extras)):
            key = (canonicalize_name(wanted.name), extra)
            if key in done:
                continue
            done.add(key)
            try:
                package = metadata.distribution(wanted.name)
            except metadata.PackageNotFoundError:
                continue  # an extra that is not installed
            found[key[0]] = package.version
            needed = (Requirement(text) for text in package.requires or [])
            todo += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return sorted(found.items())


def own_requirements() -> tuple[str, ...]:
    """Of this very source where there is a pyproject.toml, else of the installed package."""
    import tomllib

    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        extras = [line for extra in EXTRAS for line in project["optional-dependencies"].get(extra, [])]
        return (*project["dependencies"], *extras)
    except (OSError, KeyError):
        lines = metadata.requires("seekling") or []
        return tuple(line.split(";")[0] for line in lines if "extra ==" not in line or any(f'"{e}"' in line for e in EXTRAS))


def lock_text(*, offline: bool, say: Callable[[str], None]) -> tuple[str, list[str]]:
    """``requirements.lock``, as ``pip install --require-hashes -r`` takes it, and the packages whose hash is not known."""
    pins = installed_closure()
    hashes = {} if offline else index_hashes(pins, say)
    lines = [
        f"# What trained and evaluates this model needs: Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}.",
        "# pip install --require-hashes -r requirements.lock",
    ]
    without = []
    for name, version in pins:
        digest = hashes.get(name)
        if digest is None:
            without.append(name)
        lines.append(f"{name}=={version}" + (f" --hash=sha256:{digest}" if digest else "  # no hash known"))
    return "\n".join(lines) + "\n", without


def index_hashes(pins: list[tuple[str, str]], say: Callable[[str], None]) -> dict[str, str]:
    """SHA-256 of the archive that pip would install of each package here; empty where no index answers.  Kept in the cache."""
    import hashlib

    from seekling.cache_root import cache_root

    text = "\n".join(f"{name}=={version}" for name, version in pins) + "\n"
    key = hashlib.sha256(f"{text}{platform.python_version()} {platform.platform()}".encode()).hexdigest()[:32]
    cached = cache_root() / "locks" / f"{key}.json"
    if cached.is_file():
        return json.loads(cached.read_text("utf-8"))
    say(f"asking the package index for the hashes of {len(pins)} packages")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--quiet",
        "--report",
        "-",
    ]
    done = subprocess.run([*command, "-r", "/dev/stdin"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        return {}
    from packaging.utils import canonicalize_name

    rows = json.loads(done.stdout)["install"]
    found: dict[str, str] = {
        canonicalize_name(row["metadata"]["name"]): row["download_info"]["archive_info"]["hashes"]["sha256"]
        for row in rows
        if row["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    }
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_text(json.dumps(found), "utf-8")
    return found
