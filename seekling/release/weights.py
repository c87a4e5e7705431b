"""The model files of a release: the checkpoint's own, with name and licence in their headers; an adapter; GGUF and 8-bit on
request."""

import json
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError

if TYPE_CHECKING:
    from seekling.release.material import Release

KEPT = (".json", ".jinja", ".model", ".safetensors", ".txt")
NOT_KEPT = ("seekling-pull.json", "seekling-merge.json")
COPY = 1 << 24


def write_weights(folder: Path, release: "Release", say: Callable[[str], None]) -> None:
    """Put config, weights and tokenizer into the release.

    An adapter over somebody else's base stays an adapter, which names that base; one over a run of ours is merged, since nobody
    else has that base.
    """
    chain = release.chain
    facts = {"name": release.name, "version": release.version, "license": release.options.licence}
    if chain.is_adapter and not chain.stays_adapter:
        from seekling.lm import load

        say("merging the adapter into its base, which is a run of this machine")
        load(chain.weights).save(folder)
        release.notes.append("the last stage trained an adapter; it was merged into the weights of the stage before")
    else:
        copy_folder(chain.weights, folder)
    for path in sorted(folder.glob("*.safetensors")):
        put_metadata(path, facts)
    if (folder / "adapter_config.json").is_file():
        name_base(folder / "adapter_config.json", chain.base_models[0].name)
    options = release.options
    for kind in (["bf16"] if options.gguf else []) + (["q8_0"] if options.int8 else []):
        say(f"writing {release.name}-{kind.upper()}.gguf")
        write_gguf(folder, release, kind)


def copy_folder(source: Path, folder: Path) -> None:
    """The files of a checkpoint that a loader reads, and the tokenizer of the run where the checkpoint has none."""
    from seekling.text.folder import run_tokenizer

    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in KEPT and path.name not in NOT_KEPT:
            shutil.copyfile(path, folder / path.name)
    for path in run_tokenizer(source):
        shutil.copyfile(path, folder / path.name)


def put_metadata(path: Path, facts: dict[str, str]) -> None:
    """Rewrite the header of a safetensors file with further ``__metadata__``; the tensors' bytes stay as they are."""
    part = path.with_name(f".{path.name}.part")
    with open(path, "rb") as source, open(part, "wb") as target:
        length = struct.unpack("<Q", source.read(8))[0]
        header = json.loads(source.read(length))
        header["__metadata__"] = {**header.get("__metadata__", {}), **facts}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        target.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(source, target, COPY)
    part.replace(path)


def name_base(path: Path, base: str) -> None:
    """Write the base's public name where the adapter had a path of this machine."""
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")


def write_gguf(folder: Path, release: "Release", kind: str) -> None:
    """One GGUF file of the released weights.

    Raises:
        CheckpointError: an adapter, which has no weights of its own.
    """
    from seekling.formats.folder import CONFIG, read_json
    from seekling.formats.gguf_write import write_gguf_source
    from seekling.formats.stores import open_folder
    from seekling.lm import tokenizer_of

    if not (folder / CONFIG).is_file():
        raise CheckpointError("--gguf and --int8 are for whole models; merge the adapter first (seekling merge), then release")
    raw = read_json(folder, CONFIG)
    plain = {key: value for key, value in raw.items() if key != "quantization_config"}
    path = folder / f"{release.name}-{kind.upper()}.gguf"
    named: dict[str, Any] = {"name": release.name, "licence": release.options.licence}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is returned, and becomes a note of the release
        notes = write_gguf_source(open_folder(folder, raw), plain, tokenizer_of(folder), path, to=kind, **named)
    release.notes += [f"{path.name}: {note}" for note in notes]


def copy_checkpoints(folder: Path, release: "Release", say: Callable[[str], None]) -> list[dict[str, Any]]:
    """``checkpoints/`` (intermediate weights with optimizer state) and ``checkpoints.json``; returns the list.

    The final state of every stage's optimizer goes to its folder under ``stages/``.
    """
    from seekling.release.layout import CHECKPOINT_LIST, CHECKPOINTS
    from seekling.train.state import Checkpoints, problems_of

    rows: list[dict[str, Any]] = []
    for stage in release.chain.stages:
        prefix = "" if len(release.chain.stages) == 1 else f"{stage.number}-{stage.verb}-"
        for path in sorted(Checkpoints(stage.run / "checkpoints").found(), key=lambda p: p.name):
            if problems_of(path, hashes=True):
                say(f"left out: {path} is damaged")
                continue
            last = path == stage.checkpoint
            place = f"{CHECKPOINTS}/{prefix}{path.name}" if release.options.checkpoints else None
            final_weights = last and stage is release.chain.last
            if place and not final_weights:
                shutil.copytree(path, folder / place)
            if release.options.checkpoints and final_weights:
                shutil.copytree(path / "training_state", folder / stage.folder / "training_state")
                place = "."
            step = int(path.name.removeprefix("step-"))
            rows.append({"stage": stage.number, "verb": stage.verb, "step": step, "tokens": _tokens(path), "path": place})
    text = json.dumps({"checkpoints": rows}, indent=1) + "\n"
    (folder / CHECKPOINT_LIST).write_text(text, "utf-8")
    return rows


def _tokens(path: Path) -> int | None:
    try:
        return json.loads((path / "training_state" / "state.json").read_text("utf-8")).get("tokens")
    except (OSError, ValueError):
        return None
