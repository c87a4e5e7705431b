"""What ``seekling conformance`` and ``seekling redteam`` share: a server's address, a list of questions, progress, a table."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from seekling.errors import RecipeError

if TYPE_CHECKING:
    from seekling.conformance.target import Target


def chosen(args: argparse.Namespace, every: Sequence[Any], group: str, groups: str) -> list[Any]:
    """The questions of ``--only``, or all; ``group`` is the field that sorts them.

    Raises:
        RecipeError: no address, no such group.
    """
    if urlsplit(args.url).scheme not in ("http", "https") or not urlsplit(args.url).hostname:
        raise RecipeError(f"{args.url} is no address: give one like http://127.0.0.1:8000")
    names = list(dict.fromkeys(getattr(one, group) for one in every))
    unknown = [name for name in args.only if name not in names]
    if unknown:
        raise RecipeError(f"--only {unknown[0]}: the {groups} are {', '.join(names)}")
    return [one for one in every if not args.only or getattr(one, group) in args.only]


def put(
    args: argparse.Namespace, questions: Sequence[Any], run_all: Callable[..., list[Any]], verb: str
) -> "tuple[Target, list[Any]]":
    """Ask a server every question, with a progress bar unless ``--json``.

    Raises:
        RecipeError: it does not answer, or names no model.
    """
    from rich.console import Console
    from rich.progress import Progress

    from seekling.conformance.target import Failed, Target

    target = Target(args.url.rstrip("/").removesuffix("/v1"), args.model or "", args.key, args.timeout)
    try:
        if not args.model:
            target.model = target.get("/v1/models").json["data"][0]["id"]
        with Progress(console=Console(file=sys.stderr), transient=True, disable=args.json) as progress:
            task = progress.add_task(f"{verb} {target.model}", total=len(questions))
            return target, run_all(target, questions, lambda result: progress.advance(task))
    except OSError as error:
        raise RecipeError(f"{args.url} does not answer ({error}): is the server running?") from None
    except (Failed, KeyError, IndexError, TypeError):
        raise RecipeError(f"{args.url}/v1/models names no model: give --model, and --key if it needs one") from None


def counts(results: Iterable[Any], words: Sequence[str]) -> dict[str, int]:
    """How many came to each verdict."""
    found = [result.verdict for result in results]
    return {word: found.count(word) for word in words}


def print_table(heads: tuple[str, str, str], rows: Iterable[tuple[str, str, tuple[str, str], str]], longest: int) -> None:
    """Rows of (group, name, (verdict, its style), note); a group is named once."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table, before = Table(heads[0], heads[1], "", heads[2], box=None, pad_edge=False), None
    for group, name, (word, style), note in rows:
        table.add_row(
            Text("" if group == before else group), Text(name), Text(word, style), Text(" ".join(note.split())[:longest])
        )
        before = group
    Console(width=None if sys.stdout.isatty() else 200).print(table)
