"""``seekling quantize``: a model in 8 or 4 bits as one GGUF file, scaled by what its layers see, and what that costs measured.

The numbers are GGUF's Q8_0 (8 bits, a scale for 32 weights) or Q4_K (4 bits, scale and minimum for 32; embedding and head in
Q6_K), which the native runner reads as they are and llama.cpp opens too. Those are blocks of 256: other widths take Q4_1, Q8_0.
"""

import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, DataError, MachineError, RecipeError, raise_all

if TYPE_CHECKING:
    from torch import Tensor

    from seekling.lm import LM

ROW = 512  # most tokens of a row of text
LEAST = 64
LONG = 2048  # characters of a text that is cut
FACTS = "quantize.json"


def quantize(args: argparse.Namespace) -> int:
    """Write the quantised model, print the table."""
    raise_all(RecipeError, problems(args), "quantize")
    facts = quantized(args)
    print(json.dumps(facts) if args.json else text(facts))
    return 0


def problems(args: argparse.Namespace) -> list[str]:
    """Flags that are no use as given."""
    bad = []
    for name in ("tokens", "calibration_tokens"):
        if getattr(args, name) < LEAST:
            bad.append(f"--{name.replace('_', '-')} must be at least {LEAST}, not {getattr(args, name)}")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        bad.append(f"--out {out} is not an empty folder: give a new one")
    return bad


def quantized(args: argparse.Namespace) -> dict[str, Any]:
    """Text, losses before, scaling, the file, losses after."""
    from seekling.engine.native_runner import NativeRunner, unsupported
    from seekling.formats.gguf_write import check_gguf
    from seekling.lm import load, resolve
    from seekling.verbs.common import set_threads

    path = resolve(args.path)
    set_threads(args.threads)
    lm = load(path, "float32")
    against = unsupported(lm.config)
    if against:
        raise MachineError(
            f"{args.path}: the native runner does not compute {', '.join(against)}, so nothing would open the result quickly; "
            "--quant of chat, serve and generate quantises such a model as it opens it"
        )
    if lm.tokenizer is None:
        raise CheckpointError(f"{args.path} has no tokenizer, and text is needed: give a folder with tokenizer.json")
    check_gguf(lm, *file_of(args, lm))
    calibration, held_out = texts(args, lm)
    size = sum(len(lm.tokenizer.decode(list(ids[1:])).encode()) for ids in held_out)
    whole = losses(NativeRunner(lm.model, "bf16"), held_out, "measuring the bf16 weights")
    plain = losses(NativeRunner(lm.model, args.to), held_out, f"measuring {args.to}, rounded")
    file, notes = write(args, lm, calibration)
    after = losses(NativeRunner.from_gguf(file), held_out, "measuring the file")
    facts = {
        "model": str(args.path),
        "path": str(args.out),
        "file": file.name,
        "to": args.to,
        "calibrate": args.calibrate,
        "calibration_tokens": sum(map(len, calibration)) if args.calibrate != "none" else 0,
        "held_out_tokens": len(whole),
        "bytes": file.stat().st_size,
        "bf16_bytes": 2 * lm.config.parameters().total,
        "bf16": row(whole, whole, size),
        "rounded": row(whole, plain, size),
        "written": row(whole, after, size),
        "notes": notes,
    }
    part = Path(args.out) / f".{FACTS}.partial"
    part.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    os.replace(part, Path(args.out) / FACTS)
    return facts


def write(args: argparse.Namespace, lm: "LM", calibration: Sequence[Sequence[int]]) -> tuple[Path, list[str]]:
    """Scale the model in place and write its file."""
    from seekling.engine.calibrate import Seen, observe, scale
    from seekling.engine.gguf_packer import four_bit_packer
    from seekling.formats.gguf_write import write_gguf

    seen, layers = Seen(), lm.config.num_hidden_layers
    if args.calibrate != "none":
        with progress("watching the layers", sum(map(len, calibration))) as tell:
            seen = observe(lm.model, calibration, tell)
        with progress("scaling the layers", layers) as tell:
            scale(lm.model, seen, 8 if args.to == "int8" else 4, tell)
    file, kind = file_of(args, lm)
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is returned
        return file, write_gguf(lm, file, kind, pack=four_bit_packer(seen.importance, layers))


def file_of(args: argparse.Namespace, lm: "LM") -> tuple[Path, str]:
    """The file to write, and the GGUF format of most of it."""
    from seekling.kernels import infer

    kind = "q8_0" if args.to == "int8" else "q4_1" if lm.config.hidden_size % infer.BLOCKS["q4_k"][0] else "q4_k"
    out = Path(args.out)
    return out / f"{out.resolve().name}-{kind.upper()}.gguf", kind


