"""Which runner computes: the native one over packed weights where it can, else torch.

A model given in memory runs in torch with its own weights, so that one in training is always current; a path on a CPU runs
natively, its weights packed straight from the file.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from seekling.engine.quant import quantised
from seekling.engine.row_runner import RowRunner
from seekling.engine.runner import Runner
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import MachineError, SeeklingError
from seekling.formats.adapters import Adapter, fingerprint, model_fingerprint
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.quants import Quant
from seekling.startup import without_collecting

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
        adapters: hash of each adapter by name.
    """

    config: ModelConfig
    tokenizer: Any
    runner: Runner
    model: Any
    path: Path | None
    version: Callable[[], object]
    adapters: dict[str, str]


@without_collecting()
def open_backend(
    path_or_lm: Any,
    quant: Quant | None,
    dtype: str | None,
    choice: Choice,
    threads: int | None = None,
    states: bool = False,
    adapters: Mapping[str, Any] | None = None,
    cache: Any = None,
) -> Backend:
    """A path or a loaded model with the runner it gets; a `Backend` is taken as it is.

    Args:
        states: a runner that keeps hidden states and runs the MTP layer is needed.
        adapters: by name, folders in peft's form or `Adapter` objects, which the runner then has.
        cache: "int8" for a cache in 8 bits: native.

    Raises:
        MachineError: ``choice`` is "native" and something stands against it; CheckpointError: from the files.
    """
    if isinstance(path_or_lm, Backend):
        return path_or_lm
    adapters = adapters or {}
    if hasattr(path_or_lm, "model") and hasattr(path_or_lm, "config"):
        return _of_model(path_or_lm, quant, choice, threads, states, adapters, cache)
    from seekling.lm import is_adapter, load, resolve

    path = resolve(path_or_lm)
    if is_adapter(path):  # merged into its base as it is opened
        base = read_adapted_config(path)
        fits = choice == "auto" and not _against(base, read_adapters(adapters, base))
        choice = "native" if fits else choice
        lm = load(path, dtype=dtype or ("bfloat16" if choice == "native" else "float32"))
        return dataclasses.replace(_of_model(lm, quant, choice, threads, states, adapters, cache), path=path)
    if choice != "torch":
        config, tokenizer, source, stored = open_store(path)
        found = read_adapters(adapters, config)
        why_not = _against(config, found)
        if dtype not in (None, *_FLOATS):
            why_not.append(f"dtype {dtype}")
        if not why_not:
            from seekling.engine.native_runner import NativeRunner
            from seekling.engine.packed import PackedWeights, StoreParts
            from seekling.formats.checkpoint import fitted

            config = fitted(config, source)
            native: Any = quant or (stored if dtype is None else _FLOATS[dtype])
            _check(found, config, lambda: fingerprint(source.shapes, source.read, config.num_hidden_layers))
            runner = NativeRunner(
                PackedWeights(StoreParts(config, source), native), threads=threads, cache=cache or "bf16", drafts=states
            )
            for name, adapter in found.items():
                runner.add_adapter(name, adapter)
            return Backend(config, tokenizer, runner, None, path, lambda: None, _hashes(found))
        _refuse_or_tell(choice, why_not)
    lm = load(path_or_lm, dtype=dtype or "float32")
    return dataclasses.replace(_of_model(lm, quant, "torch", threads, states, adapters, cache), path=path)


def _of_model(
    lm: Any,
    quant: Quant | None,
    choice: Choice,
    threads: int | None,
    states: bool,
    adapters: Mapping[str, Any],
    cache: Any,
) -> Backend:
    model, path, found = lm.model, getattr(lm, "path", None), read_adapters(adapters, lm.config)
    weight = next(model.parameters())
    if choice == "native" or (choice == "auto" and quant is not None):
        why_not = _against(lm.config, found)
        if weight.dtype not in (torch.float32, torch.bfloat16) or weight.device.type != "cpu":
            why_not.append(f"weights of {weight.dtype} on {weight.device}")
        if not why_not:
            from seekling.engine.native_runner import NativeRunner

            native: Any = quant or ("bf16" if weight.dtype == torch.bfloat16 else "f32")
            _check(found, lm.config, lambda: model_fingerprint(model))
            native_runner = NativeRunner(model, native, threads, cache or "bf16", drafts=states)
            for name, adapter in found.items():
                native_runner.add_adapter(name, adapter)
            return Backend(lm.config, lm.tokenizer, native_runner, None, path, lambda: None, _hashes(found))
        _refuse_or_tell(choice, why_not)
    if cache == "int8" or (cache == "bf16" and weight.dtype != torch.bfloat16):
        raise MachineError(f"cache_dtype {cache!r} needs the native runner, and this engine computes in torch: leave it out")
    model = model if quant is None else quantised(model, quant)
    kind = TorchRunner if lm.config.v4 is None else RowRunner
    runner = kind(model, lm.config, keep_states=states)
    if found:
        from seekling.engine.adapters import adapted

        runner.adapters.update({name: adapted(model, adapter, name) for name, adapter in found.items()})
    return Backend(lm.config, lm.tokenizer, runner, model, path, Version(model), _hashes(found))


def read_adapters(adapters: Mapping[str, Any], config: ModelConfig) -> dict[str, Adapter]:
    """Adapters by name, those given as folders read for a model of this shape."""
    if not adapters:
        return {}
    from seekling.formats.peft import read_adapter

    empty = Decoder.empty(config)
    return {name: one if isinstance(one, Adapter) else read_adapter(one, empty) for name, one in adapters.items()}


def _hashes(adapters: Mapping[str, Adapter]) -> dict[str, str]:
    return {name: adapter.digest() for name, adapter in adapters.items()}


def _check(adapters: Mapping[str, Adapter], config: ModelConfig, weights: Callable[[], str]) -> None:
    """Refuse adapters that are for another model; ``weights`` gives the fingerprint of this one's."""
    if not adapters:
        return
    shapes = shapes_of(config)
    for adapter in adapters.values():
        own = weights() if adapter.base_fingerprint is not None else None
        adapter.check(shapes, "the model", own, tied=config.tie_word_embeddings)


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of a model's tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in Decoder.empty(config).state_dict().items()}


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


def _against(config: ModelConfig, adapters: Mapping[str, Adapter]) -> list[str]:
    """What keeps the native runner from this model."""
    from seekling.engine.native_adapters import changes_by_merging
    from seekling.engine.native_runner import unsupported

    return unsupported(config) + changes_by_merging(config, adapters)


def _refuse_or_tell(choice: Choice, why_not: list[str]) -> None:
    line = f"the native runner does not compute {', '.join(why_not)}"
    if choice == "native":
        raise MachineError(f"{line}; use runner='torch'")
    if line not in _told:
        _told.add(line)
        logging.getLogger("seekling").warning("%s: generating with torch, which is slower", line)


def read_adapted_config(folder: Path) -> ModelConfig:
    """The config of the model that an adapter folder belongs to; its base may be another adapter over one."""
    from seekling.lm import is_adapter, resolve_base

    base = resolve_base(folder)
    return read_adapted_config(base) if is_adapter(base) else open_store(base)[0]


def open_store(path: Path) -> tuple[ModelConfig, Any, Any, str]:
    """What `seekling.lm.resolve` found, opened: config, tokenizer, weights, and how these are kept where no quantisation was
    asked for."""
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
