"""What the stages after pretraining share: the model they start from and what they write.

A stage starts from anything ``seekling.load`` takes.  With full weights its checkpoints are model folders; with LoRA they are
PEFT adapter folders, which ``seekling.load`` opens over their base.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seekling.errors import CheckpointError, RecipeError
from seekling.lm import LM, load
from seekling.model import Decoder
from seekling.train.lora import LoraSettings, adapter_of, add_lora
from seekling.train.optim import Optimizer, OptimSettings
from seekling.train.precision import compute_dtype
from seekling.train.sft_recipe import LoraPart
from seekling.train.state import Saved


def lora_settings(part: LoraPart) -> LoraSettings | None:
    """None = full weights."""
    if part.lora == 0:
        return None
    alpha = 2.0 * part.lora if part.lora_alpha is None else part.lora_alpha
    return LoraSettings(part.lora, alpha, part.lora_targets, part.lora_dropout, part.rslora, part.lora_shared_a)


@dataclass
class Student:
    """The model in training with what belongs to it.

    ``base`` names what it started from; ``fingerprint`` tells that model's weights.
    """

    lm: LM
    optimizer: Optimizer
    base: str
    fingerprint: str
    lora: LoraSettings | None

    @property
    def model(self) -> Decoder:
        return self.lm.model

    def weight_bytes(self) -> int:
        """Size of what a checkpoint writes."""
        return 4 * sum(v.numel() for v in self.optimizer.weights.values.values())

    def write(self, folder: Path) -> None:
        """The model or adapter files of a checkpoint, float32, with the tokenizer."""
        from seekling.train.pretrain import write_checkpoint

        assert self.lm.tokenizer is not None  # open_student has seen to it
        if self.lora is None:
            write_checkpoint(self.model, self.optimizer, self.lm.tokenizer, folder)
            return
        from seekling.formats.adapters import Adapter
        from seekling.formats.peft_write import write_adapter

        adapter = adapter_of(self.model, self.optimizer.weights.values)
        with_base = Adapter(adapter.parts, self.base, self.fingerprint)
        write_adapter(with_base, folder, plain_shapes(self.model))
        self.lm.tokenizer.save(folder)


def plain_shapes(model: Decoder) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters without adapters, by their names there."""
    return {name: tuple(t.shape) for name, t in Decoder.empty(model.config).state_dict().items()}


def open_student(
    source: str, saved: Saved | None, lora: LoraSettings | None, dtype: str, device: str, optim: OptimSettings, seed: int
) -> Student:
    """The model a stage trains: from ``source``, with the state of a checkpoint put in when a run goes on.

    Raises:
        RecipeError: no model named, no tokenizer, an adapter target that does not exist.
        CheckpointError: a base that is not what the run started from.
    """
    if not source:
        raise RecipeError("--model names what to start from: a run, a checkpoint folder, a GGUF file or a pulled model")
    from seekling.formats.adapters import model_fingerprint

    compute, _ = compute_dtype(dtype)
    full = lora is None
    start = str(saved.path) if saved is not None and full else source
    lm = load(start, dtype=torch.float32 if full else compute)
    if lm.tokenizer is None:
        raise RecipeError(f"{source} has no tokenizer, which conversations need; give a model folder with tokenizer.json")
    model, mark = lm.model.to(device), model_fingerprint(lm.model)
    if lora is not None:
        add_lora(model, lora, seed)
        if saved is not None:
            _restore_adapter(model, saved.path)
    else:
        model.requires_grad_(True)
    optimizer = Optimizer(model, optim, compute)
    base = str(Path(source).resolve()) if Path(source).exists() else source
    return Student(lm, optimizer, base, mark, lora)


@torch.no_grad()
def _restore_adapter(model: Decoder, folder: Path) -> None:
    from seekling.formats.peft import read_adapter

    held = read_adapter(folder, Decoder.empty(model.config))
    ours = adapter_of(model, dict(model.named_parameters()))
    if held.parts.keys() != ours.parts.keys():
        raise CheckpointError(f"{folder} adapts other layers than recipe.toml; put the original recipe back")
    for name, part in ours.parts.items():
        for mine, theirs in ((part.a, held.parts[name].a), (part.b, held.parts[name].b)):
            mine.data = mine.data.float()
            mine.copy_(theirs)


def say_to(console: Any) -> Callable[[str], None]:
    """A function that prints a line, or does nothing without a console."""
    return functools.partial(console.print, markup=False, highlight=False, soft_wrap=True) if console else lambda text: None
