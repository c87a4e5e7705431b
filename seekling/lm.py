"""One object for a model with its tokenizer, from a run or from any checkpoint folder.

>>> lm = seekling.load("runs/nano-1")               # newest complete checkpoint of a run
>>> lm = seekling.load("DeepSeek-V2-Lite", dtype="bfloat16")
>>> lm.model(torch.tensor([[1, 2, 3]])).shape       # (B, T, V)
>>> lm.save("copy")
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seekling.errors import CheckpointError
from seekling.formats import load_model, save_model
from seekling.formats.checkpoint import DEFAULT_SHARD_BYTES, Wide, cast, model_from
from seekling.formats.families import read_config
from seekling.formats.folder import CONFIG, dtype_of
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

GGUF, ADAPTER = ".gguf", "adapter_config.json"
_REMEDY = "run `seekling run` first or give a folder that holds config.json"


@dataclass
class LM:
    """A loaded language model.

    Attributes:
        model: callable, ids (B, T) -> logits (B, T, V).
        tokenizer: None where the folder has none.
        config: the model's shape.
        path: the checkpoint folder it came from, None for a model made in memory.
    """

    model: Decoder
    tokenizer: "Tokenizer | None" = None
    path: Path | None = None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def save(
        self,
        folder: str | os.PathLike,
        dtype: str | torch.dtype | None = None,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    ) -> None:
        """Write a checkpoint folder that ``load`` and ``transformers`` open; ``dtype`` None keeps the model's."""
        save_model(self.model, folder, dtype, max_shard_bytes)
        if self.tokenizer is not None:
            self.tokenizer.save(Path(folder))


def load(path_or_name: str | os.PathLike, dtype: str | torch.dtype = "float32", wide: Wide | None = None) -> LM:
    """Open a run folder, the name of a run under ``runs/``, a checkpoint folder, a GGUF file, or a pulled model by its name.

    Args:
        path_or_name: a run gives its newest complete checkpoint.
        dtype: "float32", "bfloat16" or "float64".
        wide: which tensors are float32 whatever ``dtype`` says.

    Raises:
        CheckpointError: no such folder, not a run, or weights that do not fit; ConfigError: from config.json.
    """
    path = resolve(path_or_name)
    if path.suffix == GGUF:
        from seekling.formats.gguf_file import open_gguf

        file = open_gguf(path)
        return LM(model_from(read_config(file.raw_config), file.source, dtype, wide), file.tokenizer(), path)
    if is_adapter(path):
        return _over_base(path, dtype_of(dtype), wide)
    return LM(load_model(path, dtype, wide), tokenizer_of(path), path)


def is_adapter(path: Path) -> bool:
    """Whether what ``resolve`` found is a PEFT adapter folder, which opens over its base."""
    return (path / ADAPTER).is_file() and not (path / CONFIG).exists()


def load_tokenizer(path_or_name: str | os.PathLike) -> "Tokenizer":
    """The tokenizer of whatever ``load`` opens, without its weights.

    Raises:
        CheckpointError: no such model, or one without a tokenizer.
    """
    path = resolve(path_or_name)
    if path.suffix == GGUF:
        from seekling.formats.gguf_file import open_gguf

        found = open_gguf(path).tokenizer()
    else:
        found = tokenizer_of(path)
    if found is None:
        raise CheckpointError(f"{path} has no tokenizer; give a model folder with tokenizer.json")
    return found


def base_of(folder: Path) -> str:
    """What an adapter folder calls its base.

    Raises:
        CheckpointError: it names none.
    """
    from seekling.formats.folder import read_json

    base = read_json(folder, ADAPTER).get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"{folder} is an adapter that names no base; merge it with: seekling merge BASE {folder} --out DIR"
        )
    return base


def stored_dtype(path: Path) -> torch.dtype:
    """Bfloat16 where that holds every matrix of what ``resolve`` found as it is, else float32; of an adapter, its base's."""
    from seekling.formats.stores import open_folder

    if path.suffix == GGUF:
        return torch.float32
    if is_adapter(path):
        return stored_dtype(resolve_base(path))
    source = open_folder(path)
    kept = {source.dtypes[name] for name, shape in source.shapes.items() if len(shape) > 1}
    return torch.bfloat16 if kept == {"BF16"} else torch.float32


