"""``seekling conformance URL``: can the clients people have talk to this server?"""

import argparse
import json
import sys
from urllib.parse import urlsplit

from seekling.errors import RecipeError


def run(args: argparse.Namespace) -> int:
    """Run the checks and print a table, or one JSON object. Exit code 1 where a client would break."""
    from seekling.conformance.checks import every, run_all
    from seekling.conformance.target import Failed, Target

    if urlsplit(args.url).scheme not in ("http", "https") or not urlsplit(args.url).hostname:
        raise RecipeError(f"{args.url} is no address: give one like http://127.0.0.1:8000")
    surfaces = list(dict.fromkeys(check.surface for check in every()))
    unknown = [name for name in args.only if name not in surfaces]
    if unknown:
        raise RecipeError(f"--only {unknown[0]}: the surfaces are {', '.join(surfaces)}")
    target = Target(args.url.rstrip("/").removesuffix("/v1"), args.model or "", args.key, args.timeout)
    try:
        if not args.model:
            target.model = target.get("/v1/models").json["data"][0]["id"]
        checks = [check for check in every() if not args.only or check.surface in args.only]
        if args.json:
            results = run_all(target, checks)
        else:
            from rich.console import Console
            from rich.progress import Progress

            with Progress(console=Console(file=sys.stderr), transient=True) as progress:
                task = progress.add_task(f"asking {target.model}", total=len(checks))
                results = run_all(target, checks, lambda result: progress.advance(task))
    except OSError as error:
        raise RecipeError(f"{args.url} does not answer ({error}): is the server running?") from None
    except (Failed, KeyError, IndexError, TypeError):
        raise RecipeError(f"{args.url}/v1/models names no model: give --model, and --key if it needs one") from None
    counts = {word: sum(result.verdict == word for result in results) for word in ("pass", "fail", "skip")}
    broken = sum(result.verdict == "fail" and result.level == "must" for result in results)
    if args.json:
        rows = [result.as_json() for result in results]
        print(json.dumps({"url": args.url, "model": target.model, **counts, "broken": broken, "checks": rows}))
    else:
        _table(results)
        weak = counts["fail"] - broken
        print(f"{counts['pass']} hold, {broken} fail that clients rely on, {weak} are weak, {counts['skip']} cannot be told")
    return 1 if broken else 0


def _table(results: list) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("surface", "check", "", "what is wrong, or why it cannot be told", box=None, pad_edge=False)
    before = None
    for result in results:
        words = {"pass": ("ok", "green"), "skip": ("–", "dim"), "fail": ("FAILS", "red")}
        word, style = words[result.verdict]
        if result.verdict == "fail" and result.level == "should":
            word, style = "weak", "yellow"
        shown = result.surface if result.surface != before else ""
        before = result.surface
        table.add_row(Text(shown), Text(result.title), Text(word, style), Text(" ".join(result.note.split())[:160]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
