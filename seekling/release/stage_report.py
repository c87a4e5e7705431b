"""The report of a run of ``seekling sft``, ``dpo``, ``grpo`` or ``distill``: report.md, report.json and a figure, from its log.

Run: ``seekling report RUN``. The report of ``seekling run`` holds its own stages (`seekling.release.teaching`).
"""

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import RecipeError
from seekling.release.escape import fence, inline, table
from seekling.release.facts import event, versions
from seekling.release.figstyle import BLUE, GREEN, ORANGE, VERMILION, canvas, curve, end_labels, has, name_axes
from seekling.release.figures import save_figures
from seekling.release.runlog import Records, known, median, number, read_records
from seekling.release.runlog import table as as_table
from seekling.train.log import plain
from seekling.train.state import replace_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Section that only this stage's recipe has -> stage; the first that is there counts.
STAGES = {"policy": "grpo", "teach": "distill", "pairs": "dpo", "talks": "sft"}
# What a line of the log means, in the order of the table.
MEANING = {
    "reward": "mean reward", "accuracy": "share right", "format": "share in the asked form",
    "language": "share in one language",
    "overlong": "reward taken for length", "length": "tokens an answer", "cut": "answers that end at the limit",
    "zero_variance": "groups of equal rewards", "left_out_groups": "answers left out of the update",
    "reward_faults": "rewards that failed, a roll-out", "entropy": "nats a token", "clipped": "share of tokens clipped",
    "kl": "KL (nats a token)", "sampler_gap": "|log-probability| between engine and trainer",
    "ratio_variance": "variance of trainer over sampler", "router_agreement": "experts chosen alike",
    "teacher_gap": "log-probability below the teacher's", "left_out": "answers left out as off-policy",
    "ce": "cross-entropy (nats a token)", "margin": "margin of the better answer", "chosen": "its reward",
    "rejected": "the other's reward",
    "loss": "what is minimised", "grad_norm": "gradient norm",
}  # fmt: skip
SERIES = {  # stage -> panels of (key, name, colour) under an axis label
    "grpo": {"%": (("accuracy", "right", GREEN), ("zero_variance", "groups\nalike", VERMILION), ("cut", "cut", ORANGE)),
             "tokens an answer": (("length", "length", BLUE),)},
    "dpo": {"%": (("accuracy", "in order", GREEN),), "margin": (("margin", "margin", BLUE),)},
    "sft": {"nats a token": (("ce", "cross-entropy", BLUE),)},
    "distill": {"nats a token": (("ce", "cross-entropy", BLUE), ("kl", "KL", VERMILION))},
}  # fmt: skip
MOST_SAMPLES = 12


