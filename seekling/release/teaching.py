"""The report's part on teaching: what lessons and practice changed, from each stage's evaluation and log."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release.escape import fence, inline, table
from seekling.release.figstyle import BLUE, GREEN, PALETTE, VERMILION, canvas, curve, end_labels, from_zero, has, name_axes
from seekling.release.runlog import known, number, read_records
from seekling.release.runlog import table as as_table
from seekling.train.story import EVALUATION, STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seekling.release.facts import Run

NAMES = {"base": "pretrained", "sft": "after lessons (SFT)", "grpo": "after practice (GRPO)"}
SERIES = ("step", "reward", "accuracy", "length", "zero_variance", "entropy", "sampler_gap", "cut")
WAYS = ("accuracy", "pass@1", "maj@", "pass@")  # of measuring; the last two end in the number of draws


def stages_of(folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Every stage that was evaluated, in order; what is damaged is a line in ``problems``."""
    out = []
    for stage, place in STAGES.items():
        path = folder / place / EVALUATION
        if not path.is_file():
            continue
        try:
            scores = json.loads(path.read_text("utf-8"))
            tasks = {str(name): as_table(score) for name, score in scores["tasks"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            problems.append(f"{path.relative_to(folder)} is damaged; that stage is left out")
            continue
        log = read_records(folder / place / "log.jsonl") if place else None
        problems += [f"{place}/{line}" for line in (log.problems if log else ())]
        out.append(
            {
                "stage": stage,
                "folder": place,
                "bits_per_byte": known(number(scores, "bits_per_byte")),
                "tasks": tasks,
                "curve": [{key: known(number(r, key)) for key in (*SERIES, "ce")} for r in log.steps] if log else [],
                "heldout": [{"step": r["step"], "ce": known(number(r, "ce"))} for r in log.evals] if log else [],
            }
        )
    return out


def teaching(facts: dict[str, Any]) -> list[str]:
    """The section."""
    stages = facts["stages"]
    if not stages:
        return ["Nothing was taught after pretraining."]
    head = ["task, unseen problems", *(NAMES[s["stage"]] for s in stages)]
    names = list(dict.fromkeys(name for s in stages for name in s["tasks"]))
    out = [
        "The same questions after every stage, none of which lessons or practice showed. In brackets 95 % intervals; greedy is "
        "the likeliest answer, pass@1 the mean of drawn answers, maj@k the answer given most often, pass@k any of k."
    ]
    rows: list[list[object]] = []
    for name in names:
        ways = [k for s in stages for k in s["tasks"].get(name, {}) if k.startswith(WAYS) and not k.endswith("_interval")]
        for way in dict.fromkeys(ways):
            cells = [_score(s["tasks"].get(name, {}), way) for s in stages]
            count = next((s["tasks"][name].get("problems") for s in stages if name in s["tasks"]), None)
            label = f"{name} ({count})" if way == "accuracy" else ""
            rows.append([f"{label} {'greedy' if way == 'accuracy' else way}".strip(), *cells])
    bits: list[object] = ["bits per byte, held-out text (beginnings)"]
    rows.append(bits + ["–" if s["bits_per_byte"] is None else f"{s['bits_per_byte']:.4f}" for s in stages])
    path = (facts["figures"] or {}).get("teaching")
    picture = f"![Scores by stage, and the curves of lessons and practice.]({path})" if path else ""
    out += [picture, table(head, rows), _change(stages, names), "Before and after, the first unseen problems of each task:"]
    for name in names:
        out += _samples(name, stages)
    return [part for part in out if part]


def _score(score: dict[str, Any], way: str) -> str:
    value, interval = number(score, way), score.get(f"{way}_interval")
    if math.isnan(value):
        return "–"
    pair = isinstance(interval, list) and len(interval) == 2 and all(isinstance(v, int | float) for v in interval)
    return f"{value:.1%}" + (f" ({interval[0]:.0%} to {interval[1]:.0%})" if pair else "")  # type: ignore[index]


def _change(stages: list[dict[str, Any]], names: list[str]) -> str:
    """What practice changed, in a sentence."""
    by = {s["stage"]: s for s in stages}
    if "sft" not in by or "grpo" not in by:
        return "Practice is not finished."
    gains = []
    for name in names:
        gain = number(by["grpo"]["tasks"].get(name, {}), "accuracy") - number(by["sft"]["tasks"].get(name, {}), "accuracy")
        if not math.isnan(gain):
            gains.append(f"{inline(name)} {100 * gain:+.1f}")
    return (
        f"Greedy accuracy from lessons to practice, in points: {', '.join(gains)}. The lessons were kept short on purpose; "
        "more of them would also raise it. What practice adds it found by trying, from rewards alone."
    )


def _samples(name: str, stages: list[dict[str, Any]]) -> list[str]:
    lines = []
    for s in stages:
        for sample in s["tasks"].get(name, {}).get("samples", [])[:2]:
            sample = as_table(sample)
            mark = "right" if sample.get("right") else f"wrong, {sample.get('answer')}"
            lines.append(f"{NAMES[s['stage']]:<22} {sample.get('question')} -> {str(sample.get('text'))[:200]!r}  [{mark}]")
    return [f"{inline(name)}:", fence("\n".join(lines))] if lines else []


# ---- the figure --------------------------------------------------------------------------------------------------------------


def teaching_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Accuracy by task and stage with intervals; loss of the lessons; accuracy and length in practice."""
    stages = facts["stages"]
    if not stages:
        return None
    sft = next((s for s in stages if s["stage"] == "sft"), None)
    grpo = next((s for s in stages if s["stage"] == "grpo"), None)
    panels: list[Any] = [lambda f, a: _bars(f, a, stages)]
    if sft and has(_series(sft, "ce")):
        panels.append(lambda f, a: _lessons(f, a, sft))
    if grpo and has(_series(grpo, "accuracy")):
        panels.append(lambda f, a: _practice(f, a, grpo))
    figure, axes = canvas(len(panels), 3.6)
    for draw, panel in zip(panels, axes, strict=True):
        draw(figure, panel)
    return figure


def _series(stage: dict[str, Any], key: str) -> list[float]:
    return [math.nan if point[key] is None else point[key] for point in stage["curve"]]


def _bars(figure: "Figure", axes: "Axes", stages: list[dict[str, Any]]) -> None:
    """A line a task over the stages, with its interval."""
    names = list(dict.fromkeys(name for s in stages for name in s["tasks"]))
    marks = []
    for i, name in enumerate(names):
        color, values = PALETTE[i % len(PALETTE)], [100 * number(s["tasks"].get(name, {}), "accuracy") for s in stages]
        shift = 0.06 * (i - (len(names) - 1) / 2)
        x = [k + shift for k in range(len(stages))]
        axes.plot(x, values, color=color, marker="o", markersize=5)
        for at, s in zip(x, stages, strict=True):
            interval = s["tasks"].get(name, {}).get("accuracy_interval")
            if isinstance(interval, list) and len(interval) == 2:
                axes.plot([at, at], [100 * v for v in interval], color=color, linewidth=1.2)
        marks.append((values[-1], name, color))
    name_axes(axes, "Unseen problems", "", "% right, greedy", whole=False)
    axes.set_xticks(
        range(len(stages)), [{"base": "pretrained", "sft": "lessons", "grpo": "practice"}[s["stage"]] for s in stages]
    )
    axes.set_ylim(-2, 102)
    end_labels(figure, axes, marks)


def _lessons(figure: "Figure", axes: "Axes", sft: dict[str, Any]) -> None:
    ends = [(curve(axes, _series(sft, "step"), _series(sft, "ce"), BLUE), "lessons", BLUE)]
    judged = [(e["step"], e["ce"]) for e in sft["heldout"] if e["ce"] is not None]
    if judged:
        axes.plot([s for s, _ in judged], [v for _, v in judged], color=VERMILION, marker=".")
        ends.append((judged[-1][1], "held out", VERMILION))
    name_axes(axes, "Lessons", "steps", "cross-entropy (nats a token)")
    end_labels(figure, axes, ends)


def _practice(figure: "Figure", axes: "Axes", grpo: dict[str, Any]) -> None:
    steps = _series(grpo, "step")
    right = [100 * v for v in _series(grpo, "accuracy")]
    alike = [100 * v for v in _series(grpo, "zero_variance")]
    ends = [
        (curve(axes, steps, right, GREEN), "answers\nright", GREEN),
        (curve(axes, steps, alike, VERMILION), "groups\nalike", VERMILION),
    ]
    from_zero(axes)
    name_axes(axes, "Practice", "steps", "%")
    end_labels(figure, axes, ends)
