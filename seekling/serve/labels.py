"""Marks that say a machine wrote it: for programs (header, body, last event, exported files) and for people (words to show).

``cn``: GB 45438-2025. The implicit mark is a JSON object under the key ``AIGC`` (annex E), the explicit one words that hold
人工智能 (or AI) and 生成. ``eu``: article 50 of Regulation (EU) 2024/1689 asks for a machine-readable mark without fixing its
form; ours names the system and the IPTC source type. Both may bear a hash of the text, by which it is found in the audit log.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Literal

from seekling import __version__
from seekling.errors import RecipeError

Mode = Literal["none", "eu", "cn"]
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
VISIBLE = {
    "none": {},
    "eu": {"en": "AI-generated", "zh": "AI 生成"},
    "cn": {"en": "AI-generated content", "zh": "内容由人工智能生成"},
}
FIELDS = {"cn": "AIGC", "eu": "ai_generated"}
HEADERS = {"cn": "X-AIGC", "eu": "X-AI-Generated"}
KINDS = ("md", "html", "json", "jsonl", "txt")


@dataclass(frozen=True)
class Labels:
    """How a server labels.

    Attributes:
        producer: who answers for the content: printable ASCII, for ``cn`` the provider's name or code.

    Raises:
        RecipeError: the producer cannot be written into a label.
    """

    mode: Mode = "none"
    producer: str = "seekling"
    model: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!#-\[\]-~][ !#-\[\]-~]{0,119}", self.producer):
            raise RecipeError(
                f"the label's producer is {self.producer!r}: give 1 to 120 printable ASCII characters without quotes"
            )

    @property
    def on(self) -> bool:
        return self.mode != "none"

    def mark(self, produce_id: str, text: str | None = None, *, watermarked: bool = False) -> dict[str, Any]:
        """The object under `FIELDS`; ``text`` adds its hash."""
        digest = "" if text is None else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        if self.mode == "cn":  # at first writing who spreads it is who made it
            return {
                "Label": "1",
                "ContentProducer": self.producer,
                "ProduceID": produce_id,
                "ReservedCode1": digest,
                "ContentPropagator": self.producer,
                "PropagateID": produce_id,
                "ReservedCode2": "",
            }
        return {
            "value": True,
            "digital_source_type": SOURCE_TYPE,
            "system": f"seekling {__version__}",
            "model": self.model,
            "provider": self.producer,
            "id": produce_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "watermark": watermarked,
            **({"sha256": digest} if digest else {}),
        }

    def fields(self, produce_id: str, text: str | None = None, *, watermarked: bool = False) -> dict[str, Any]:
        """What a body or last event holds besides the answer; nothing without labels."""
        return {FIELDS[self.mode]: self.mark(produce_id, text, watermarked=watermarked)} if self.on else {}

    def headers(self, produce_id: str) -> dict[str, str]:
        """The same as response headers, before the text is known."""
        if self.mode == "cn":
            return {HEADERS["cn"]: json.dumps({"AIGC": self.mark(produce_id)}, separators=(",", ":"))}
        if self.mode == "eu":
            name = self.model.encode("ascii", "replace").decode().replace('"', "").replace("\\", "")
            return {HEADERS["eu"]: f'?1; id="{produce_id}"; model="{name}"; provider="{self.producer}"'}
        return {}

    def told(self) -> dict[str, Any]:
        """What a page or another client needs to know (``/about``)."""
        if not self.on:
            return {"mode": "none"}
        return {"mode": self.mode, "field": FIELDS[self.mode], "header": HEADERS[self.mode], "visible": VISIBLE[self.mode]}


def export(text: str, kind: str, labels: Labels, produce_id: str, language: str = "zh") -> str:
    """A text as a file that bears both marks. A mark that is there already is replaced.

    Args:
        kind: one of `KINDS`. ``json`` and ``jsonl`` take JSON and get the mark as a key of every object; ``txt`` has room for
            the words only.

    Raises:
        RecipeError: an unknown kind, no label to write, or JSON that is none.
    """
    if not labels.on:
        raise RecipeError("there is no label to write: give --label eu or cn")
    if kind not in KINDS:
        raise RecipeError(f"no label can be put into {kind!r}: the kinds are {', '.join(KINDS)}")
    key, words = FIELDS[labels.mode], VISIBLE[labels.mode][language]
    if kind in ("json", "jsonl"):
        return _export_json(text, kind, key, words, labels, produce_id)
    text = unlabelled(text, kind)
    mark = json.dumps(labels.mark(produce_id, text), ensure_ascii=True, separators=(",", ":"))
    if kind == "md":
        return f"---\n{key}: '{mark.replace(chr(39), chr(39) * 2)}'\n---\n\n> {words}\n\n{text}"
    if kind == "html":
        head = f'<meta name="{key}" content="{escape(mark)}">\n<p class="ai-label">{words}</p>\n'
        found = re.search(r"<head[^>]*>", text, re.IGNORECASE)
        if not found:
            return head + text
        meta, _, visible = head.partition("\n")
        text = f"{text[: found.end()]}\n{meta}{text[found.end() :]}"
        body = re.search(r"<body[^>]*>", text, re.IGNORECASE)
        return text if not body else f"{text[: body.end()]}\n{visible}{text[body.end() :]}"
    return f"[{words}]\n\n{text}"


def _export_json(text: str, kind: str, key: str, words: str, labels: Labels, produce_id: str) -> str:
    lines = [text] if kind == "json" else [line for line in text.splitlines() if line.strip()]
    out = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise RecipeError(f"this is no JSON ({error}), so no label fits into it") from None
        if not isinstance(value, dict):
            raise RecipeError("the label is a key of a JSON object, and this is none")
        rest = {name: part for name, part in value.items() if name not in (*FIELDS.values(), "label")}
        content = json.dumps(rest, ensure_ascii=False, sort_keys=True)
        marked = {key: labels.mark(produce_id, content), "label": words, **rest}
        out.append(json.dumps(marked, ensure_ascii=False, indent=1 if kind == "json" else None))
    return "\n".join(out) + "\n"


def unlabelled(text: str, kind: str) -> str:
    """A text without the marks `export` wrote (one label a file: the next replaces it)."""
    names = "|".join(FIELDS.values())
    said = "|".join(re.escape(words) for by in VISIBLE.values() for words in by.values())
    if kind == "md":
        return re.sub(rf"\A---\n(?:{names}): '.*'\n---\n\n> (?:{said})\n\n", "", text)
    if kind == "html":
        text = re.sub(rf'\n?<meta name="(?:{names})" content="[^"]*">\n?', "", text, count=1)
        return re.sub(rf'\n?<p class="ai-label">(?:{said})</p>\n?', "", text, count=1)
    return re.sub(rf"\A\[(?:{said})\]\n\n", "", text)