def stage_of(folder: Path) -> str | None:
    """Which stage wrote this run folder; None where pretraining did, or nobody can tell."""
    try:
        raw = tomllib.loads((folder / "recipe.toml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return next((stage for section, stage in STAGES.items() if section in raw), None)


def write_stage_report(folder: Path) -> list[str]:
    """Write the report of a stage into its folder; returns lines for the terminal.

    Raises:
        RecipeError: the folder is not that of a stage.
    """
    facts = gather(folder)
    made: dict[str, str] = {}
    try:
        made = save_figures({"curves": lambda: figure(facts)}, folder / "figures")
    except ImportError:
        facts["problems"].append("there is no figure, since matplotlib is not installed (pip install matplotlib)")
    facts["figures"] = made
    replace_text(folder / "report.json", json.dumps(plain(facts), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    replace_text(folder / "report.md", render(facts))
    return [
        f"{facts['stage']}: step {facts['steps_done']:,} of {facts['steps']:,}",
        *changes(facts),
        f"report  {folder / 'report.md'}",
    ]


def gather(folder: Path) -> dict[str, Any]:
    """Everything the report says, as plain JSON."""
    stage = stage_of(folder)
    if stage is None:
        raise RecipeError(f"{folder} is not the run of sft, dpo, grpo or distill")
    recipe = tomllib.loads((folder / "recipe.toml").read_text("utf-8"))
    log = read_records(folder / "log.jsonl")
    steps = as_table(recipe.get("learn")).get("steps", 0)
    return {
        "format": 1,
        "stage": stage,
        "name": folder.resolve().name,
        "steps": steps,
        "steps_done": log.last.get("step", 0),
        "recipe": recipe,
        "evaluations": evaluations(log),
        "log": {key: [known(v) for v in log.series(key)] for key in ("step", *MEANING) if has(log.series(key))},
        "speeds": speeds(log),
        "seconds": known(number(log.last, "elapsed")),
        "reward_faults": sum(v for v in log.series("reward_faults") if v == v),
        "events": [event(record) for record in log.events],
        "samples": [{"step": r["step"], **as_table(s)} for r in log.samples for s in r.get("samples", [])],
        "problems": log.problems,
        "versions": versions(folder),
    }


def evaluations(log: Records) -> list[dict[str, Any]]:
    """By step, those of held-out text and of tasks together."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in log.evals:
        by_step.setdefault(record["step"], {}).update(flattened(record))
    return list(by_step.values())


def flattened(record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's numbers, those of a task under ``task: name``, with the interval of an accuracy."""
    out: dict[str, Any] = {"step": record["step"]}
    out |= {key: record[key] for key in record if key != "step" and known(number(record, key)) is not None}
    for name, scores in as_table(record.get("tasks")).items():
        out |= {f"{name}: {key}": value for key, value in as_table(scores).items()}
    return out


def speeds(log: Records) -> dict[str, float | None]:
    """Median tokens a second of every phase."""
    names = list(dict.fromkeys(name for record in log.steps for name in as_table(record.get("speeds"))))
    found = {name: median([number(as_table(r.get("speeds")), name) for r in log.steps]) for name in names}
    found["step"] = median(log.series("tokens_per_second"))
    return {name: known(value) for name, value in found.items()}


# ---- the document ----------------------------------------------------------------------------------------------------


def render(facts: dict[str, Any]) -> str:
    """report.md."""
    done, steps = facts["steps_done"], facts["steps"]
    state = "" if done >= steps else f" (unfinished: step {done:,} of {steps:,})"
    start, lora = as_table(facts["recipe"].get("start")), as_table(facts["recipe"].get("lora"))
    packed = f", the base in {lora['base_quant']}" if lora.get("base_quant") else ""
    how = f"LoRA of rank {lora['lora']}{packed}" if lora.get("lora") else "all weights"
    parts = [f"# {facts['stage']}: {inline(facts['name'])}{state}", *(f"> {inline(line)}" for line in facts["problems"])]
    parts += [
        f"From {inline(start.get('model', '?'))}, {how}, seed {start.get('seed', 0)}.",
        "## Before and after",
        *_before_after(facts),
    ]
    parts += ["## What the log says", *_log(facts), "## Warnings and events", _events(facts)]
    if facts["samples"]:
        parts += ["## Samples", "The two best and the two worst of a roll-out.", *_samples(facts)]
    parts += ["## Again", fence(str(start.get("command", "")) or "not noted", "sh"), "The whole recipe:"]
    parts += [fence(json.dumps(facts["recipe"], ensure_ascii=False, indent=1), "json"), _versions(facts["versions"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def changes(facts: dict[str, Any]) -> list[str]:
    """First evaluation against the last, a line a number."""
    return [f"{name}  {before} -> {after}" for name, before, after in _pairs(facts)]


def _pairs(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    evals = facts["evaluations"]
    if not evals:
        return []
    first, last = evals[0], evals[-1]
    names = [k for k in first if k != "step" and not k.endswith(("interval", "problems", "tokens", "pairs")) and k in last]
    return [(name, _shown(first, name), _shown(last, name)) for name in names]


def _shown(scores: dict[str, Any], name: str) -> str:
    value, interval = number(scores, name), scores.get(name.rpartition(" ")[0] + " interval")
    if not name.endswith(("accuracy", "format")):
        return f"{value:.4f}"
    pair = isinstance(interval, list) and len(interval) == 2 and name.endswith(": accuracy")
    return f"{value:.1%}" + (f" ({interval[0]:.0%} to {interval[1]:.0%})" if pair else "")  # type: ignore[index]


def _before_after(facts: dict[str, Any]) -> list[str]:
    pairs = _pairs(facts)
    if not pairs:
        return ["Nothing was evaluated: there was nothing held out."]
    rows: list[list[object]] = [[inline(name), before, after] for name, before, after in pairs]
    asked = sum(v for k, v in facts["evaluations"][-1].items() if k.endswith(": problems"))
    told = [f"{asked} problems that training never shows; in brackets 95 % intervals."] if asked else []
    path = facts["figures"].get("curves")
    return [table(["", f"step {facts['evaluations'][0]['step']}", f"step {facts['evaluations'][-1]['step']}"], rows), *told,
            f"![Curves of training.]({path})" if path else ""]  # fmt: skip


def _log(facts: dict[str, Any]) -> list[str]:
    """Means over the first and the last fifth of the steps, and the speeds."""
    rows: list[list[object]] = []
    for key, meaning in MEANING.items():
        values = [v for v in facts["log"].get(key, []) if v is not None]
        if values:
            part = max(1, len(values) // 5)
            rows.append([key, meaning, f"{sum(values[:part]) / part:.4g}", f"{sum(values[-part:]) / part:.4g}"])
    speeds: dict[str, float | None] = facts["speeds"]
    fast: list[list[object]] = [[name, f"{v:,.0f}"] for name, v in speeds.items() if v is not None]
    return [table(["", "", "first fifth", "last fifth"], rows, right=3) if rows else "The log has no steps.",
            table(["phase", "tokens/s, median"], fast) if fast else ""]  # fmt: skip


def _events(facts: dict[str, Any]) -> str:
    rows: list[list[object]] = [
        [f"{e['step']:,}", inline(e["what"]), inline(", ".join(v for k, v in e.items() if k not in ("step", "what")))]
        for e in facts["events"][:40]
    ]
    faults = f"{facts['reward_faults']:,.0f} rewards failed and counted as 0.\n\n" if facts["reward_faults"] else ""
    return faults + (table(["step", "what", ""], rows, right=3) if rows else "None.")


def _samples(facts: dict[str, Any]) -> list[str]:
    lines = []
    for s in facts["samples"][-MOST_SAMPLES:]:
        asked = f"step {s['step']}, reward {number(s, 'reward'):.2f}: {s.get('question', '')}"
        lines.append(f"{asked} -> {s.get('text', '')!r}  [{s.get('answer', '')}]")
    return [fence("\n".join(lines))]


def _versions(found: dict[str, Any]) -> str:
    names = ("seekling", "torch", "python", "kernels", "processor", "usable_cores")
    return "Written with " + ", ".join(f"{name.replace('_', ' ')} {inline(found[name])}" for name in names) + "."


def figure(facts: dict[str, Any]) -> "Figure | None":
    """The stage's curves."""
    log: dict[str, list[float | None]] = facts["log"]
    panels: dict[str, Any] = SERIES[facts["stage"]]  # type: ignore[assignment]
    shown = {label: [one for one in series if one[0] in log] for label, series in panels.items()}
    shown = {label: series for label, series in shown.items() if series}
    if not shown:
        return None
    drawn, axes = canvas(len(shown), 3.6)
    for panel, (unit, series) in zip(axes, shown.items(), strict=True):
        marks = []
        for key, name, color in series:
            x = [float(step or 0) for step in log["step"]]
            values = [float("nan") if v is None else v * (100 if unit == "%" else 1) for v in log[key]]
            marks.append((curve(panel, x, values, color), name, color))
        name_axes(panel, facts["stage"], "steps", unit)
        end_labels(drawn, panel, marks)
    return drawn
