"""``seekling serve``: one model behind an HTTP server."""

import argparse
import sys
from pathlib import Path

from seekling.errors import MachineError


def serve(args: argparse.Namespace) -> int:
    """Load the model, then answer until told to stop."""
    try:
        from seekling.serve.run import run
        from seekling.serve.state import Limits, Server
    except ImportError as error:
        raise MachineError(f"the server needs {error.name}: pip install 'seekling[serve]'") from None
    from seekling.engine import Engine
    from seekling.pull_verb import default_model

    path = args.path or default_model()
    engine = Engine(
        path,
        quant=args.quant,
        dtype=args.dtype,
        threads=args.threads,
        max_rows=args.rows,
        max_queue=args.max_queue,
        cache_tokens=args.cache_tokens,
        speculate=args.speculate,
    )
    names = [args.name or model_name(path), *args.alias]
    limits = Limits(max_tokens=args.max_tokens, rpm=args.rpm, concurrent=args.concurrent)
    return run(Server(engine, names, limits), args, say=lambda line: print(line, file=sys.stderr, flush=True))


def model_name(path: str) -> str:
    """What clients call the model: the last part of its path that tells it from others."""
    parts = [part for part in Path(path).resolve().parts if part != "checkpoints" and not part.startswith("step-")]
    return (parts[-1] if Path(path).exists() else str(path)).removesuffix(".gguf")
