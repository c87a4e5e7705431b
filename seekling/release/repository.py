"""A release as a Git repository with Large File Storage, made without git-lfs: weights go where git-lfs keeps them, and the
commit
holds their pointers, so that ``git push`` with git-lfs installed uploads both."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from seekling.errors import MachineError
from seekling.release.layout import files_of, sha256

if TYPE_CHECKING:
    from seekling.release.material import Release

LARGE = ("*.safetensors", "*.gguf", "*.zst", "*.pdf", "*.png", "*.tar.gz")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


def git_found() -> None:
    """Raise MachineError where there is no git."""
    if shutil.which("git") is None:
        raise MachineError("--git needs the program git; install it, or leave --git out")


def make_repository(folder: Path, release: "Release") -> str:
    """Turn the folder into a repository with one commit; returns its hash. Equal files and date give an equal hash."""
    lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
    (folder / ".gitattributes").write_text(lines, "utf-8")
    who = {
        "GIT_AUTHOR_NAME": release.producer,
        "GIT_COMMITTER_NAME": release.producer,
        "GIT_AUTHOR_EMAIL": "release@localhost",
        "GIT_COMMITTER_EMAIL": "release@localhost",
        "GIT_AUTHOR_DATE": release.date,
        "GIT_COMMITTER_DATE": release.date,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }

    def git(*words: str, given: str | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            input=given,
            capture_output=True,
            text=True,
            env={**os.environ, **who},
            check=False,
        )
        if done.returncode:
            raise MachineError(f"git {words[0]} failed: {done.stderr.strip().splitlines()[-1:] or 'no message'}")
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    entries = []
    for path in [Path(".gitattributes"), *files_of(folder)]:
        large = any(path.match(pattern) for pattern in LARGE)
        blob = git("hash-object", "-w", "--no-filters", "--stdin", given=_pointer(folder, path)) if large else None
        entries.append(f"100644 {blob or git('hash-object', '-w', '--no-filters', '--', path.as_posix())}\t{path.as_posix()}")
    git("update-index", "--add", "--index-info", given="\n".join(entries) + "\n")
    tree = git("write-tree")
    commit = git("commit-tree", tree, "-m", f"{release.name} {release.version}")
    git("update-ref", "refs/heads/main", commit)
    return commit


def _pointer(folder: Path, path: Path) -> str:
    """Store a large file as git-lfs does, and give its pointer."""
    oid, size = sha256(folder / path), (folder / path).stat().st_size
    place = folder / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / path, place)
        except OSError:
            shutil.copyfile(folder / path, place)
    return POINTER.format(oid=oid, size=size)
