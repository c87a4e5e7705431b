"""The command line: ``seekling VERB …``. Run ``seekling --help``.

A verb's flags are in :mod:`seekling.arguments`, what it does in :mod:`seekling.verbs`, imported when called: ``--help`` answers
at once. What the user can fix becomes one ``error: …`` on stderr and exit code 2; Ctrl-C is 130; success is 0.
"""

import argparse
import difflib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from seekling import arguments
from seekling.arguments import Parser
from seekling.errors import RecipeError, SeeklingError
from seekling.startup import without_collecting


@dataclass(frozen=True)
class Verb:
    """A command: its line in the help, its arguments, and where its function is."""

    help: str
    arguments: Callable[[Parser], None]
    target: str  # "module:function" in seekling/verbs/; called with the parsed namespace


# fmt: off
VERBS: dict[str, Verb] = {
    "run": Verb("the whole story: text to a model that reasons, and its report", arguments.run, "learn:run"),
    "pretrain": Verb("train a model, or --resume a run", arguments.pretrain, "learn:pretrain"),
    "chat": Verb("talk to a model", arguments.chat, "talk:chat"),
    "serve": Verb("answer over HTTP as OpenAI, DeepSeek, Anthropic, Ollama do", arguments.serve, "serve:serve"),
    "keys": Verb("make, list and revoke the keys of a server", arguments.keys, "keys:keys"),
    "conformance": Verb("what clients need of a server, checked", arguments.conformance, "conformance:run"),
    "redteam": Verb("attacks on a server, and which got through", arguments.redteam, "redteam:run"),
    "pull": Verb("fetch a model: smollm2, or owner/name of a model hub", arguments.pull, "pull:pull"),
    "sft": Verb("fine-tune a model on conversations, full or LoRA", arguments.sft, "learn:sft"),
    "grpo": Verb("teach by reward: problems with exact answers", arguments.grpo, "learn:grpo"),
    "dpo": Verb("teach by pairs of a better and a worse answer", arguments.dpo, "learn:dpo"),
    "distill": Verb("teach by another model: its answers or its distribution", arguments.distill, "learn:distill"),
    "export": Verb("write a model as Hugging Face folder, FP8 or GGUF", arguments.export, "export:export"),
    "merge": Verb("put a LoRA adapter into its base, or take it out", arguments.merge, "merge:merge"),
    "generate": Verb("continue a prompt", arguments.generate, "talk:generate"),
    "eval": Verb("suites, bits per byte and tasks, beside chance", arguments.evaluate, "eval:evaluate"),
    "report": Verb("rebuild a run's report and figures", arguments.report, "learn:report"),
    "plan": Verb("parameters, FLOPs, memory, cache, time and money before training", arguments.plan, "plan:plan"),
    "quantize": Verb("8 or 4 bits, calibrated and measured", arguments.quantize, "quantize:quantize"),
    "inspect": Verb("what a model holds, what is refused, whether it loads", arguments.inspect, "inspect:run"),
    "reference": Verb("a tiny model with golden numbers to test engines", arguments.reference, "reference:run"),
    "bench": Verb("speed, memory and cost of a model on this machine", arguments.bench, "bench:bench"),
    "sandbox": Verb("run a program nobody has read, confined and bounded", arguments.sandbox, "sandbox:run"),
    "release check": Verb("is a model open source AI?", arguments.release_check, "release_check:run"),
    "reproduce": Verb("run a release again and compare", arguments.reproduce, "reproduce:run"),
    "release": Verb("a complete open release: weights, code, data", arguments.release, "release:release"),
    "release push": Verb("upload a release to a model hub", arguments.push, "release:push"),
    "watermark": Verb("make a watermark key, or look for its mark", arguments.watermark, "barriers:watermark"),
    "audit": Verb("check a server's audit log, or find an answer in it", arguments.audit, "barriers:audit"),
    "label": Verb("mark a file as made by a machine (EU, GB 45438-2025)", arguments.label, "barriers:label"),
    "doctor": Verb("what this machine offers and what Seekling will use", arguments.doctor, "doctor:doctor"),
}
# fmt: on


def help_text() -> str:
    """What ``seekling --help`` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: seekling VERB …\n\n"
        "An open DeepSeek: train, customise, serve and openly release DeepSeek-style models on your own computer.\n\n"
        f"{verbs}\n\n"
        "seekling VERB --help shows a verb's flags. Start with: seekling run\n"
    )


ANSWERING = ("chat", "generate", "bench", "serve")


def usage(name: str) -> str:
    """A usage line without the list of all flags."""
    positional = {
        "chat": " [MODEL]",
        "serve": " [MODEL …]",
        "keys": " add|list|revoke [NAME]",
        "conformance": " URL",
        "redteam": " URL",
        "pull": " [MODEL]",
        "inspect": " PATH",
        "export": " MODEL",
        "quantize": " MODEL",
        "merge": " BASE ADAPTER",
        "generate": " RUN [PROMPT]",
        "bench": " MODEL",
        "sandbox": " [FILE]",
        "eval": " MODEL",
        "watermark": " key|detect FILE",
        "audit": " verify|find [FILE]",
        "label": " FILE",
        "report": " RUN",
        "release check": " DIR",
        "reproduce": " DIR",
        "release": " RUN",
        "release push": " DIR",
    }
    return f"seekling {name}{positional.get(name, '')} [flags]"


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """The verb and its arguments. Raises RecipeError for anything unknown."""
    words = 2 if " ".join(argv[:2]) in VERBS else 1  # "release check" is a verb of two words
    name = " ".join(argv[:words])
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
        raise RecipeError(f"unknown verb {name!r}; {hint}")
    verb = VERBS[name]
    parser = Parser(prog=f"seekling {name}", usage=usage(name), description=verb.help)
    verb.arguments(parser)
    args = parser.parse_all(argv[words:])
    args.argv = list(argv)
    return verb, args


def ended(*_: object) -> NoReturn:
    """SIGTERM ends a verb as an exception does, so it cleans up; those that save something have handlers of their own."""
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # Idle OpenMP threads spin before they sleep. libgomp's default burns the core that another program wants: beside one busy
    # process training fell to a fifth; a short spin costs it nothing. Answers come token by token in regions of milliseconds,
    # where waking a thread each time costs more than the work (58 against 250 tokens/s). Read when torch is imported.
    argv = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("GOMP_SPINCOUNT", "100000" if argv and argv[0] in ANSWERING else "2000")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal or pipe that is not UTF-8 must not end a run
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, ended)  # so that what was half written is taken away
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if argv[0] in ("--version", "-V"):
        from seekling import __version__

        print(f"seekling {__version__}")
        return 0
    try:
        verb, args = parse(argv)
        module, _, function = verb.target.partition(":")
        with without_collecting():
            verb_module = importlib.import_module(f"seekling.verbs.{module}")
        code = getattr(verb_module, function)(args)
        sys.stdout.flush()
        return code or 0
    except SeeklingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # --help, or training that was told to stop, has saved and says how to go on
        if str(stop) not in ("", "None", str(stop.code)):
            print(stop, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = error.filename2 if full and error.filename2 else error.filename  # of a copy: source and target
        if place is None and not full:
            raise
        print(f"error: {place or 'writing'}: {error.strerror}; check the path, its permissions and free space", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
