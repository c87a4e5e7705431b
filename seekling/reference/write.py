"""Write a reference model: folder, golden numbers, README. The same seed gives the same bytes."""

import contextlib
import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seekling.errors import CheckpointError, ConfigError
from seekling.formats.checkpoint import save_model
from seekling.formats.gguf_write import write_gguf
from seekling.formats.safetensors_io import ToWrite, write_safetensors
from seekling.lm import LM
from seekling.model.decoder import Decoder
from seekling.reference.archs import arch_named, config_of
from seekling.reference.golden import CONTINUE, MARGIN, Golden, compute, continuation, prompt_ids, prompts_of, same_choices
from seekling.reference.readme import readme
from seekling.reference.tokens import tokenizer
from seekling.reference.weights import fill, numbers
from seekling.text.tokenizer import Tokenizer

GOLDEN, GOLDEN_TENSORS, GGUF = "golden.json", "golden.safetensors", "model.gguf"
# The choices must survive weights that are this much off, relatively: far more than any order of sums does. Indexers make some
# hundred times as many choices, so that no draw would survive the larger noise.
NOISE, NOISE_INDEXED = 3e-4, 2e-5
TRIES = 500


@dataclass(frozen=True)
class Written:
    """What `write` made: the folder, its files with their sizes, and the number of draws until no choice was near a tie."""

    folder: Path
    files: dict[str, int]
    draw: int
    notes: tuple[str, ...]


def write(arch: str, out: Path, seed: int = 0) -> Written:
    """Make the model and everything beside it.

    Args:
        arch: deepseek_v2, v3, …
        out: a folder that does not exist or is empty.

    Raises:
        ConfigError: no such generation; CheckpointError: the folder is in use or cannot be written.
    """
    arch = arch_named(arch)
    config = config_of(arch)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not an empty folder; give another --out")
    words = tokenizer(config.vocab_size)
    prompts = {name: prompt_ids(words, pieces) for name, pieces in prompts_of(arch).items()}
    with one_thread():
        model, draw = _untied(Decoder.empty(config, device="cpu"), prompts, seed)
        exact = copy.deepcopy(model).double()
        golden = {name: compute(exact, ids) for name, ids in prompts.items()}
        single = {name: compute(model, ids) for name, ids in prompts.items()}
        further = {name: continuation(exact, ids) for name, ids in prompts.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_model(model, out, "bfloat16")
        words.save(out)
        tensors = _tensors(golden, single)
        write_safetensors(out / GOLDEN_TENSORS, tensors)
        facts = {**_facts(arch, seed, draw, golden, further, words), "noise": _noise(model)}
        facts["tensors"] = sorted({t.name.split(".", 1)[1] for t in tensors})
        (out / GOLDEN).write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
        notes = _gguf(out, arch, seed, model, words)
        (out / "README.md").write_text(readme(arch, seed, config, facts, (out / GGUF).exists(), notes), "utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror or error}); free some space or give another --out"
        ) from None
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return Written(out, files, draw, notes)


def _noise(model: Decoder) -> float:
    return NOISE_INDEXED if any(hasattr(module, "choose") for module in model.modules()) else NOISE


def _untied(model: Decoder, prompts: dict[str, list[int]], seed: int) -> tuple[Decoder, int]:
    """Draw weights until every router's choice is the same under small noise; returns the model and the number of the draw."""
    sizes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    size = _noise(model)
    noise = [{name: 1 + size * numbers(i, "noise/" + name, shape) for name, shape in sizes.items()} for i in range(2)]
    for draw in range(TRIES):
        fill(model, seed * TRIES + draw)
        if all(_stable(model, noise, ids) for ids in prompts.values()):
            return model.eval(), draw
    raise ConfigError(f"seed {seed} gives no model without near ties in {TRIES} draws; take another --seed")


@torch.no_grad()
def _stable(model: Decoder, noise: list[dict[str, Tensor]], ids: list[int]) -> bool:
    plain = compute(model, ids)
    for factors in noise:
        noisy = copy.deepcopy(model)
        for name, tensor in noisy.named_parameters():
            tensor.mul_(factors[name])
        if not same_choices(plain, compute(noisy, ids)):
            return False
    return True


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tensors(golden: dict[str, Golden], single: dict[str, Golden]) -> list[ToWrite]:
    out: dict[str, Tensor] = {}
    for name, g in golden.items():
        out[f"{name}.ids"] = g.ids.to(torch.int32)
        out[f"{name}.logits"] = g.logits
        out[f"{name}.logits_float32"] = single[name].logits
        out[f"{name}.hidden_norms"] = g.norms
        for layer, (experts, weights) in g.routers.items():
            out[f"{name}.router.{layer}.experts"] = experts.to(torch.int32)
            out[f"{name}.router.{layer}.weights"] = weights.float()
        for layer, seen in g.chosen.items():
            out[f"{name}.index.{layer}"] = seen.to(torch.uint8)
        if g.mtp is not None:
            out[f"{name}.mtp_logits"] = g.mtp.float()
    return [ToWrite(key, value.dtype, tuple(value.shape), lambda value=value: value) for key, value in out.items()]  # type: ignore[misc]


def _facts(
    arch: str, seed: int, draw: int, golden: dict[str, Golden], further: dict[str, tuple[list[int], list[float]]], words: Any
) -> dict[str, Any]:
    """golden.json: the same for eyes, with the ids and continuations."""
    prompts = {}
    for name, g in golden.items():
        ids, margins = further[name]
        last = g.logits[-1].topk(5)
        prompts[name] = {
            "pieces": [{"text": text, "control": mark} for text, mark in prompts_of(arch)[name]],
            "ids": g.ids.tolist(),
            "last_top5": [[int(i), round(float(v), 6)] for v, i in zip(last.values, last.indices, strict=True)],
            "continuation": {
                "ids": ids, "text": words.decode(ids, skip_special=False),
                "smallest_margin": round(min(margins, default=0.0), 6),
            },
            "last_hidden_norms": [round(float(n), 6) for n in g.norms[:, -1]],
            "last_experts": {str(layer): experts[-1].tolist() for layer, (experts, _) in g.routers.items()},
        }  # fmt: skip
    return {
        "arch": arch, "seed": seed, "draw": draw, "continue": CONTINUE, "margin": MARGIN,
        "tolerance": {"float64": 1e-7, "float32": 5e-4, "bfloat16": 0.5}, "prompts": prompts,
    }  # fmt: skip


def _gguf(out: Path, arch: str, seed: int, model: Decoder, words: Tokenizer) -> tuple[str, ...]:
    """model.gguf in F32; what it leaves out, or, where llama.cpp does not have this generation, why it was not written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(
                f"{GGUF}: {note}"
                for note in write_gguf(LM(model, words), out / GGUF, "f32", name=f"{arch} reference {seed}", licence="cc0-1.0")
            )
        except CheckpointError as error:
            return (f"no {GGUF}: {error}",)
