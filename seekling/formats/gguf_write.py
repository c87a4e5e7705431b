"""Models written as GGUF files that llama.cpp loads and answers the same from.

>>> notes = write_gguf(seekling.load("runs/nano-1"), "nano.gguf", to="q8_0")

Formats: f32, f16, bf16, q8_0, q4_0, q4_1, q4_k.  Vectors, norms and routers stay F32, rows that are no whole number of blocks
fall back to F16 (q4_k: to Q4_1), embedding and head of a 4-bit file are Q8_0 or Q6_K; what differs from the wish is said.  MTP
layers are left out: llama.cpp does not use those of DeepSeek-V3.
"""

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seekling.errors import CheckpointError, MachineError, raise_all
from seekling.formats import hf
from seekling.formats.checkpoint import fitted
from seekling.formats.families import read_config, write_config
from seekling.formats.gguf_keys import NEXTN, Plan, head_dim, plan_keys, rope_factors
from seekling.formats.gguf_names import ARCHITECTURES, BIAS
from seekling.formats.gguf_out import Key, OutTensor, Packer, kind_for, write_file
from seekling.formats.gguf_types import BY_NAME, SLICE_VALUES
from seekling.formats.source import TensorSource
from seekling.kernels import infer, native
from seekling.model.decoder import Decoder

if TYPE_CHECKING:
    import os

    from seekling.lm import LM
    from seekling.text.tokenizer import Tokenizer

# general.file_type by format
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q4_k": 14, "bf16": 32}
# Architectures for which llama.cpp insists on a head of its own.
_NEED_HEAD = ("qwen2moe", "minimax-m2", "gpt-oss")


def write_gguf(
    lm: "LM",
    path: "str | os.PathLike",
    to: str = "f16",
    *,
    name: str | None = None,
    licence: str | None = None,
    pack: Packer | None = None,
) -> list[str]:
    """Write a loaded model with its tokenizer and chat template.

    Args:
        lm: model and tokenizer (None leaves the file without one; llama.cpp then takes token ids only).
        path: of the new file; an old one is replaced in one step.
        to: f32, f16, bf16, q8_0, q4_0, q4_1 or q4_k.
        name, licence: written into the file.
        pack: quantises rows in place of the usual rounding (`seekling.formats.gguf_out.OutTensor`).

    Returns:
        What is different from the model or from ``to``, one line each; every line is also given as a warning.

    Raises:
        CheckpointError: llama.cpp has no counterpart for something in this model, or the disk is full.
        MachineError: q4_k, and the native kernels, which round to it, are not built.
    """
    from seekling.formats.gguf_model import ModelSource

    raw = write_config(lm.model.config)
    return write_gguf_source(ModelSource(lm.model), raw, lm.tokenizer, path, to, name=name, licence=licence, pack=pack)


def write_gguf_source(
    source: TensorSource,
    raw: Mapping[str, Any],
    tokenizer: "Tokenizer | None",
    path: "str | os.PathLike",
    to: str = "f16",
    *,
    name: str | None = None,
    licence: str | None = None,
    pack: Packer | None = None,
) -> list[str]:
    """`write_gguf` of any store of weights, one tensor in memory at a time; ``raw`` is its ``config.json``."""
    path = Path(path)
    keys, tensors, plan = _file(source, raw, tokenizer, path, to, name, licence)
    write_file(path, keys, tensors if pack is None else [dataclasses.replace(tensor, pack=pack) for tensor in tensors])
    for note in plan.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return plan.notes


def check_gguf(lm: "LM", path: "str | os.PathLike", to: str) -> None:
    """Raise what `write_gguf` would raise, without writing anything or reading the weights."""
    from seekling.formats.gguf_model import ModelSource

    _file(ModelSource(lm.model), write_config(lm.model.config), lm.tokenizer, Path(path), to)


