"""``seekling conformance URL``: can the clients people have talk to this server?"""

import argparse
import json
from typing import Any

from seekling.verbs.probing import chosen, counts, print_table, put

WORDS = {"pass": ("ok", "green"), "skip": ("–", "dim"), "fail": ("FAILS", "red")}


def run(args: argparse.Namespace) -> int:
    """Run the checks and print a table, or one JSON object. Exit code 1 where a client would break."""
    from seekling.conformance.checks import every, run_all

    target, results = put(args, chosen(args, every(), "surface", "surfaces"), run_all, "asking")
    found = counts(results, tuple(WORDS))
    broken = sum(result.verdict == "fail" and result.level == "must" for result in results)
    if args.json:
        rows = [result.as_json() for result in results]
        print(json.dumps({"url": args.url, "model": target.model, **found, "broken": broken, "checks": rows}))
    else:
        heads = "surface", "check", "what is wrong, or why it cannot be told"
        print_table(heads, ((r.surface, r.title, _word(r), r.note) for r in results), 160)
        weak = found["fail"] - broken
        print(f"{found['pass']} hold, {broken} fail that clients rely on, {weak} are weak, {found['skip']} cannot be told")
    return 1 if broken else 0


def _word(result: Any) -> tuple[str, str]:
    return ("weak", "yellow") if result.verdict == "fail" and result.level == "should" else WORDS[result.verdict]
