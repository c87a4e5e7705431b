"""``seekling inspect``: what a model folder or file holds, and whether it would load."""

import argparse
import json


def run(args: argparse.Namespace) -> int:
    """Print the inspection of one path."""
    from seekling.inspection import inspect
    from seekling.inspection.report import render

    found = inspect(args.path)
    print(json.dumps(found.to_dict(), ensure_ascii=False) if args.json else render(found))
    return 0
