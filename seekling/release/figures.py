"""The report's pictures, each from the run's log alone: ``draw(run, facts, folder)`` writes those there are numbers for.

Every figure has a title that says what is seen, axes with units, and names at the lines instead of a legend.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release.figstyle import (
    BLUE,
    DPI,
    GREEN,
    GROUND,
    INK,
    ORANGE,
    PALETTE,
    QUIET,
    VERMILION,
    canvas,
    curve,
    drawing,
    end_labels,
    from_zero,
    has,
    label,
    name_axes,
    short,
)
from seekling.release.figures_experts import balance_figure, load_figure
from seekling.release.headline import best_evaluation
from seekling.release.runlog import median
from seekling.release.teaching import teaching_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seekling.release.facts import Run

TOKENS = "training tokens"
MOST_BARS = 40


def draw(run: "Run", facts: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write the figures; returns name -> path relative to the run, only for those that could be drawn.

    Raises:
        ImportError: there is no matplotlib.
    """
    return save_figures({name: partial(make, run, facts) for name, make in FIGURES.items()}, folder)


def save_figures(made_by: "dict[str, Callable[[], Figure | None]]", folder: Path) -> dict[str, str]:
    """Draw and write figures; returns as ``draw`` does. Raises ImportError: there is no matplotlib."""
    made = {}
    with drawing():
        for name, make in made_by.items():
            path = folder / f"{name}.png"
            figure = make()
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier report
                continue
            folder.mkdir(exist_ok=True)
            part = folder / f".unfinished-{name}.png"
            figure.savefig(part, dpi=DPI, metadata={"Software": None})  # equal numbers, equal file
            os.replace(part, path)
            made[name] = f"{folder.name}/{path.name}"
    return made


def tokens_of(run: "Run") -> list[float]:
    """x of every step line."""
    return [
        t if not math.isnan(t) else run.tokens_at(r["step"])
        for r, t in zip(run.log.steps, run.log.series("tokens"), strict=True)
    ]


# ---- learning --------------------------------------------------------------------------------------------------------


