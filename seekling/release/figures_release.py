"""Pictures that only a release has: the mixture of its data by licence, scores with intervals beside chance, and its stages."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release.figstyle import (
    DPI,
    GROUND,
    INK,
    PALETTE,
    QUIET,
    canvas,
    curve,
    drawing,
    end_labels,
    from_zero,
    label,
    name_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seekling.release.material import Release

MOST_ROWS = 24


def draw(release: "Release", folder: Path) -> dict[str, str]:
    """Write the figures there are numbers for; name -> path relative to the release."""
    made = {}
    with drawing():
        for name, make in FIGURES.items():
            figure = make(release)
            if figure is not None:
                folder.mkdir(exist_ok=True)
                figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
                made[name] = f"{folder.name}/{name}.png"
    return made


def mixture_figure(release: "Release") -> "Figure | None":
    """Share of the training tokens by source, largest on top; a colour a licence."""
    rows = [(s.name, s.share, s.licence) for s in release.chain.sources if s.share]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: -row[1])[:MOST_ROWS]
    licences = list(dict.fromkeys(row[2] for row in rows))
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(licences)}
    figure, (axes,) = canvas(1, 1.2 + 0.28 * len(rows))
    for y, (_, share, licence) in enumerate(rows):
        axes.barh(y, 100 * share, height=0.68, color=colors[licence])
        axes.annotate(f"{share:.1%}", (100 * share, y), xytext=(5, 0), textcoords="offset points", va="center", color=INK)
    name_axes(axes, "Share of the training tokens", "% of the tokens of its stage", "", whole=False)
    axes.set_yticks(range(len(rows)), [label(name, 30) for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 112 * max(row[1] for row in rows))
    axes.grid(axis="y", visible=False)
    for i, name in enumerate(reversed(licences)):
        where: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (-4, 8 + 15 * i), "textcoords": "offset points"}
        axes.annotate(f"■ {label(name, 40)}", (1, 0), color=colors[name], ha="right", annotation_clip=False, **where)
    return figure


def scores_figure(release: "Release") -> "Figure | None":
    """Bits per byte of each source with its interval; chance as marks in the same row."""
    rows = [s for s in release.scores if "bits_per_byte" in s.metrics][:MOST_ROWS]
    if not rows:
        return None
    whole, parts = rows[0], sorted(rows[1:], key=lambda s: s.metrics["bits_per_byte"][0])
    rows = [whole, *parts]
    figure, (axes,) = canvas(1, 1.5 + 0.3 * len(rows))
    marks = {"xz -9": ("D", PALETTE[1]), "token frequency": ("s", PALETTE[2])}
    for y, score in enumerate(rows):
        value, _, low, high = score.metrics["bits_per_byte"]
        strong = y == 0
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=PALETTE[0], linewidth=3.4 if strong else 2.4, solid_capstyle="butt")
        axes.plot([value], [y], marker="o", color=PALETTE[0], markersize=8 if strong else 6, zorder=4)
        ground = {"facecolor": GROUND, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
        axes.annotate(
            f"{value:.2f}",
            (value, y),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox=ground,
            zorder=3,
        )
        for name, (mark, color) in marks.items():
            if name in score.chance:
                axes.plot([score.chance[name]["bits_per_byte"]], [y], marker=mark, color=color, markersize=5, linestyle="none")
    name_axes(axes, "Bits per byte, lower is better", "bits per byte", "", whole=False)
    names = ["all held-out text", *(label(s.task.split("_", 1)[1], 30) for s in parts)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.grid(axis="y", visible=False)
    legend = [("● model", PALETTE[0]), *((f"{'◆' if m == 'D' else '■'} {n}", c) for n, (m, c) in marks.items())]
    for i, (text, color) in enumerate(legend):
        where: dict[str, Any] = {
            "xycoords": "axes fraction",
            "xytext": (-92 * (len(legend) - 1 - i), 10),
            "textcoords": "offset points",
        }
        axes.annotate(text, (1, 1), color=color, ha="right", fontsize=9, annotation_clip=False, **where)
    return figure


def stages_figure(release: "Release") -> "Figure | None":
    """For every stage after pretraining: its reward or loss on the way, and the scores before and after."""
    if release.chain.last.story is not None:  # the figure of seekling run shows its stages
        return None
    stages = [s for s in release.chain.stages if s.verb != "pretrain"]
    pairs = []
    for score in release.scores:
        first = next((b for when, b in score.chance.items() if when.startswith(("before", "after"))), {})
        for name in ("exact_match", "acc"):
            if name in score.metrics and name in first:
                pairs.append((score.task, first[name], score.metrics[name], name))
    curves = [(s, key, s.log.series(key)) for s in stages for key in _shown(s)[:1]]
    if not curves and not pairs:
        return None
    figure, axes = canvas(len(curves) + bool(pairs), 3.4)
    for panel, (stage, key, values) in zip(axes, curves, strict=False):
        curve(panel, [float(r["step"]) for r in stage.log.steps], values, PALETTE[0])
        name_axes(panel, f"{stage.number} {stage.verb}: {key}", "step", key)
    if pairs:
        panel = axes[-1]
        marks: list[Any] = []
        for i, (task, before, (after, _, low, high), _) in enumerate(pairs[:6]):
            color = PALETTE[i % len(PALETTE)]
            panel.plot([0, 1], [100 * before, 100 * after], color=color, marker="o")
            if low is not None and high is not None:
                panel.plot([1, 1], [100 * low, 100 * high], color=color, linewidth=3, alpha=0.5)
            marks.append((100 * after, label(task, 16), color))
        panel.set_xticks([0, 1], ["before", "after"])
        from_zero(panel)
        name_axes(panel, "Right answers", "", "%", whole=False)
        end_labels(figure, panel, marks)
    for panel in axes:
        panel.tick_params(colors=QUIET)
    return figure


def _shown(stage: Any) -> list[str]:
    """The first log key that tells how a stage went."""
    keys = ("accuracy", "reward", "ce", "loss")
    return [key for key in keys if any(v == v for v in stage.log.series(key))]


FIGURES: dict[str, Callable[["Release"], "Figure | None"]] = {
    "mixture": mixture_figure,
    "scores": scores_figure,
    "stages": stages_figure,
}
