"""``release.json``: what is in a release, under which licence, how it was made and what must come out when it is made again."""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import SeeklingError
from seekling.release import layout
from seekling.release.evaluating import evaluation_command
from seekling.release.machine_facts import this_machine
from seekling.release.material import CODE_LICENCE, TOLERANCE, final_of, first_losses
from seekling.release.sign import fingerprint

if TYPE_CHECKING:
    from seekling.release.chain import Stage
    from seekling.release.material import Release

SMOKE_STEPS = 5


def components(folder: Path, release: "Release") -> list[dict[str, Any]]:
    """What is here of the Model Openness Framework's seventeen."""
    options, code = release.options, release.code
    archive = [code["archive"]]
    inside = f"seekling-{code['version']}/seekling"
    config = "config.json" if (folder / "config.json").is_file() else "adapter_config.json"
    weights = "adapter_model.safetensors" if release.chain.stays_adapter else "model.safetensors"
    rows: list[tuple[str, list[str], str, str, list[str]]] = [
        ("model-architecture", [*archive, config], CODE_LICENCE, "the network in plain torch", [f"{inside}/model"]),
        ("model-parameters", [weights], options.licence, "final weights", []),
        ("technical-report", [layout.REPORT, layout.REPORT_PDF], options.documents, "", []),
        ("evaluation-results", [layout.RESULTS], options.documents, "with intervals and chance", []),
        ("model-card", [layout.CARD], options.documents, "", []),
        ("data-card", [layout.DATA_CARD], options.documents, "", []),
        ("sample-outputs", [layout.SAMPLES], options.documents, "fixed prompts, nothing chosen", []),
        ("training-code", archive, CODE_LICENCE, "", [f"{inside}/train", f"{inside}/kernels"]),
        ("inference-code", archive, CODE_LICENCE, "", [f"{inside}/engine", f"{inside}/serve"]),
        ("evaluation-code", archive, CODE_LICENCE, "", [f"{inside}/release/scores.py", f"{inside}/train/evaluate.py"]),
        (
            "supporting-tools",
            [*archive, layout.LOCK],
            CODE_LICENCE,
            "tokenizer, formats, lock file",
            [f"{inside}/text", f"{inside}/formats"],
        ),
        ("preprocessing-code", archive, CODE_LICENCE, "", [f"{inside}/data"]),
        ("research-paper", [layout.REPORT_PDF], options.documents, "the technical report is written as a paper", []),
        ("model-metadata", [s.folder for s in release.chain.stages], options.documents, "recipes, logs, optimizer state", []),
    ]
    if release.pretraining is not None:
        rows.append(("evaluation-data", [layout.HELDOUT], release.data_licence, "held-out documents", []))
    else:
        rows.append(("evaluation-data", archive, CODE_LICENCE, "seeded problems", [f"{inside}/tasks"]))
    data = [layout.DATA_MANIFEST]
    if options.with_data:
        data = [f.as_posix() for f in layout.files_of(folder) if f.parts[0] == "data" and f.suffix in (".zst", ".jsonl")]
        data = [path for path in data if path != layout.HELDOUT] or [layout.DATA_MANIFEST]
    if all(s.osaid_kind == "open" for s in release.chain.sources) and release.chain.sources:
        note = (
            "all of it" if options.with_data else "every source is public and named with version and hash; the code fetches it"
        )
        rows.append(("datasets", data, release.data_licence, note, []))
    steps = [row["path"] for row in release.checkpoints if row["path"] not in (None, ".")]
    if steps:
        rows.append(("intermediate-parameters", steps, options.licence, "with optimizer state", []))
    order = [c.key for c in layout.COMPONENTS]
    found = [
        {
            "key": key,
            "paths": paths,
            "licence": licence,
            "version": release.version,
            "note": note,
            **({"inside": inner} if inner else {}),
        }
        for key, paths, licence, note, inner in rows
    ]
    return sorted(found, key=lambda row: order.index(row["key"]))


def licence_of(path: str, release: "Release") -> str:
    """The licence of one file of the release."""
    options = release.options
    if path.startswith(("code/", layout.LICENSES + "/")) or path == layout.LICENSE:
        return CODE_LICENCE if path.startswith("code/") else "LicenseRef-Licence-Text"
    if path.startswith("data/") and path.endswith((".jsonl", ".zst")):
        return release.data_licence
    model_files = (
        "checkpoints/",
        "config.json",
        "generation_config.json",
        "tokenizer",
        "chat_template",
        "adapter_",
        "special_tokens",
    )
    if path.endswith((".safetensors", ".gguf")) or path.startswith(model_files) or "/training_state/" in path:
        return options.licence
    return options.documents


