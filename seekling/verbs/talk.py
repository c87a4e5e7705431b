"""``seekling generate`` and ``seekling chat``: text from a prompt, a conversation in the terminal."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from seekling.verbs.common import set_threads


def sampling(args: argparse.Namespace) -> Any:
    """The engine's Sampling from the flags."""
    from seekling.engine import Sampling

    return Sampling(
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        stop=tuple(args.stop),
    )


def generate(args: argparse.Namespace) -> int:
    """Continue one prompt; text streams as it is made."""
    wanted = sampling(args)
    prompt = sys.stdin.read().removesuffix("\n") if args.prompt in (None, "-") else args.prompt
    prompt = prompt.encode("utf-8", "replace").decode()  # bytes that are no text arrive as surrogates
    set_threads(args.threads)
    from seekling.engine import Engine

    engine = Engine(args.path, quant=args.quant, dtype=args.dtype)
    asked: Any = [{"role": "user", "content": prompt}] if args.chat else prompt
    if args.json:
        answer = engine.generate([asked], wanted)[0]
        print(json.dumps({"prompt": prompt, **dataclasses.asdict(answer)}, ensure_ascii=False))
        return 0
    from seekling.engine.chat import printable

    for delta in engine.stream(asked, wanted):  # a terminal gets no control characters, a pipe the text as it is
        print(printable(delta.text) if sys.stdout.isatty() else delta.text, end="", flush=True)
    print()
    return 0


def chat(args: argparse.Namespace) -> int:
    """Talk to a model in the terminal."""
    wanted = sampling(args)
    if args.path is None:
        from seekling.verbs.pull import default_model

        args.path = default_model()
    set_threads(args.threads)
    from seekling.engine.chat import chat_loop

    return chat_loop(args.path, wanted, system=args.system, thinking=args.think, quant=args.quant, dtype=args.dtype)
