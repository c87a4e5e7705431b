"""The report of a run: ``report.md`` for people, ``report.json`` for programs, ``figures/*.png`` for both.

Run: ``seekling report RUN``. It only reads the run; what is missing (an evaluation, the end of training, a readable line of the
log) is said in the report instead of stopping it.
"""

import json
import math
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError, raise_all
from seekling.release.facts import Run, gather, open_run
from seekling.release.headline import ten_numbers
from seekling.release.markdown import render
from seekling.train.log import plain
from seekling.train.state import replace_text


def write_report(run_dir: str | Path, watts: float | None = None, price: float | None = None) -> Path:
    """Write the report into the run folder and return the path of ``report.md``. Files are replaced at once, never half.

    Args:
        watts: what the machine draws while training, for the energy; None assumes a figure a core and says so.
        price: dollars an hour of this machine; None takes the planner's.

    Raises:
        CheckpointError: the folder is no run. RecipeError: its recipe is damaged, or ``watts`` or ``price`` is no amount.
    """
    run, facts = facts_of(run_dir, watts, price)
    try:
        from seekling.release.figures import draw

        facts["figures"] = draw(run, facts, run.folder / "figures")
    except ImportError:
        facts["figures"] = None
    markdown = render(facts)
    replace_text(run.folder / "report.json", json.dumps(plain(facts), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    replace_text(run.folder / "report.md", markdown)
    return run.folder / "report.md"


def terminal_summary(run_dir: str | Path, watts: float | None = None, price: float | None = None) -> list[str]:
    """The ten numbers as aligned lines, and where the report is, for the end of a command; arguments as for the report.

    Raises:
        CheckpointError, RecipeError: as :func:`write_report`.
    """
    run, facts = facts_of(run_dir, watts, price)
    rows = [(row["name"], row["text"]) for row in facts["ten_numbers"]] + [("report", run.folder / "report.md")]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def facts_of(run_dir: str | Path, watts: float | None, price: float | None) -> tuple[Run, dict[str, Any]]:
    """The run and everything the report says, figures apart."""
    bad = [
        f"{name} must be a number of at least 0, not {value}"
        for name, value in (("--watts", watts), ("--price", price))
        if value is not None and not 0 <= value < math.inf
    ]
    raise_all(RecipeError, bad)
    run = open_run(run_dir)
    facts = gather(run, watts, price)
    facts["ten_numbers"] = ten_numbers(run, facts)
    return run, facts
