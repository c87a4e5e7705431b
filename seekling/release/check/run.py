"""Check a folder or a hub's repository: read everything once, then let each room judge its part."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, DataError
from seekling.release import layout
from seekling.release.check.card import card_findings, read_card
from seekling.release.check.data_info import data_findings
from seekling.release.check.declared import HERE, Claim, Declared, declared, of_mot_file
from seekling.release.check.finding import FAIL, NOTE, PASS, Finding, Report
from seekling.release.check.integrity import Hashes, integrity_findings
from seekling.release.check.openness import components, elements, mof_class, unsuited_findings
from seekling.release.check.place import Place, Trouble
from seekling.release.check.rules import rule_findings
from seekling.release.check.safety import safety_findings
from seekling.release.check.terms import read_terms
from seekling.release.check.weights import header_licences, weight_findings


def check(
    place: Place, key: Path | None = None, progress: Callable[[int], None] = lambda n: None, mof: Path | None = None
) -> Report:
    """Everything that can be told from the files themselves. Nothing of the folder is run.

    Args:
        key: public key (PEM) that a signature must have been made with.
        progress: gets the bytes hashed.
        mof: a Model Openness Tool file that speaks for the folder, where it has none itself.

    Raises:
        CheckpointError: there is nothing to check. DataError: ``key`` cannot be used.
    """
    if not place.entries:
        raise CheckpointError(f"{place.title} is empty: give a model's folder")
    report = Report(place.title, "repository" if place.remote else "folder", unchecked=list(place.notes))
    listed, manifest, problems = _manifest(place)
    if listed is not None:
        report.kind = "release"
    config, config_problems = _config(place)
    matter, body, card_problems = read_card(place)
    terms = read_terms(place, matter, manifest, header_licences(place))
    told = declared(place, matter, body, config, manifest) if mof is None else _given(mof)
    told = _with_card_parts(told, place, body)
    report.components = components(told, terms)
    report.mof_class, report.mof_possible, report.lacking = mof_class(report.components)
    data: tuple[list[Finding], str, list[str]] = data_findings(place, manifest) if manifest is not None else ([], "", [])
    report.osaid = elements(report.components, terms, (data[1], data[2]), told)
    report.findings = [
        *problems, *config_problems, *told.findings, *_presence(told, manifest),
        *terms.findings, *unsuited_findings(report.components), *data[0],
        *weight_findings(place, config, manifest), *safety_findings(place, config),
        *integrity_findings(place, listed, Hashes(place, progress), key),
        *card_problems, *card_findings(place, matter, body, config, manifest),
        *(rule_findings(place, manifest) if manifest is not None else ()),
    ]  # fmt: skip
    if place.absent:
        report.unchecked.append(f"{len(place.absent)} files were not fetched: {', '.join(sorted(place.absent)[:4])}")
    report.unchecked.append("links in the card were not followed")
    return report


def _manifest(place: Place) -> tuple[dict[str, Any] | None, dict[str, Any] | None, list[Finding]]:
    """release.json as it is (for its list of hashes), the same once it fits its schema, and what is wrong with it."""
    if not place.has(layout.MANIFEST):
        return None, None, []
    again = "get the release again"
    try:
        manifest = place.mapping(layout.MANIFEST)
    except Trouble as trouble:
        return None, None, [Finding("presence.manifest", FAIL, str(trouble), layout.MANIFEST, remedy=again)]
    if manifest.get("format") != layout.FORMAT:
        text = f"release.json has the format {str(manifest.get('format'))[:60]!r}, not {layout.FORMAT}"
        return (
            manifest,
            None,
            [Finding("presence.manifest", FAIL, text, layout.MANIFEST, remedy="use the version that wrote it")],
        )
    try:
        wrong = layout.manifest_problems(manifest)
    except RecursionError:
        wrong = ["it is nested too deep"]
    if not wrong:
        return manifest, manifest, [Finding("presence.manifest", PASS, "release.json is as its schema says", layout.MANIFEST)]
    shown = tuple(line[:240] for line in wrong[:12])
    text = f"release.json is not as its schema says ({len(wrong)} problems): {shown[0]}"
    return manifest, None, [Finding("presence.manifest", FAIL, text, layout.MANIFEST, shown[1:], again)]


def _config(place: Place) -> tuple[dict[str, Any], list[Finding]]:
    if not place.has("config.json"):
        return {}, []
    try:
        return place.mapping("config.json", 4 << 20), []
    except Trouble as trouble:
        return {}, [Finding("weights.config", FAIL, str(trouble), "config.json", remedy="get the file again")]


def _given(path: Path) -> Declared:
    """A Model Openness Tool file from outside the folder."""
    try:
        return of_mot_file(path)
    except (Trouble, OSError) as error:
        raise DataError(f"--mof {path}: {error}; give a file of the Model Openness Tool") from None


def _with_card_parts(told: Declared, place: Place, body: str) -> Declared:
    """Evaluation results and the data card may stand inside the model card (the framework's own rule)."""
    if not any(c.key == "model-card" and c.basis == HERE for c in told.claims):
        return told
    have = {c.key for c in told.claims if c.basis == HERE}
    section = re.search(
        r"^#+[^\n]*(training data|data ?set|data card|datasheet)[^\n]*\n(.{300,})",
        body,
        re.IGNORECASE | re.MULTILINE | re.DOTALL,
    )
    if "data-card" not in have and section:
        claims = (Claim("data-card", ("README.md",), None, HERE), *(c for c in told.claims if c.key != "data-card"))
        return Declared(claims, told.source, told.licences, told.findings)
    return told


def _presence(told: Declared, manifest: dict[str, Any] | None) -> list[Finding]:
    text = f"components were read from {told.source}"
    return [] if manifest is not None else [Finding("presence.source", NOTE, text)]
