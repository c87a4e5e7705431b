"""From a checkpoint folder on disk to another one, tensor by tensor: how 671 billion parameters change their format.

>>> convert("DeepSeek-V3", "DeepSeek-V3-bf16")                       # FP8 blocks -> bfloat16
>>> convert("DeepSeek-V3-bf16", "again", fp8=FP8Format())            # and back
>>> convert("model", "model-in-pieces", max_shard_bytes=2 * 1024**3) # other shards, the same bits

Memory: the largest tensor and what becomes of it.  The model is never built, so this works for every family.  The new folder
appears at once when all of it is written, or not at all.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seekling.errors import CheckpointError, raise_all
from seekling.formats import folder as files
from seekling.formats.fp8 import E4M3, FP8Format, FP8Source, quantize, scales_shape
from seekling.formats.merged_source import MergedSource
from seekling.formats.safetensors_io import ANY_DTYPE, ToWrite, write_safetensors
from seekling.formats.stores import FolderSource, open_folder

SHARD_BYTES = 5 * 1024**3
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
# Stay float32 whatever the rest becomes: V3's selection biases differ by less than bfloat16 can tell apart.
# So do V4's stream mixers, sinks and places in a block.
_KEEP_FLOAT32 = re.compile(
    r"e_score_correction_bias$|^.*\.mlp\.moe_statics\.|\.ffn\.gate\.bias$|(?:^|\.)hc_(?:attn|ffn|head)_(?:fn|base|scale)$|"
    r"\.attn\.attn_sink$|\.compressor\.ape$"
)
# The matrices that DeepSeek and MiniMax store in FP8: linear layers inside blocks, but neither routers nor MTP's joint.
_FP8_MATRIX = re.compile(
    r"(?:layers|mtp)\.\d+\..*(?:_proj|_proj_with_mqa|\.w[123]|indexer\.wq_b|indexer\.wk|attn\.w(?:q_[ab]|kv|o_[ab]))\.weight$"
)
_NOT_FP8 = re.compile(r"(?:eh_proj|weights_proj|shared_head\.head)\.weight$")
_WEIGHTS = (".safetensors", ".gguf", *files.PICKLES)
_CODE = (".py", ".pyc", ".so", ".sh", ".ipynb")


@dataclass
class Converted:
    """What a conversion wrote.

    Attributes:
        bytes: of weights.
        tensors: how many were written (scales count).
        quantised: how many matrices are FP8 now.
        left_out: what of the source folder was not copied (code, other weights, folders).
    """

    bytes: int = 0
    tensors: int = 0
    quantised: int = 0
    left_out: list[str] = field(default_factory=list)


OnTensor = Callable[[int, int], None]  # (bytes written so far, bytes in all)


def convert(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    dtype: str | None = None,
    fp8: FP8Format | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    on_tensor: OnTensor | None = None,
    also: Iterable[Path] = (),
) -> Converted:
    """Write a checkpoint folder anew in another number format or other shards.

    Without ``dtype`` plain tensors keep their bits, and quantised ones become bfloat16 (or stay as they are where ``fp8`` is
    the format they have).  Tokenizer, templates, licence and other small files are copied; code is not.

    Args:
        dtype: "float32", "bfloat16" or "float16" for all floating tensors (V3's router biases stay float32).
        fp8: quantise the linear layers into these blocks.
        on_tensor: told after every tensor.
        also: more files to copy (a run's tokenizer).

    Raises:
        CheckpointError: what cannot be read or written; nothing is left behind.
    """
    source_path = files.checkpoint_folder(folder)
    raw = files.read_json(source_path, files.CONFIG)
    raise_all(CheckpointError, _refusals(source_path, Path(out), dtype, max_shard_bytes))
    source = open_folder(source_path, raw, torch.bfloat16 if dtype is None and fp8 is None else None)
    return rewrite(source, source_path, raw, out, dtype, fp8, max_shard_bytes, on_tensor, also)


def rewrite(
    source: FolderSource | MergedSource,
    source_path: Path,
    raw: dict[str, Any],
    out: str | os.PathLike,
    dtype: str | None = None,
    fp8: FP8Format | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    on_tensor: OnTensor | None = None,
    also: Iterable[Path] = (),
) -> Converted:
    """``convert`` for a source that is open already, or has something added to it.

    Args:
        source_path: where the small files to copy are.
        raw: its config.json.
    """
    out_path = Path(out)
    raise_all(CheckpointError, _refusals(source_path, out_path, dtype, max_shard_bytes))
    groups, kept = planned(source, DTYPES[dtype] if dtype else None, fp8)
    config = new_config(raw, groups, fp8.to_config(kept) if fp8 else None)
    copies, left_out = companions(source_path, set(source.inner.files.values()))
    done = Converted(left_out=left_out)
    done.bytes = sum(t.bytes for group in groups for t in group)
    done.tensors = sum(map(len, groups))
    done.quantised = sum(t.dtype == E4M3 for group in groups for t in group)
    mtp = {name for name, file in source.inner.files.items() if file == files.MTP_FILE}
    existed = out_path.exists()
    with files.disk_errors(out_path):
        out_path.mkdir(parents=True, exist_ok=True)
        try:
            _check_space(out_path, done.bytes)
            with files.staging(out_path) as fresh:
                groups = _counted(groups, done.bytes, on_tensor)
                files.write_sharded(fresh, [g for g in groups if g[0].name not in mtp], max_shard_bytes)
                if mtp:
                    write_safetensors(fresh / files.MTP_FILE, [t for g in groups if g[0].name in mtp for t in g])
                for path in (*copies, *also):
                    shutil.copyfile(path, fresh / path.name)
                files.write_json(fresh / files.CONFIG, config)
                files.commit(fresh, out_path)
        except BaseException:
            if not existed and not any(out_path.iterdir()):
                out_path.rmdir()
            raise
    return done


def _refusals(source: Path, out: Path, dtype: str | None, max_shard_bytes: int) -> list[str]:
    bad = []
    if dtype is not None and dtype not in DTYPES:
        bad.append(f"dtype {dtype!r} is not supported; use {', '.join(DTYPES)}")
    if max_shard_bytes < 1:
        bad.append(f"max_shard_bytes must be positive, not {max_shard_bytes}")
    if out.exists() and not out.is_dir():
        bad.append(f"{out} is a file; give a folder to write to")
    elif out.exists() and any(not path.name.startswith(files.STAGING) for path in out.iterdir()):
        same = " (it is the folder that is read)" if out.resolve() == source.resolve() else ""
        bad.append(f"{out} is not empty{same}; give a new folder")
    return bad


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise CheckpointError(f"{out}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; make room on that disk")


# ---- what is written -------------------------------------------------------------------------------------------------


def planned(
    source: FolderSource | MergedSource, dtype: torch.dtype | None, fp8: FP8Format | None
) -> tuple[list[files.Group], list[str]]:
    """Every tensor of the new folder, in the order of the old one, and the modules that stay unquantised under ``fp8``.

    Raises:
        CheckpointError: FP8 asked for experts that are stacked into one tensor, which has no published layout.
    """
    groups, kept, bad = [], [], []
    for name, shape in source.shapes.items():
        stored = ANY_DTYPE[source.dtypes[name]]
        if fp8 and _FP8_MATRIX.search(name) and not _NOT_FP8.search(name) and len(shape) == 2 and stored.is_floating_point:
            groups.append(_fp8_group(source, name, shape, fp8))
            continue
        if fp8 and len(shape) == 3 and ".experts." in name:
            bad.append(f"{name} is a stack of experts, for which no FP8 layout is published; use --to hf")
        if fp8 and len(shape) == 2 and name.endswith(".weight") and "embed" not in name:
            kept.append(name.removesuffix(".weight"))
        plain = stored.is_floating_point and stored.itemsize > 1
        target = stored if dtype is None or not plain or _KEEP_FLOAT32.search(name) else dtype
        groups.append([ToWrite(name, target, shape, lambda name=name, to=target: _cast(source, name, to))])  # type: ignore[misc]
    raise_all(CheckpointError, bad, source.where)
    return groups, kept


def _cast(source: FolderSource | MergedSource, name: str, dtype: torch.dtype) -> Tensor:
    values = source.read(name) if ANY_DTYPE[source.dtypes[name]].is_floating_point else source.inner.stored(name)
    if dtype != torch.float16 or values.dtype == dtype:
        return values.to(dtype)
    out = values.to(dtype)
    if not torch.equal(torch.isinf(out), torch.isinf(values)):
        raise CheckpointError(f"{source.where}: {name} holds numbers beyond float16's 65504; use --dtype bfloat16")
    return out


def _fp8_group(source: FolderSource | MergedSource, name: str, shape: tuple[int, ...], fp8: FP8Format) -> files.Group:
    scale = f"{name}_scale_inv"
    kept: dict[str, Tensor] = {}

    def both() -> dict[str, Tensor]:
        if not kept:
            if isinstance(source, FP8Source) and name in source.scales and source.format == fp8:  # already what is asked for
                kept[name], kept[scale] = source.inner.stored(name), source.inner.stored(source.scales[name])
            else:
                try:
                    kept[name], kept[scale] = quantize(source.read(name), fp8.block, fp8.power_of_two)
                except CheckpointError as error:
                    raise CheckpointError(f"{source.where}: {name} {error}") from None
        return kept

    def take(key: str) -> Callable[[], Tensor]:
        return lambda: both().pop(key)

    return [
        ToWrite(name, E4M3, shape, take(name)),
        ToWrite(scale, torch.float32, scales_shape(shape, fp8.block), take(scale)),
    ]


def new_config(raw: dict[str, Any], groups: list[files.Group], quantisation: dict[str, Any] | None) -> dict[str, Any]:
    """config.json of the new folder: the old one, its dtype and quantisation those of the new weights."""
    # auto_map names code in the folder, which is not copied
    gone = ("quantization_config", "expert_dtype", "auto_map", "torch_dtype", "dtype")
    out = {key: value for key, value in raw.items() if key not in gone}
    sizes: dict[torch.dtype, int] = {}
    for tensor in (t for group in groups for t in group):
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1 and not tensor.name.endswith("_scale_inv"):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.bytes
    if sizes:
        out["dtype"] = str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")
    if quantisation is not None:
        out["quantization_config"] = quantisation
    return out


def companions(folder: Path, weights: Collection[str]) -> tuple[list[Path], list[str]]:
    """Files of a checkpoint folder to copy beside new weights (tokenizer, template, licence, card), and those left out.

    Args:
        weights: file names that the new weights replace.
    """
    copies, left_out = [], []
    for path in sorted(folder.iterdir()):
        replaced = path.name in weights or path.name == files.CONFIG or path.name.endswith(".safetensors.index.json")
        if replaced or path.name.startswith("."):
            continue
        if path.is_dir():
            left_out.append(f"{path.name}/")
            continue
        if path.suffix in (*_WEIGHTS, *_CODE) or path.name.endswith(".bin.index.json"):
            left_out.append(path.name)
            continue
        copies.append(files.trusted_file(folder, path.name))
    return copies, left_out


# ---- writing ---------------------------------------------------------------------------------------------------------


def _counted(groups: list[files.Group], total: int, on_tensor: OnTensor | None) -> list[files.Group]:
    """The same groups, each tensor told to ``on_tensor`` when it was asked for."""
    if on_tensor is None:
        return groups
    done = 0

    def counted(tensor: ToWrite) -> ToWrite:
        def values() -> Tensor:
            nonlocal done
            out = tensor.values()
            done += tensor.bytes
            on_tensor(done, total)
            return out

        return ToWrite(tensor.name, tensor.dtype, tensor.shape, values)

    return [[counted(tensor) for tensor in group] for group in groups]
