"""``seekling redteam URL``: attacks on a served model, and which of them got through."""

import argparse
import json

from seekling.verbs.probing import chosen, counts, print_table, put

WORDS = {"held": ("held", "green"), "broken": ("BROKEN", "red"), "gave in": ("gave in", "yellow"), "skipped": ("–", "dim")}


def run(args: argparse.Namespace) -> int:
    """Attack, print a table or one JSON object. Exit code 1 where a wall is broken."""
    from seekling.redteam.cases import every, run_all

    target, outcomes = put(args, chosen(args, every(), "category", "categories"), run_all, "attacking")
    found = counts(outcomes, tuple(WORDS))
    if args.json:
        rows = [outcome.as_json() for outcome in outcomes]
        print(json.dumps({"url": args.url, "model": target.model, **found, "cases": rows}, ensure_ascii=False))
    else:
        heads = "category", "attack", "what got through, or why it cannot be told"
        print_table(heads, ((o.category, o.name, WORDS[o.verdict], o.note) for o in outcomes), 110)
        print(
            f"{found['held']} held, {found['broken']} walls broken, {found['skipped']} cannot be told; "
            f"the model gave in {found['gave in']} times of {sum(o.kind == 'model' for o in outcomes)}"
        )
    return 1 if found["broken"] else 0
