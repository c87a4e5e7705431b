"""Data information: whether every source of a release is described so that somebody could get or make it again."""

import math
from typing import Any

from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding, worst
from seekling.release.check.place import Place, Trouble
from seekling.release.licences import LicenceError, expression, is_open

_KINDS = {
    "open": "shared under open terms", "public": "public, with the place to get it", "obtainable": "obtainable from others",
    "unshareable": "cannot be shared",
}  # fmt: skip
SHARE_SLACK = 0.01


def data_findings(place: Place, manifest: dict[str, Any]) -> tuple[list[Finding], str, list[str]]:
    """Findings of a release's sources, the element's verdict, and the lines it rests on."""
    data = manifest.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    rows = [s for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    if not rows:
        text = "release.json names no source of training data"
        return [Finding("data.none", FAIL, text, "release.json", remedy="declare every source")], FAIL, [text]
    findings = [f for row in rows for f in _source(row)]
    findings += _shares(rows)
    path = data.get("manifest") if isinstance(data, dict) else None
    if isinstance(path, str):
        try:
            place.mapping(path)
        except Trouble as trouble:
            if path not in place.absent:
                findings.append(Finding("data.manifest", FAIL, str(trouble), path, remedy="get the release again"))
    kinds: dict[str, int] = {}
    for row in rows:
        kind = str(row.get("osaid_kind") or ("open" if row.get("synthetic") else "unstated"))
        kinds[kind] = kinds.get(kind, 0) + 1
    said = ", ".join(f"{n} {_KINDS.get(kind, kind)}" for kind, n in kinds.items())
    tokens = sum(r["tokens"] for r in rows if isinstance(r.get("tokens"), int))
    lines = [f"{len(rows)} sources with origin, licence, size and hash: {said}" + (f"; {tokens:,} tokens" if tokens else "")]
    hidden = [str(r.get("name")) for r in rows if r.get("osaid_kind") == "unshareable"]
    if hidden:
        text = f"{', '.join(hidden[:4])} cannot be shared: is it described so that a skilled person could build an equivalent?"
        findings.append(Finding("data.unshareable", PERSON, text, "release.json"))
    verdict = worst(f.verdict for f in findings)
    lines += [f.text for f in findings if f.verdict == verdict and verdict != PASS][:6]
    if verdict == PASS:
        findings.append(Finding("data.sources", PASS, lines[0], "release.json"))
    return findings, verdict, lines


def _source(row: dict[str, Any]) -> list[Finding]:
    name = str(row.get("name") or "a source without a name")
    lacks = [what for what, there in (
        ("a name", row.get("name")),
        ("where it came from", row.get("where") or row.get("url")),
        ("its size (documents, bytes or tokens)", any(isinstance(row.get(k), int) for k in ("documents", "bytes", "tokens"))),
        ("what generated it", not row.get("synthetic") or row.get("generator")),
        ("a hash or a version", any(row.get(k) for k in ("sha256", "files", "version", "in_release", "synthetic"))),
    ) if not there]  # fmt: skip
    out = []
    if lacks:
        text = f"source {name} lacks {', '.join(lacks)}"
        out.append(Finding("data.source", FAIL, text, "release.json", remedy="declare it in the data manifest"))
    out += _licence(name, row.get("licence"), row.get("osaid_kind"))
    return out


def _licence(name: str, licence: Any, kind: Any) -> list[Finding]:
    if not isinstance(licence, str) or licence.strip() in ("", "NOASSERTION", "NONE"):
        text = f"source {name} states no licence"
        return [Finding("data.licence", FAIL, text, "release.json", remedy="state an SPDX id, or LicenseRef-… with its text")]
    try:
        found = expression(licence)
    except LicenceError as error:
        return [Finding("data.licence", FAIL, f"source {name}: {error}", "release.json", remedy="state an SPDX id")]
    if found.holds(is_open):
        return []
    if kind == "open":
        return [Finding("data.licence", FAIL, f"source {name} is called open but {licence} is not", "release.json")]
    return [Finding("data.licence", NOTE, f"source {name} is under {licence}, which is not open", "release.json")]


def _shares(rows: list[dict[str, Any]]) -> list[Finding]:
    """The shares of each stage's sources make one."""
    stages: dict[str, float] = {}
    for row in rows:
        share = row.get("share")
        if isinstance(share, (int, float)) and not isinstance(share, bool) and math.isfinite(share):
            stage = str(row.get("stage"))
            stages[stage] = stages.get(stage, 0.0) + share
    return [
        Finding("data.shares", FAIL, f"the shares of the sources of {stage} make {total:.3f}, not 1", "release.json")
        for stage, total in stages.items()
        if abs(total - 1) > SHARE_SLACK
    ]
