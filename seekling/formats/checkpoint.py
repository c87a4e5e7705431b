"""A ``Decoder`` from a Hugging Face checkpoint folder and back, tensor by tensor.

>>> model = load_model("DeepSeek-V2-Lite", "bfloat16")
>>> save_model(model, "copy")                       # AutoModelForCausalLM.from_pretrained("copy") gives equal logits

Memory: the model itself and one tensor of the file at a time.
"""

import dataclasses
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all
from seekling.formats import folder as files
from seekling.formats import hf
from seekling.formats.safetensors_io import ToWrite
from seekling.formats.source import TensorSource
from seekling.formats.stores import open_folder
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

DEFAULT_SHARD_BYTES = 4 * 1024**3
# transformers' DeepseekV3ForCausalLM passes over `model.layers.61` and calls any other MTP layer unexpected.
TRANSFORMERS_SKIPS_LAYER = 61
_MANY = 100  # from here on experts of one layer share a line of the error


Wide = Callable[[str, Tensor], bool]  # whether the tensor of that name is float32 whatever the others are


def load_model(folder: str | os.PathLike, dtype: str | torch.dtype = torch.float32, wide: Wide | None = None) -> Decoder:
    """Read the weights of a checkpoint folder into a new model in evaluation mode.

    A folder whose config announces MTP layers but that holds no tensor of them (transformers drops them when it saves) is
    read without MTP, with a warning.

    Args:
        folder: with config.json and model.safetensors, or shards and their index.
        dtype: of the model; router biases stay float32, and what is ``wide``.

    Raises:
        CheckpointError: one that lists every missing, unexpected or misshaped tensor; see ``folder`` for damaged files.
        ConfigError: from config.json.
    """
    path = files.checkpoint_folder(folder)
    to_dtype = files.dtype_of(dtype)
    return model_from(files.read_config(path), open_folder(path), to_dtype, wide)


def model_from(
    config: ModelConfig, source: TensorSource, dtype: str | torch.dtype = torch.float32, wide: Wide | None = None
) -> Decoder:
    """A model in evaluation mode, filled from any store of weights, one tensor at a time.

    Raises:
        CheckpointError: one that lists every missing, unexpected, misshaped or unreadable tensor.
    """
    source = hf.as_published(config, source)
    config = fitted(config, source)
    model = Decoder.empty(config, dtype=files.dtype_of(dtype), device="cpu")
    if wide is not None:
        cast(model, files.dtype_of(dtype), wide)
    by_name = {piece.name: piece for piece in hf.pieces(model)}
    memory = model.state_dict()
    with torch.no_grad():
        for name in source.shapes:  # in the store's order, which is the disk's
            if name in by_name:
                by_name[name].put(memory[by_name[name].target], source.read(name))
    _check_copies(config, source)
    return model.eval()


def cast(model: Decoder, dtype: torch.dtype, wide: Wide | None = None) -> None:
    """Give every tensor in place the dtype it has in a model opened as ``dtype``, one at a time."""
    plain = Decoder.empty(model.config, dtype=dtype).state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(torch.float32 if wide is not None and wide(name, tensor) else plain[name].dtype)


def fitted(config: ModelConfig, source: TensorSource) -> ModelConfig:
    """The config that a store's weights fill completely: without MTP layers of which it holds none.

    Raises:
        CheckpointError: one that lists every missing, unexpected, misshaped or unreadable tensor.
    """
    source = hf.as_published(config, source)
    config = _without_absent_mtp(config, source)
    check_fit(config, source)
    return config


def _without_absent_mtp(config: ModelConfig, source: TensorSource) -> ModelConfig:
    depth = config.num_nextn_predict_layers
    if depth == 0 or any(hf.is_mtp(name, config) for name in source.shapes):
        return config
    warnings.warn(
        f"{source.where} announces {depth} MTP layer(s) but holds no weights of them (transformers drops them); "
        "loaded without MTP",
        stacklevel=4,
    )
    return dataclasses.replace(config, num_nextn_predict_layers=0)


def check_fit(config: ModelConfig, source: TensorSource) -> None:
    """Compare what the store holds with what the model needs; raise one error with every difference."""
    raise_all(CheckpointError, _beyond(config, source), f"{source.where}: the weights do not fit config.json")
    plan = hf.pieces(Decoder.empty(config))
    shapes = {piece.name: piece.shape for piece in plan}
    optional = {name: shapes[main] for name, main in {**hf.copies(config), **hf.tied(config)}.items()}
    optional.update(hf.empty_tensors(config))
    optional.update({name: shape for name, (shape, _) in hf.decay_tables(config).items()})
    held = source.shapes
    missing = [name for name in shapes if name not in held]
    unexpected, misshaped = [], []
    for name, shape in held.items():
        wanted = shapes.get(name, optional.get(name))
        if wanted is None:
            if not hf.DERIVED.search(name):
                unexpected.append(name)
        elif tuple(shape) != tuple(wanted):
            misshaped.append(f"{name} has shape {list(shape)}, config.json makes it {list(wanted)}")
    few = len(missing) + len(unexpected) < _MANY
    bad = [f"missing {line}" for line in (missing if few else _by_layer(missing))]
    bad += [f"unexpected {line}" for line in (unexpected if few else _by_layer(unexpected))]
    unreadable: list[str] = getattr(source, "unreadable", list)()
    raise_all(CheckpointError, bad + misshaped + unreadable, f"{source.where}: the weights do not fit config.json")


