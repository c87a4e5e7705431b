"""``seekling serve``: one model or several behind an HTTP server."""

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seekling.errors import MachineError, RecipeError

if TYPE_CHECKING:
    from seekling.serve.barriers import Barriers
    from seekling.serve.guard import Doors
    from seekling.serve.model import Model


@dataclass
class Wanted:
    """A model to be served: where it is, what it is called, its adapters by name."""

    path: str
    names: list[str]
    adapters: dict[str, str] = field(default_factory=dict)


def serve(args: argparse.Namespace) -> int:
    """Load the models, then answer until told to stop."""
    try:
        from seekling.serve.ledger import Ledger
        from seekling.serve.run import run
        from seekling.serve.state import Limits, Server
    except ImportError as error:
        raise MachineError(f"the server needs {error.name}: pip install 'seekling[serve]'") from None
    doors = doors_of(args)
    assert doors.keys is not None
    ledger = Ledger(usage_file(doors.keys.path, args.usage))
    if args.daily_tokens or args.rpm or args.usage or doors.keys.all():
        ledger.open()
    if not 0 < args.cache_spill_gb < 1e6:
        raise RecipeError(f"--cache-spill-gb is {args.cache_spill_gb}: give the gigabytes that folder may take")
    wanted = wanted_of(args)
    barriers = barriers_of(args)
    limits = Limits(max_tokens=args.max_tokens, rpm=args.rpm, concurrent=args.concurrent, daily_tokens=args.daily_tokens)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    server = Server(opened(wanted, args), limits, ledger=ledger, barriers=barriers)
    for line in told(barriers):
        say(line)
    try:
        return run(server, args, doors, say)
    finally:
        if barriers.audit is not None:
            barriers.audit.close()


def wanted_of(args: argparse.Namespace) -> list[Wanted]:
    """The models that were asked for, before any is loaded.

    Raises:
        RecipeError: names that are missing, not all different, or of no model.
    """
    from seekling.verbs.pull import default_model

    paths = args.paths or [default_model()]
    if args.name and len(args.name) != len(paths):
        raise RecipeError(f"{len(paths)} models and {len(args.name)} times --name: give one for each, in order, or none")
    models = [Wanted(path, [name]) for path, name in zip(paths, args.name or map(model_name, paths), strict=True)]
    for given in args.alias:
        model, name = _owner(models, given, "--alias")
        model.names.append(name)
    for given in args.adapter:
        whose, _, folder = given.partition("=")
        if not whose or not folder:
            raise RecipeError(f"--adapter {given}: give NAME=FOLDER")
        model, name = _owner(models, whose, "--adapter")
        model.names.append(name)
        model.adapters[name] = folder
    names = [name for model in models for name in model.names]
    if len(set(names)) < len(names):
        raise RecipeError(f"the names {', '.join(names)} are not all different: give --name, --alias or other adapters' names")
    return models


def _owner(models: list[Wanted], given: str, flag: str) -> tuple[Wanted, str]:
    """Whose name it is, and the name: NAME of the only model, MODEL:NAME of several."""
    for model in models:
        if given.startswith(f"{model.names[0]}:") and len(models) > 1:
            return model, given.removeprefix(f"{model.names[0]}:")
    if len(models) > 1:
        raise RecipeError(f"{flag} {given}: several models are served, say whose it is: {flag} {models[0].names[0]}:{given} …")
    return models[0], given


def opened(wanted: list[Wanted], args: argparse.Namespace) -> "list[Model]":
    """The models, loaded: each with its own engine and share of the cache; they take turns on the cores."""
    from seekling.engine import Engine
    from seekling.engine.engine import CACHE_BYTES
    from seekling.serve.model import Model

    models: list[Model] = []
    for one in wanted:
        engine = Engine(
            one.path,
            quant=args.quant,
            dtype=args.dtype,
            threads=args.threads,
            max_rows=args.rows,
            max_queue=args.max_queue,
            cache_tokens=args.cache_tokens,
            cache_bytes=CACHE_BYTES // len(wanted),
            cache_dtype=args.cache_dtype,
            cache_spill=_spill_folder(args.cache_spill, one.names[0], len(wanted)),
            cache_spill_bytes=max(1, int(args.cache_spill_gb * 1e9 / len(wanted))),
            speculate=args.speculate,
            adapters=one.adapters,
            beside=models[0].engine if models else None,
        )
        models.append(Model(engine, one.names, frozenset(one.adapters)))
    return models


