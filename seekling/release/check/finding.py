"""What a check found: one line each with its verdict, where it was seen and what to do; and the verdicts made of them."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PASS, FAIL, PERSON, NOTE = "pass", "fail", "person", "note"
WORDS = {PASS: "pass", FAIL: "FAIL", PERSON: "needs a person", NOTE: "note"}
AREAS = {
    "presence": "Components",
    "licence": "Licences",
    "data": "Data information",
    "code": "Code",
    "weights": "Parameters",
    "safety": "Safety of the files",
    "integrity": "Hashes and signatures",
    "card": "Card and metadata",
    "rules": "Statements that laws ask for",
    "smoke": "Reproduction",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        id: stable name for programs, such as "licence.text".
        verdict: "pass", "fail", "person" (only a person can tell), or "note" (worth knowing, changes nothing).
        text: one line.
        where: the file (and line) it was seen in.
        shown: further lines, such as the words that a licence adds.
        remedy: what to do about it.
    """

    id: str
    verdict: str
    text: str
    where: str = ""
    shown: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def area(self) -> str:
        return self.id.split(".")[0]


def worst(verdicts: Iterable[str]) -> str:
    """Fail before needs-a-person before pass; notes do not count."""
    found = set(verdicts)
    return FAIL if FAIL in found else PERSON if PERSON in found else PASS


@dataclass(frozen=True)
class Element:
    """An element of the Open Source AI Definition: its verdict and what it rests on."""

    name: str
    verdict: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Component:
    """A component of the Model Openness Framework as it was found.

    Attributes:
        key, number, name, kind: as in `layout.COMPONENTS`.
        state: "included" (there, under an open licence), "unsuited" (open, but no licence for this kind of thing),
            "unlicensed", "closed" (under terms that are not open), "linked" (said to be elsewhere, terms unknown), "missing".
        licence: its licence as stated.
        where: the files or addresses.
        basis: "here" (seen in the folder), "declared" (a manifest says so), "linked" (the card points there).
    """

    key: str
    number: int
    name: str
    kind: str
    state: str
    licence: str | None = None
    where: tuple[str, ...] = ()
    basis: str = "here"


@dataclass
class Report:
    """All that a check found. ``overall``: fail, person or pass.

    Attributes:
        target: what was checked.
        osaid: the three elements of the Open Source AI Definition 1.0.
        mof_class: 1, 2, 3 or 0 of the Model Openness Framework; ``mof_possible`` what it would be if every linked or unlicensed
            piece were open.
        lacking: class -> what keeps the release from it.
        unchecked: what could not be looked at, in words.
    """

    target: str
    kind: str = "folder"
    osaid: list[Element] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    mof_class: int = 0
    mof_possible: int = 0
    lacking: dict[int, list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def osaid_verdict(self) -> str:
        return worst(e.verdict for e in self.osaid)

    @property
    def overall(self) -> str:
        """Of the definition's elements and of every finding together."""
        return worst([self.osaid_verdict, *(f.verdict for f in self.findings)])

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "target": self.target,
            "kind": self.kind,
            "verdict": self.overall,
            "osaid": {"version": "1.0", "verdict": self.osaid_verdict, "elements": [dataclasses.asdict(e) for e in self.osaid]},
            "mof": {
                "version": "1.0",
                "class": self.mof_class,
                "possible_class": self.mof_possible,
                "components": [dataclasses.asdict(c) for c in self.components],
                "lacking": {str(level): lines for level, lines in self.lacking.items()},
            },
            "findings": [{**dataclasses.asdict(f), "area": f.area} for f in self.findings],
            "unchecked": self.unchecked,
        }
