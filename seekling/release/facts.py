"""Everything a report says, as one plain JSON object gathered from a run folder; Markdown and figures are drawn from it.

What a run does not have (no evaluation yet, no log, a number that is not finite) is None here and said in words there.
"""

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling import __version__
from seekling.errors import CheckpointError
from seekling.plan import CPU_PRICE, Plan, flops_per_token
from seekling.recipe import Recipe
from seekling.release.limits import limits_of
from seekling.release.repeat import repeat_command
from seekling.release.runlog import Records, finite, known, median, number, numbers, read_records, table
from seekling.release.teaching import stages_of
from seekling.resolve import model_config

if TYPE_CHECKING:
    from seekling.model.config import ModelConfig

FORMAT = 1  # of report.json; goes up when a key changes its meaning or goes
WATTS_PER_CORE = 10.0  # with its share of memory, fans and power supply; nothing here measures electricity
PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "matplotlib")


@dataclass(frozen=True)
class Run:
    """What is on disk: the recipe, the model's shape, the readable part of the log and of the data manifest."""

    folder: Path
    recipe: Recipe
    config: "ModelConfig"
    log: Records
    manifest: dict[str, Any]

    def tokens_at(self, step: int) -> int:
        """Training tokens seen after ``step`` steps."""
        return step * (self.recipe.train.batch_size or 0) * (self.recipe.data.seq_len or 0)

    @property
    def plan(self) -> Plan:
        """Sizes and operations of this recipe; it has no cost, since that was measured."""
        length = self.recipe.data.seq_len or 1
        flops = flops_per_token(self.config, length)
        return Plan("", self.config, self.tokens_at(self.steps_done), length, None, flops, None, self.recipe.train.dtype, None)

    @property
    def steps_done(self) -> int:
        return self.log.last.get("step", 0)

    def router_names(self) -> list[str]:
        """Name of every router, in the order of the log's lists."""
        n, depth = self.config.num_hidden_layers, self.config.num_nextn_predict_layers
        mtp = ["MTP"] if depth == 1 else [f"MTP {k + 1}" for k in range(depth)]
        return [f"layer {i}" if i < n else mtp[i - n] for i in self.config.router_layers]


def open_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        CheckpointError: the folder is no run. RecipeError: its recipe.toml is damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.toml").is_file():
        why = "is not a run (it has no recipe.toml)" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {why}; give the folder that seekling run or seekling pretrain wrote")
    recipe = Recipe.load(folder)
    if not recipe.run.resolved:
        raise CheckpointError(f"{folder} holds a recipe but no run; start one with seekling pretrain --recipe {folder}")
    log = read_records(folder / "log.jsonl")
    return Run(folder, recipe, model_config(recipe), log, read_manifest(folder, log.problems))


def read_manifest(folder: Path, problems: list[str]) -> dict[str, Any]:
    """``data_manifest.json``, empty when missing or damaged, which then is a line in ``problems``."""
    path = folder / "data_manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError:
        return {}
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        problems.append(f"{path.name} is damaged, so the data section is empty")
        return {}
    return manifest


def gather(run: Run, watts: float | None = None, price: float | None = None) -> dict[str, Any]:
    """The whole report.

    Args:
        watts: what the machine draws while training; None assumes ``WATTS_PER_CORE`` for each thread of a CPU run.
        price: dollars an hour of the machine; None takes :data:`seekling.plan.CPU_PRICE` for a CPU run.
    """
    recipe, log = run.recipe, run.log
    done, steps = run.steps_done, recipe.train.steps or 0
    facts: dict[str, Any] = {
        "format": FORMAT,
        "run": {"name": run.folder.resolve().name, "steps_done": done, "steps": steps, "finished": 0 < steps <= done},
        "training": training(run),
        "evaluations": [evaluation(run, record) for record in log.evals],
        "cost": cost(run, watts, price),
        "data": data(run.manifest),
        "configuration": recipe.to_dict(),
        "routers": run.router_names(),
        "expert_load": expert_load(run),
        "samples": [sample for record in log.samples for sample in samples(record)],
        "events": [event(record) for record in log.events],
        "stages": stages_of(run.folder, log.problems),
        "problems": log.problems,
        "repeat": {
            "typed": recipe.run.command,
            "command": repeat_command(recipe, f"{run.folder.name or 'run'}-again"),
            "from_recipe": f"seekling pretrain --recipe recipe.toml --out {run.folder.name or 'run'}-again",
            "seed": recipe.run.seed,
        },
        "versions": versions(run.folder),
    }
    facts["limits"] = limits_of(run, facts)
    return facts


