"""PEFT adapter folders, written so that ``peft.PeftModel.from_pretrained`` opens them (see ``peft`` for the layout).

>>> write_adapter(adapter, "my-lora", model)

Shapes: r rank, I inputs, O outputs, E experts.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from seekling.errors import CheckpointError
from seekling.formats import folder as files
from seekling.formats.adapters import Adapter, LowRank
from seekling.formats.peft import CONFIG, FINGERPRINT, PREFIX, WEIGHTS, moved, parameter_shapes
from seekling.formats.safetensors_io import ToWrite, write_safetensors

# Leaves that peft renames to expert stacks in models that have experts, so that only target_parameters reaches such layers.
_ROUTERS = ("gate", "router")  # no linear layers in transformers
_RENAMED = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def write_adapter(
    adapter: Adapter,
    folder: str | os.PathLike,
    model: nn.Module | Mapping[str, tuple[int, ...]] | None = None,
    each_expert: bool = False,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained`` opens.

    Args:
        model: the base; with it ``target_modules`` is short (``q_proj`` for all of them) instead of naming every module.
        each_expert: one pair for each expert's gate, up and down instead of stacks (what older loaders read).
        notes: further entries of the file's header, which peft passes over.

    Raises:
        CheckpointError: when the disk cannot be written; the folder is then as it was.
    """
    if isinstance(model, nn.Module):
        adapter = moved(adapter, model, to_memory=False)
    shapes = parameter_shapes(model) or {}
    raw, tensors = _Writer(adapter, shapes, each_expert).files()
    path = Path(folder)
    metadata = dict(notes or {}) | ({FINGERPRINT: adapter.base_fingerprint} if adapter.base_fingerprint else {})
    with files.disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with files.staging(path) as fresh:
            write_safetensors(fresh / WEIGHTS, tensors, metadata)
            files.write_json(fresh / CONFIG, raw)
            for name in (WEIGHTS, CONFIG):
                os.replace(fresh / name, path / name)
        files.sync_folder(path)


class _Writer:
    """An adapter on its way into a config and tensors."""

    def __init__(self, adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], each_expert: bool):
        self.adapter, self.shapes, self.each_expert = adapter, shapes, each_expert
        names = (*adapter.parts, *shapes)
        self.has_experts = any(".experts." in name for name in names)
        self.modules: dict[str, tuple[int, float]] = {}  # path -> (rank, alpha)
        self.parameters: dict[str, tuple[int, float]] = {}
        self.expert_setting: tuple[int, float] | None = None
        self.tensors: list[ToWrite] = []

    def files(self) -> tuple[dict[str, Any], list[ToWrite]]:
        for name, part in self.adapter.parts.items():
            if part.a.dim() == 2:
                self._linear(name.removesuffix(".weight"), part)
            elif not self.each_expert:
                self._stack(name, part)
        if self.each_expert:
            self._experts({name: part for name, part in self.adapter.parts.items() if part.a.dim() == 3})
        settings = {**self.modules, **self.parameters}
        rank, alpha = self.expert_setting or Counter(settings.values()).most_common(1)[0][0]
        raw = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": self.adapter.base_name,
            "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "use_rslora": False, "use_dora": False,
            "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "modules_to_save": None,
            "target_modules": self._short(self.modules),
            "rank_pattern": {re.escape(n): r for n, (r, _) in settings.items() if r != rank},
            "alpha_pattern": {re.escape(n): a for n, (_, a) in settings.items() if a != alpha},
        }  # fmt: skip
        if self.parameters:
            raw["target_parameters"] = sorted(self.parameters)
        return raw, self.tensors

    def _put(self, module: str, a: Tensor, b: Tensor) -> None:
        for kind, tensor in (("lora_A", a), ("lora_B", b)):
            name = f"{PREFIX}{module}.{kind}.weight"
            self.tensors.append(ToWrite(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor))  # type: ignore[misc]

    def _linear(self, module: str, part: LowRank) -> None:
        self._put(module, part.a, part.b)
        leaf = module.rsplit(".", 1)[-1]
        if leaf == "embed_tokens":
            raise CheckpointError(f"{module}: adapters of the embedding are read but not written")
        home, key = (self.modules, module)
        if leaf in _ROUTERS or (self.has_experts and leaf in _RENAMED):
            home, key = self.parameters, f"{module}.weight"
        home[key] = (part.rank, _alpha(part.scale, part.rank))

    def _stack(self, name: str, part: LowRank) -> None:
        home, leaf = name.rsplit(".", 1)
        inner = leaf == "gate_up_proj" and f"{home}.down_proj" in self.adapter.parts
        a = part.a.reshape(-1, part.a.shape[-1])
        b = part.b.permute(1, 2, 0).reshape(part.b.shape[1], -1)
        self._put(f"{home}.base_layer" if inner else home, a, b)
        self.parameters[name] = (part.rank, _alpha(part.scale, part.rank))

    def _experts(self, stacks: Mapping[str, LowRank]) -> None:
        """One pair for each matrix of each expert, all of one rank and scale: peft fuses them again by the general ``r``."""
        each: dict[str, tuple[Tensor, Tensor, float]] = {}
        for name, part in stacks.items():
            home, leaf = name.rsplit(".", 1)
            half = part.b.shape[1] // 2
            rows = {"down_proj": slice(None)}
            if leaf == "gate_up_proj":
                rows = {"gate_proj": slice(0, half), "up_proj": slice(half, None)}
            for kind, some in rows.items():
                each[f"{home}.*.{kind}"] = (*_trimmed(part.a, part.b[:, some]), part.scale)
        rank = max((a.shape[1] for a, _, _ in each.values()), default=0)
        for pattern, (a_ErI, b_EOr, scale) in each.items():
            first = next(iter(each.values()))[2]
            missing = rank - a_ErI.shape[1]
            a_ErI, b_EOr = pad(a_ErI, (0, 0, 0, missing)), pad(b_EOr, (0, missing))
            b_EOr = b_EOr if scale == first else b_EOr * (scale / first)
            for expert in range(len(a_ErI)):
                module = pattern.replace("*", str(expert))
                self._put(module, a_ErI[expert], b_EOr[expert])
                self.modules[module] = (rank, _alpha(first, rank))
                self.expert_setting = self.modules[module]

    def _short(self, modules: Mapping[str, Any]) -> list[str]:
        """Ends of names where they mean exactly these modules, whole names elsewhere."""
        out: set[str] = set()
        everything = {name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight")}
        for module in modules:
            leaf = module.rsplit(".", 1)[-1]
            meant = {m for m in everything if m.rsplit(".", 1)[-1] == leaf}
            short = (bool(meant) and meant <= modules.keys()) or (".experts." in module and self.each_expert)
            out.add(leaf if short else module)
        return sorted(out)


def _trimmed(a_ErI: Tensor, b_EOr: Tensor) -> tuple[Tensor, Tensor]:
    """Without the ranks that no expert uses: what is left of two adapters that were put side by side."""
    used = (b_EOr != 0).any(dim=0).any(dim=0)
    used[0] |= not used.any()
    return a_ErI[:, used], b_EOr[:, :, used]


def _alpha(scale: float, rank: int) -> float:
    alpha = scale * rank
    return int(alpha) if alpha == int(alpha) else alpha
