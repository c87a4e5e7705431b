"""How every figure looks, and the small tools they share: light ground, colours that colour-blind readers can tell apart,
labels at the lines themselves, numbers with K/M/B.

matplotlib is imported inside functions only, and through its objects, so that no program's own plotting is disturbed.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seekling.release.escape import visible
from seekling.release.runlog import median

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, in the order that keeps neighbours far apart; ink for text and the main line.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#A8548A", "#C98500", "#3F9BD1"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
INK, QUIET, GRID, GROUND = "#222222", "#6A6A6A", "#E4E4E4", "#FFFFFF"
WIDTH, DPI = 9.0, 150  # inches; 1350 pixels, the width of a page on a dense screen
ROUND = [1, 2, 2.5, 5, 10]  # ticks are these times a power of ten
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Source Han Sans SC",
    "PingFang SC",
    "SimHei",
)


def rules() -> dict[Any, Any]:
    """matplotlib settings of all figures; ``$`` in names is text, not mathematics."""
    from matplotlib.font_manager import fontManager

    present = {font.name for font in fontManager.ttflist}
    return {
        "font.family": [name for name in FONTS if name in present] or ["sans-serif"],
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.titleweight": "bold",
        "axes.labelcolor": QUIET,
        "axes.edgecolor": QUIET,
        "axes.facecolor": GROUND,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "text.color": INK,
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "figure.facecolor": GROUND,
        "savefig.facecolor": GROUND,
        "path.simplify": True,
    }


@contextmanager
def drawing() -> Iterator[None]:
    """Our style inside, and no warnings about glyphs that no installed font has."""
    import matplotlib

    with matplotlib.rc_context(rules()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def canvas(panels: int = 1, height: float = 3.3, ratios: Sequence[float] | None = None) -> tuple["Figure", list["Axes"]]:
    """A figure with panels side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.04)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=ratios)[0]
    return figure, list(axes)


def short(n: float, _position: object = None) -> str:
    """61440 -> ``61.4K``; three digits, for axes."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(n) >= scale:
            return f"{n / scale:.3g}{letter}"
    return f"{n:.3g}"


def name_axes(axes: "Axes", title: str, x: str, y: str, whole: bool = True) -> None:
    """Title and axis labels with units; large numbers shortened; few, round ticks (``whole``: x has only whole numbers).

    The x axis begins at 0, so that panels side by side can be compared and a single point has a place.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=whole))
    axes.set_xlim(0, right_edge(axes))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


def right_edge(axes: "Axes") -> float:
    """A little to the right of the last value."""
    end = axes.dataLim.x1
    return 1.03 * end if math.isfinite(end) and end > 0 else 1.0


def from_zero(axes: "Axes") -> None:
    """Let the y axis begin at 0 and end a little above the largest value."""
    top = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * top if math.isfinite(top) and top > 0 else 1.0)


def label(text: str, longest: int = 22) -> str:
    """A foreign name as a figure can show it: one line, no control characters, not too long."""
    line = " ".join(visible(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def has(values: Sequence[float]) -> bool:
    """Whether anything can be drawn."""
    return any(not math.isnan(v) for v in values)


def smooth(values: Sequence[float], parts: int = 40, most: int = 250) -> tuple[list[int], list[float]]:
    """(positions, moving medians over 1/parts of the series), at ``most`` positions at most; few values stay as they are.

    The median, so that a single spike stays a spike of the raw line and does not become a plateau.
    """
    half, n = len(values) // parts // 2, len(values)
    if half == 0:
        return list(range(n)), list(values)
    centres = sorted({round(i * (n - 1) / (most - 1)) for i in range(most)}) if n > most else list(range(n))
    return centres, [median(list(values[max(0, i - half) : i + half + 1])) for i in centres]


def curve(axes: "Axes", x: Sequence[float], y: Sequence[float], color: str, raw: bool = True) -> float:
    """A smoothed line over its pale raw values; returns the smoothed end. A single value is a dot."""
    at, line = smooth(y)
    if raw and line != list(y):
        axes.plot(x, y, color=color, alpha=0.22, linewidth=0.9)
    alone = sum(not math.isnan(v) for v in line) == 1
    axes.plot([x[i] for i in at], line, color=color, marker="o" if alone else None, markersize=5)
    return next((v for v in reversed(line) if not math.isnan(v)), math.nan)


def end_labels(figure: "Figure", axes: "Axes", marks: Sequence[tuple[float, str, str]], size: float = 9) -> None:
    """Names beside the right ends of lines, moved apart where they would overlap.

    Args:
        marks: (y of the line's end, text, colour); those with NaN are left out.
    """
    marks = [m for m in marks if not math.isnan(m[0])]
    if not marks:
        return
    figure.canvas.draw()  # axis limits are final only now
    low, high = axes.transData.transform([(0, axes.get_ylim()[0]), (0, axes.get_ylim()[1])])[:, 1]
    gap = 1.35 * size / 72 * figure.dpi
    wanted = [axes.transData.transform((0, y))[1] for y, _, _ in marks]
    places = spread(wanted, gap, low, max(high, low + gap * (len(marks) - 1)))
    for (_, text, color), place in zip(marks, places, strict=True):
        y = (place - low) / max(1e-9, high - low)
        axes.annotate(
            text,
            (1.0, y),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=color,
            fontsize=size,
            va="center",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, at least ``gap`` apart, inside [low, high] when they fit.

    >>> spread([5.0, 5.0, 0.0], 2.0, 0.0, 10.0)
    [4.0, 6.0, 0.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[float]] = []  # [sum of (wanted - offset), members]: neighbours that touch move as one
    for i in order:
        groups.append([wanted[i], 1])
        while len(groups) > 1:
            (before, n), (after, m) = groups[-2], groups[-1]
            if before / n + (n - 1) * gap / 2 + gap <= after / m - (m - 1) * gap / 2:
                break
            groups[-2:] = [[before + after, n + m]]
    out, at = [0.0] * len(wanted), 0
    floor = low
    for total, members in groups:
        n = int(members)
        first = max(floor, total / n - (n - 1) * gap / 2)
        for k in range(n):
            out[order[at + k]] = first + k * gap
        at += n
        floor = first + n * gap
    over = max(out, default=high) - high
    if over > 0:
        ceiling = high
        for i in reversed(order):
            out[i] = min(out[i], ceiling)
            ceiling = out[i] - gap
    return out