# ---- parts -----------------------------------------------------------------------------------------------------------


def training(run: Run) -> dict[str, Any]:
    """Numbers of the step lines: how many, the last ones, typical speed."""
    log, last = run.log, run.log.last
    clip, norms = run.recipe.train.clip, [n for n in log.series("grad_norm") if n == n]
    ce = [v for v in log.series("ce") if v == v]
    return {
        "log_lines": len(log.steps),
        "tokens": int(number(last, "tokens")) if number(last, "tokens") >= 0 else run.tokens_at(run.steps_done),
        "ce": known(number(last, "ce")),
        "mtp_ce": known(number(last, "mtp_ce")),
        "first_ce": ce[0] if ce else None,
        "tokens_per_second": known(median(log.series("tokens_per_second"))),
        "utilisation": known(median(log.series("utilisation"))),
        "maxvio": [known(v) for v in numbers(last.get("maxvio"))],
        "clipped_share": sum(n > clip for n in norms) / len(norms) if norms and clip else None,
        "not_finite": sum(v != v for v in log.series("loss")),
        "points": points(run),
    }


def points(run: Run, n: int = 9) -> list[dict[str, Any]]:
    """Step lines spread evenly over the run, first and last among them."""
    steps = run.log.steps
    chosen = sorted({round(i * (len(steps) - 1) / (n - 1)) for i in range(n)}) if steps else []
    keys = ("tokens", "ce", "mtp_ce", "lr", "grad_norm", "tokens_per_second")
    return [{"step": steps[i]["step"], **{k: known(number(steps[i], k)) for k in keys}} for i in chosen]


