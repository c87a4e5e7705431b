"""Checkpoints: complete folders that appear at once or not at all, and the state an exact resume needs.

A checkpoint is a Hugging Face folder plus ``training_state/``:

    checkpoints/step-000123/config.json, model.safetensors (float32), tokenizer.json …
    checkpoints/step-000123/training_state/state.safetensors   the optimizer's moments, torch's random generator
    checkpoints/step-000123/training_state/state.json          step, tokens, seconds, random generators of Python and NumPy …
    checkpoints/step-000123/training_state/manifest.json       size and SHA-256 of every other file: its presence means complete
    checkpoints/latest                                         name of the newest complete folder

A folder is written under a hidden name, every file and directory is flushed to the disk, and only then does it get its name.
A process killed at any moment leaves old checkpoints untouched and at most a hidden remainder, which the next start removes.
"""

import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seekling.errors import CheckpointError

STATE_DIR, MANIFEST, LATEST = "training_state", "manifest.json", "latest"
HIDDEN = ".unfinished-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Saved:
    """What :meth:`Checkpoints.load` found: the folder, its step, the state's tensors and its JSON values."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Args:
        folder: ``RUN/checkpoints``; made when something is saved.
        keep: how many of the newest complete checkpoints stay; 0 keeps all.
        warn: receives one line for everything the user must know (a damaged checkpoint and what was used instead).
    """

    def __init__(self, folder: Path, keep: int = 3, warn: Callable[[str], None] = print) -> None:
        self.folder, self.keep, self.warn = Path(folder), keep, warn

    # ---- looking -------------------------------------------------------------------------------------------------

    def found(self) -> list[Path]:
        """Checkpoint folders by step, newest first, complete or not."""
        return sorted(self.folder.glob("step-*"), key=lambda p: step_of(p), reverse=True) if self.folder.is_dir() else []

    def newest(self) -> Path | None:
        """Newest folder whose files all have the size its manifest states; None when there is none."""
        return next((path for path in self.found() if not problems_of(path)), None)

    def load(self) -> Saved:
        """State of the newest intact checkpoint; every byte is checked against the manifest.

        A damaged newer one is named in a warning together with the older one that is used instead.

        Raises:
            CheckpointError: there is no intact checkpoint.
        """
        damaged: list[str] = []
        for path in self.found():
            wrong = problems_of(path, hashes=True)
            if wrong:
                damaged.append(f"{path} is damaged ({wrong[0]})")
                continue
            for line in damaged:
                self.warn(f"checkpoint {line}; using the older {path} instead")
            values = json.loads((path / STATE_DIR / "state.json").read_text())
            return Saved(path, values["step"], load_file(path / STATE_DIR / "state.safetensors"), values)
        if damaged:
            raise CheckpointError("; ".join(damaged) + "; no older checkpoint is intact, so the run must be started again")
        raise CheckpointError(f"no checkpoint in {self.folder}; the run was stopped before its first save, so start it again")

    # ---- writing -------------------------------------------------------------------------------------------------

    def clean(self) -> list[str]:
        """Remove what a killed save or removal left behind; returns the names. Only the owner of the run may call this."""
        rest = [*self.folder.glob(HIDDEN + "*")] if self.folder.is_dir() else []
        for path in rest:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.name for path in rest]

    def save(
        self,
        step: int,
        write_model: Callable[[Path], None],
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        model_bytes: int = 0,
    ) -> Path:
        """Write the checkpoint of ``step`` and point ``latest`` at it.

        Args:
            write_model: fills the given folder with the model and tokenizer files.
            tensors, values: the training state; ``values`` must be JSON.
            model_bytes: expected size of what ``write_model`` writes, for the check of free space.

        Raises:
            CheckpointError: the disk is full or cannot be written; older checkpoints are untouched.
        """
        final, part = self.folder / f"step-{step:06d}", self.folder / f"{HIDDEN}step-{step:06d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_space(model_bytes + sum(t.numel() * t.element_size() for t in tensors.values()))
            if part.exists():
                shutil.rmtree(part)
            (part / STATE_DIR).mkdir(parents=True)
            write_model(part)
            save_file({n: t.detach().contiguous() for n, t in tensors.items()}, part / STATE_DIR / "state.safetensors")
            _write_json(part / STATE_DIR / "state.json", {"step": step, **values})
            files = sorted(p for p in part.rglob("*") if p.is_file())
            listed = {p.relative_to(part).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
            _write_json(part / STATE_DIR / MANIFEST, {"files": listed})
            for path in [*part.rglob("*"), part]:
                flush(path)
            if final.exists():  # only after a fallback from a damaged newer checkpoint
                _discard(final)
            os.replace(part, final)
            flush(self.folder)
            replace_text(self.folder / LATEST, final.name + "\n")
        except (OSError, SafetensorError, CheckpointError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise CheckpointError(self._explain(error, step)) from error
        self._prune(final)
        return final

    def _check_space(self, expected: int) -> None:
        free = shutil.disk_usage(self.folder).free
        needed = space_of(expected)
        if free < needed:
            raise OSError(errno.ENOSPC, f"needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")

    def _explain(self, error: Exception, step: int) -> str:
        text = str(error).replace("\n", " ")
        newest = self.newest()
        old = f"the checkpoint {newest.name} is intact" if newest else "there is no earlier checkpoint"
        code = error.errno if isinstance(error, OSError) else None
        full = code in _FULL or any(word in text for word in ("disk is full", "StorageFull", "os error 28", "os error 122"))
        what = "the disk is full or over its quota" if full else "the folder cannot be written"
        remedy = "free some space" if full else "mend that"
        after = f"{remedy}, then go on with --resume {self.folder.parent}"
        return f"checkpoint of step {step} not saved: {what} ({text}); {old}; {after}"

    def _prune(self, newest: Path) -> None:
        """Drop all but the ``keep`` newest up to this one; later, damaged ones stay for the user to look at."""
        if self.keep > 0:
            older = [p for p in self.found() if step_of(p) <= step_of(newest)]
            for path in older[self.keep :]:
                _discard(path)


def space_of(checkpoint_bytes: int) -> int:
    """Bytes that must be free for a checkpoint of that many bytes of tensors: configs, tokenizer and the file system's own."""
    return checkpoint_bytes + checkpoint_bytes // 50 + (1 << 20)


def _discard(path: Path) -> None:
    """Remove a folder in two moves, so that a kill half-way cannot leave something that looks complete."""
    hidden = path.with_name(f"{HIDDEN}old-{path.name}")
    if hidden.exists():
        shutil.rmtree(hidden)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def step_of(path: Path) -> int:
    """Step in a checkpoint folder's name; −1 when it is none."""
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


def problems_of(path: Path, hashes: bool = False) -> list[str]:
    """What is wrong with a checkpoint folder: no manifest, missing files, other sizes, and with ``hashes`` other contents."""
    try:
        listed = json.loads((path / STATE_DIR / MANIFEST).read_text())["files"]
        expected = {name: (int(entry["bytes"]), entry["sha256"]) for name, entry in listed.items()}
    except FileNotFoundError:
        return ["it has no manifest, so it was never finished"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"its manifest cannot be read: {error.__class__.__name__}"]
    bad = []
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            bad.append(f"{name} is missing")
        elif file.stat().st_size != size:
            bad.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
        elif hashes and sha256(file) != digest:
            bad.append(f"{name} has other contents than were written")
    return bad


# ---- random generators -----------------------------------------------------------------------------------------------


def random_state() -> tuple[Tensor, dict[str, Any]]:
    """State of torch's CPU generator (bytes) and of Python's and NumPy's global ones (JSON)."""
    kind, keys, position, has_gauss, gauss = numpy.random.get_state()
    version, internal, gauss_next = random.getstate()
    return torch.get_rng_state(), {
        "python": [version, list(internal), gauss_next],
        "numpy": [kind, [int(k) for k in keys], int(position), int(has_gauss), float(gauss)],
    }


def seed_everything(seed: int) -> None:
    """Start torch's, Python's and NumPy's global generators from one seed, so that a run depends on nothing before it."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def set_random_state(torch_state: Tensor, other: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(torch_state)
    version, internal, gauss_next = other["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = other["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, gauss))


# ---- files -----------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Ask the disk to hold a file or directory entry now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new contents, never a part."""
    part = path.with_name(f"{HIDDEN}{path.name}")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush(path.parent)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
