"""``seekling redteam URL``: attacks on a served model, and which of them got through."""

import argparse
import json
import sys
from urllib.parse import urlsplit

from seekling.errors import RecipeError


def run(args: argparse.Namespace) -> int:
    """Attack, print a table or one JSON object. Exit code 1 where a wall is broken."""
    from seekling.conformance.target import Failed, Target
    from seekling.redteam.cases import every, run_all

    if urlsplit(args.url).scheme not in ("http", "https") or not urlsplit(args.url).hostname:
        raise RecipeError(f"{args.url} is no address: give one like http://127.0.0.1:8000")
    categories = list(dict.fromkeys(case.category for case in every()))
    unknown = [name for name in args.only if name not in categories]
    if unknown:
        raise RecipeError(f"--only {unknown[0]!r}: the categories are {', '.join(categories)}")
    target = Target(args.url.rstrip("/").removesuffix("/v1"), args.model or "", args.key, args.timeout)
    try:
        if not args.model:
            target.model = target.get("/v1/models").json["data"][0]["id"]
    except OSError as error:
        raise RecipeError(f"{args.url} does not answer ({error}): is the server running?") from None
    except (Failed, KeyError, IndexError, TypeError):
        raise RecipeError(f"{args.url}/v1/models names no model: give --model, and --key if it needs one") from None
    cases = [case for case in every() if not args.only or case.category in args.only]
    if args.json:
        outcomes = run_all(target, cases)
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(file=sys.stderr), transient=True) as progress:
            task = progress.add_task(f"attacking {target.model}", total=len(cases))
            outcomes = run_all(target, cases, lambda outcome: progress.advance(task))
    counts = {word: sum(o.verdict == word for o in outcomes) for word in ("held", "broken", "gave in", "skipped")}
    if args.json:
        rows = [outcome.as_json() for outcome in outcomes]
        print(json.dumps({"url": args.url, "model": target.model, **counts, "cases": rows}, ensure_ascii=False))
    else:
        _table(outcomes)
        print(
            f"{counts['held']} held, {counts['broken']} walls broken, {counts['skipped']} cannot be told; "
            f"the model gave in {counts['gave in']} times of {sum(o.kind == 'model' for o in outcomes)}"
        )
    return 1 if counts["broken"] else 0


def _table(outcomes: list) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    words = {"held": ("held", "green"), "broken": ("BROKEN", "red"), "gave in": ("gave in", "yellow"), "skipped": ("–", "dim")}
    table = Table("category", "attack", "", "what got through, or why it cannot be told", box=None, pad_edge=False)
    before = None
    for outcome in outcomes:
        shown = outcome.category if outcome.category != before else ""
        before = outcome.category
        word, style = words[outcome.verdict]
        table.add_row(Text(shown), Text(outcome.name), Text(word, style), Text(" ".join(outcome.note.split())[:110]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
