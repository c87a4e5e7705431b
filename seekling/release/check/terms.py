"""Under which terms a folder is: what its card, manifest, licence files and weights say, and whether they agree.

A licence file is believed after its text was compared with SPDX's template; an id in a card is only a claim.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding
from seekling.release.check.place import Place, Trouble, texts
from seekling.release.licence_match import BINDING, Match, identify
from seekling.release.licence_template import words_of
from seekling.release.licences import (
    PUBLIC_DOMAIN,
    Expression,
    LicenceError,
    canonical,
    expression,
    is_open,
    is_osi_approved,
    known,
    templates,
    text_of,
)

_FILE = re.compile(r"(licen[sc]e|copying|unlicense|model[-_]licen[sc]e|licen[sc]e[-_]model)([-_. ].*)?", re.IGNORECASE)
_OF_MODEL = re.compile(r"(model|weight)", re.IGNORECASE)
_OF_CODE = re.compile(r"code", re.IGNORECASE)
# Phrases by which a licence's own text shows that it is not open; with the rule of the Open Source Definition each breaks.
LIMITS = (
    (r"non[- ]?commercial (use|purposes?)|for research purposes only|academic use only", "fields of use are shut out (OSD 6)"),
    (r"\d{1,4} ?(million|billion)?[^.\n]{0,30}monthly active users|annual revenue|\d{1,4} million (us )?dollars",
     "large users need another licence (OSD 5)"),
    (r"acceptable use policy|use[- ]based restrictions?|prohibited uses?|you (agree|will) not (to )?use",
     "uses are forbidden (OSD 6)"),
    (r"prominently display|\bbuilt with\b", "a display is demanded of products (OSD 10)"),
    (r"improve any other|train(ing)? (of )?(any )?other (large )?(language|ai) models?",
     "outputs may not train other models (OSD 6)"),
    (r"excluded territor|european union|not (licensed|available) (to|in)", "people or places are shut out (OSD 5)"),
    (r"written (consent|permission|authori[sz]ation)[^.\n]{0,60}(distribut|commercial)",
     "passing on needs a permission (OSD 1)"),
)  # fmt: skip
MOST_TEXTS = 80
_RULER = re.compile(r"^[-=]{20,}\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Said:
    """A licence as one place of the folder states it: ``text`` as written, read as an ``expression`` where SPDX knows it."""

    where: str
    text: str
    expression: Expression | None


@dataclass(frozen=True)
class Text:
    """A licence file and what its text proved to be."""

    path: str
    match: Match
    limits: tuple[str, ...] = ()

    @property
    def binds(self) -> bool:
        """Whether what was added to a known licence sounds like an obligation."""
        return any(_binds(change.added) for change in self.match.changes)


@dataclass
class Terms:
    """The licences of a folder.

    Attributes:
        said: every statement; texts: every licence file.
        findings: about texts and contradictions.
    """

    said: list[Said] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def text_for(self, kind: str) -> Text | None:
        """The licence file at the top that rules a kind of thing: the one named after it, else the plain one."""
        tops = [t for t in self.texts if "/" not in t.path]
        wanted = _OF_MODEL if kind == "data" else _OF_CODE if kind == "code" else None
        named = [t for t in tops if wanted and wanted.search(t.path)]
        plain = [t for t in tops if not _OF_MODEL.search(t.path) and not _OF_CODE.search(t.path)]
        return next(iter(named or plain), None)

    def stated(self) -> Said | None:
        """The licence of the folder as a whole: the card's, else what another place says."""
        return next((s for s in self.said if s.text), None)

    def ruling(self, kind: str, claimed: str | None = None) -> "Ruling":
        """What holds for a kind of thing ("data" are weights): ``claimed`` by a manifest, else the folder's own, as far as the
        licence text bears it out."""
        said = self.stated()
        text = self.text_for(kind)
        words = claimed or (said.text if said else None)
        found = read_expression(words)
        if text is not None and claimed is None and _names_file(text, kind, found):
            return _of_text(text, words)
        if found is None and text is not None and (words is None or words.lower() == "other"):
            return _of_text(text, words)
        if found is None:
            return Ruling(words, None, "none" if words is None else "closed", ())
        if text is not None and (kind == "data" or claimed is None) and not _bears_out(text, found):
            return _of_text(text, words)  # a label does not make another text of it
        return Ruling(words, found, "open" if found.holds(is_open) else "closed", ())