def _spill_folder(folder: str | None, name: str, models: int) -> Path | None:
    """Each model's own, where there are several."""
    if folder is None or models == 1:
        return None if folder is None else Path(folder)
    return Path(folder) / re.sub(r"[^\w.-]|^\.", "_", name)


def barriers_of(args: argparse.Namespace) -> "Barriers":
    """Moderation, labels, audit log and watermark, all checked before a model is loaded.

    Raises:
        RecipeError, DataError, MachineError: what is wrong with them.
    """
    from seekling.serve.audit import AuditLog, default_folder
    from seekling.serve.barriers import Barriers
    from seekling.serve.labels import Labels

    labels = Labels(args.label, args.label_producer)
    wanted = args.moderation or ("default" if args.public else "off")
    audit = args.audit or (str(default_folder()) if args.public else "off")
    if args.label == "cn" and audit != "off" and args.audit_days < 180:
        raise RecipeError(f"--audit-days is {args.audit_days}: the labelling measures ask for six months, give at least 180")
    if audit == "off" and args.audit_texts:
        raise RecipeError("--audit-texts without an audit log: give --audit DIR")
    moderator = watermark = None
    if wanted != "off":
        from seekling.serve.moderation.moderator import Moderator
        from seekling.serve.moderation.policy import load

        moderator = Moderator(load(wanted))
    if args.watermark is not None:
        from seekling.engine.watermark import read_key

        watermark = read_key(Path(args.watermark))
    log = None if audit == "off" else AuditLog(Path(audit), args.audit_days, args.audit_texts)
    return Barriers(moderator, labels, log, watermark)


def told(barriers: "Barriers") -> list[str]:
    """What stands around the answers, for whoever starts the server."""
    lines = []
    if barriers.moderator is not None:
        lines.append(f"moderation by the policy {barriers.moderator.policy.name!r}")
    if barriers.labels.on:
        lines.append(f"answers are labelled ({barriers.labels.mode}), producer {barriers.labels.producer!r}")
    if barriers.watermark is not None:
        lines.append(f"drawn answers bear the watermark of key {barriers.watermark.name}; greedy ones bear none")
    if barriers.audit is not None:
        what = "with their texts" if barriers.audit.texts else "as hashes"
        lines.append(f"answers are logged {what} for {barriers.audit.days} days in {barriers.audit.folder}")
    return lines


def doors_of(args: argparse.Namespace) -> "Doors":
    """Who may come in. RecipeError where others could reach a server that has no key."""
    from seekling.serve.guard import LOCAL, Doors
    from seekling.serve.keys import Keys

    keys = Keys(Path(args.keys) if args.keys else None)
    usable = [key for key in keys.all() if not key.expired and key.may("infer")]
    if args.public and not usable:
        raise RecipeError(f"--public needs a key, and {keys.path} has none that is valid: seekling keys add NAME")
    if not args.public and args.host not in LOCAL:
        raise RecipeError(f"--host {args.host} can be reached by others: add --public, which needs a key, or leave it")
    hosts = {host.lower() for host in args.allow_host}
    if not args.public:
        hosts |= LOCAL
    return Doors(keys, frozenset(hosts), frozenset(args.allow_origin), args.public)


def usage_file(keys: Path, given: str | None) -> Path:
    """Where what keys have used is written down."""
    return Path(given) if given else keys.with_name("usage.db")


def model_name(path: str) -> str:
    """What clients call the model: the last part of its path that tells it from others."""
    parts = [part for part in Path(path).resolve().parts if part != "checkpoints" and not part.startswith("step-")]
    return (parts[-1] if Path(path).exists() else str(path)).removesuffix(".gguf")
