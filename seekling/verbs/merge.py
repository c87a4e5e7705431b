"""``seekling merge``: a base and a LoRA adapter become one checkpoint, or are taken apart again."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, RecipeError
from seekling.verbs.export import progress


def merge(args: argparse.Namespace) -> int:
    """Write ``args.path`` with ``args.adapter`` added (or subtracted) to ``args.out``."""
    from seekling.hub.names import find
    from seekling.lm import is_adapter, resolve

    path = resolve(args.path)
    if path.is_file():
        raise RecipeError(f"{path} is a GGUF file; seekling export {path} --to hf --out DIR first, then merge into that folder")
    if is_adapter(path):
        remedy = f"seekling export {args.path} --to hf --out DIR merges it into its base; then merge into DIR"
        raise RecipeError(f"{path} is an adapter itself: {remedy}")
    adapter = Path(args.adapter)
    if not adapter.exists():
        adapter = find(args.adapter) or adapter
    if (adapter / "checkpoints").is_dir():  # a run that was taught with --lora
        adapter = resolve(adapter)
    facts = merge_folder(path, adapter, args)
    if args.json:
        print(json.dumps(facts))
        return 0
    done = "taken out of" if args.unmerge else "merged into"
    print(f"{facts['path']}\n{facts['parts']} adapted matrices or stacks {done} {facts['changed']} tensors")
    if args.unmerge:
        print(
            "note: the weights are those before the merge up to one rounding of each number; keep the base for the exact ones"
        )
    for name in facts["left_out"]:
        print(f"note: {name} was not copied (code, folders and other weights stay behind)")
    print(f"\nTalk to it:\n  seekling chat {shlex.quote(str(facts['path']))}")
    return 0


def merge_folder(path: Path, adapter_path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Merge disk to disk; memory holds the adapter and one tensor of the base."""
    import torch

    from seekling.formats.adapters import fingerprint
    from seekling.formats.folder import CONFIG, read_json
    from seekling.formats.merged_source import MergedSource, disk_shapes
    from seekling.formats.peft import read_adapter
    from seekling.formats.stores import open_folder
    from seekling.formats.stream import rewrite
    from seekling.origin import MERGE_RECORD
    from seekling.text.folder import run_tokenizer
    from seekling.train.state import replace_text

    raw = read_json(path, CONFIG)
    base = open_folder(path, raw, torch.float32)
    family = str(raw.get("model_type"))
    shapes = disk_shapes(base.shapes, family)
    adapter = read_adapter(adapter_path, shapes)
    found = None
    if adapter.base_fingerprint is not None and not (args.any_base or args.unmerge):
        layers = raw.get("num_hidden_layers")
        if not isinstance(layers, int):
            raise CheckpointError(f"{path / CONFIG}: num_hidden_layers must be a number, not {layers!r}")
        found = fingerprint(base.shapes, base.read, layers)
    tied = bool(raw.get("tie_word_embeddings", "lm_head.weight" not in shapes))
    adapter.check(shapes, str(path), found, tied, None if args.unmerge else base.read)
    source = MergedSource(base, adapter, family, -1 if args.unmerge else 1)
    with progress(f"writing {args.out}") as tell:
        done = rewrite(source, path, raw, args.out, args.dtype, on_tensor=tell, also=run_tokenizer(path))
    record = {
        "base": str(args.path),
        "adapter": str(args.adapter),
        "base_fingerprint": adapter.base_fingerprint,
        "unmerged": args.unmerge,
    }
    replace_text(Path(args.out) / MERGE_RECORD, json.dumps(record, indent=1) + "\n")
    return {
        "path": str(args.out), "parts": len(adapter.parts), "changed": len(source.changed), "bytes": done.bytes,
        "left_out": done.left_out, "exact": not args.unmerge,
    }  # fmt: skip