@dataclass(frozen=True)
class Ruling:
    """Terms that hold. ``state``: "open", "closed", "doubtful" (open but for words nobody has read) or "none"."""

    said: str | None
    expression: Expression | None
    state: str
    why: tuple[str, ...]

    @property
    def osi(self) -> bool:
        return self.state == "open" and self.expression is not None and self.expression.holds(is_osi_approved)

    @property
    def name(self) -> str | None:
        return str(self.expression) if self.expression is not None else self.said


def read_expression(text: str | None) -> Expression | None:
    """The SPDX expression a text means; None for names that SPDX does not know."""
    if not text:
        return None
    try:
        return expression(text)
    except LicenceError:
        return None


def _names_file(text: Text, kind: str, found: Expression | None) -> bool:
    """Whether a licence file speaks for this kind of thing by its name, or no id was stated that it could back."""
    own = _OF_MODEL if kind == "data" else _OF_CODE if kind == "code" else None
    return bool(own and own.search(text.path)) or found is None


def _bears_out(text: Text, found: Expression) -> bool:
    """Whether a licence file is one of those that a label names, unchanged; one that nobody could compare says nothing."""
    if text.match.id is None:
        return not text.limits
    return text.match.exact and any(_family(id) == _family(text.match.id) for id in found.ids())


def _family(id: str) -> str:
    """An id without "-only" and "-or-later", which share one text."""
    return id.removesuffix("-only").removesuffix("-or-later")


def _of_text(text: Text, said: str | None) -> Ruling:
    match = text.match
    if match.id is not None and match.exact:
        found = Expression("id", match.id)
        return Ruling(said or match.id, found, "open" if is_open(match.id) else "closed", ())
    if match.id is not None and match.changes:
        why = tuple(f"{text.path}: {change}" for change in match.changes)
        return Ruling(said or f"{match.id}, changed", None, "closed" if text.binds or text.limits else "doubtful", why)
    return Ruling(said or f"terms of {text.path}", None, "closed" if text.limits else "doubtful", text.limits)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_terms(place: Place, matter: dict[str, Any], manifest: dict[str, Any] | None, metadata: dict[str, str]) -> Terms:
    """Everything a folder says about licences.

    Args:
        matter: front matter of the card; manifest: release.json, None where there is none.
        metadata: licence by weight file that carries one in its header.
    """
    terms = Terms()
    licence = matter.get("license")
    stated = " OR ".join(texts(licence)) if isinstance(licence, list) else licence
    if isinstance(stated, str) and stated.strip():
        named = matter.get("license_name")
        if stated.strip().lower() == "other" and isinstance(named, str) and named.strip():
            stated = named
        terms.said.append(Said("README.md", stated.strip(), read_expression(stated)))
    for where, text in metadata.items():
        terms.said.append(Said(where, text, read_expression(text)))
    weights = (manifest or {}).get("licences")
    if isinstance(weights, dict) and isinstance(weights.get("weights"), str):
        terms.said.append(Said("release.json", weights["weights"], read_expression(weights["weights"])))
    if not terms.said and isinstance(place.remote.get("licence"), str):
        terms.said.append(Said(place.title, place.remote["licence"], read_expression(place.remote["licence"])))
    found = [
        path
        for path in place.matching(r"[^/]+|LICENSES/[^/]+|licenses/[^/]+")
        if (_FILE.fullmatch(path) and not path.endswith((".py", ".json"))) or path.lower().startswith("licenses/")
    ]
    for path in found[:MOST_TEXTS]:
        terms.texts += _read_text(place, path, terms.findings)
    terms.findings += [*_text_findings(terms), *_agreement(terms)]
    return terms


def _read_text(place: Place, path: str, findings: list[Finding]) -> Iterator[Text]:
    if path in place.absent:
        return
    try:
        text = place.text(path, 512 << 10)
    except Trouble as trouble:
        findings.append(Finding("licence.unreadable", FAIL, str(trouble), path))
        return
    match = identify(text)
    parts = [identify(part) for part in _RULER.split(text)[:6]]
    if not match.exact and len(parts) > 1 and all(part.exact for part in parts):  # several licences, one after the other
        for part in parts:
            yield Text(path, part)
        return
    if not match.exact and (id := _by_name(path, text)):
        match = Match(id, True, (), 1.0)
    limits = () if match.exact else tuple(limits_in(text, path))
    yield Text(path, match, limits)


