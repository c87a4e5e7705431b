"""``seekling watermark``, ``seekling audit`` and ``seekling label``: what an operator asks of the marks and the log."""

import argparse
import dataclasses
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path

from seekling.errors import RecipeError


def watermark(args: argparse.Namespace) -> int:
    """Make a key, or look for its mark: the p-value is how likely a text written without the key looks like this."""
    from seekling.engine.watermark import detect, make_key, read_key

    if args.action == "key":
        key = make_key(Path(args.file))
        facts = {"key": key.name, "file": args.file}
        print(json.dumps(facts) if args.json else f"key {key.name} in {args.file}; who has it can find the mark, keep it")
        return 0
    if args.key is None or args.model is None:
        raise RecipeError("detect needs the key (--key FILE) and the model that wrote the text (--model MODEL)")
    from seekling.lm import resolve, tokenizer_of

    key, path = read_key(Path(args.key)), resolve(args.model)
    if path.suffix == ".gguf":
        from seekling.formats.gguf_file import open_gguf

        tokenizer = open_gguf(path).tokenizer()
    else:
        tokenizer = tokenizer_of(path)
    if tokenizer is None:
        raise RecipeError(f"{args.model} has no tokenizer: give the model that wrote the text")
    found = detect(key, tokenizer.encode(_text(args.file)))
    if args.json:
        print(json.dumps({"key": key.name, **dataclasses.asdict(found), "share": found.share}))
    else:
        verdict = "marked" if found.p_value < 1e-4 else "perhaps marked" if found.p_value < 0.01 else "no mark found"
        print(f"{verdict}: p-value {found.p_value:.2g} ({found.ones} of {found.bits} bits from {found.tokens} tokens)")
    return 0


def audit(args: argparse.Namespace) -> int:
    """Follow the chain (1 where it is broken), or find the entry of an answer by its text (1 where there is none)."""
    from seekling.serve.audit import default_folder, find, verify

    folder = Path(args.audit) if args.audit else default_folder()
    if args.action == "find":
        if args.file is None:
            raise RecipeError("find needs the text of the answer: a FILE, or - for stdin")
        raw = _text(args.file)
        found = []
        for text in dict.fromkeys((raw, raw.rstrip("\n"))):  # editors end files with a line feed
            found += find(folder, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
        for entry in found:
            print(json.dumps(entry, ensure_ascii=False))
        if not found:
            print("no answer with this text is in the log", file=sys.stderr)
        return int(not found)
    if args.file is not None:
        raise RecipeError(f"verify reads the whole log: drop {args.file}, or give the folder with --audit")
    report = verify(folder)
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        for problem in report.problems:
            print(problem)
        state = "unbroken" if not report.problems else f"{len(report.problems)} problems"
        print(f"{report.entries} entries, {report.first} to {report.last}: {state}; last hash {report.last_hash}")
    return int(bool(report.problems))


def label(args: argparse.Namespace) -> int:
    """Write a file again with the marks of its kind."""
    from seekling.serve.labels import Labels, export

    source, out = Path(args.file), Path(args.out)
    labels = Labels(args.label, args.producer, args.model)
    text = export(source.read_text("utf-8"), source.suffix[1:].lower(), labels, args.id or secrets.token_hex(12), args.language)
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        fresh.write_text(text, "utf-8")
        os.replace(fresh, out)
    finally:
        fresh.unlink(missing_ok=True)
    print(out)
    return 0


def _text(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