def _file(
    source: TensorSource,
    raw: Mapping[str, Any],
    tokenizer: "Tokenizer | None",
    path: Path,
    to: str,
    name: str | None = None,
    licence: str | None = None,
) -> tuple[dict[str, Key], list[OutTensor], Plan]:
    """Everything of the file but the weights' bytes."""
    if to not in FILE_TYPES:
        raise CheckpointError(f"no GGUF is written as {to!r}; choose {', '.join(FILE_TYPES)}")
    if to == "q4_k" and not infer.available():
        raise MachineError(
            f"q4_k is written by the native kernels, and there are none here ({native.status()}); take q4_1 or q4_0"
        )
    config = read_config(dict(raw))
    source = hf.as_published(config, source)
    config = fitted(config, source)
    raw = write_config(config)  # with every default filled in
    plan = plan_keys(raw, str(path))
    keys: dict[str, Key] = {"general.architecture": Key("str", plan.arch), "general.type": Key("str", "model")}
    if name:
        keys["general.name"] = Key("str", name)
    if licence:
        keys["general.license"] = Key("str", licence)
    keys["general.file_type"] = Key("u32", FILE_TYPES[to])
    keys["general.quantization_version"] = Key("u32", 2)
    keys |= plan.keys
    names = [piece.name for piece in hf.pieces(Decoder.empty(config))]
    tensors = plan_tensors(source, names, raw, plan, to)
    for key, token in (
        ("bos", raw.get("bos_token_id")),
        ("eos", raw.get("eos_token_id")),
        ("padding", raw.get("pad_token_id")),
    ):
        ids = token if isinstance(token, list) else [token]
        if ids and ids[0] is not None:
            keys[f"tokenizer.ggml.{key}_token_id"] = Key("u32", ids[0])
    if tokenizer is None:
        keys["tokenizer.ggml.model"] = Key("str", "none")
        plan.notes.append("without a tokenizer: llama.cpp will take token ids only")
    else:
        from seekling.formats.gguf_vocabulary import vocabulary_keys

        keys |= vocabulary_keys(tokenizer, int(raw["vocab_size"]), plan.notes, str(path))
    return keys, tensors, plan