def evaluation(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """One evaluation: the total and every source."""

    def score(values: dict[str, Any]) -> dict[str, Any]:
        return {
            "bits_per_byte": known(number(values, "bpb")),
            "accuracy": known(number(values, "accuracy")),
            "tokens": known(number(values, "tokens")),
            "bytes": known(number(values, "bytes")),
            "share": known(number(values, "share")),
        }

    return {
        "step": record["step"],
        "training_tokens": run.tokens_at(record["step"]),
        "final": record.get("final") is True,
        **score(record),
        "sources": {name: score(table(values)) for name, values in table(record.get("sources")).items()},
    }


def expert_load(run: Run) -> dict[str, Any] | None:
    """Each expert's load over the even load, by router, in the newest evaluation that has it; MTP does not run there."""
    for record in reversed(run.log.evals):
        rows = record.get("loads")
        if not isinstance(rows, list):
            continue
        load = {}
        for name, row in zip(run.router_names(), rows, strict=False):
            counts = numbers(row)
            mean = sum(counts) / len(counts) if counts else 0.0
            if mean > 0:  # False for NaN too
                load[name] = [round(c / mean, 4) for c in counts]
        if load:
            return {"step": record["step"], "relative": load}
    return None


def data(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest's sources as rows, totals and notes; None when there is no manifest."""
    if not manifest:
        return None
    rows = []
    for name, source in table(manifest.get("sources")).items():
        source = table(source)
        held = table(source.get("heldout"))
        row = {key: source.get(key) for key in ("kind", "where", "version", "licence", "attribution", "about", "language")}
        row |= {key: known(number(source, key)) for key in ("documents", "bytes", "tokens", "share")}
        rows.append({"name": name, **row, "heldout": {k: known(number(held, k)) for k in ("documents", "bytes", "tokens")}})

    def total(part: str) -> dict[str, Any]:
        return {k: known(number(table(manifest.get(part)), k)) for k in ("documents", "bytes", "tokens")}

    lists = {key: [str(v) for v in manifest.get(key) or [] if v] for key in ("notes", "missing") if _is_list(manifest.get(key))}
    tokenizer = table(manifest.get("tokenizer"))
    return {
        "sources": rows,
        "train": total("train"),
        "heldout": total("heldout"),
        "tokenizer": {key: tokenizer.get(key) for key in ("vocab_size", "about", "sha256")},
        "notes": lists.get("notes", []),
        "missing": lists.get("missing", []),
    }


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)


def cost(run: Run, watts: float | None, price: float | None) -> dict[str, Any]:
    """Time by phase, operations, energy and money, each with what it was reckoned from."""
    recipe, last = run.recipe, run.log.last
    seconds = known(number(last, "elapsed"))
    phases: dict[str, float] = {}
    for record in run.log.steps:
        for name, value in table(record.get("seconds")).items():
            if finite(value) >= 0:
                phases[name] = phases.get(name, 0.0) + value
    if seconds is not None:
        rest = seconds - sum(phases.values())
        phases["other"] = max(0.0, rest)
    on_cpu, threads = recipe.run.device == "cpu", recipe.run.threads or 1
    assumed = watts is None
    if watts is None and on_cpu:
        watts = WATTS_PER_CORE * threads
    if price is None and on_cpu:
        price = CPU_PRICE
    hours = None if seconds is None else seconds / 3600
    flops = run.plan.flops
    tokens = training(run)["tokens"] if run.log.steps else 0
    per_token = flops.train if recipe.train.mtp_weight > 0 else flops.main
    return {
        "seconds": seconds,
        "phases": {name: round(value, 2) for name, value in phases.items()},
        "tokens_per_second_overall": tokens / seconds if seconds else None,
        "flops_per_token": per_token,
        "flops": per_token * tokens,
        "kv_bytes_per_token": run.plan.kv_bytes_per_token(),
        "mha_bytes_per_token": run.plan.mha_bytes_per_token(),
        "watts": watts,
        "watts_from": f"assumed: {WATTS_PER_CORE:g} W a core, {threads} cores" if assumed and on_cpu else "given",
        "watt_hours": None if hours is None or watts is None else watts * hours,
        "price": price,
        "dollars": None if hours is None or price is None else price * hours,
    }


def samples(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples of one log line."""
    found = record.get("samples")
    entries = [table(s) for s in found] if isinstance(found, list) else []
    return [{"step": record["step"], **{k: str(s.get(k, "")) for k in ("source", "prompt", "text")}} for s in entries]


def event(record: dict[str, Any]) -> dict[str, Any]:
    """An event: what, and its other fields as text."""
    rest = {k: str(v) for k, v in record.items() if k not in ("kind", "step", "what")}
    return {"step": record["step"], "what": str(record.get("what", "event")), **rest}


def versions(folder: Path) -> dict[str, Any]:
    """What wrote this report, and the torch that trained (from the newest checkpoint that says so)."""
    from seekling.machine import look, native_status

    machine = look(folder)
    out: dict[str, Any] = {"seekling": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = None
    out |= {"system": platform.platform(), "processor": machine.cpu, "usable_cores": machine.usable_cores}
    out["kernels"] = native_status()
    out["trained_with"] = None
    for path in sorted((folder / "checkpoints").glob("step-*/training_state/state.json"), reverse=True):
        try:
            out["trained_with"] = table(json.loads(path.read_text("utf-8"))).get("versions")
        except (OSError, ValueError):
            continue
        break
    return out
