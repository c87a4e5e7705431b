"""Which runner computes: the native one over packed weights where it can, else torch.

A model given in memory runs in torch with its own weights, so that one in training is always current; a path on a CPU runs
natively, its weights packed straight from the file.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from seekling.engine.quant import quantised
from seekling.engine.row_runner import RowRunner
from seekling.engine.runner import Runner
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import MachineError, SeeklingError
from seekling.model.config import ModelConfig

Quant = Literal["int8", "int4"]
Choice = Literal["auto", "native", "torch"]
_FLOATS = {"float32": "f32", "bfloat16": "bf16"}
_told: set[str] = set()


@dataclass
class Backend:
    """A model ready to run.

    Attributes:
        model: the torch module; None where the native runner holds the only copy of the weights.
        path: where it came from; None for a model made in memory.
        version: changes when the weights do.
    """

    config: ModelConfig
    tokenizer: Any
    runner: Runner
    model: Any
    path: Path | None
    version: Callable[[], object]


def open_backend(
    path_or_lm: Any,
    quant: Quant | None,
    dtype: str | None,
    choice: Choice,
    threads: int | None = None,
    states: bool = False,
    adapters: bool = False,
) -> Backend:
    """A path or a loaded model with the runner it gets.

    Args:
        states: a runner that keeps hidden states is needed (MTP): torch.
        adapters: one that takes adapters: torch.

    Raises:
        MachineError: ``choice`` is "native" and something stands against it; CheckpointError: from the files.
    """
    if hasattr(path_or_lm, "model") and hasattr(path_or_lm, "config"):
        return _of_model(path_or_lm, quant, choice, threads, states, adapters)
    from seekling.lm import is_adapter, load, resolve

    path = resolve(path_or_lm)
    if is_adapter(path):  # merged into its base as it is opened
        fits = choice == "auto" and not _against(read_adapted_config(path), states, adapters)
        choice = "native" if fits else choice
        lm = load(path, dtype=dtype or ("bfloat16" if choice == "native" else "float32"))
        return dataclasses.replace(_of_model(lm, quant, choice, threads, states, adapters), path=path)
    if choice != "torch":
        config, tokenizer, source, stored = _open(path)
        why_not = _against(config, states, adapters)
        if dtype not in (None, *_FLOATS):
            why_not.append(f"dtype {dtype}")
        if not why_not:
            from seekling.engine.native_runner import NativeRunner
            from seekling.engine.packed import PackedWeights, StoreParts
            from seekling.formats.checkpoint import fitted

            config = fitted(config, source)
            native: Any = quant or (stored if dtype is None else _FLOATS[dtype])
            runner = NativeRunner(PackedWeights(StoreParts(config, source), native), threads=threads)
            return Backend(config, tokenizer, runner, None, path, lambda: None)
        _refuse_or_tell(choice, why_not)
    lm = load(path_or_lm, dtype=dtype or "float32")
    return dataclasses.replace(_of_model(lm, quant, "torch", threads, states, adapters), path=path)


def _of_model(lm: Any, quant: Quant | None, choice: Choice, threads: int | None, states: bool, adapters: bool) -> Backend:
    model, path = lm.model, getattr(lm, "path", None)
    weight = next(model.parameters())
    if choice == "native" or (choice == "auto" and quant is not None):
        why_not = _against(lm.config, states, adapters)
        if weight.dtype not in (torch.float32, torch.bfloat16) or weight.device.type != "cpu":
            why_not.append(f"weights of {weight.dtype} on {weight.device}")
        if not why_not:
            from seekling.engine.native_runner import NativeRunner

            native: Any = quant or ("bf16" if weight.dtype == torch.bfloat16 else "f32")
            return Backend(lm.config, lm.tokenizer, NativeRunner(model, native, threads), None, path, lambda: None)
        _refuse_or_tell(choice, why_not)
    model = model if quant is None else quantised(model, quant)
    kind = TorchRunner if lm.config.v4 is None else RowRunner
    return Backend(lm.config, lm.tokenizer, kind(model, lm.config, keep_states=states), model, path, Version(model))


class Version:
    """Called: something that differs once torch wrote to a weight, or one was replaced."""

    def __init__(self, model: Any):
        self._model = model

    def __call__(self) -> object:
        tensors = (*self._model.parameters(), *self._model.buffers())
        return [(t.data_ptr(), t._version) for t in tensors if not t.is_inference()]


def runner_path(runner: Runner) -> str:
    """Which code a runner runs, for people."""
    return getattr(runner, "path", type(runner).__name__)


def _against(config: ModelConfig, states: bool, adapters: bool) -> list[str]:
    """What keeps the native runner from this model."""
    from seekling.engine.native_runner import unsupported

    return unsupported(config) + ["drafting with MTP layers"] * states + ["adapters"] * adapters


def _refuse_or_tell(choice: Choice, why_not: list[str]) -> None:
    line = f"the native runner does not compute {', '.join(why_not)}"
    if choice == "native":
        raise MachineError(f"{line}; use runner='torch'")
    if line not in _told:
        _told.add(line)
        logging.getLogger("seekling").warning("%s: generating with torch, which is slower", line)


def read_adapted_config(folder: Path) -> ModelConfig:
    """The config of the model that an adapter folder belongs to."""
    from seekling.formats.folder import read_json
    from seekling.lm import ADAPTER, resolve

    base = resolve(read_json(folder, ADAPTER).get("base_model_name_or_path") or "")
    return _open(base)[0]


def _open(path: Path) -> tuple[ModelConfig, Any, Any, str]:
    """Config, tokenizer, weights and what these are kept as where no quantisation was asked for."""
    if path.suffix == ".gguf":
        from seekling.formats.families import read_config
        from seekling.formats.gguf_file import open_gguf

        file = open_gguf(path)
        return read_config(file.raw_config), file.tokenizer(), file.source, "gguf"
    from seekling.formats.folder import read_config as read_folder_config
    from seekling.formats.stores import open_folder
    from seekling.lm import tokenizer_of

    source = open_folder(path, dtype=torch.bfloat16)
    if not source.shapes:
        raise SeeklingError(f"{path} holds no weights")
    stored = source.read(next(iter(source.shapes))).dtype
    return read_folder_config(path), tokenizer_of(path), source, "bf16" if stored == torch.bfloat16 else "f32"
