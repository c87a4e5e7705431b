"""PEFT adapter folders, read: ``adapter_config.json`` beside ``adapter_model.safetensors`` (the layout of peft 0.21).

>>> adapter = read_adapter("my-lora", model)

A linear layer ``P`` has ``base_model.model.P.lora_A.weight`` (r, I) and ``….lora_B.weight`` (O, r).  Stacked experts
(``target_parameters``) have A (E·r, I), expert by expert, and B (O, r·E), rank by rank; two stacks of one module are nested,
the first (``gate_up_proj``) inside as ``….experts.base_layer.lora_A``.  Adapters with one pair an expert
(``….experts.3.gate_proj.lora_A``) are read into the same stacks and can be written.

Shapes: r rank, I inputs, O outputs, E experts.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seekling.errors import CheckpointError, raise_all
from seekling.formats import folder as files
from seekling.formats import hf
from seekling.formats.adapters import Adapter, LowRank, matches
from seekling.formats.safetensors_io import read_metadata
from seekling.formats.safetensors_source import UNPICKLE, SafetensorsSource

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FINGERPRINT = "base_fingerprint"  # in the header of our safetensors files
PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+?)\.(?P<kind>lora_A|lora_B)(?:\.(?P<adapter>\w+))?\.weight")
_EMBEDDING_KEY = re.compile(r"(?P<module>.+?)\.lora_embedding_(?P<kind>[AB])(?:\.\w+)?")
_COPY = re.compile(r"(lm_head|model\.embed_tokens)\.base_layer\.weight")
_EACH = re.compile(r"(?P<prefix>.+)\.(?:mlp|block_sparse_moe)\.experts\.(?P<expert>\d+)\.(?P<kind>\w+)")
_HALF = {"gate_proj": 0, "up_proj": 1, "w1": 0, "w3": 1}
STACKS = ("gate_up_proj", "down_proj")  # in the order transformers declares them, which decides the nesting
# Fields that change no number of a finished LoRA adapter.
_HARMLESS = {
    "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "target_parameters", "init_lora_weights",
    "megatron_core", "qalora_group_size", "eva_config", "ensure_weight_tying", "runtime_config", "velora_config",
}  # fmt: skip
# Initialisations that also change the base weights, which the adapter file does not hold.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_adapter(folder: str | os.PathLike, model: nn.Module | Mapping[str, tuple[int, ...]] | None = None) -> Adapter:
    """Read a PEFT LoRA folder.

    Args:
        model: the base, a Decoder: every name and shape is checked, and parts get its names and order of rows.  Or shapes of
            parameters by transformers' names.  None: nothing is checked, names are transformers'.

    Raises:
        CheckpointError: no such folder, a pickle, a kind of adapter that is not supported, or a list of all that does not fit.
    """
    path = files.checkpoint_folder(folder)
    if not (path / CONFIG).exists():
        raise CheckpointError(f"{path} holds no {CONFIG}; give the folder of a PEFT adapter")
    raw = files.read_json(path, CONFIG)
    if not (path / WEIGHTS).exists():
        raise CheckpointError(_no_weights(path))
    raise_all(CheckpointError, unsupported(raw), str(path / CONFIG))
    source = SafetensorsSource.of_file(files.trusted_file(path, WEIGHTS))
    shapes = parameter_shapes(model)
    reader = _Reader(raw, source, shapes)
    parts = reader.parts()
    fingerprint = read_metadata(path / WEIGHTS).get(FINGERPRINT)
    adapter = Adapter(parts, raw.get("base_model_name_or_path"), fingerprint, reader.copies)
    if shapes is not None:
        adapter.check(shapes, "the model")
    return moved(adapter, model, to_memory=True) if isinstance(model, nn.Module) else adapter


def _no_weights(path: Path) -> str:
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in files.PICKLES)
    if pickles:
        line = UNPICKLE.format(path / pickles[0]).replace("weights.safetensors", str(path / WEIGHTS))
        return f"{path} holds only the pickle {pickles[0]}, which can run code when opened; {line}"
    return f"{path} holds no {WEIGHTS}; copy the adapter again"


def parameter_shapes(model: nn.Module | Mapping[str, tuple[int, ...]] | None) -> dict[str, tuple[int, ...]] | None:
    """transformers' name -> shape of a model's parameters."""
    if not isinstance(model, nn.Module):
        return None if model is None else dict(model)
    return {transformers_name(name, model.config): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def transformers_name(name: str, config: Any) -> str:
    """What transformers calls a parameter of a Decoder: the name on disk, but for MiniMax, where it renames as we do."""
    return name if config.model_type == "minimax_m2" else hf.disk_name(name, config)


def moved(adapter: Adapter, model: nn.Module, to_memory: bool) -> Adapter:
    """An adapter from transformers' names and rows to a Decoder's, or back.

    gpt_oss alternates gate and up rows of its experts in transformers; a Decoder holds the gate rows first.
    """
    config: Any = model.config
    names = {transformers_name(name, config): name for name in model.state_dict()}
    if not to_memory:
        names = {ours: theirs for theirs, ours in names.items()}
    parts = {}
    for name, part in adapter.parts.items():
        if config.model_type == "gpt_oss" and name.endswith(".experts.gate_up_proj"):
            rows = torch.arange(part.b.shape[1])
            order = torch.cat([rows[0::2], rows[1::2]]) if to_memory else rows.view(2, -1).T.reshape(-1)
            part = LowRank(part.a, part.b[:, order], part.scale)
        parts[names.get(name, name)] = part
    return dataclasses.replace(adapter, parts=parts)


def unsupported(raw: Mapping[str, Any]) -> list[str]:
    """A line for everything in adapter_config.json that this reader lacks."""
    bad = []
    kind = raw.get("peft_type")
    if kind != "LORA":
        return [f"peft_type {kind!r} is not supported, only LORA"]
    if raw.get("use_dora"):
        bad.append("use_dora: DoRA is not supported, only plain LoRA")
    if raw.get("bias", "none") != "none" or raw.get("lora_bias"):
        bad.append(f"bias {raw.get('bias')!r} / lora_bias {raw.get('lora_bias')!r}: trained biases are not supported")
    if raw.get("modules_to_save"):
        bad.append(f"modules_to_save {raw['modules_to_save']!r}: whole trained modules are not supported")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        bad.append(
            f"init_lora_weights {init!r} changes the base weights too; "
            "save it with peft's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    for field in ("r", "lora_alpha"):
        value = raw.get(field)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            bad.append(f"{field} must be a positive number, not {value!r}")
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(raw.get(field) or {}, dict):
            bad.append(f"{field} must be an object, not {raw[field]!r}")
    told = {"use_dora", "lora_bias", "modules_to_save"}
    bad += [
        f"{field} ({json.dumps(value)[:60]}) is not supported"
        for field, value in raw.items()
        if field not in _HARMLESS | told and value not in (None, False, {}, [], "")
    ]
    return bad


class _Reader:
    """The tensors of an adapter file on their way into parts."""

    def __init__(self, raw: Mapping[str, Any], source: SafetensorsSource, shapes: Mapping[str, tuple[int, ...]] | None):
        self.raw, self.source, self.shapes = raw, source, shapes
        self.bad: list[str] = []
        self.copies: dict[str, Tensor] = {}

    def parts(self) -> dict[str, LowRank]:
        pairs = self._pairs()
        out: dict[str, LowRank] = {}
        each: dict[str, dict[tuple[int, str], LowRank]] = {}
        for module, (a, b) in sorted(pairs.items()):
            if re.search(r"\.experts(\.base_layer)*$", module):
                self._stack(module, a, b, out)
                continue
            part = self._linear(module, a, b)
            expert = _EACH.fullmatch(module)
            if part is None:
                continue
            if expert:
                home = each.setdefault(f"{expert['prefix']}.mlp.experts", {})
                home[int(expert["expert"]), expert["kind"]] = part
            else:
                out[f"{module}.weight"] = part
        for home_name, found in each.items():
            out.update(self._gather(home_name, found))
        raise_all(CheckpointError, self.bad, self.source.where)
        return out

    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module path -> its A and B, those of embeddings transposed into the same form."""
        found: dict[str, dict[str, Tensor]] = {}
        for key in self.source.shapes:
            match = _KEY.fullmatch(key)
            embedding = _EMBEDDING_KEY.fullmatch(key)
            copied = _COPY.fullmatch(key.removeprefix(PREFIX))
            if copied:
                self.copies[f"{copied[1]}.weight"] = self.source.read(key)
                continue
            if match is None and embedding is None:
                kind = " (DoRA)" if "lora_magnitude_vector" in key else ""
                self.bad.append(f"{key}{kind} is no part of a plain LoRA adapter")
                continue
            module = (match or embedding)["module"].removeprefix(PREFIX)  # type: ignore[index]
            tensor = self.source.read(key)
            if tensor.dim() != 2:
                self.bad.append(f"{key} has shape {list(tensor.shape)}; A and B are matrices")
                continue
            # an embedding's W (V, D) changes by (B A)ᵀ
            kind = match["kind"] if match else ("lora_B" if embedding["kind"] == "A" else "lora_A")  # type: ignore[index]
            found.setdefault(self._named(module), {})[kind] = tensor if match else tensor.T
        for module, pair in found.items():
            self.bad += [f"{module} has no {kind}" for kind in ("lora_A", "lora_B") if kind not in pair]
            if not self._described(module):
                self.bad.append(f"{module} is in the file, but neither in target_modules nor in target_parameters")
        return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in found.items() if len(pair) == 2}

    def _named(self, module: str) -> str:
        """The module's name in a causal language model: adapters of a bare model lack its ``model.``."""
        if self.shapes is not None and f"{module}.weight" not in self.shapes and f"model.{module}.weight" in self.shapes:
            return f"model.{module}"
        return module

    def _described(self, module: str) -> bool:
        """Whether the config names the module, as a peft model would have it."""
        wanted, parameters = self.raw.get("target_modules"), self.raw.get("target_parameters") or []
        plain = module.replace(".base_layer", "")
        if any(matches(f"{plain}.{leaf}", parameters) for leaf in ("weight", *STACKS)):
            return True
        if not wanted:
            return False
        return wanted == "all-linear" or any(matches(name, wanted) for name in (plain, plain.removeprefix("model.")))

    def _setting(self, patterns: str, default: str, path: str) -> float:
        """The rank or alpha of a path: the first pattern that matches its end, else the general one."""
        for pattern, value in (self.raw.get(patterns) or {}).items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", path):
                    return value
            except re.error as error:
                raise CheckpointError(
                    f"{self.source.where}: {patterns} {pattern!r} is no regular expression: {error}"
                ) from None
        return self.raw[default]

    def _scale(self, path: str, rank: int) -> float:
        alpha = self._setting("alpha_pattern", "lora_alpha", path)
        return alpha / (math.sqrt(rank) if self.raw.get("use_rslora") else rank)

    def _linear(self, module: str, a: Tensor, b: Tensor) -> LowRank | None:
        path = f"{module}.weight" if matches(f"{module}.weight", self.raw.get("target_parameters") or []) else module
        rank = self._setting("rank_pattern", "r", path)
        if a.shape[0] != rank or b.shape[1] != rank:
            self.bad.append(f"{module}: A {list(a.shape)} and B {list(b.shape)} are not of rank {rank}, as {CONFIG} says")
            return None
        return LowRank(a, b, self._scale(path, int(rank)))

    def _stack(self, module: str, a: Tensor, b: Tensor, out: dict[str, LowRank]) -> None:
        """A stack: which one follows from the nesting, the number of experts from rank and shape."""
        home = module.replace(".base_layer", "")
        depth = module.count(".base_layer")
        parameters = self.raw.get("target_parameters") or []
        nested = [leaf for leaf in STACKS if matches(f"{home}.{leaf}", parameters)][::-1]
        if depth >= len(nested):
            self.bad.append(f"{module}: target_parameters names {len(nested)} stack(s) of {home}, too few for it")
            return
        name = f"{home}.{nested[depth]}"
        rank = int(self._setting("rank_pattern", "r", name))
        if a.shape[0] % rank or b.shape[1] != a.shape[0]:
            self.bad.append(f"{name}: A {list(a.shape)} and B {list(b.shape)} are not stacks of rank {rank}")
            return
        experts = a.shape[0] // rank
        a_ErI = a.reshape(experts, rank, -1)
        b_EOr = b.reshape(b.shape[0], rank, experts).permute(2, 0, 1)
        out[name] = LowRank(a_ErI, b_EOr, self._scale(name, rank))

    def _gather(self, home: str, found: Mapping[tuple[int, str], LowRank]) -> dict[str, LowRank]:
        """One stack from the adapters of single experts; experts without one get zeros."""
        shapes = self.shapes or {}
        out = {}
        for leaf, kinds in (("down_proj", ("down_proj", "w2")), ("gate_up_proj", tuple(_HALF))):
            mine = {key: part for key, part in found.items() if key[1] in kinds}
            if not mine:
                continue
            name = f"{home}.{leaf}"
            experts = shapes[name][0] if name in shapes else max(expert for expert, _ in found) + 1
            if max(expert for expert, _ in mine) >= experts:
                self.bad.append(f"{home} has {experts} experts in the model, the adapter names number {max(mine)[0]}")
                continue
            out[name] = _stacked(mine, experts, halves=leaf == "gate_up_proj")
        for expert, kind in found:
            if kind not in (*_HALF, "down_proj", "w2"):
                self.bad.append(f"{home}.{expert}.{kind} is no matrix of an expert")
        return out


