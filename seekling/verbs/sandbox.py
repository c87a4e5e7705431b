"""``seekling sandbox``: one program under `seekling.sandbox`, or the check that the sandbox holds on this machine."""

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError

STOPPED = {
    "time": "it used up its time (--seconds, --wall-seconds)",
    "memory": "it used up its memory (--memory-mb)",
    "output": "it printed more than it may (--output-kb)",
    "threads": "it started more threads than it may",
    "killed": "a signal ended it",
}
CUT = 124  # exit code of a program that was stopped, as timeout(1) has it


def run(args: argparse.Namespace) -> int:
    """The verb. The program's exit code is ours; 124 when it was stopped."""
    warnings.showwarning = _loudly
    if args.check:
        if args.file is not None:
            raise RecipeError(f"--check runs its own programs: drop {args.file} or --check")
        if args.unconfined:
            raise RecipeError("--check makes its attempts in confinement only: drop --unconfined")
        return _check(args)
    if args.file is None:
        raise RecipeError("give a FILE (or - for stdin) to run, or --check")
    if args.file == args.stdin == "-":
        raise RecipeError("both the program and its input are to come from stdin: give one of them as a file")
    from seekling.sandbox import Limits, run_python

    limits = Limits(args.seconds, args.wall_seconds, args.memory_mb, args.disk_mb, args.output_kb * 1024)
    code, stdin = _text(args.file), "" if args.stdin is None else _text(args.stdin)
    result = run_python(code, stdin=stdin, limits=limits, unconfined=args.unconfined)
    if args.json:
        print(json.dumps(dataclasses.asdict(result), ensure_ascii=False))
    else:
        sys.stdout.write(result.stdout)
        sys.stdout.flush()
        sys.stderr.write(result.stderr)
        if result.outcome in STOPPED:
            print(f"stopped: {STOPPED[result.outcome]}", file=sys.stderr)
    return CUT if result.outcome in STOPPED else result.code


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    return Path(name).read_text("utf-8", "surrogateescape")


def _check(args: argparse.Namespace) -> int:
    """Run the probes; 1 when one got out."""
    from rich.console import Console
    from rich.table import Table

    from seekling.sandbox import confinement
    from seekling.sandbox.probes import PROBES, run_probes

    how, why = confinement()
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with console.status(f"{len(PROBES)} attempts to break out") as status:
        for probe, result, out in run_probes():
            status.update(f"{len(rows) + 1} of {len(PROBES)}: {probe.name}")
            rows.append({"attempt": probe.name, "outcome": result.outcome, "seconds": result.wall_seconds, "out": out})
    escaped = sum(bool(row["out"]) for row in rows)
    if args.json:
        print(json.dumps({"confined": how, "why": why, "escaped": escaped, "probes": rows}, ensure_ascii=False))
        return int(escaped > 0)
    table = Table(title=f"confined by: {how}" + (f" ({why})" if why else ""))
    for name in ("attempt", "ended", "seconds", "verdict"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for row in rows:
        verdict = "[red]" + "\n".join(line.replace("[", "\\[") for line in row["out"]) if row["out"] else "[green]held"
        table.add_row(row["attempt"], row["outcome"], f"{row['seconds']:.2f}", verdict)
    Console().print(table)
    return int(escaped > 0)


def _loudly(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"WARNING: {message}", file=sys.stderr)
