"""``seekling reproduce``: run a release again from its manifest and compare data, first losses and final score."""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError


def run(args: argparse.Namespace) -> int:
    """Reproduce; print the comparison; exit code 1 when something differs."""
    from seekling.release.rerun.run import reproduce

    if args.steps is not None and args.steps < 1:
        raise RecipeError("--steps takes a number of steps, 1 or more; leave it out to run everything")
    data, base = (None if p is None else Path(p) for p in (args.data, args.base))
    with workplace(args.keep) as work, watching(quiet=args.json) as (say, watch):
        out = reproduce(Path(args.path), steps=args.steps, data=data, base=base, work=work, say=say, watch=watch)
    if args.json:
        print(json.dumps({**dataclasses.asdict(out), "reproduced": out.reproduced}, ensure_ascii=False))
    else:
        show(out)
    return 0 if out.reproduced else 1


@contextmanager
def workplace(keep: str | None) -> Iterator[Path]:
    """Where the runs go: ``--keep DIR``, or a folder that is removed."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="seekling-reproduce-") as made:
            yield Path(made)
        return
    folder = Path(keep)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"--keep {folder} is not an empty folder; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def watching(quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int, float | None], None]]]:
    """What tells people of the progress: lines and a bar on stderr, no bar where there is no terminal."""
    if quiet:
        yield (lambda text: None), (lambda stage, step, steps, loss: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:

        def watch(stage: str, step: int, steps: int, loss: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=steps, loss="")
            bar.update(tasks[stage], completed=step, loss="" if loss is None else f"loss {loss:.4f}")

        yield (lambda text: console.print(text, markup=False, soft_wrap=True)), watch


def show(out: Any) -> None:
    """The comparison as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from seekling.release.rerun.compare import DIFFERS, EQUAL, WITHIN

    console = Console(highlight=False)
    marks = {EQUAL: "[green]✓ equal[/]", WITHIN: "[green]✓ within the band[/]", DIFFERS: "[red]✗ DIFFERS[/]"}
    where = "the same kind of machine" if out.same_machine else "another kind of machine"
    console.print(f"[bold]{escape(out.release)}[/] repeated on {where}")
    for line in [*out.differences, *out.notes]:
        console.print(f"  · {escape(line)}", soft_wrap=True)
    for stage in out.stages:
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
        table.title = f"{escape(stage.folder)}: {stage.steps:,} of {stage.of:,} steps in {stage.seconds:.0f} s"
        for name in ("", "stated", "here", "verdict"):
            table.add_column(name, overflow="fold")
        for c in stage.comparisons:
            verdict = marks.get(c.verdict, f"[dim]{c.verdict}[/]") + (f"\n{escape(c.detail)}" if c.detail else "")
            table.add_row(escape(c.what), escape(_short(c.stated)), escape(_short(c.found)), verdict)
        console.print(table)
    console.print("reproduced" if out.reproduced else "[red]not reproduced[/]")


def _short(value: Any) -> str:
    text = "–" if value is None else repr(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:16] + "…"
