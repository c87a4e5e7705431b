"""Compare an engine with the golden numbers: ours, or another one's logits from a file.

Each line is one comparison: the largest difference (for bfloat16 the median, since near choices of experts may then differ),
or the number of values that should be equal and are not.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seekling.errors import CheckpointError
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.reference.golden import Golden, compute, prompt_ids
from seekling.reference.write import GGUF, GOLDEN, GOLDEN_TENSORS, one_thread


@dataclass(frozen=True)
class Line:
    """One comparison. ``difference`` is a number of unequal values where ``tolerance`` is 0."""

    engine: str
    what: str
    prompt: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance  # false for NaN


class Reference:
    """A folder that ``seekling reference`` wrote, opened.

    Raises:
        CheckpointError: it is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / GOLDEN).is_file() or not (folder / GOLDEN_TENSORS).is_file():
            raise CheckpointError(f"{folder} has no {GOLDEN} and {GOLDEN_TENSORS}; write it with seekling reference --out DIR")
        self.folder = folder
        self._source = SafetensorsSource.of_file(folder / GOLDEN_TENSORS)
        try:
            self.facts: dict[str, Any] = json.loads((folder / GOLDEN).read_text("utf-8"))
            self.prompts: dict[str, Any] = self.facts["prompts"]
            self.tolerance: dict[str, float] = self.facts["tolerance"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / GOLDEN} is damaged ({error!r}); write the reference again") from None

    @property
    def names(self) -> list[str]:
        return list(self._source.shapes)

    def tensor(self, name: str) -> Tensor:
        return self._source.stored(name)


def check(folder: Path, logits: Path | None = None) -> Iterator[Line]:
    """Every comparison of our engine with the folder's golden numbers, or of another engine's ``logits`` file.

    Raises:
        CheckpointError: the folder is no reference, or the file holds nothing to compare.
    """
    reference = Reference(folder)
    if logits is not None:
        yield from theirs(reference, logits)
        return
    from seekling.lm import load

    with one_thread():
        for dtype in ("float64", "float32", "bfloat16"):
            lm = load(folder, dtype)
            if dtype == "float64":
                yield from _encoding(reference, lm.tokenizer)
            yield from _forward(reference, lm.model, f"torch {dtype}", dtype)
            if dtype == "float32":
                yield from _greedy(reference, lm, "engine float32")
        if (folder / GGUF).is_file():
            yield from _forward(reference, load(folder / GGUF, "float32").model, "GGUF float32", "float32")


def _encoding(reference: Reference, tokenizer: Any) -> Iterator[Line]:
    for name, facts in reference.prompts.items():
        ids = prompt_ids(tokenizer, [(piece["text"], piece["control"]) for piece in facts["pieces"]])
        yield Line("tokenizer", "ids", name, _unequal(torch.tensor(ids), torch.tensor(facts["ids"])), 0)


def _forward(reference: Reference, model: Any, engine: str, dtype: str) -> Iterator[Line]:
    limit = reference.tolerance[dtype]
    measure = _median if dtype == "bfloat16" else _largest
    for name, facts in reference.prompts.items():
        found: Golden = compute(model, facts["ids"])
        yield Line(engine, "logits", name, measure(found.logits, reference.tensor(f"{name}.logits")), limit)
        norms = reference.tensor(f"{name}.hidden_norms")
        yield Line(engine, "hidden norms, relative", name, measure(found.norms / norms, torch.ones_like(norms)), limit)
        if f"{name}.mtp_logits" in reference.names and found.mtp is not None:
            yield Line(engine, "MTP logits", name, measure(found.mtp, reference.tensor(f"{name}.mtp_logits")), max(limit, 1e-6))
        if dtype == "bfloat16":
            continue
        for layer, seen in found.chosen.items():
            yield Line(
                engine, f"index of layer {layer}", name, _unequal(seen, reference.tensor(f"{name}.index.{layer}") > 0), 0
            )
        for layer, (experts, weights) in found.routers.items():
            golden = reference.tensor(f"{name}.router.{layer}.experts"), reference.tensor(f"{name}.router.{layer}.weights")
            yield Line(engine, f"experts of layer {layer}", name, _unequal(experts.sort(-1)[0], golden[0].sort(-1)[0]), 0)
            yield Line(engine, f"their weights, layer {layer}", name, measure(weights, golden[1]), max(limit, 1e-6))