def plan_tensors(source: TensorSource, disks: Sequence[str], raw: Mapping[str, Any], plan: Plan, to: str) -> list[OutTensor]:
    """Every tensor of the file, in order; nothing is read yet.

    Args:
        source: of the values.
        disks: the names of the model's tensors; a store may hold others (tables that follow from the config, tied copies).
        raw, plan, to: config, keys and format of the file.

    Raises:
        CheckpointError: a tensor has no place in this architecture.
    """
    wanted, layers = BY_NAME[to.upper()], int(raw["num_hidden_layers"])
    layers += int(raw.get("num_nextn_predict_layers") or 0) if plan.arch in NEXTN else 0
    found: dict[str, OutTensor] = {}
    bad: list[str] = []
    left_out: set[int] = set()
    experts: dict[tuple[int, str], dict[int, str]] = {}

    def add(stored: str, shape: tuple[int, ...], rows: Callable[[], Iterator[np.ndarray]]) -> None:
        found[stored] = OutTensor(stored, kind_for(stored, shape, wanted), shape, rows)

    names = ARCHITECTURES[plan.arch]
    outer, exact = ({to_: from_ for from_, to_ in pairs.items()} for pairs in (names.outer, names.exact))
    inverse = {to_: from_ for from_, to_ in (*names.layer.items(), *names.linear.items())}
    pattern = re.escape(names.experts).replace(r"\{expert\}", r"(\d+)").replace(r"\{kind\}", "(\\w+?)")
    kinds = {value: key for key, value in names.kinds.items()}
    for disk in disks:
        shape = source.shapes[disk]
        if disk in outer:
            add(outer[disk], tuple(shape), _all_rows(source, disk))
            continue
        if (mtp := re.match(r"mtp\.(\d+)\.", disk)) and plan.arch == "deepseek4":
            left_out.add(int(mtp[1]))
            continue
        match = re.fullmatch(re.escape(names.prefix) + r"(\d+)\.(.+)", disk)
        if not match:
            bad.append(f"{disk} has no place in a GGUF of {plan.arch}")
            continue
        layer, rest = int(match[1]), match[2]
        if layer >= layers:
            left_out.add(layer)
            continue
        expert = re.fullmatch(pattern, rest)
        if expert and expert[2] in kinds:
            experts.setdefault((layer, kinds[expert[2]]), {})[int(expert[1])] = disk
        elif rest in exact:
            one_row = shape[-1:] if exact[rest] == BIAS else tuple(shape)
            add(f"blk.{layer}.{exact[rest]}", one_row, _all_rows(source, disk))
        elif not _special(add, source, raw, plan.arch, layer, rest):
            stem, _, end = rest.rpartition(".")
            if stem not in inverse or end not in ("weight", "bias"):
                bad.append(f"{disk} has no place in a GGUF of {plan.arch}")
            else:
                shape = shape[1:] if inverse[stem] == "ffn_gate_inp_shexp" else shape
                add(f"blk.{layer}.{inverse[stem]}.{end}", tuple(shape), _all_rows(source, disk))
    for (layer, kind), members in experts.items():
        if sorted(members) != list(range(len(members))):
            bad.append(f"layer {layer}: of {len(members)} experts' {kind} matrices some are missing")
            continue
        disks = [members[i] for i in range(len(members))]
        add(f"blk.{layer}.ffn_{kind}_exps.weight", (len(disks), *source.shapes[disks[0]]), _all_rows(source, *disks))
    if "output.weight" not in found and plan.arch in _NEED_HEAD:
        disk = "model.embed_tokens.weight"
        add("output.weight", tuple(source.shapes[disk]), _all_rows(source, disk))
        plan.notes.append("the shared embedding is written twice: llama.cpp wants a head of its own for this architecture")
    factors = rope_factors(raw)
    if factors is not None:
        add("rope_freqs.weight", (len(factors),), lambda: iter([np.array([factors], np.float32)]))
    raise_all(CheckpointError, bad[:20], f"{source.where}: GGUF")
    _say_fallbacks(plan, list(found.values()), to, left_out)
    return list(found.values())


def _say_fallbacks(plan: Plan, tensors: list[OutTensor], to: str, left_out: set[int]) -> None:
    if left_out:
        plan.notes.append(f"{len(left_out)} MTP layer(s) are left out: llama.cpp has no use for them in {plan.arch}")
    if to not in ("q8_0", "q4_0", "q4_1", "q4_k"):
        return
    fallen = [t for t in tensors if t.kind.name == "F16"]
    if fallen:
        stems = sorted({re.sub(r"^blk\.\d+\.", "", t.name).removesuffix(".weight") for t in fallen})
        plan.notes.append(f"{len(fallen)} tensors stay F16, their rows are no whole number of blocks of 32: {', '.join(stems)}")
    tables = {t.kind.name for t in tensors if t.name in ("token_embd.weight", "output.weight")}
    if to != "q8_0" and tables:
        plan.notes.append(f"embedding and head are {' and '.join(sorted(tables))} in a {to} file")
    short = sum(t.kind.name == "Q4_1" for t in tensors) if to == "q4_k" else 0
    if short:
        plan.notes.append(f"{short} tensors are Q4_1, their rows are no whole number of blocks of 256")


