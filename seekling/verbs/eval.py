"""``seekling eval``: suites of multiple choice, bits per byte and tasks, each beside chance and with its interval.

The JSON has ``lm-eval``'s shape: ``results``, ``versions``, ``n-shot``, ``higher_is_better``, ``n-samples``, ``config``; keys
that lm-eval lacks (chance, intervals) have names of the same pattern.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import DataError, RecipeError, raise_all

if TYPE_CHECKING:
    from seekling.lm import LM

RUN_FILES = ("recipe.toml", "data_manifest.json")  # of the run whose held-out text is asked


def evaluate(args: argparse.Namespace) -> int:
    """Score a model on the suites and tasks asked for; the default is the project's own suites."""
    from seekling.tasks.suites import NAMES, OWN
    from seekling.verbs.common import set_threads

    names = list(dict.fromkeys(args.suite or ([] if args.tasks else ["bits", *OWN])))
    unknown = [f"there is no suite {name!r}; there are {', '.join(NAMES)}" for name in names if name not in NAMES]
    bounds = [("--limit", args.limit, 1), ("--tokens", args.tokens, 2), ("--drawn", args.drawn, 0)]
    low = [f"{flag} must be at least {least}" for flag, value, least in bounds if value is not None and value < least]
    raise_all(RecipeError, unknown + low)
    practice = _practice(args)
    set_threads(args.threads)
    from seekling.lm import load, resolve

    text = run_of(Path(args.text) if args.text else resolve(args.path))
    if text is None and args.text:
        raise RecipeError(
            f"--text {args.text} is no run of seekling run or seekling pretrain, whose held-out text could be asked"
        )
    if text is None and not args.suite:  # the default leaves out what cannot be asked; what is asked for is refused below
        names = [name for name in names if name not in ("bits", "cloze")]
    if args.out:
        make_place(Path(args.out))
    lm = load(args.path)
    if lm.tokenizer is None:
        raise DataError(f"{args.path} has no tokenizer, so no text can be scored; give a folder with tokenizer.json")
    began = time.monotonic()
    results = dict(_suites(lm, names, text, args))
    if practice is not None:
        results |= _tasks(lm, practice, args.drawn)
    found = in_lm_eval_shape(args, results, time.monotonic() - began)
    if args.out:
        from seekling.train.state import replace_text

        replace_text(Path(args.out), json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    print("\n".join(lines(results)))
    return 0


def make_place(file: Path) -> None:
    """Make the folder of a file that is to be written when all is done. RecipeError where it could not be, before any work."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--out {file}: {file.parent} cannot be made ({error.strerror}); give another file") from None
    if file.is_dir():
        raise RecipeError(f"--out {file} is a folder; name a file, such as {file / 'scores.json'}")
    if not os.access(file.parent, os.W_OK):
        raise RecipeError(f"--out {file}: {file.parent} cannot be written; check its permissions, or give another file")


def _practice(args: argparse.Namespace) -> Any:
    """The recipe of task prompts, None without tasks. RecipeError for what is wrong, before anything is loaded."""
    if not args.tasks:
        return None
    from seekling.tasks import task_at
    from seekling.train.grpo_recipe import GrpoRecipe

    for name in args.tasks:
        task_at(name, 1)
    return GrpoRecipe.of(
        model=args.path, tasks=args.tasks, think=args.think, tagged=args.tagged, system=args.system or "", group=8,
        max_tokens=args.max_tokens, eval_problems=args.limit or 200, threads=args.threads or 1,
    )  # fmt: skip


def run_of(path: Path) -> Path | None:
    """The pretraining run a path lies in (itself, a checkpoint, a stage taught after it), whose text can be asked."""
    for folder in (path, *path.absolute().parents):
        if all((folder / name).is_file() for name in RUN_FILES) and _pretrains(folder / RUN_FILES[0]):
            return folder
    return None


def _pretrains(recipe: Path) -> bool:
    """Whether a recipe has pretraining's own section: stages on files of the user have a data manifest too, but no text."""
    return re.search(r"^\[run\]", recipe.read_text("utf-8", errors="replace"), re.MULTILINE) is not None


def _suites(lm: "LM", names: list[str], text: Path | None, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    from seekling.tasks import suites as room
    from seekling.train.likelihood import score_suite

    where = "give --text RUN, a run of seekling run whose held-out text is asked"
    if text is None and {"bits", "cloze"} & set(names):
        raise RecipeError(f"{args.path} is no run, so there is no held-out text for bits and cloze: {where}, or other suites")
    assert lm.tokenizer is not None
    texts: dict[str, list[str]] = {}
    if text is not None and {"bits", "cloze"} & set(names):
        from seekling.train.heldout import heldout_texts

        texts = heldout_texts(text, args.tokens)
        if not texts:
            if args.suite:
                raise DataError(f"nothing of the text of {text} was held out: {where}, or other suites")
            names = [name for name in names if name not in ("bits", "cloze")]
    for name in names:
        if name == "bits":
            from seekling.train.heldout import bits_per_byte

            for source, score in bits_per_byte(lm, texts).items():
                yield (f"bits/{source}" if source else "bits"), score
            continue
        made = {"pairs": room.minimal_pairs, "arithmetic": room.sums}
        if name == "cloze":
            suite = room.cloze(t for part in texts.values() for t in part)
        else:
            suite = made[name]() if name in made else room.packaged(name)
        with _bar(args, name, 0) as tell:
            yield name, score_suite(lm, suite, args.limit, tell) | {"source": suite.source}


def _tasks(lm: "LM", recipe: Any, drawn: int) -> dict[str, dict[str, Any]]:
    from seekling.train.scores import task_scores

    return {f"task/{name}": score for name, score in task_scores(lm, recipe, drawn).items()}


def _bar(args: argparse.Namespace, name: str, total: int) -> Any:
    """Progress on a terminal: a context that gives the function to call with each number of pairs done."""
    import contextlib
    import sys

    @contextlib.contextmanager
    def shown() -> Iterator[Any]:
        if args.json or not sys.stderr.isatty():
            yield lambda n: None
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        parts = (SpinnerColumn(), TextColumn("{task.description} {task.completed} texts, {task.fields[rate]:.0f} a second"))
        with Progress(*parts, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
            job, began = bar.add_task(name, total=None, rate=0.0), time.monotonic()

            def tell(n: int) -> None:
                bar.advance(job, n)
                bar.update(job, rate=bar.tasks[0].completed / max(1e-9, time.monotonic() - began))

            yield tell

    return shown()


# ---- what is shown -----------------------------------------------------------------------------------------------------------


def lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """A line a suite or task: value, interval, chance."""
    width = max(map(len, results), default=0)
    return [f"{name:<{width}}  {_told(score)}" for name, score in results.items()]


def _told(score: dict[str, Any]) -> str:
    if "bits_per_byte" in score:
        return f"{score['bits_per_byte']:.4f} bits per byte  ({score['bytes']:,} bytes)"
    if "problems" in score:
        ways = [key for key in score if f"{key}_interval" in score]
        parts = [f"{'greedy' if key == 'accuracy' else key} {_share(score, key)}" for key in ways]
        return f"{', '.join(parts)}  ({score['problems']} unseen problems, chance 0 %)"
    other = "acc" if score["metric"] == "acc_norm" else "acc_norm"
    majority = f", always the same place {score['majority']:.1%}" if score["majority"] > score["chance"] + 0.05 else ""
    cut = f", {score['cut']} texts lost their beginning" if score["cut"] else ""
    return (
        f"{score['metric']} {_share(score, score['metric'])}, {other} {score[other]:.1%}  "
        f"(chance {score['chance']:.1%}{majority}; {score['items']:,} items{cut})"
    )


def _share(score: dict[str, Any], key: str) -> str:
    low, high = score[f"{key}_interval"]
    return f"{score[key]:.1%} ({low:.1%} to {high:.1%})"


def in_lm_eval_shape(args: argparse.Namespace, results: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The results as lm-eval writes them."""
    from seekling import __version__

    out: dict[str, dict[str, Any]] = {}
    for name, score in results.items():
        skip = ("items", "problems", "samples", "metric", "source", "cut", "drawn")
        out[name] = {"alias": name} | {f"{key},none": value for key, value in score.items() if key not in skip}
    counts = {name: score.get("items", score.get("problems", score.get("bytes", 0))) for name, score in results.items()}
    return {
        "results": out,
        "group_subtasks": {name: [] for name in results},
        "configs": {
            name: {"task": name, "source": s.get("source"), "texts_cut": s.get("cut", 0)} for name, s in results.items()
        },
        "versions": dict.fromkeys(results, __version__),
        "n-shot": {name: 4 if name == "arithmetic" else 0 for name in results},
        "higher_is_better": {name: {_main(score): "bits_per_byte" not in score} for name, score in results.items()},
        "n-samples": {name: {"original": n, "effective": n} for name, n in counts.items()},
        "config": {"model": "seekling", "model_args": str(args.path), "limit": args.limit},
        "samples": {name: score["samples"] for name, score in results.items() if "samples" in score},
        "seekling_version": __version__,
        "total_evaluation_time_seconds": round(seconds, 3),
    }


def _main(score: dict[str, Any]) -> str:
    return "bits_per_byte" if "bits_per_byte" in score else str(score.get("metric", "accuracy"))
