"""What a folder claims to publish, component by component: by our release.json, by a Model Openness Tool file, or by its files
and its card.

A claim says which component, where, under which licence, and on what it rests: "here" (the files are in the folder), "declared"
(a manifest names an address), "linked" (the card points there and says no licence).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.release.check.finding import FAIL, Finding
from seekling.release.check.place import Place, Trouble, read_yaml, texts
from seekling.release.layout import COMPONENTS

HERE, DECLARED, LINKED = "here", "declared", "linked"
_KEYS = {c.name.casefold(): c.key for c in COMPONENTS} | {c.key: c.key for c in COMPONENTS}
WEIGHTS = r"([^/]+\.(safetensors|gguf)|[^/]*(pytorch_model|consolidated)[^/]*\.(bin|pth|pt))"


@dataclass(frozen=True)
class Claim:
    """A component that is claimed. ``licence``: as the claim itself states it; None where it states none."""

    key: str
    where: tuple[str, ...]
    licence: str | None
    basis: str


@dataclass(frozen=True)
class Declared:
    """All claims, where they were read, and the manifest's licences by kind ("code", "data", "document", "distribution")."""

    claims: tuple[Claim, ...]
    source: str
    licences: dict[str, str]
    findings: tuple[Finding, ...] = ()


def declared(
    place: Place, matter: dict[str, Any], body: str, config: dict[str, Any], manifest: dict[str, Any] | None
) -> Declared:
    """The claims of a folder: of release.json, else of a Model Openness Tool file, else what its files and card show."""
    if manifest is not None:
        return _of_release(place, manifest)
    for path in place.matching(r"[^/]+\.ya?ml|mof/[^/]+\.ya?ml"):
        if not place.here(path):
            continue
        try:
            text = place.text(path, 256 << 10)
            if "Model Openness Framework" not in text:
                continue
            found = read_yaml(text, path)
            return _of_mot(path, found)
        except Trouble as trouble:
            broken = Finding("presence.manifest", FAIL, str(trouble), path, remedy="the Model Openness Tool writes such a file")
            return Declared(tuple(_inferred(place, matter, body, config)), "the files", {}, (broken,))
    return Declared(tuple(_inferred(place, matter, body, config)), "the files and the card", {})


# ---- release.json ----------------------------------------------------------------------------------------------------


def _of_release(place: Place, manifest: dict[str, Any]) -> Declared:
    claims, findings = [], []
    for entry in _list(manifest.get("components")):
        key = entry.get("key")
        if not isinstance(key, str) or key not in _KEYS:
            findings.append(
                Finding("presence.manifest", FAIL, f"release.json names an unknown component {key!r}", "release.json")
            )
            continue
        paths = texts(entry.get("paths"))
        lost = [p for p in paths if not place.has(p) and not place.under(p) and not re.match(r"https?://", p)]
        if lost:
            text = f"release.json lists {', '.join(lost[:4])} for {key}, which is not there"
            findings.append(
                Finding("presence.missing", FAIL, text, "release.json", remedy="get the release again, or build it again")
            )
        there = tuple(p for p in paths if p not in lost)
        if there:
            basis = DECLARED if all(re.match(r"https?://", p) for p in there) else HERE
            claims.append(Claim(_KEYS[key], there, _text(entry.get("licence")), basis))
    licences = manifest.get("licences")
    kinds = {"weights": "data", "code": "code", "documents": "document"}
    stated = (
        {kinds[k]: v for k, v in licences.items() if k in kinds and isinstance(v, str)} if isinstance(licences, dict) else {}
    )
    return Declared(tuple(claims), "release.json", stated, tuple(findings))


# ---- Model Openness Tool ---------------------------------------------------------------------------------------------


def of_mot_file(path: Path) -> Declared:
    """The claims of a Model Openness Tool file anywhere. Raises Trouble, OSError."""
    return _of_mot(str(path), read_yaml(path.read_text("utf-8", "replace"), str(path)))


def _of_mot(path: str, found: Any) -> Declared:
    release = found.get("release") if isinstance(found, dict) else None
    if not isinstance(release, dict):
        raise Trouble(f"{path} has no release: section")
    claims = []
    for entry in _list(release.get("components")):
        name = entry.get("name")
        key = _KEYS.get(name.casefold()) if isinstance(name, str) else None
        if key is None:
            continue
        where = tuple(texts(entry.get("component_path")))
        claims.append(Claim(key, where or (path,), _text(entry.get("license")), DECLARED))
    licences = {}
    stated = release.get("license")
    for kind, entry in stated.items() if isinstance(stated, dict) else ():
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            licences[str(kind)] = name
    return Declared(tuple(claims), path, licences)


# ---- files and card --------------------------------------------------------------------------------------------------

