"""The card: front matter that hubs can read, what people need to know, and no contradiction with the manifest."""

import re
from collections.abc import Iterator
from typing import Any

from seekling.release.check.finding import FAIL, NOTE, PASS, Finding
from seekling.release.check.place import Place, Trouble, front_matter, short, texts

SECTIONS = {
    "use": r"use|usage|quick ?start|how to|getting started|inference|run", "limits": r"limit|risk|bias|caveat|safety|not for",
    "training": r"train|data|procedure", "evaluation": r"eval|benchmark|result|performance",
}  # fmt: skip
_PLACEHOLDER = re.compile(r"\[More Information Needed\]|\bTODO\b|\bFIXME\b|\{\{.*?\}\}|<!-- Provide", re.IGNORECASE)
SHORTEST = 400  # characters of a card that says anything


def read_card(place: Place) -> tuple[dict[str, Any], str, list[Finding]]:
    """Front matter, text, and what is wrong with reading them."""
    if not place.has("README.md"):
        return (
            {},
            "",
            [
                Finding(
                    "card.none",
                    FAIL,
                    "there is no model card (README.md)",
                    remedy="write one: what it is, for whom, its limits",
                )
            ],
        )
    try:
        text = place.text("README.md", 2 << 20)
    except Trouble as trouble:
        return {}, "", [Finding("card.unreadable", FAIL, str(trouble), "README.md")]
    try:
        matter, body = front_matter(text, "README.md")
    except Trouble as trouble:
        return (
            {},
            text,
            [Finding("card.matter", FAIL, str(trouble), "README.md", remedy="hubs read nothing of a damaged block")],
        )
    if not matter:
        text = "the card has no front matter: hubs show no licence, task or language"
        return {}, body, [Finding("card.matter", NOTE, text, "README.md", remedy="add a YAML block at its top")]
    return matter, body, []


def card_findings(
    place: Place, matter: dict[str, Any], body: str, config: dict[str, Any], manifest: dict[str, Any] | None
) -> Iterator[Finding]:
    """What a card should say and does not, and what it says against other files."""
    if not place.has("README.md"):
        return
    headings = " ".join(re.findall(r"^#+ *([^\n]{1,200})", body, re.MULTILINE))
    lacking = [name for name, pattern in SECTIONS.items() if not re.search(rf"\b({pattern})", headings, re.IGNORECASE)]
    if len(body.strip()) < SHORTEST:
        yield Finding("card.short", FAIL, f"the card has {len(body.strip())} characters: it says next to nothing", "README.md")
    elif lacking:
        yield Finding("card.sections", NOTE, f"the card has no section on {', '.join(lacking)}", "README.md")
    else:
        yield Finding("card.sections", PASS, "the card speaks of use, limits, training and evaluation", "README.md")
    left = _PLACEHOLDER.findall(body)
    if left:
        yield Finding(
            "card.placeholder",
            FAIL,
            f"the card still holds {len(left)} placeholders ({left[0]!r})",
            "README.md",
            remedy="fill them in",
        )
    yield from _metadata(matter)
    yield from _against(matter, body, config, manifest)


def _metadata(matter: dict[str, Any]) -> Iterator[Finding]:
    """Keys and values as the Hugging Face hub takes them."""
    if not matter:
        return
    lacking = [key for key in ("license", "library_name", "pipeline_tag", "language") if not matter.get(key)]
    if matter.get("license") == "other" and not (matter.get("license_name") and matter.get("license_link")):
        text = "license: other needs license_name and license_link"
        yield Finding("card.metadata", FAIL, text, "README.md", remedy="add both, or an SPDX id")
    relation = matter.get("base_model_relation")
    if relation is not None and relation not in ("adapter", "merge", "quantized", "finetune"):
        yield Finding(
            "card.metadata", FAIL, f"base_model_relation: {short(relation, 60)} is none of the hub's words", "README.md"
        )
    index = matter.get("model-index")
    if index is not None and not _is_index(index):
        text = "model-index is not a list of models with results"
        yield Finding("card.metadata", FAIL, text, "README.md", remedy="see huggingface_hub.ModelCardData")
    if lacking:
        yield Finding("card.metadata", NOTE, f"the front matter has no {', '.join(lacking)}", "README.md")


def _is_index(index: Any) -> bool:
    return isinstance(index, list) and all(
        isinstance(m, dict) and m.get("name") and isinstance(m.get("results"), list) for m in index
    )


def _against(matter: dict[str, Any], body: str, config: dict[str, Any], manifest: dict[str, Any] | None) -> Iterator[Finding]:
    if manifest is None:
        return
    bases = [b.get("name") for b in _rows((manifest.get("provenance") or {}).get("base_models"))]
    stated = texts(matter.get("base_model"))
    if bases and not stated:
        text = f"release.json has the base model {short(bases[0], 80)}, the card's front matter none"
        yield Finding("card.base", FAIL, text, "README.md", remedy="state base_model in the front matter")
    elif stated and not bases:
        text = f"the card has the base model {short(stated[0], 80)}, release.json none"
        yield Finding("card.base", FAIL, text, "release.json", remedy="declare the base model in both")
    model = manifest.get("model") or {}
    for key, name in (("vocab_size", "vocabulary"), ("context", "context")):
        here = config.get({"vocab_size": "vocab_size", "context": "max_position_embeddings"}[key])
        if isinstance(here, int) and isinstance(model.get(key), int) and here != model[key]:
            yield Finding(
                "card.agree", FAIL, f"release.json has a {name} of {model[key]:,}, config.json of {here:,}", "config.json"
            )
    called = manifest.get("name")
    if isinstance(called, str) and called and called.lower() not in body.lower():
        yield Finding(
            "card.agree", NOTE, f"the card does not name the model as release.json does ({short(called, 80)})", "README.md"
        )


def _rows(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