def _special(
    add: Callable[[str, tuple[int, ...], Callable[[], Iterator[np.ndarray]]], None],
    source: TensorSource,
    raw: Mapping[str, Any],
    arch: str,
    layer: int,
    rest: str,
) -> bool:
    """Tensors that llama.cpp wants in another form than Hugging Face's; False for all others."""
    disk, to = f"{ARCHITECTURES[arch].prefix}{layer}.{rest}", f"blk.{layer}."
    shape = tuple(source.shapes[disk])
    if rest == "self_attn.kv_b_proj.weight":
        heads, nope = raw["num_attention_heads"], raw["qk_nope_head_dim"]
        value, latent = raw["v_head_dim"], shape[1]
        add(to + "attn_k_b.weight", (heads, latent, nope), _per_head(source, disk, heads, lambda w: w[:nope].T))
        add(to + "attn_v_b.weight", (heads, value, latent), _per_head(source, disk, heads, lambda w: w[nope:]))
    elif arch == "llama" and (match := re.fullmatch(r"self_attn\.([qk])_proj\.(weight|bias)", rest)):
        heads = raw["num_attention_heads"] if match[1] == "q" else raw.get("num_key_value_heads") or raw["num_attention_heads"]
        half = head_dim(raw) // 2
        add(f"{to}attn_{match[1]}.{match[2]}", shape, _reordered(source, disk, heads, half))
    elif arch == "gpt-oss" and rest.startswith("mlp.experts."):
        _gpt_oss_experts(add, source, disk, to, rest, shape)
    else:
        return False
    return True


def _gpt_oss_experts(
    add: Callable[[str, tuple[int, ...], Callable[[], Iterator[np.ndarray]]], None],
    source: TensorSource,
    disk: str,
    to: str,
    rest: str,
    shape: tuple[int, ...],
) -> None:
    """Stacked, transposed, gate and up interleaved: each expert's rows, taken apart."""
    end = "bias" if rest.endswith("_bias") else "weight"
    turned = (shape[0], shape[1]) if end == "bias" else (shape[0], shape[2], shape[1])
    if "down_proj" in rest:
        add(f"{to}ffn_down_exps.{end}", turned, _per_item(source, disk, lambda w: w.T if w.dim() == 2 else w[None]))
        return
    half = (turned[0], turned[1] // 2, *turned[2:])
    for first, kind in enumerate(("gate", "up")):

        def rows(w: Tensor, first: int = first) -> Tensor:
            return w.T[first::2] if w.dim() == 2 else w[None, first::2]

        add(f"{to}ffn_{kind}_exps.{end}", half, _per_item(source, disk, rows))


def _slices(tensor: Tensor) -> Iterator[np.ndarray]:
    """float32 rows of a tensor (int32 of a table of integers), a bounded number of values at a time."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor[None]
    step = max(1, SLICE_VALUES // max(1, rows.shape[1]))
    dtype = torch.float32 if rows.is_floating_point() else torch.int32
    for part in rows.split(step):
        yield part.detach().to(device="cpu", dtype=dtype).contiguous().numpy()


def _all_rows(source: TensorSource, *disks: str) -> Callable[[], Iterator[np.ndarray]]:
    def rows() -> Iterator[np.ndarray]:
        for disk in disks:
            yield from _slices(source.read(disk))

    return rows


def _per_item(source: TensorSource, disk: str, part: Callable[[Tensor], Tensor]) -> Callable[[], Iterator[np.ndarray]]:
    def rows() -> Iterator[np.ndarray]:
        for item in source.read(disk):
            yield from _slices(part(item))

    return rows


def _per_head(
    source: TensorSource, disk: str, heads: int, part: Callable[[Tensor], Tensor]
) -> Callable[[], Iterator[np.ndarray]]:
    def rows() -> Iterator[np.ndarray]:
        for head in source.read(disk).unflatten(0, (heads, -1)):
            yield from _slices(part(head))

    return rows


def _reordered(source: TensorSource, disk: str, heads: int, half: int) -> Callable[[], Iterator[np.ndarray]]:
    """Query or key rows with the two halves of each head interleaved, as llama.cpp's rotation wants them."""

    def rows() -> Iterator[np.ndarray]:
        tensor = source.read(disk)
        yield from _slices(tensor.unflatten(0, (heads, 2, half)).transpose(1, 2).reshape(tensor.shape))

    return rows
