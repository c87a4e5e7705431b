"""``seekling release RUN --out DIR``: a complete open release of a run. ``seekling release push DIR --to OWNER/NAME``
uploads one."""

import argparse
import json
import shlex
import sys
from pathlib import Path


def release(args: argparse.Namespace) -> int:
    """Write the release folder and say what is in it."""
    from seekling.plan import size_text
    from seekling.release.build import build
    from seekling.release.material import Options, eu_lines

    options = Options(
        licence=args.licence,
        documents=args.documents,
        name=args.name,
        version=args.release_version,
        about=args.about,
        gguf=args.gguf,
        int8=args.int8,
        git=args.git,
        key=args.sign,
        with_data=args.with_data,
        checkpoints=not args.no_checkpoints,
        offline=args.offline,
        watts=args.watts,
    )
    stream = sys.stderr if args.json else sys.stdout
    made = build(args.path, args.out, options, say=lambda line: print(f"  {line}", file=stream, flush=True))
    folder = Path(args.out)
    files = [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] != ".git"]
    size = sum(p.stat().st_size for p in files)
    if args.json:
        print(
            json.dumps({"path": str(folder), "files": len(files), "bytes": size, "compute": made.compute, "notes": made.notes})
        )
        return 0
    print(f"{folder}: {len(files)} files, {size_text(size)}")
    for line in (*eu_lines(made.compute), *(f"note: {note}" for note in made.notes)):
        print(line)
    place = shlex.quote(str(folder))
    print(f"\nRead it:\n  {folder / 'report.pdf'}\nCheck it:\n  seekling release check {place}")
    return 0


def push(args: argparse.Namespace) -> int:
    """Upload a release to a hub that speaks Hugging Face's protocol."""
    from seekling.release.push import push as upload

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    where = upload(Path(args.path), args.to, endpoint=args.endpoint, private=args.private, say=say)
    print(json.dumps({"url": where}) if args.json else where)
    return 0