def write_manifest(folder: Path, release: "Release", parts: list[dict[str, Any]], key: tuple[Path, bytes] | None) -> None:
    """release.json.

    Raises:
        SeeklingError: it does not follow its schema, which would be our mistake.
    """
    files = [
        {
            "path": p.as_posix(),
            "bytes": (folder / p).stat().st_size,
            "sha256": layout.sha256(folder / p),
            "licence": licence_of(p.as_posix(), release),
        }
        for p in layout.files_of(folder)
        if p.as_posix() not in layout.UNLISTED
    ]
    p, c, chain = release.config.parameters(), release.config, release.chain
    tokenizer = folder / "tokenizer.json"
    manifest = {
        "format": layout.FORMAT,
        "name": release.name,
        "version": release.version,
        "released": release.date,
        "producer": {"name": release.producer, "contact": release.about.producer.get("contact", "")},
        "kind": "adapter" if (folder / "adapter_config.json").is_file() else "model",
        "model": {
            "family": c.model_type,
            "architecture": "transformer decoder",
            "parameters": p.total,
            "active_parameters": p.active,
            "mtp_parameters": p.mtp,
            "dtype": dtype_of(folder),
            "vocab_size": c.vocab_size,
            "context": c.max_position_embeddings,
            "tied_embeddings": c.tie_word_embeddings,
            "tokenizer_sha256": layout.sha256(tokenizer) if tokenizer.is_file() else None,
        },
        "licences": {
            "weights": release.options.licence,
            "code": CODE_LICENCE,
            "documents": release.options.documents,
            "data": release.data_licence,
        },
        "components": parts,
        "files": files,
        "stages": [stage_entry(release, stage, facts) for stage, facts in zip(chain.stages, release.stage_facts, strict=True)],
        "data": {
            "manifest": layout.DATA_MANIFEST,
            "sources": [s.to_dict() for s in chain.sources],
        },
        "evaluation": {"results": layout.RESULTS, "command": evaluation_command(release), "samples": layout.SAMPLES},
        "provenance": {
            "base_models": [a.to_dict() for a in chain.base_models],
            "teachers": [a.to_dict() for a in chain.teachers],
            "merged": [a.to_dict() for a in chain.merged],
            "relation": chain.relation,
        },
        "compute": release.compute,
        "code": {k: v for k, v in release.code.items()},
        "reproduce": {
            "command": "seekling reproduce .",
            "smoke_steps": SMOKE_STEPS,
            "tolerance": TOLERANCE,
            "machine": {**this_machine(), **release.stage_facts[0]["versions"], "threads": release.stage_facts[0]["threads"]},
        },
        "notes": release.notes,
    }
    if key is not None:
        manifest["signature"] = {
            "path": layout.SIGNATURE,
            "public_key": layout.PUBLIC_KEY,
            "public_key_sha256": fingerprint(key[1]),
        }
    problems = layout.manifest_problems(manifest)
    if problems:
        raise SeeklingError(f"the manifest came out invalid: {problems[0]}")
    (folder / layout.MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")


def stage_entry(release: "Release", stage: "Stage", facts: dict[str, Any]) -> dict[str, Any]:
    """A stage in release.json."""
    before: str | None = None
    if isinstance(stage.starts_from, int):
        before = release.chain.stages[stage.starts_from].folder
    elif stage.starts_from is not None:
        before = stage.starts_from
    repeat = f"seekling {stage.verb} --recipe {stage.folder}/recipe.toml --out again-{stage.number}"
    if stage.story is not None and stage.verb != "pretrain":
        repeat = f"cp {layout.STORY} again-1/ && seekling run --resume again-1"
    return {
        "name": facts["run"],
        "verb": stage.verb,
        "folder": stage.folder,
        "command": facts["command"],
        "part_of": None if stage.story is None else "run",
        "starts_from": before,
        "repeat": repeat,
        "seed": int(facts["seed"] or 0),
        "steps": stage.steps,
        "tokens": facts["tokens"],
        "threads": facts["threads"],
        "dtype": facts["dtype"],
        "device": facts["device"],
        "seconds": facts["seconds"],
        "flops": facts["flops"],
        "watt_hours": facts["watt_hours"],
        "first_losses": first_losses(stage),
        "final": final_of(stage),
        "data_fingerprint": stage_fingerprint(stage),
        "versions": facts["versions"],
    }


def stage_fingerprint(stage: "Stage") -> str | None:
    """The hash of what a stage was trained on: token ids, or the problems that were practised."""
    if stage.verb == "grpo":
        from seekling.release.practice import practice_fingerprint

        return practice_fingerprint(stage.recipe)
    return stage.state.get("pinned", {}).get("data")


def dtype_of(folder: Path) -> str:
    """The type of most bytes of the weights."""
    sizes: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - begin
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    largest = max(sizes, key=lambda k: sizes[k], default="F32")
    return names.get(largest, largest)