# Component -> files that are it.
_FILES = (
    ("model-architecture", r"(.*/)?(modeling_[^/]+|model|models?/[^/]+|architecture)\.py"),
    ("model-parameters", WEIGHTS),
    ("technical-report", r"(.*/)?[^/]*(report|technical)[^/]*\.(pdf|md|tex)"),
    ("evaluation-results", r"\.eval_results/.*|(.*/)?(eval(uation)?s?|results)/[^/]*\.(json|jsonl|csv|md|ya?ml)"),
    ("data-card", r"(data|dataset|datasheet|data_card|data/README|dataset_card|DATA)[^/]*\.md"),
    ("sample-outputs", r"(.*/)?samples?[^/]*\.(jsonl?|md|txt)"),
    ("training-code", r"(.*/)?(train(ing)?/.*|[^/]*train[^/]*)\.(py|sh)"),
    ("inference-code", r"(.*/)?(inference/.*|[^/]*(inference|generate|modeling_)[^/]*)\.py"),
    ("evaluation-code", r"(.*/)?(eval(uation)?/.*|[^/]*eval[^/]*)\.py"),
    ("evaluation-data", r"(.*/)?(eval(uation)?[^/]*|heldout|test)[^/]*\.(jsonl|parquet|txt)"),
    ("datasets", r"data/.*\.(jsonl|jsonl\.zst|parquet|txt|txt\.gz)"),
    ("preprocessing-code", r"(.*/)?[^/]*(preprocess|prepare_data|tokenize_data|data_prep)[^/]*\.py"),
    ("intermediate-parameters", r"(checkpoints?/|(.*/)?step[-_]?\d+/).*\.safetensors"),
    ("research-paper", r"(.*/)?[^/]*paper[^/]*\.pdf"),
    ("model-metadata", r"(.*/)?(training_args[^/]*|trainer_state|training_state/state|recipe|optimizer[^/]*)\."
     r"(json|toml|yaml|safetensors)"),
)  # fmt: skip
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})|\barxiv:\s?(\d{4}\.\d{4,5})", re.IGNORECASE)
_REPOSITORY = re.compile(r"https?://(?:github\.com|gitlab\.com|gitee\.com)/[\w.-]+/[\w.-]+", re.IGNORECASE)


def _inferred(place: Place, matter: dict[str, Any], body: str, config: dict[str, Any]) -> Iterator[Claim]:
    found: dict[str, Claim] = {}
    for key, pattern in _FILES:
        paths = place.matching(pattern)
        if paths:
            found[key] = Claim(key, tuple(paths[:6]), None, HERE)
    if place.has("README.md"):
        found["model-card"] = Claim("model-card", ("README.md",), None, HERE)
        if matter.get("model-index") or _has_results(body):
            found.setdefault("evaluation-results", Claim("evaluation-results", ("README.md",), None, HERE))
    family = config.get("model_type")
    if isinstance(family, str) and config.get("architectures") and not config.get("auto_map"):
        # without remote code it is the library that holds the code, under Apache-2.0
        known = (f"transformers: {family}",)
        found.setdefault("model-architecture", Claim("model-architecture", known, "Apache-2.0", DECLARED))
        found.setdefault("inference-code", Claim("inference-code", known, "Apache-2.0", DECLARED))
    for path in place.matching(r"[^/]+\.gguf") if family is None else ():
        architecture = place.gguf(path).get("general.architecture")
        if isinstance(architecture, str):
            known = (f"llama.cpp: {architecture[:60]}",)
            found.setdefault("model-architecture", Claim("model-architecture", known, "MIT", DECLARED))
            found.setdefault("inference-code", Claim("inference-code", known, "MIT", DECLARED))
    yield from found.values()
    for claim in _links(matter, body):
        if claim.key not in found:
            yield claim


def _has_results(body: str) -> bool:
    """A heading about evaluation with a table or figures below it."""
    at = re.search(r"^#+[^\n]*(eval|benchmark|results|performance)", body, re.IGNORECASE | re.MULTILINE)
    return at is not None and bool(re.search(r"\|[^\n|]*\d[^\n|]*\|", body[at.end() : at.end() + 20_000]))


def _links(matter: dict[str, Any], body: str) -> Iterator[Claim]:
    datasets = texts(matter.get("datasets"))
    if datasets:
        yield Claim("datasets", tuple(datasets[:12]), None, LINKED)
        yield Claim("data-card", tuple(datasets[:12]), None, LINKED)
    paper = _ARXIV.search(body)
    if paper:
        address = (f"arxiv.org/abs/{paper[1] or paper[2]}",)
        yield Claim("research-paper", address, None, LINKED)
        yield Claim("technical-report", address, None, LINKED)
    repository = _REPOSITORY.search(body)
    if repository:
        for key in ("training-code", "inference-code", "evaluation-code", "preprocessing-code"):
            yield Claim(key, (repository[0],), None, LINKED)
    if re.search(r"revision\s*=\s*[\"']step|intermediate checkpoints?", body, re.IGNORECASE):
        yield Claim("intermediate-parameters", ("README.md",), None, LINKED)


def _list(value: Any) -> list[dict[str, Any]]:
    return [v for v in value[:1000] if isinstance(v, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
