"""How evenly the experts are used: MaxVio of every router over the run, and the load of every expert at its end."""

import math
from typing import TYPE_CHECKING, Any

from seekling.release.figstyle import INK, VERMILION, canvas, curve, end_labels, from_zero, has, name_axes
from seekling.release.runlog import numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seekling.release.facts import Run


def balance_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """MaxVio of every router over the steps."""
    import matplotlib

    names = run.router_names()
    rows = [numbers(r.get("maxvio")) for r in run.log.steps]
    lines = [[row[i] if i < len(row) else math.nan for row in rows] for i in range(len(names))]
    if not any(has(line) for line in lines):
        return None
    figure, (axes,) = canvas(1, 3.4)
    steps, marks = [float(r["step"]) for r in run.log.steps], []
    shades = matplotlib.colormaps["viridis"]
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
        mtp = name.startswith("MTP")
        color = VERMILION if mtp else matplotlib.colors.to_hex(shades(0.85 * i / max(1, len(names) - 1)))
        end = curve(axes, steps, line, color, raw=len(names) <= 4)
        if len(names) <= 12 or mtp or i == 0 or (i + 1 < len(names) and names[i + 1].startswith("MTP")):
            marks.append((end, name, color))
    from_zero(axes)
    name_axes(
        axes,
        "Imbalance of the experts: 0 = every expert gets the same share",
        "optimizer steps",
        "MaxVio (largest load / mean − 1)",
    )
    end_labels(figure, axes, marks)
    return figure


def load_figure(run: "Run", facts: dict[str, Any]) -> "Figure | None":
    """Heat map of the load of every expert, relative to the even load."""
    from matplotlib.colors import TwoSlopeNorm

    found = facts["expert_load"]
    if found is None:
        return None
    names, rows = list(found["relative"]), list(found["relative"].values())
    experts = max(len(row) for row in rows)
    rows = [row + [math.nan] * (experts - len(row)) for row in rows]
    figure, (axes,) = canvas(1, min(12.0, 1.5 + 0.34 * len(rows)))
    peak = max(2.0, max(v for row in rows for v in row if not math.isnan(v)))
    image = axes.imshow(rows, aspect="auto", cmap="PuOr_r", norm=TwoSlopeNorm(1.0, 0.0, peak), interpolation="nearest")
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    if experts <= 32 and len(rows) <= 24:
        size = min(8.5, 150 / experts)
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                dark = value > 1 + 0.6 * (peak - 1) or value < 0.3
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=size, color="white" if dark else INK)
    axes.set_title("Expert load in the last evaluation, relative to the even load")
    axes.set_xlabel("expert")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(0, experts, max(1, experts // 16)))
    figure.colorbar(image, ax=axes, pad=0.015, fraction=0.03, ticks=[0, 1, peak], format="%.3g×").outline.set_visible(False)
    return figure
