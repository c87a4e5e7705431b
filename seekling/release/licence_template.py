"""SPDX licence templates: words that must be there, that may, that may differ; and the text to put into a folder.

A template is a list of items: a word, an `Alt` (free words that a pattern allows), an `Opt` (items that may be missing).
Words are what SPDX's matching guidelines leave: no case, no punctuation, no bullets, one spelling of "licence".
"""

import functools
import re
import textwrap
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from seekling.release.licences import LicenceError, templates

_NS = "{http://www.spdx.org/license}"
# equivalentwords.txt of the SPDX list; the second of each pair is read as the first
_EQUAL = {
    other: first
    for first, other in (
        pair.split(",")
        for pair in """
            acknowledgment,acknowledgement analog,analogue analyze,analyse artifact,artefact authorization,authorisation
            authorized,authorised caliber,calibre canceled,cancelled capitalizations,capitalisations catalog,catalogue
            categorize,categorise center,centre emphasized,emphasised favor,favour favorite,favourite fulfill,fulfil
            fulfillment,fulfilment initialize,initialise judgment,judgement labeling,labelling labor,labour license,licence
            licenses,licences licensed,licenced maximize,maximise merchantability,merchantibility modeled,modelled
            modeling,modelling offense,offence optimize,optimise organization,organisation organize,organise
            practice,practise program,programme realize,realise recognize,recognise signaling,signalling
            utilization,utilisation while,whilst willful,wilful willful,wilfull
        """.split()
    )
}
_PHRASES = ((("copyright", "holder"), ("copyright", "owner")), (("copyright", "holders"), ("copyright", "owners")),
            (("per", "cent"), ("percent",)), (("sub", "license"), ("sublicense",)))  # fmt: skip
_JOIN, _AND = "\ue000", "\ue001"  # private characters: inside a word that was joined; for "&"
_WORD = re.compile(rf"[\u3400-\u9fff{_AND}]|(?:[^\W_\u3400-\u9fff]|{_JOIN})+")  # a Chinese character is a word
_JOINED = re.compile(r"(?<=\w)[-\u2010-\u2015]\s*(?=\w)|(?<=\w)['\u2018\u2019](?=\w)")
BULLET = r"((\d{1,2}|[ivx]{1,4}|[a-z])\b *){0,3}"


class Word(NamedTuple):
    """A word as it is compared, and where it stands in its text."""

    word: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text in their compared form."""
    out: list[Word] = []
    plain = re.sub(r"https?://", lambda m: " " * len(m[0]), text).replace("\u00a9", "c").replace("&", _AND)
    plain = _JOINED.sub(lambda m: _JOIN * len(m[0]), plain)  # positions stay those of the text
    for match in _WORD.finditer(plain):
        word = unicodedata.normalize("NFKC", match[0].replace(_JOIN, "")).casefold()
        if word:
            out.append(Word("and" if word == _AND else _EQUAL.get(word, word), match.start(), match.end()))
    return _phrases(out)


def _phrases(words: list[Word]) -> list[Word]:
    out: list[Word] = []
    for word in words:
        out.append(word)
        for wrong, right in _PHRASES:
            if tuple(w.word for w in out[-len(wrong) :]) == wrong:
                first = out[-len(wrong)]
                del out[-len(wrong) :]
                out += [Word(w, first.start, word.end) for w in right]
    return out


@dataclass(frozen=True)
class Alt:
    """Words that may differ: those that ``pattern`` allows; ``usual`` are the licence's own."""

    pattern: str
    usual: tuple[str, ...]


@dataclass(frozen=True)
class Opt:
    """Items that may be missing."""

    items: "tuple[Item, ...]"


Item = str | Alt | Opt


@functools.cache
def template(id: str) -> tuple[Item, ...]:
    """The template of an SPDX id. Raises LicenceError where there is none (`licences.templates` lists them)."""
    return tuple(_items(_body(id)))


def _body(id: str) -> ET.Element:
    if id not in templates():
        raise LicenceError(f"there is no template of {id}; those there are: {', '.join(templates())}")
    raw = resources.files("seekling.release.spdx").joinpath(f"{id}.xml").read_bytes()
    body = ET.fromstring(raw).find(f".//{_NS}text")
    assert body is not None
    return body


def _items(element: ET.Element) -> list[Item]:
    out: list[Item] = [w.word for w in words_of(element.text or "")]
    for child in element:
        out += _child(child)
        out += [w.word for w in words_of(child.tail or "")]
    return out


def _child(child: ET.Element) -> list[Item]:
    name = child.tag.removeprefix(_NS)
    if not isinstance(child.tag, str) or name in ("copyrightText", "notes"):  # notices are taken out of texts as well
        return []
    if name == "bullet":
        return [Alt(BULLET, tuple(w.word for w in words_of(child.text or "")))]
    if name == "alt":
        return [Alt(child.get("match", ".*"), tuple(w.word for w in words_of("".join(child.itertext()))))]
    inner = _items(child)
    return [Opt(tuple(inner))] if name in ("optional", "titleText") and inner else inner


# ---- the text to ship ------------------------------------------------------------------------------------------------

_RARE = ("on", "(including the next paragraph)")  # of MIT; hardly any text has them
_BLOCKS = ("p", "list", "item", "titleText", "copyrightText", "optional", "standardLicenseHeader", "text")


def render(id: str, holder: str = "", year: str | int = "") -> str:
    """A licence as plain text, wrapped; ``holder`` and ``year`` fill the copyright line of those that have one.

    Raises:
        LicenceError: this SPDX id has no template here.
    """
    lines: list[str] = []

    def flush(parts: list[str], indent: int, bullet: str = "") -> None:
        text = "".join(parts)
        parts.clear()
        for piece in text.split("\n"):
            piece = " ".join(piece.split())
            if not piece:
                continue
            lead = " " * indent + (bullet + " " if bullet else "")
            lines.extend(
                textwrap.wrap(
                    piece,
                    78,
                    initial_indent=lead,
                    subsequent_indent=" " * len(lead),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
            bullet = ""

    def block(element: ET.Element, indent: int) -> None:
        parts: list[str] = []
        bullet = ""

        def walk(node: ET.Element) -> None:
            nonlocal bullet
            parts.append(" ".join((node.text or "").split("\n")))
            for child in node:
                name = child.tag.removeprefix(_NS) if isinstance(child.tag, str) else "comment"
                if name == "bullet":
                    bullet = (child.text or "").strip()
                elif name == "br":
                    parts.append("\n")
                elif name == "optional" and (child.text or "").strip() in _RARE:
                    pass
                elif name == "alt" or (name == "optional" and not len(child)):
                    parts.append(" ".join("".join(child.itertext()).split("\n")))
                elif name in _BLOCKS:
                    flush(parts, indent, bullet)
                    bullet = ""
                    deeper = indent + (3 if name == "item" else 0)
                    block(child, deeper)
                    if name in ("p", "titleText", "copyrightText", "item") and lines and lines[-1]:
                        lines.append("")
                parts.append(" ".join((child.tail or "").split("\n")))

        walk(element)
        flush(parts, indent, bullet)

    block(_body(id), 0)
    text = "\n".join(lines).strip() + "\n"
    if holder:
        notice = f"Copyright (c) {year} {holder}".replace("  ", " ")
        text = re.sub(
            r"^(Copyright \(c\) (<year>|\[year\]).*|<copyright notice>)$", lambda m: notice, text, count=1, flags=re.MULTILINE
        )
    return re.sub(r"\n{3,}", "\n\n", text)
