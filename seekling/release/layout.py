"""A release folder: the name of every file in it, and the shape of ``release.json``. ``seekling release`` writes these names,
``seekling release check`` and ``seekling reproduce`` read them.

    DIR/release.json           the manifest, valid against release.schema.json beside this module
    DIR/SHA256SUMS             hash and path of every file but itself and the signature, as sha256sum -c reads them
    DIR/model.sig, model.pub   Sigstore bundle over every file but itself (with --sign), as model_signing verify key reads it
    DIR/README.md              model card with Hugging Face front matter
    DIR/LICENSE                of the weights;  LICENSES/<id>.txt  one text for every licence named anywhere (REUSE's layout)
    DIR/config.json, generation_config.json, *.safetensors, tokenizer.json …     the model; adapter_* where it is an adapter
    DIR/<name>-BF16.gguf       with --gguf;  <name>-Q8_0.gguf  with --int8: 8-bit weights that every GGUF engine opens
    DIR/report.md, report.pdf, report.json, figures/*.png
    DIR/data/README.md         data card;  data/manifest.json  every source;  data/heldout.jsonl  evaluation text;
                               data/train.jsonl.zst with --with-data
    DIR/stages/<n>-<verb>/     recipe.toml, log.jsonl (and data_manifest.json) of every training stage, first stage first
    DIR/stages/story.toml      what seekling run taught after pretraining, where the stages are its
    DIR/checkpoints/step-*/    intermediate weights with optimizer state;  checkpoints.json  lists those that exist, here or not
    DIR/evaluation/results.json    scores in the shape of lm-evaluation-harness;  evaluation/samples.jsonl  sample outputs
    DIR/code/                  seekling-<version>.tar.gz (source), version.json, requirements.lock, changes.diff where dirty
    DIR/bom/ml-bom.cdx.json    CycloneDX 1.6;  bom/spdx.json  SPDX 3.0.1 with the AI and Dataset profiles
    DIR/compliance/            eu-training-summary.md, labelling-cn.md, copyright.md, mof.yaml (for the Model Openness Tool)
    DIR/UPLOAD.md              how to put it on Hugging Face, ModelScope, Gitee, GitHub
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError

FORMAT = "seekling-release/1"
MANIFEST = "release.json"
SUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
PUBLIC_KEY = "model.pub"
CARD = "README.md"
LICENSE = "LICENSE"
LICENSES = "LICENSES"  # / <id>.txt
REPORT, REPORT_PDF, REPORT_JSON, FIGURES = "report.md", "report.pdf", "report.json", "figures"
DATA_CARD, DATA_MANIFEST, HELDOUT, TRAIN_TEXT = (
    "data/README.md",
    "data/manifest.json",
    "data/heldout.jsonl",
    "data/train.jsonl.zst",
)
STAGES = "stages"  # / <n>-<verb> / recipe.toml, log.jsonl
STORY = "stages/story.toml"
CHECKPOINTS, CHECKPOINT_LIST = "checkpoints", "checkpoints.json"
RESULTS, SAMPLES = "evaluation/results.json", "evaluation/samples.jsonl"
CODE, CODE_VERSION, LOCK, DIFF = "code", "code/version.json", "code/requirements.lock", "code/changes.diff"
CYCLONEDX, SPDX = "bom/ml-bom.cdx.json", "bom/spdx.json"
EU_SUMMARY, LABELLING, COPYRIGHT = "compliance/eu-training-summary.md", "compliance/labelling-cn.md", "compliance/copyright.md"
MOF = "compliance/mof.yaml"
UPLOAD = "UPLOAD.md"

FILL = "TO BE FILLED"  # marks what only a person can say

# Not in release.json's list of files: itself, what is made after it, and what Git keeps.
UNLISTED = (MANIFEST, SUMS, SIGNATURE)
GIT = (".git", ".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Component:
    """A component of the Model Openness Framework 1.0: its key in release.json, number, name there, kind, class that first
    asks for it (3, 2 or 1), and whether that class can do without it."""

    key: str
    number: int
    name: str
    kind: str  # code, data, document
    first_class: int
    optional: bool = False


COMPONENTS = (
    Component("model-architecture", 1, "Model architecture", "code", 3),
    Component("model-parameters", 2, "Model parameters (final)", "data", 3),
    Component("technical-report", 3, "Technical report", "document", 3),
    Component("evaluation-results", 4, "Evaluation results", "document", 3),
    Component("model-card", 5, "Model card", "document", 3),
    Component("data-card", 6, "Data card", "document", 3),
    Component("sample-outputs", 7, "Sample model outputs", "document", 3, optional=True),
    Component("training-code", 8, "Training code", "code", 2),
    Component("inference-code", 9, "Inference code", "code", 2),
    Component("evaluation-code", 10, "Evaluation code", "code", 2),
    Component("evaluation-data", 11, "Evaluation data", "data", 2),
    Component("supporting-tools", 12, "Supporting libraries and tools", "code", 2, optional=True),
    Component("datasets", 13, "Datasets", "data", 1),
    Component("preprocessing-code", 14, "Data preprocessing code", "code", 1),
    Component("intermediate-parameters", 15, "Model parameters (intermediate)", "data", 1),
    Component("research-paper", 16, "Research paper", "document", 1),
    Component("model-metadata", 17, "Model metadata", "data", 1, optional=True),
)


def schema() -> dict[str, Any]:
    """The JSON schema of ``release.json`` (draft 2020-12)."""
    return json.loads(resources.files("seekling.release").joinpath("release.schema.json").read_text("utf-8"))


def manifest_problems(manifest: Any) -> list[str]:
    """What in a manifest is not as the schema says, one line each with its place."""
    import jsonschema

    found = jsonschema.Draft202012Validator(schema()).iter_errors(manifest)
    return [f"{MANIFEST}: {'.'.join(map(str, e.absolute_path)) or 'the whole'}: {e.message}" for e in found]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a release folder, unchecked but for being an object.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a release made by seekling release (it has no {MANIFEST})")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); get the release again") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is damaged (not an object); get the release again")
    return manifest


def files_of(folder: Path) -> list[Path]:
    """Every file of a release, relative and sorted by their POSIX names, Git's own left out."""
    every = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() or p.is_symlink())
    return sorted((p for p in every if p.parts[0] not in GIT), key=lambda p: p.as_posix())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_text(folder: Path) -> str:
    """What ``SHA256SUMS`` holds for the folder as it is."""
    named = (p for p in files_of(folder) if p.as_posix() not in (SUMS, SIGNATURE))
    return "".join(f"{sha256(folder / p)}  {p.as_posix()}\n" for p in named)