def _over_base(folder: Path, dtype: torch.dtype, wide: Wide | None) -> LM:
    """A PEFT adapter folder merged into the base it names: the numbers do not depend on ``dtype``, in which they are rounded
    once, at the end."""
    from seekling.formats.adapters import merge
    from seekling.formats.peft import read_adapter

    found = resolve_base(folder)
    try:
        exact = not is_adapter(found) and (dtype == torch.float64 or stored_dtype(found) == dtype)
        lm = load(found, dtype if exact else torch.float32, wide)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter over {found}, which cannot be opened: {error}") from None
    merge(lm.model, read_adapter(folder, lm.model), keep=False)
    cast(lm.model, dtype, wide)
    return LM(lm.model, tokenizer_of(folder) or lm.tokenizer, folder)


def resolve(path_or_name: str | os.PathLike) -> Path:
    """The checkpoint folder or GGUF file behind a path, the name of a run, or the name of a pulled model.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(path_or_name)
    if not path.exists() and len(path.parts) == 1 and Path("runs", path).is_dir():
        path = Path("runs", path)
    if not path.exists():
        from seekling.hub.names import find

        pulled = find(path_or_name)
        if pulled is None:
            name = str(path_or_name)
            hint = f" (a model of that name: seekling pull {name})" if len(path.parts) == 2 and not path.is_absolute() else ""
            raise CheckpointError(f"{path} does not exist; {_REMEDY}{hint}")
        path = pulled
    if path.is_file():
        if path.suffix == GGUF:
            return path
        raise CheckpointError(f"{path} is a file; give a .gguf file or the folder that holds a config.json")
    if (path / CONFIG).exists() or (path / ADAPTER).exists():
        return path
    ggufs = sorted(path.glob("*" + GGUF))
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise CheckpointError(f"{path} holds {len(ggufs)} GGUF files; name one, such as {ggufs[0]}")
    checkpoints = path / "checkpoints"
    if not checkpoints.is_dir():
        raise CheckpointError(f"{path} is neither a run nor a checkpoint folder; {_REMEDY}")
    latest = _latest(checkpoints)
    if latest is None:
        raise CheckpointError(f"{path} holds no complete checkpoint yet; let the run save one, or {_REMEDY}")
    return latest


def resolve_base(folder: Path) -> Path:
    """What ``resolve`` finds of the base that an adapter folder names. Raises CheckpointError that names both."""
    base = base_of(folder)
    try:
        return resolve(base)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is an adapter over {base}, which cannot be opened "
            f"({str(error).partition(';')[0]}): put the base back, or merge the adapter into it where it is now: "
            f"seekling merge BASE {folder} --out DIR"
        ) from None


def _latest(checkpoints: Path) -> Path | None:
    """What ``latest`` names, if it is complete; else the newest complete ``step-…`` folder."""
    complete = {p.name: p for p in checkpoints.glob("step-*") if (p / CONFIG).is_file() or (p / ADAPTER).is_file()}
    pointer = checkpoints / "latest"
    name = pointer.read_text("utf-8", errors="replace").strip() if pointer.is_file() else ""
    if name in complete:
        return complete[name]
    return max(complete.values(), key=_step, default=None)


def _step(folder: Path) -> tuple[int, str]:
    digits = folder.name.removeprefix("step-")
    return (int(digits) if digits.isdecimal() else -1, folder.name)


def tokenizer_of(checkpoint: Path) -> "Tokenizer | None":
    """The checkpoint's own tokenizer, or that of the run it lies in."""
    places = [checkpoint]
    if checkpoint.resolve().parent.name == "checkpoints":
        places.append(checkpoint.resolve().parent.parent / "tokenizer")
    for place in places:
        from seekling.text.folder import has_vocabulary

        if has_vocabulary(place):
            from seekling.text.tokenizer import Tokenizer

            return Tokenizer.load(place)
    return None