def _stacked(found: Mapping[tuple[int, str], LowRank], experts: int, halves: bool) -> LowRank:
    """Single experts' parts in one: gate and up side by side in the rank, or sharing A where it is the same one."""
    some = next(iter(found.values()))
    scale, inputs, width = some.scale, some.a.shape[1], some.b.shape[0]
    rank = max(part.rank for part in found.values())
    by_expert: dict[int, dict[int, LowRank]] = {}
    for (expert, kind), part in found.items():
        by_expert.setdefault(expert, {})[_HALF.get(kind, 0) if halves else 0] = part
    shared = halves and all(len(p) == 2 and torch.equal(p[0].a, p[1].a) for p in by_expert.values())
    ranks = rank if shared or not halves else 2 * rank
    a_ErI = some.a.new_zeros(experts, ranks, inputs)
    b_EOr = some.b.new_zeros(experts, width * (2 if halves else 1), ranks)
    for expert, parts in by_expert.items():
        for half, part in parts.items():
            first = 0 if shared else half * rank
            a_ErI[expert, first : first + part.rank] = part.a
            b = part.b if part.scale == scale else part.b * (part.scale / scale)
            b_EOr[expert, half * width : (half + 1) * width, first : first + part.rank] = b
    return LowRank(a_ErI, b_EOr, scale)
