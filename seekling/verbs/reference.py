"""``seekling reference``: write a tiny model with golden numbers, or check an engine against one."""

import argparse
import json
from pathlib import Path

from seekling.errors import CheckpointError, RecipeError
from seekling.plan import size_text


def run(args: argparse.Namespace) -> int:
    """Write ``--out``, or compare with ``--check``."""
    if (args.check is None) == (args.out is None):
        raise RecipeError("give --arch and --out DIR to write a reference model, or --check DIR to test an engine with one")
    if args.check is not None:
        if args.arch is not None or args.seed is not None:
            raise RecipeError("--check takes --logits and --json only; the folder says which model it is")
        return check_folder(Path(args.check), Path(args.logits) if args.logits else None, args.json)
    if args.arch is None or args.logits is not None:
        raise RecipeError("--out needs --arch v2 or v3" if args.arch is None else "--logits belongs to --check")
    from seekling.reference.write import write

    done = write(args.arch, Path(args.out), args.seed or 0)
    if args.json:
        print(json.dumps({"path": str(done.folder), "files": done.files, "draw": done.draw, "notes": list(done.notes)}))
        return 0
    width = max(map(len, done.files))
    print("\n".join([f"{done.folder}", *(f"  {name:<{width}}  {size_text(n)}" for name, n in done.files.items())]))
    for note in done.notes:
        print(f"note: {note}")
    print(f"\nTest an engine as {done.folder / 'README.md'} says; test this one:\n  seekling reference --check {done.folder}")
    return 0


def check_folder(folder: Path, logits: Path | None, as_json: bool) -> int:
    """Print every comparison. Raises CheckpointError when one fails."""
    from seekling.reference.check import check, table, to_dict

    lines = list(check(folder, logits))
    if as_json:
        print(json.dumps([to_dict(line) for line in lines]))
    else:
        print(table(lines, everything=logits is not None))
    wrong = [line for line in lines if not line.ok]
    if wrong:
        w = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} of {len(lines)} comparisons differ, first {w.what} of prompt {w.prompt} ({w.engine}): "
            f"{w.difference:.3g}, allowed {w.tolerance:g}; see {folder / 'README.md'}"
        )
    return 0