# ---- text ------------------------------------------------------------------------------------------------------------


def texts(args: argparse.Namespace, lm: "LM") -> tuple[list[list[int]], list[list[int]]]:
    """Rows of token ids to calibrate with and, of other documents, to measure on."""
    length = min(ROW, lm.config.max_position_embeddings)
    own = args.calibrate not in ("default", "none")
    documents = own_documents(args.calibrate) if own else default_documents()
    wanted = {False: args.calibration_tokens, True: args.tokens}
    found: dict[bool, list[int]] = {False: [], True: []}
    for content, held_out in documents:
        ids = found[held_out]
        if len(ids) < wanted[held_out]:
            ids += encoded(lm.tokenizer, content)
        if all(len(found[kind]) >= wanted[kind] for kind in found):
            break
    rows = {
        kind: [ids[i : i + length] for i in range(0, min(len(ids), wanted[kind]), length) if len(ids) - i >= min(length, LEAST)]
        for kind, ids in found.items()
    }
    if not rows[False] or not rows[True]:
        raise DataError(
            f"--calibrate {args.calibrate} has too little text: give some thousand characters, or a few conversations"
        )
    return rows[False], rows[True]


def encoded(tokenizer: Any, content: Any) -> list[int]:
    """A document, or a conversation in the model's own chat format."""
    if isinstance(content, str):
        return list(tokenizer.encode(content, bos=tokenizer.adds_bos))
    return list(tokenizer.encode_chat(content, add_generation_prompt=False))


def own_documents(where: str) -> Iterator[tuple[Any, bool]]:
    """The last quarter of a long text is held out, and one in four of short ones and of conversations."""
    from seekling.data.files import read_file, text_files

    contents = (content for path in text_files(where)[0] for content in read_file(path))
    short = 0
    for content in contents:
        if isinstance(content, str) and len(content) >= LONG:
            share = len(content) * 3 // 4
            cut = max(content.rfind(blank, share - 200, share) for blank in " \n") + 1 or share
            yield content[:cut], False
            yield content[cut:], True
        else:
            yield content, short % 4 == 1
            short += 1


def default_documents() -> Iterator[tuple[str, bool]]:
    """The default corpus, its sources in turns, training text and held-out text."""
    from seekling.data import prepare

    prepared = prepare("default", progress=lambda line: print(line, file=sys.stderr, flush=True))
    for number in range(max(stream.documents for stream in prepared.heldout.values())):
        for name, stream in prepared.heldout.items():
            for part, held_out in ((stream, True), (prepared.train.of_source(name), False)):
                if number < part.documents:
                    yield prepared.tokenizer.decode(part.document(number).tolist()), held_out


# ---- measuring, telling ----------------------------------------------------------------------------------------------


def losses(runner: Any, rows: Sequence[Sequence[int]], what: str) -> "Tensor":
    from seekling.engine.score import token_losses

    with progress(what, sum(map(len, rows))) as tell:
        return token_losses(runner, rows, tell)


def row(before: "Tensor", after: "Tensor", text_bytes: int) -> dict[str, float]:
    """A line of the table: bits per byte, and the change of perplexity in percent with its standard error."""
    from seekling.data import bits_per_byte
    from seekling.engine.score import Difference

    change = Difference.of(before, after)
    return {
        "bits_per_byte": bits_per_byte(float(after.sum()), text_bytes),
        "perplexity_percent": change.percent,
        "standard_error": change.error,
    }


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, else a line; gives a function to be told of each piece done."""
    if not sys.stderr.isatty():
        print(f"{what} …", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def text(facts: dict[str, Any]) -> str:
    """The table for people."""
    from seekling.plan import size_text

    scaled = "as written, scaled by what the layers see" if facts["calibration_tokens"] else "as written"
    lines = [f"{'':44} {'bits per byte':>13}  perplexity"]
    for name, key in (
        ("bf16", "bf16"),
        (f"{facts['to']}, rounded as it is opened", "rounded"),
        (f"{facts['to']}, {scaled}", "written"),
    ):
        cell = facts[key]
        change = "" if key == "bf16" else f"  {cell['perplexity_percent']:+.2f} % ± {cell['standard_error']:.2f}"
        lines.append(f"{name:44} {cell['bits_per_byte']:13.4f}{change}")
    out = Path(facts["path"]) / facts["file"]
    lines += [
        "",
        f"{out}  {size_text(facts['bytes'])}, in bf16 {size_text(facts['bf16_bytes'])}",
        f"measured on {facts['held_out_tokens']:,} held-out tokens",
        *(f"note: {note}" for note in facts["notes"]),
        "",
        f"Talk to it:\n  seekling chat {shlex.quote(facts['path'])}",
    ]
    return "\n".join(lines)