def loss_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Cross-entropy of training and MTP; bits per byte of every source beside."""
    x, ce, mtp = tokens_of(run), run.log.series("ce"), run.log.series("mtp_ce")
    evals = [e for e in facts["evaluations"] if e["bits_per_byte"] is not None]
    if not has(ce) and not evals:
        return None
    panels = has(ce) + bool(evals)
    figure, axes = canvas(panels, 3.6)
    if has(ce):
        left = axes[0]
        marks = [(curve(left, x, ce, BLUE), "next token", BLUE)]
        if has(mtp):
            marks.append((curve(left, x, mtp, VERMILION), "MTP", VERMILION))
        name_axes(left, "Training loss", TOKENS, "cross-entropy (nats a token)")
        end_labels(figure, left, marks)
    if evals:
        heldout_panel(figure, axes[-1], evals)
    return figure


def heldout_panel(figure: "Figure", axes: "Axes", evals: list[dict[str, Any]]) -> None:
    """Bits per byte over training: all text as the strong line, sources thin; the final evaluation is a diamond."""
    marks = []
    names = list(dict.fromkeys(name for e in evals for name in e["sources"]))
    few = len(names) <= 8
    for i, name in enumerate(names if len(names) > 1 else []):
        color = PALETTE[i % len(PALETTE)] if few else "#B9B9B9"
        pairs = [(e, e["sources"].get(name, {}).get("bits_per_byte")) for e in evals]
        end = bits_line(axes, pairs, color, 1.3)
        if few:
            marks.append((end, label(name), color))
    end = bits_line(axes, [(e, e["bits_per_byte"]) for e in evals], INK, 2.4)
    marks.append((end, "all text" if few else "all text (sources grey)", INK))
    name_axes(axes, "Held-out text", TOKENS, "bits per byte")
    end_labels(figure, axes, marks)


def bits_line(axes: "Axes", pairs: list[tuple[dict[str, Any], float | None]], color: str, width: float) -> float:
    """One line; returns its last value."""
    points = [(e["training_tokens"], bits, e["final"]) for e, bits in pairs if bits is not None]
    if not points:
        return math.nan
    axes.plot([p[0] for p in points], [p[1] for p in points], color=color, linewidth=width, marker=".", markersize=4 + width)
    for x, y, final in points:
        if final:
            axes.plot([x], [y], color=color, marker="D", markersize=3.5 + width / 2, clip_on=False)
    return points[-1][1]


def optimisation_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Learning rate and gradient norm."""
    x, lr, norm = tokens_of(run), run.log.series("lr"), run.log.series("grad_norm")
    if not has(lr) and not has(norm):
        return None
    figure, (left, right) = canvas(2)
    left.plot(x, lr, color=BLUE, marker="o" if len(x) == 1 else None)
    from_zero(left)
    name_axes(left, "Learning rate", TOKENS, "learning rate")
    positive = [v for v in norm if v > 0]
    if positive and max(positive) > 30 * min(positive):
        right.set_yscale("log")
    curve(right, x, norm, GREEN)
    clip = run.recipe.train.clip
    bottom, top = right.get_ylim()
    if clip > 0 and bottom <= clip <= 1.2 * top:
        right.axhline(clip, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        end_labels(figure, right, [(clip, f"clipped\nabove {clip:g}", QUIET)])
    name_axes(right, "Gradient norm before clipping", TOKENS, "norm")
    return figure


# ---- speed -----------------------------------------------------------------------------------------------------------


def speed_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Tokens a second and the share of the machine's matrix peak."""
    x, speed, share = tokens_of(run), run.log.series("tokens_per_second"), run.log.series("utilisation")
    if not has(speed):
        return None
    figure, axes = canvas(1 + has(share))
    rows = [(axes[0], speed, "Training speed", "tokens a second", BLUE)]
    if has(share):
        percent = [100 * v for v in share]
        rows.append((axes[1], percent, "Utilisation", "% of the measured matrix peak", ORANGE))
    for panel, values, title, unit, color in rows:
        curve(panel, x, values, color)
        from_zero(panel)
        typical = median(values)
        panel.axhline(typical, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        name_axes(panel, title, TOKENS, unit)
        end_labels(figure, panel, [(typical, f"median\n{short(typical)}{' %' if panel is not axes[0] else ''}", QUIET)])
    return figure


# ---- sources ---------------------------------------------------------------------------------------------------------


def sources_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Bits per byte of every source in the best evaluation, easiest on top."""
    found = best_evaluation(facts)
    scores = {n: s["bits_per_byte"] for n, s in (found or {}).get("sources", {}).items() if s["bits_per_byte"] is not None}
    if found is None or not scores:
        return None
    ranked = sorted(scores.items(), key=lambda pair: pair[1])[:MOST_BARS]
    figure, (axes,) = canvas(1, 1.1 + 0.3 * len(ranked))
    places = range(len(ranked))
    axes.barh(places, [bits for _, bits in ranked], height=0.66, color=BLUE)
    for y, (_, bits) in zip(places, ranked, strict=True):
        ground = {"facecolor": GROUND, "edgecolor": "none", "pad": 1}  # the dashed line must not strike a number out
        axes.annotate(f"{bits:.3f}", (bits, y), xytext=(5, 0), textcoords="offset points", va="center", bbox=ground, zorder=4)
    axes.axvline(found["bits_per_byte"], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    shown = f" (the {MOST_BARS} easiest of {len(scores)})" if len(scores) > MOST_BARS else ""
    title = f"Held-out text by source{shown}; dashed: all text, {found['bits_per_byte']:.3f}"
    name_axes(axes, title, "bits per byte (lower is better)", "", whole=False)
    axes.set_xlim(0, 1.12 * max(found["bits_per_byte"], ranked[-1][1], 1e-9))
    axes.set_yticks(places, [label(name, 30) for name, _ in ranked])
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    return figure


def time_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Where the wall time went, one bar."""
    phases = {name: s for name, s in facts["cost"]["phases"].items() if s > 0}
    whole = sum(phases.values())
    if whole <= 0:
        return None
    figure, (axes,) = canvas(1, 1.55)
    ranked, at, marks = sorted(phases.items(), key=lambda pair: -pair[1]), 0.0, []
    for i, (name, seconds) in enumerate(ranked):
        color = PALETTE[i % len(PALETTE)] if name != "other" else "#B9B9B9"
        axes.barh([0], [seconds], left=[at], height=0.7, color=color, edgecolor="white", linewidth=1.5)
        share = seconds / whole
        if share > 0.09:
            axes.text(
                at + seconds / 2, 0, f"{label(name, 12)}\n{share:.0%}", ha="center", va="center", color="white", fontsize=9
            )
        else:
            marks.append(f"{label(name, 12)} {share:.1%}")
        at += seconds
    if marks:
        axes.set_xlabel("seconds; the small parts from left to right: " + ", ".join(marks))
    else:
        axes.set_xlabel("seconds")
    axes.set_title("Where the time went")
    axes.set_xlim(0, at)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    return figure


FIGURES: dict[str, Callable[["Run", dict[str, Any]], "Figure | None"]] = {
    "loss": loss_figure,
    "sources": sources_figure,
    "optimisation": optimisation_figure,
    "speed": speed_figure,
    "balance": balance_figure,
    "experts": load_figure,
    "time": time_figure,
    "teaching": teaching_figure,
}
