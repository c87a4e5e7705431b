"""A run folder belongs to one process at a time, and its recipe and data must stay what they were."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seekling.data import TokenStream
from seekling.errors import CheckpointError, MachineError, RecipeError
from seekling.train.log import read_log
from seekling.train.state import Checkpoints, Saved, replace_text, space_of
from seekling.tree import Tree

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes on one run are then not noticed
    fcntl = None  # type: ignore[assignment]


LEFT_BEHIND = (".lock", "data", "tokenizer", "data_manifest.json", "story.toml")  # of a run that ended before its first step
AnyRecipe = TypeVar("AnyRecipe", bound=Tree)


def check_fresh(run: Path, verb: str = "pretrain") -> None:
    """Refuse a folder that holds anything, so that nothing of the user's is overwritten."""
    if (run / "recipe.toml").exists():
        raise RecipeError(f"{run} already holds a run: continue it with seekling {verb} --resume {run}, or give another --out")
    if run.is_file():
        raise RecipeError(f"--out {run} is a file; give a folder")
    if run.is_dir():
        foreign = sorted(p.name for p in run.iterdir() if p.name not in LEFT_BEHIND)
        if foreign:
            raise RecipeError(f"--out {run} is not a run and not empty (it holds {foreign[0]}); give a new folder")


def check_room(run: Path, checkpoint_bytes: int, learn: Any) -> None:
    """Refuse to start where the checkpoints of a run do not fit: those kept, and the next, written while they are there.

    ``learn`` has steps, save_every and keep; what a run that goes on has saved already counts as there.
    """
    saves = math.ceil(learn.steps / learn.save_every)
    wanted = min(learn.keep + 1, saves) if learn.keep else saves
    more = max(1, wanted - len(Checkpoints(run / "checkpoints").found()))
    needed, free = more * space_of(checkpoint_bytes), shutil.disk_usage(run).free
    if free < needed:
        raise MachineError(
            f"{more} checkpoint{'s' * (more > 1)} of {checkpoint_bytes / 1e6:,.1f} MB, as --keep {learn.keep} and --save-every "
            f"{learn.save_every} come to, take {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at {run}; free some "
            "space, keep fewer, or give an --out on another disk"
        )


@contextmanager
def fresh(run: Path) -> Iterator[None]:
    """Make and hold the folder of a new run.  A start that fails before the first log line leaves no recipe there, so that the
    same --out may be used again."""
    run.mkdir(parents=True, exist_ok=True)
    with claim(run):
        try:
            yield
        except Exception:
            if not read_log(run / "log.jsonl"):
                (run / "recipe.toml").unlink(missing_ok=True)
                (run / "log.jsonl").unlink(missing_ok=True)
            raise


def recipe_of(kind: type[AnyRecipe], run: Path) -> AnyRecipe:
    """The recipe that a run was started with. Raises CheckpointError for a folder that is no run."""
    if not (run / "recipe.toml").is_file():
        raise CheckpointError(f"{run} is not a run (it has no recipe.toml); give the folder that seekling {kind.verb()} wrote")
    return kind.load(run / "recipe.toml")


def newest_state(run: Path, keep: int, say: Callable[[str], None]) -> Saved | None:
    """The newest intact checkpoint, None where nothing was saved yet; what a killed process left half-written is removed."""
    checkpoints = Checkpoints(run / "checkpoints", keep, say)
    checkpoints.clean()
    return checkpoints.load() if checkpoints.found() else None


@contextmanager
def claim(run: Path) -> Iterator[None]:
    """Hold the run folder; the system releases it when the process ends, however it ends.

    Raises:
        CheckpointError: another process is training in it, or it cannot be written.
    """
    try:
        file = open(run / ".lock", "a")  # noqa: SIM115  closed below
    except OSError as error:
        raise CheckpointError(f"{run} cannot be written ({error.strerror}); check its permissions") from None
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(f"another process is training in {run}; wait for it or stop it first") from None
        yield


def note_sources(run: Path, files: Sequence[str]) -> None:
    """``data_manifest.json`` of a run that reads files of the user: size, lines and hash of each. What they are and under which
    licence is for whoever releases the run to say (``seekling release --about``)."""
    path = run / "data_manifest.json"
    if not files or path.exists():
        return
    sources: dict[str, dict[str, object]] = {}
    for file in map(Path, files):
        name, n = file.stem, 2
        while name in sources:
            name, n = f"{file.stem}-{n}", n + 1
        content = file.read_bytes()
        sources[name] = {
            "kind": "file", "where": file.name, "licence": "NOASSERTION", "attribution": "files of the user",
            "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "documents": content.count(b"\n"),
        }  # fmt: skip
    replace_text(path, json.dumps({"format": 1, "sources": sources}, ensure_ascii=False, indent=1) + "\n")


def text_fingerprint(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(stream: TokenStream) -> str:
    """SHA-256 over token ids and document edges, whatever integer type they are stored in."""
    digest = hashlib.sha256()
    for array in (stream.tokens, stream.offsets):
        for start in range(0, len(array), 1 << 20):
            digest.update(np.ascontiguousarray(array[start : start + (1 << 20)], dtype="<i8").tobytes())
    return digest.hexdigest()