def _greedy(reference: Reference, lm: Any, engine: str) -> Iterator[Line]:
    from seekling.engine import Engine, Sampling

    running = Engine(lm)
    for name, facts in reference.prompts.items():
        wanted = facts["continuation"]["ids"]
        if wanted:
            answer = running.generate([facts["ids"]], Sampling(max_tokens=len(wanted), temperature=0.0))[0]
            yield Line(engine, "greedy continuation", name, _unequal(torch.tensor(answer.token_ids), torch.tensor(wanted)), 0)


def theirs(reference: Reference, file: Path) -> Iterator[Line]:
    """Compare a safetensors file of tensors named as the golden ones (PROMPT.logits, PROMPT.router.1.experts, …).

    Raises:
        CheckpointError: a name that is not golden, another shape, or nothing at all.
    """
    source = SafetensorsSource.of_file(file)
    if not source.shapes:
        raise CheckpointError(f"{file} holds no tensors; name them as in {GOLDEN_TENSORS}, for instance text.logits")
    for name, shape in source.shapes.items():
        if name not in reference.names:
            raise CheckpointError(f"{file}: {name} is not golden; the names are {', '.join(reference.names[:8])}, …")
        golden = reference.tensor(name)
        if tuple(golden.shape) != tuple(shape):
            raise CheckpointError(f"{file}: {name} has shape {list(shape)}, the golden one {list(golden.shape)}")
        found = source.stored(name)
        prompt, _, what = name.partition(".")
        if not golden.dtype.is_floating_point:
            a, b = (found.sort(-1)[0], golden.sort(-1)[0]) if what.endswith("experts") else (found, golden)
            yield Line(file.name, what, prompt, _unequal(a, b), 0)
            continue
        dtype = str(found.dtype).removeprefix("torch.")
        half = dtype not in ("float32", "float64")
        measure: Callable[[Tensor, Tensor], float] = _median if half else _largest
        scale = golden if what == "hidden_norms" else torch.ones_like(golden)
        limit = reference.tolerance["bfloat16" if half else "float32"]
        yield Line(f"{file.name} {dtype}", what, prompt, measure(found.double() / scale, golden.double() / scale), limit)


def table(lines: list[Line], everything: bool) -> str:
    """Aligned rows: the worst of each comparison over all prompts, or every line."""
    if not everything:
        worst: dict[tuple[str, str], Line] = {}
        for line in lines:
            held = worst.get((line.engine, line.what))
            if held is None or (held.ok and (not line.ok or line.difference > held.difference)):
                worst[line.engine, line.what] = line
        lines = list(worst.values())
    rows = [(x.engine, x.what, x.prompt, f"{x.difference:.3g}", f"{x.tolerance:g}", "ok" if x.ok else "WRONG") for x in lines]
    head = ("engine", "compared", "worst prompt" if not everything else "prompt", "difference", "allowed", "")
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(6)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, width, strict=True)).rstrip() for row in [head, *rows])


def to_dict(line: Line) -> Mapping[str, Any]:
    return {
        "engine": line.engine, "what": line.what, "prompt": line.prompt, "difference": line.difference,
        "tolerance": line.tolerance, "ok": line.ok,
    }  # fmt: skip


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.shape == b.shape else float("nan")


def _median(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().median()) if a.shape == b.shape else float("nan")


def _unequal(a: Tensor, b: Tensor) -> float:
    return float((a != b).sum()) if a.shape == b.shape else float(max(a.numel(), b.numel()))
