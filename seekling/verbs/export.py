"""``seekling export``: a model written anew as a Hugging Face folder, in FP8 blocks, or as one GGUF file."""

import argparse
import json
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, RecipeError, raise_all


def export(args: argparse.Namespace) -> int:
    """Write the model of ``args.path`` to ``args.out`` in the format of ``args.to``."""
    raise_all(RecipeError, flag_problems(args))
    from seekling.lm import resolve

    path = resolve(args.path)
    facts = to_gguf(path, args) if args.to == "gguf" else to_folder(path, args)
    if args.json:
        print(json.dumps(facts))
        return 0
    from seekling.plan import size_text

    what = f", {facts['quantised']} matrices in FP8" if facts.get("quantised") else ""
    print(f"{facts['path']}\n{size_text(facts['bytes'])}{what}")
    for name in facts.get("left_out", []):
        print(f"note: {name} was not copied (code, folders and other weights stay behind)")
    for note in facts.get("notes", []):
        print(f"note: {note}")
    if args.to == "hf":
        print(f"\nTalk to it:\n  seekling chat {shlex.quote(str(facts['path']))}")
    return 0


def flag_problems(args: argparse.Namespace) -> list[str]:
    """Flags that do not belong to ``--to``, or make no sense."""
    bad = []
    if args.to == "gguf":
        bad += [f"{flag} is not for --to gguf; drop it" for flag, value in _folder_flags(args) if value is not None]
    elif args.quant is not None:
        bad.append(f"--quant is for --to gguf; with --to {args.to} the weights follow --dtype")
    if args.scales is not None and args.to == "hf":
        bad.append("--scales is for --to fp8; drop it")
    if args.shard_gb is not None and not args.shard_gb > 0:
        bad.append(f"--shard-gb must be positive, not {args.shard_gb}")
    return bad


def _folder_flags(args: argparse.Namespace) -> list[tuple[str, Any]]:
    return [("--dtype", args.dtype), ("--scales", args.scales), ("--shard-gb", args.shard_gb)]


def to_folder(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A Hugging Face folder, plain or FP8; disk to disk where the source is such a folder too."""
    if opens_in_memory(path):
        return loaded_to_folder(path, args)
    from seekling.formats.stream import SHARD_BYTES, convert
    from seekling.text.folder import run_tokenizer

    shard = SHARD_BYTES if args.shard_gb is None else max(1, int(args.shard_gb * 1e9))
    with progress(f"writing {args.out}") as tell:
        fp8 = fp8_format(path, args.scales) if args.to == "fp8" else None
        done = convert(path, args.out, args.dtype, fp8, shard, on_tensor=tell, also=run_tokenizer(path))
    return {
        "path": str(args.out), "to": args.to, "bytes": done.bytes, "tensors": done.tensors, "quantised": done.quantised,
        "left_out": done.left_out,
    }  # fmt: skip


def opens_in_memory(path: Path) -> bool:
    """GGUF files and LoRA adapters are no folder of weights that could go from disk to disk."""
    from seekling.lm import is_adapter

    return path.is_file() or is_adapter(path)


def fp8_format(path: Path, scales: str | None) -> Any:
    """The blocks to write: those the folder has, if it is FP8 already, else 128 × 128; ``scales``: float or ue8m0."""
    from seekling.formats.folder import CONFIG, read_json
    from seekling.formats.fp8 import FP8Format

    quantised = read_json(path, CONFIG).get("quantization_config")
    if scales is None and isinstance(quantised, dict) and quantised.get("quant_method") == "fp8":
        return FP8Format.of_config(quantised, f"{path}: quantization_config")
    return FP8Format(power_of_two=scales == "ue8m0")


def loaded_to_folder(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A GGUF file unpacked, or an adapter merged into its base, as a Hugging Face folder; the whole model is in memory."""
    what = "a GGUF file" if path.is_file() else "an adapter"
    if args.to == "fp8":
        raise RecipeError(f"{what} is exported to FP8 in two steps: --to hf first, then --to fp8 from that folder")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not an empty folder; give a new one")
    if args.dtype == "float16":
        raise RecipeError(f"--dtype float16 is not written from {what}; use bfloat16 or float32")
    import torch

    from seekling.formats.stream import SHARD_BYTES
    from seekling.lm import load, stored_dtype

    lm = load(path, args.dtype or (torch.bfloat16 if path.is_file() else stored_dtype(path)))
    lm.save(out, max_shard_bytes=SHARD_BYTES if args.shard_gb is None else max(1, int(args.shard_gb * 1e9)))
    copy_licences(path, out)
    return {"path": str(out), "to": "hf", "bytes": sum(f.stat().st_size for f in out.glob("*.safetensors"))}


def to_gguf(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One GGUF file in the folder ``args.out`` (or of that name, where it ends in .gguf); a folder's tensors go one by one."""
    from seekling.formats.folder import CONFIG, read_json
    from seekling.formats.gguf_write import write_gguf, write_gguf_source
    from seekling.formats.stores import open_folder
    from seekling.lm import load, tokenizer_of

    kind = args.quant or "bf16"
    out = Path(args.out)
    file = out if out.suffix == ".gguf" else out / f"{out.resolve().name}-{kind.upper()}.gguf"
    if file.exists():
        raise CheckpointError(f"{file} exists; give another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is returned, and printed below
        if opens_in_memory(path):
            notes = write_gguf(load(path, "float32"), file, to=kind, licence=licence_name(path))
        else:
            raw = read_json(path, CONFIG)
            source = open_folder(path, raw)
            plain = {key: value for key, value in raw.items() if key != "quantization_config"}
            notes = write_gguf_source(source, plain, tokenizer_of(path), file, to=kind, licence=licence_name(path))
    if out.suffix != ".gguf":
        copy_licences(path, out)
    return {"path": str(file), "to": "gguf", "bytes": file.stat().st_size, "notes": notes}


def licence_name(path: Path) -> str | None:
    """The licence that a model's file or folder states, to be stated in what is made of it."""
    from seekling.formats.gguf_file import open_gguf
    from seekling.inspection.text import licence_of

    inside = open_gguf(path).licence if path.suffix == ".gguf" else None
    found = licence_of(path.parent if path.is_file() else path)
    return inside or (found["name"] if found else None)


def copy_licences(path: Path, out: Path) -> None:
    """Put the licence texts and notices that lie with a model beside its copy: most licences ask for that."""
    import shutil

    from seekling.hub.choose import CARD, matching

    folder = path.parent if path.is_file() else path
    for name in matching((p.name for p in folder.iterdir() if p.is_file() and not p.is_symlink()), CARD[1:]):
        if not (out / name).exists():
            shutil.copyfile(folder / name, out / name)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; gives a function to be told (bytes done, bytes in all)."""
    from seekling.hub.progress import shown

    before = 0
    with shown() as bar:

        def tell(done: int, total: int) -> None:
            nonlocal before
            if before == 0:
                bar.file(what, total)
            bar.advance(done - before)
            before = done

        yield tell