def _beyond(config: ModelConfig, source: TensorSource) -> list[str]:
    """Counts that the store cannot hold: nobody waits for a model of 10,000 layers that are not there."""
    bad, held = [], len(source.shapes)
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    if layers > held:
        bad.append(f"it announces {layers} layers, but there are only {held} tensors; copy both again")
    widest = max((size for shape in source.shapes.values() for size in shape), default=0)
    if config.router_layers and config.n_routed_experts > widest:
        bad.append(f"it announces {config.n_routed_experts} experts, but no tensor is wider than {widest}; copy both again")
    return bad


def _by_layer(names: list[str]) -> list[str]:
    """Names with the experts of one layer on one line."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"\.experts\.\d+\.", ".experts.*.", name)].append(name)
    return [n[0] if len(n) == 1 else f"{key} ({len(n)} tensors, {n[0]} … {n[-1]})" for key, n in groups.items()]


def _check_copies(config: ModelConfig, source: TensorSource) -> None:
    """What the model holds once or derives must be the same numbers on disk: copies of the tables, decays."""
    bad = [
        f"{name} differs from {main}, which it must repeat; this model shares the two"
        for name, main in {**hf.copies(config), **hf.tied(config)}.items()
        if name in source.shapes and not _same_bits(source.read(name), source.read(main))
    ]
    for name, (_, make) in hf.decay_tables(config).items():
        if name in source.shapes:
            held = source.read(name)
            rounding = 1e-5 if held.dtype in (torch.float32, torch.float64) else 0.02  # slopes of 16 bits, 256 steps on
            if not torch.allclose(held.float(), make(), rtol=0, atol=rounding):
                bad.append(f"{name} differs from what config.json makes it; this model derives it")
    raise_all(CheckpointError, bad, source.where)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def save_model(
    model: Decoder,
    folder: str | os.PathLike,
    dtype: str | torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write weights, config.json and generation_config.json as one checkpoint; a failure leaves the folder as it was.

    MTP layers (``model.layers.{L}`` with their copies of embedding and head) go to ``model-mtp.safetensors``, which
    transformers does not open, because it would call them unexpected; for L = 61, the layer number of the published
    DeepSeek-V3 that it knows to skip, they go with the rest, and so do those of DeepSeek-V4 (``mtp.{k}``).

    Args:
        model: on any device.
        folder: made when missing; files that are not weights or config stay.
        dtype: of the written weights, None = the model's own; router biases are always float32.
        max_shard_bytes: larger models are split into shards with an index.

    Raises:
        CheckpointError: when the disk is full or cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file; give a folder to save to")
    if max_shard_bytes < 1:
        raise CheckpointError(f"max_shard_bytes must be positive, not {max_shard_bytes}")
    to_dtype = model.lm_head.weight.dtype if dtype is None else files.dtype_of(dtype)
    main, mtp = _planned(model, to_dtype)
    if mtp and (model.config.num_hidden_layers == TRANSFORMERS_SKIPS_LAYER or model.config.model_type == "deepseek_v4"):
        main, mtp = main + mtp, []
    with files.disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with files.staging(path) as fresh:
            files.write_sharded(fresh, [[tensor] for tensor in main], max_shard_bytes)
            if mtp:
                files.write_safetensors(fresh / files.MTP_FILE, mtp)
            for name, content in files.config_files(model.config, to_dtype).items():
                files.write_json(fresh / name, content)
            files.commit(fresh, path)


def _planned(model: Decoder, dtype: torch.dtype) -> tuple[list[ToWrite], list[ToWrite]]:
    """What is to be written, in the model's order: (main layers and tables, MTP layers)."""
    memory, config = model.state_dict(), model.config
    tensors = []
    plan = hf.pieces(model)

    def values_of(piece: hf.Piece) -> Callable[[], Tensor]:
        return lambda: piece.get(memory[piece.target])

    for piece in plan:
        tensors.append(ToWrite(piece.name, hf.disk_dtype(piece, dtype), piece.shape, values_of(piece)))
    by_name = {piece.name: piece for piece in plan}
    for name, main in hf.copies(config).items():
        tensors.append(ToWrite(name, dtype, by_name[main].shape, values_of(by_name[main])))
    for name, shape in hf.empty_tensors(config).items():
        tensors.append(ToWrite(name, dtype, shape, lambda shape=shape: torch.empty(shape)))  # type: ignore[misc]
    for name, (shape, make) in hf.decay_tables(config).items():
        tensors.append(ToWrite(name, torch.float32, shape, make))
    return [t for t in tensors if not hf.is_mtp(t.name, config)], [t for t in tensors if hf.is_mtp(t.name, config)]