def _by_name(path: str, text: str) -> str | None:
    """The licence that a file is named after, where its whole text is at hand, no template, and the words are the same."""
    id = canonical(path.rsplit("/", 1)[-1].removesuffix(".txt"))
    if id is None or id not in known() or id in templates():
        return None
    try:
        same = [w.word for w in words_of(text_of(id))] == [w.word for w in words_of(text)]
    except LicenceError:
        return None
    return id if same else None


def limits_in(text: str, path: str) -> Iterator[str]:
    """Passages of a licence that break the Open Source Definition, with their lines."""
    for pattern, what in LIMITS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            line = text.count("\n", 0, found.start()) + 1
            around = " ".join(text[max(0, found.start() - 60) : found.end() + 60].split())
            yield f"{path} line {line}: {what}: “… {around} …”"


def _binds(text: str) -> bool:
    return any(word in BINDING for word in re.findall(r"[a-z]+", text.lower()))


def _text_findings(terms: Terms) -> Iterator[Finding]:
    for text in terms.texts:
        match = text.match
        if match.exact:
            yield Finding("licence.text", PASS, f"{text.path} is {match.id}, word for word as SPDX has it", text.path)
        elif match.id is not None and match.changes:
            added = sum(bool(c.added) for c in match.changes)
            what = (
                f"{text.path} is {match.id} with {_count(added, 'passage')} added"
                if added
                else f"{text.path} is {match.id} with words taken out"
            )
            removed = sum(bool(c.removed) for c in match.changes)
            what += f" and {removed} changed or taken out" if added and removed else ""
            verdict = FAIL if text.binds or text.limits or removed > added else PERSON
            yield Finding(
                "licence.text", verdict, what, text.path, tuple(map(str, match.changes[:40])),
                "read the difference: a licence with another clause is another licence",
            )  # fmt: skip
        elif canonical(text.path.rsplit("/", 1)[-1].removesuffix(".txt")) == PUBLIC_DOMAIN and not text.limits:
            yield Finding("licence.text", PASS, f"{text.path} states the public domain", text.path)
        else:
            verdict = FAIL if text.limits and "/" not in text.path else PERSON
            what = f"{text.path} is none of the {len(templates())} licences whose text is known here"
            yield Finding("licence.text", verdict, what, text.path, text.limits, "a person must read it")


def _agreement(terms: Terms) -> Iterator[Finding]:
    """Card, manifest, metadata and file must name one licence."""
    for said in terms.said:
        if said.expression is None and said.text.lower() not in ("other", "unknown"):
            yield Finding(
                "licence.id", NOTE, f"{said.where} states the licence {said.text!r}, which is no SPDX id", said.where,
                remedy="an SPDX id and the licence's text let others see what they may do",
            )  # fmt: skip
    read = [s for s in terms.said if s.expression is not None]
    for one, other in itertools.pairwise(read):
        if set(one.expression.ids()) != set(other.expression.ids()):  # type: ignore[union-attr]
            text = f"{one.where} says {one.expression}, {other.where} says {other.expression}"
            yield Finding("licence.agree", FAIL, text, other.where, remedy="state one licence everywhere")
    weights = terms.text_for("data")
    if read and weights is not None and weights.match.id is not None:
        ids = set(read[0].expression.ids())  # type: ignore[union-attr]
        if not any(_family(id) == _family(weights.match.id) for id in ids):
            text = f"{read[0].where} says {read[0].expression}, {weights.path} is {weights.match.id}"
            yield Finding("licence.agree", FAIL, text, weights.path, remedy="state one licence everywhere")
        elif weights.match.exact:
            yield Finding(
                "licence.agree", PASS, f"{read[0].where} and {weights.path} agree on {read[0].expression}", weights.path
            )
    if not terms.said and not terms.texts:
        yield Finding(
            "licence.none",
            FAIL,
            "no licence is stated anywhere: nobody may use it",
            remedy="add license: to the card and a LICENSE file",
        )
    elif terms.said and not [t for t in terms.texts if "/" not in t.path]:
        yield Finding(
            "licence.file",
            NOTE,
            "the licence's text is not in the folder",
            remedy="most licences ask that their text goes along",
        )


def _count(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")
