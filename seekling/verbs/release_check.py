"""``seekling release check``: is this folder or repository open source AI, what lacks, and can its files be trusted?"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, DataError, RecipeError


def run(args: argparse.Namespace) -> int:
    """Check; print the report; exit code 1 when a verdict fails."""
    from seekling.release.check.finding import FAIL
    from seekling.release.check.run import check
    from seekling.release.check.show import badge, show

    if args.badge is not None and not Path(args.badge).absolute().parent.is_dir():
        raise DataError(f"--badge {args.badge}: there is no folder {Path(args.badge).parent}")
    key, mof = (None if p is None else Path(p) for p in (args.key, args.mof))
    with opened(args) as place, hashing(place, quiet=args.json) as progress:
        report = check(place, key, progress, mof)
        if args.smoke is not None:
            from seekling.release.rerun.smoke import smoke_findings
            from seekling.verbs.reproduce import watching

            if args.smoke < 0:
                raise RecipeError("--smoke takes a number of steps, 1 or more")
            with watching(quiet=args.json) as (say, watch):
                report.findings += smoke_findings(place.root, args.smoke, say, watch)
    if args.badge is not None:
        write_text(Path(args.badge), badge(report))
    if args.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        from rich.console import Console

        show(report, Console(highlight=False), everything=args.all)
    return 1 if report.overall == FAIL else 0


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[Any]:
    """The folder, or the small files of a hub's repository in a folder that goes away afterwards."""
    from seekling.hub.names import repository
    from seekling.release.check.place import open_folder

    folder = Path(args.path)
    wanted = None if folder.exists() else repository(args.path)
    if wanted is None:
        if not folder.exists():
            raise CheckpointError(f"{folder} does not exist; give a model's folder, or owner/name of a hub repository")
        yield open_folder(folder)
        return
    from seekling.release.check.fetch import fetch_small

    with tempfile.TemporaryDirectory(prefix="seekling-check-") as there:
        say = (lambda text: None) if args.json else (lambda text: print(text, file=sys.stderr, flush=True))
        yield fetch_small(wanted, Path(there), source=args.source or "hf", endpoint=args.endpoint, say=say)


@contextmanager
def hashing(place: Any, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes to hash, where they take a while and somebody watches."""
    total = sum(e.size for path, e in place.entries.items() if place.here(path))
    if quiet or total < 256 << 20 or not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hashing", total=total)
        yield lambda n: bar.advance(task, n)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
