"""A release of a run of seconds: the real `seekling pretrain` on a small file of text, put together by hand with what the check
and `reproduce` read of a release and without the parts they do not."""

import json
import shutil
import subprocess
import sys

from seekling import __version__
from seekling.release import layout
from seekling.release.licences import text_of
from seekling.release.machine_facts import this_machine
from seekling.train.log import read_log

FLAGS = (
    "--size nano --steps 6 --batch-size 4 --micro-batch 4 --seq-len 32 --vocab-size 288 --heldout 0.05 "
    "--num-hidden-layers 2 --hidden-size 16 --num-attention-heads 2 --q-lora-rank 8 --kv-lora-rank 8 --qk-nope-head-dim 4 "
    "--qk-rope-head-dim 4 --v-head-dim 4 --intermediate-size 32 --moe-intermediate-size 8 --n-routed-experts 4 "
    "--num-experts-per-tok 2 --threads 1 --dtype float32 --sample-every 9 --eval-every 9 --save-every 6"
).split()
CARD = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
language: [en]
---
# tiny-ducks

## How to use

Load it with transformers.

## Training data

Made for a test: lines about ducks and the animals they see by the lake, written by a loop in the test itself. Nothing else went
in. The file is in the release, and the recipe beside it says in which order it was read.

## Evaluation

It knows next to nothing: see evaluation/results.json.

## Limitations

Do not use it for anything but tests.
"""


def train(home):
    """The run and the text it reads, made by the command as its user types it."""
    text = home / "ducks.txt"
    text.write_text(
        "\n\n".join(f"The {i} little ducks saw {i + 1} big {'cats dogs frogs'.split()[i % 3]} by the lake." for i in range(400))
    )
    words = [sys.executable, "-m", "seekling", "pretrain", *FLAGS, "--data", str(text), "--out", str(home / "run")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return home / "run", text


def release(home, run, text):
    """A folder as layout.py describes it."""
    out = home / "release"
    out.mkdir()
    checkpoint = sorted((run / "checkpoints").glob("step-*"))[-1]
    for path in checkpoint.iterdir():
        if path.is_file():
            shutil.copy(path, out / path.name)
    (out / "README.md").write_text(CARD)
    (out / "LICENSE").write_text(text_of("MIT", holder="Ducks", year=2026))
    for id in ("MIT", "CC-BY-4.0", "CC0-1.0"):
        (out / "LICENSES").mkdir(exist_ok=True)
        (out / "LICENSES" / f"{id}.txt").write_text(text_of(id, holder="Ducks", year=2026))
    stage = out / "stages" / "1-pretrain"
    stage.mkdir(parents=True)
    for name in ("recipe.toml", "log.jsonl", "data_manifest.json"):
        (stage / name).write_text((run / name).read_text().replace(str(text.parent) + "/", ""))
    (out / "data").mkdir()
    shutil.copy(text, out / "data" / text.name)
    for name in (layout.REPORT, layout.DATA_CARD, layout.DATA_MANIFEST, layout.RESULTS, layout.HELDOUT, "code/seekling.tar.gz"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("{}\n")
    shutil.copytree(checkpoint, out / "checkpoints" / "step-6", ignore=shutil.ignore_patterns("training_state"))
    write_manifest(out, run)
    return out


def write_manifest(out, run):
    log = [r for r in read_log(run / "log.jsonl") if r["kind"] == "step"]
    state = json.loads(next((run / "checkpoints").glob("step-*/training_state/state.json")).read_text())
    final = [r for r in read_log(run / "log.jsonl") if r["kind"] == "eval"][-1]
    config = json.loads((out / "config.json").read_text())
    code = {"paths": ["code/seekling.tar.gz"], "licence": "MIT"}
    document = "CC-BY-4.0"
    parts = {
        "model-architecture": code, "training-code": code, "inference-code": code, "evaluation-code": code,
        "preprocessing-code": code,
        "model-parameters": {"paths": ["model.safetensors"], "licence": "MIT"},
        "intermediate-parameters": {"paths": ["checkpoints"], "licence": "MIT"},
        "technical-report": {"paths": [layout.REPORT], "licence": document},
        "research-paper": {"paths": [layout.REPORT], "licence": document},
        "evaluation-results": {"paths": [layout.RESULTS], "licence": document},
        "model-card": {"paths": [layout.CARD], "licence": document},
        "data-card": {"paths": [layout.DATA_CARD], "licence": document},
        "evaluation-data": {"paths": [layout.HELDOUT], "licence": "CC0-1.0"},
        "datasets": {"paths": ["data/ducks.txt"], "licence": "CC0-1.0"},
    }  # fmt: skip
    files = [
        {"path": p.as_posix(), "bytes": (out / p).stat().st_size, "sha256": layout.sha256(out / p), "licence": "MIT"}
        for p in layout.files_of(out)
        if p.as_posix() not in layout.UNLISTED
    ]
    stage = {
        "name": "run", "verb": "pretrain", "folder": "stages/1-pretrain", "command": "seekling pretrain", "seed": 0, "steps": 6,
        "first_losses": [{"step": r["step"], "loss": r["loss"]} for r in log],
        "final": {"metric": "bits_per_byte", "value": final["bpb"], "band": 0.02},
        "data_fingerprint": state["pinned"]["data"], "threads": 1, "starts_from": None,
    }  # fmt: skip
    source = {
        "name": "ducks", "stage": "pretrain", "kind": "file", "osaid_kind": "open", "where": "data/ducks.txt",
        "licence": "CC0-1.0",
        "sha256": layout.sha256(out / "data" / "ducks.txt"), "bytes": 1, "tokens": 1, "share": 1.0, "in_release": True,
    }  # fmt: skip
    manifest = {
        "format": layout.FORMAT, "name": "tiny-ducks", "version": "1", "released": "2026-11-29T00:00:00Z",
        "producer": {"name": "Ducks"}, "kind": "model",
        "model": {
            "family": config["model_type"], "parameters": 20_000, "active_parameters": 10_000, "dtype": "float32",
            "vocab_size": config["vocab_size"], "context": config["max_position_embeddings"],
        },
        "licences": {"weights": "MIT", "code": "MIT", "documents": document, "data": "CC0-1.0"},
        "components": [{"key": key, **part} for key, part in parts.items()], "files": files, "stages": [stage],
        "data": {"manifest": layout.DATA_MANIFEST, "sources": [source]},
        "evaluation": {"results": layout.RESULTS, "command": "seekling eval"},
        "provenance": {"base_models": [], "teachers": []}, "compute": {"flops": 1.0, "own_flops": 1.0},
        "code": {"name": "seekling", "version": __version__, "archive": "code/seekling.tar.gz", "lock": "none"},
        "reproduce": {"command": "seekling reproduce .", "machine": this_machine(), "smoke_steps": 3, "tolerance": 0.02},
    }  # fmt: skip
    (out / layout.MANIFEST).write_text(json.dumps(manifest))
    (out / layout.SUMS).write_text(layout.sums_text(out))
