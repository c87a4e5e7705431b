"""``seekling keys``: make, list and revoke the keys that open a server."""

import argparse
import json
import time

from seekling.errors import RecipeError


def keys(args: argparse.Namespace) -> int:
    """Add, list or revoke."""
    from pathlib import Path

    from seekling.serve.keys import Keys
    from seekling.serve.ledger import Ledger
    from seekling.verbs.serve import usage_file

    kept = Keys(Path(args.file) if args.file else None)
    if args.action == "list":
        if args.name is not None:
            raise RecipeError("seekling keys list takes no name")
        path = usage_file(kept.path, args.usage)
        ledger = Ledger(path if path.exists() else None)
        shown = ("id", "name", "scopes", "created", "expires", "expired", "rpm", "concurrent", "daily_tokens")
        rows = [{field: getattr(key, field) for field in shown} for key in kept.all()]
        for row in rows:
            row["tokens_today"] = ledger.used(row["id"]).tokens
        if args.json:
            print(json.dumps(rows))
            return 0
        for key, row in zip(kept.all(), rows, strict=True):
            until = "never expires" if key.expires is None else f"{'expired' if key.expired else 'expires'} {_day(key.expires)}"
            used = f"{row['tokens_today']} tokens today" + (f" of {key.daily_tokens}" if key.daily_tokens else "")
            print(f"{key.id}  {key.name}  {','.join(key.scopes)}  made {_day(key.created)}, {until}, {used}")
        if not rows:
            print(f"no keys in {kept.path}; seekling keys add NAME makes one")
        return 0
    if args.name is None:
        raise RecipeError(f"seekling keys {args.action} needs a name")
    if args.action == "revoke":
        key = kept.revoke(args.name)
        print(json.dumps({"revoked": key.id}) if args.json else f"revoked {key.id} ({key.name})")
        return 0
    limits = {"rpm": args.rpm, "concurrent": args.concurrent, "daily_tokens": args.daily_tokens}
    key, secret = kept.add(args.name, args.scope or ["infer"], args.days, **limits)
    if args.json:
        print(json.dumps({"id": key.id, "name": key.name, "key": secret}))
    else:
        print(f"{secret}\nThis is the only time the key is shown; its hash is in {kept.path}")
    return 0


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
