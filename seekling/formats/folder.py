"""A checkpoint folder: which files it holds, which of them may be trusted, and how new ones take their place.

Nothing outside the folder is ever opened: names in the index are plain names, and a symbolic link must stay inside the folder
(or lead into the ``blobs`` beside a Hugging Face cache ``snapshots`` folder, which is how that cache is made).
"""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from seekling.errors import CheckpointError, raise_all
from seekling.formats import families
from seekling.formats.safetensors_io import DTYPE_NAME, Entry, ToWrite, read_header, write_safetensors
from seekling.model.config import ModelConfig

CONFIG, GENERATION, SINGLE, INDEX = (
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
)  # fmt: skip
# MTP layers of a model that transformers does not expect there go to their own file (see checkpoint.save_model).
MTP_FILE = "model-mtp.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
STAGING = ".unfinished-weights-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checkpoint_folder(folder: str | os.PathLike) -> Path:
    """The folder as a Path, once it is known to be one."""
    path = Path(folder)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the folder that holds it and its config.json")
    raise CheckpointError(f"{path} does not exist; give a run folder or a folder that holds config.json")


def trusted_file(folder: Path, name: str) -> Path:
    """``folder/name`` if it is a plain name of a regular file that lies inside the folder.

    Raises:
        CheckpointError: for a path, a missing file, or a link that leads out of the folder.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise CheckpointError(f"{folder}: {name!r} is not a plain file name; a checkpoint may only name files beside it")
    path = folder / name
    if not path.exists():
        raise CheckpointError(f"{path} is missing; copy the checkpoint again")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; copy the checkpoint again")
    home, real = folder.resolve(), path.resolve()
    cache_blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if real.parent != home and home not in real.parents and real.parent != cache_blobs:
        raise CheckpointError(f"{path} links to {real}, outside the checkpoint; put a copy of the file in its place")
    return path


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from the folder."""
    path = trusted_file(folder, name)
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__} where a JSON object is needed; copy it again")
    return value


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """The ``config.json`` of a checkpoint folder.

    Raises:
        CheckpointError: no such folder or file, or quantised weights.
        ConfigError: every unknown or contradictory field at once.
    """
    path = checkpoint_folder(folder)
    if not (path / CONFIG).exists():
        raise CheckpointError(f"{path} holds no {CONFIG}; give a run folder or a folder with a Hugging Face checkpoint")
    raw = read_json(path, CONFIG)
    raw.pop("quantization_config", None)  # how the weights are stored is the matter of `stores.open_folder`
    return families.read_config(raw)


