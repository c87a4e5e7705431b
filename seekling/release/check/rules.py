"""Statements that laws ask for: whether they are there and filled in, and the compute against the EU's threshold."""

from collections.abc import Iterator
from typing import Any

from seekling.release import layout
from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding
from seekling.release.check.place import Place, Trouble

STATEMENTS = {
    layout.EU_SUMMARY: "EU summary of training content", layout.COPYRIGHT: "copyright policy",
    layout.LABELLING: "labelling statement (China)",
}  # fmt: skip


def rule_findings(place: Place, manifest: dict[str, Any]) -> Iterator[Finding]:
    """About the statements of a release of this project; another's release may keep them elsewhere."""
    for path, what in STATEMENTS.items():
        if not place.has(path):
            yield Finding("rules.missing", NOTE, f"no {what}", path, remedy="seekling release writes one")
            continue
        try:
            left = place.text(path, 1 << 20).count(layout.FILL)
        except Trouble as trouble:
            yield Finding("rules.unreadable", FAIL, str(trouble), path)
            continue
        if left:
            text = f"{what}: {left} places are marked {layout.FILL}"
            yield Finding(
                "rules.unfilled", PERSON, text, path, remedy="only a person knows: fill them in with --about, or by hand"
            )
        else:
            yield Finding("rules.filled", PASS, f"{what}: every place is filled in", path)
    eu = (manifest.get("compute") or {}).get("eu") or {}
    share, flops = eu.get("share_of_general_purpose"), (manifest.get("compute") or {}).get("flops")
    if isinstance(share, int | float) and isinstance(flops, int | float):
        above = "above" if share > 1 else "below"
        text = f"{flops:.3g} FLOP of training, {share:.2g} of the 1e23 above which the EU presumes general purpose ({above} it)"
        yield Finding("rules.compute", NOTE, text, layout.MANIFEST)