def config_files(config: ModelConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """``config.json`` and ``generation_config.json`` of a checkpoint whose weights have ``dtype``."""
    tokens = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens = {key: list(value) if isinstance(value, tuple) else value for key, value in tokens.items()}
    return {
        CONFIG: {**families.write_config(config), "dtype": str(dtype).removeprefix("torch.")},
        GENERATION: {key: value for key, value in tokens.items() if value is not None},
    }


def write_config(config: ModelConfig, folder: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``generation_config.json``, each replaced at once."""
    path = Path(folder)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with staging(path) as fresh:
            for name, content in config_files(config, dtype).items():
                write_json(fresh / name, content)
                os.replace(fresh / name, path / name)
        sync_folder(path)


def write_json(path: Path, content: Any) -> None:
    """Write and flush a JSON file."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def weight_files(folder: Path) -> dict[str, dict[str, Entry]]:
    """The checked headers of all weight files (file name -> tensors): the index's, or the single one, and the MTP file.

    Raises:
        CheckpointError: no weights, only pickled ones, an index that lies, or a tensor in two files.
    """
    if (folder / INDEX).exists() and not (folder / SINGLE).exists():
        found = _indexed(folder)
    elif (folder / SINGLE).exists():
        found = {SINGLE: read_header(trusted_file(folder, SINGLE))}
    else:
        raise CheckpointError(_no_weights(folder))
    if (folder / MTP_FILE).exists() and MTP_FILE not in found:
        found[MTP_FILE] = read_header(trusted_file(folder, MTP_FILE))
    owner: dict[str, str] = {}
    bad = []
    for file, entries in found.items():
        for name in entries:
            if owner.setdefault(name, file) != file:
                bad.append(f"tensor {name!r} is in {owner[name]} and in {file}; remove one of them")
    raise_all(CheckpointError, bad, str(folder))
    return found


def _indexed(folder: Path) -> dict[str, dict[str, Entry]]:
    weight_map = read_json(folder, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: weight_map must map tensor names to file names; copy it again")
    found: dict[str, dict[str, Entry]] = {}
    bad = []
    for file in sorted(set(weight_map.values())):
        if not file.endswith(".safetensors"):
            bad.append(f"{file!r} is not a .safetensors file")
            continue
        try:
            found[file] = read_header(trusted_file(folder, file))
        except CheckpointError as error:
            bad.append(str(error))
    for name, file in weight_map.items():
        if file in found and name not in found[file]:
            bad.append(f"the index places {name!r} in {file}, which does not hold it")
    bad += [f"{file} holds {n!r}, unknown to the index" for file in found for n in found[file] if n not in weight_map]
    raise_all(CheckpointError, bad, str(folder / INDEX))
    return found


def _no_weights(folder: Path) -> str:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        return (
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when opened; if you trust them: "
            'python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('safe')\""
        )
    if any(p.suffix == ".gguf" for p in folder.iterdir()):
        return f"{folder} holds GGUF weights only; give the folder with the original .safetensors files"
    return f"{folder} holds neither {SINGLE} nor {INDEX}; copy the checkpoint again"


Group = list[ToWrite]  # tensors that stay in one shard: a matrix and its scales


def write_sharded(folder: Path, groups: Sequence[Group], max_bytes: int) -> None:
    """Write one file, or shards of at most ``max_bytes`` (a larger group has one of its own) with their index."""
    shards: list[list[ToWrite]] = [[]]
    held = 0
    for group in groups:
        size = sum(t.bytes for t in group)
        if shards[-1] and held + size > max_bytes:
            shards.append([])
            held = 0
        shards[-1] += group
        held += size
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, shards[0])
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map.update(dict.fromkeys((t.name for t in shard), name))
    total = sum(t.bytes for shard in shards for t in shard)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def is_weight_file(name: str) -> bool:
    """Whether a checkpoint of ours may have written this file as (part of) its weights."""
    return name in (SINGLE, INDEX, MTP_FILE) or re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name) is not None


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder`` (same disk) for files that are not complete yet; removed in the end."""
    for left in folder.glob(STAGING + "*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def commit(fresh: Path, folder: Path) -> None:
    """Move every staged file into place, ``config.json`` last.

    A folder without ``config.json`` is no checkpoint: where weights are replaced it goes first and comes last, so that a kill
    in between leaves a folder that is refused, never old weights under a new config.
    """
    names = sorted(p.name for p in fresh.iterdir())
    stale = [p for p in folder.iterdir() if is_weight_file(p.name) and p.name not in names]
    if stale or any((folder / name).exists() for name in names if is_weight_file(name)):
        (folder / CONFIG).unlink(missing_ok=True)
        sync_folder(folder)
    for path in stale:
        path.unlink()
    for name in sorted(names, key=lambda n: n == CONFIG):
        os.replace(fresh / name, folder / name)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush the folder's own entries (renames) to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk becomes one line that says that nothing was changed."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise CheckpointError(f"the disk is full: {folder} was not written; free some space and save again") from None
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from None


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """``"float32"``, ``"bfloat16"``, ``"float64"`` or the torch dtype of that name."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float64") or getattr(torch, name) not in DTYPE_NAME:
        raise CheckpointError(f"dtype {name!r} is not supported; use float32, bfloat16 or float64")
    return getattr(torch, name)
