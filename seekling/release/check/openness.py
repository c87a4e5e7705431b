"""The two verdicts of openness: the Model Openness Framework's class, and the Open Source AI Definition's three elements.

Class rules are those of the Model Openness Tool (lfai/model_openness_tool): a component counts when its licence is open, with a
warning when it is no licence for that kind of thing; a class needs the classes below it; a research paper stands in for the
technical report. Two rules of the framework's text are applied that the tool leaves to people: evaluation results and the data
card may stand inside the model card, which counts when the card has the section.
"""

from collections.abc import Iterable, Iterator

from seekling.release.check.declared import LINKED, Claim, Declared
from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Component, Element, Finding
from seekling.release.check.terms import Ruling, Terms, read_expression
from seekling.release.layout import COMPONENTS
from seekling.release.licences import is_open, is_osi_approved, suits

CLASSES = {1: "Class I, Open Science", 2: "Class II, Open Tooling", 3: "Class III, Open Model", 0: "no class"}
COUNTED = ("included", "unsuited")


def components(told: Declared, terms: Terms) -> list[Component]:
    """Every component of the framework in its order, with what was found of it."""
    claims: dict[str, Claim] = {}
    for claim in told.claims:
        claims.setdefault(claim.key, claim)
    out = []
    for c in COMPONENTS:
        found = claims.get(c.key)
        if found is None:
            out.append(Component(c.key, c.number, c.name, c.kind, "missing"))
            continue
        state, licence = _state(found, c.kind, told, terms)
        out.append(Component(c.key, c.number, c.name, c.kind, state, licence, found.where, found.basis))
    return out


def _state(claim: Claim, kind: str, told: Declared, terms: Terms) -> tuple[str, str | None]:
    stated = claim.licence or told.licences.get(kind) or told.licences.get("distribution")
    if claim.licence and claim.licence.lower() in ("unlicensed", "none"):
        return "unlicensed", None
    if stated is None and claim.basis == LINKED:
        return "linked", None
    weights = claim.key in ("model-parameters", "intermediate-parameters")
    ruling = terms.ruling("data" if weights else "code" if kind == "code" else "document", stated)
    if ruling.state == "none":
        return "unlicensed", None
    if ruling.state in ("closed", "doubtful"):
        return "closed", ruling.name
    found = read_expression(ruling.name)
    fits = found is not None and found.holds(lambda id: is_open(id) and suits(id, kind))
    return "included" if fits else "unsuited", ruling.name


def mof_class(found: Iterable[Component]) -> tuple[int, int, dict[int, list[str]]]:
    """The class (3, 2, 1; 0 is none), what it would be if linked and unlicensed pieces were open, and what each class lacks."""
    by_key = {c.key: c for c in found}

    def lacking(level: int, counted: tuple[str, ...]) -> list[str]:
        out = []
        for c in COMPONENTS:
            if c.optional or c.first_class != level or by_key[c.key].state in counted:
                continue
            if c.key == "technical-report" and by_key["research-paper"].state in counted:
                continue
            out.append(_why(by_key[c.key]))
        return out

    def reached(counted: tuple[str, ...]) -> int:
        best = 0
        for level in (3, 2, 1):
            if lacking(level, counted):
                break
            best = level
        return best

    lines = {level: lacking(level, COUNTED) for level in (3, 2, 1)}
    return reached(COUNTED), reached((*COUNTED, "linked", "unlicensed")), lines


def _why(c: Component) -> str:
    why = {
        "missing": "missing",
        "linked": f"only linked ({', '.join(c.where[:2])}), its licence is not stated here",
        "unlicensed": "no licence",
        "closed": f"terms that are not open: {c.licence}",
    }
    return f"{c.name}: {why[c.state]}"


def unsuited_findings(found: Iterable[Component]) -> Iterator[Finding]:
    """A note for components under an open licence that was made for other things."""
    odd = [c for c in found if c.state == "unsuited"]
    if odd:
        names = "; ".join(f"{c.name} ({c.kind}) under {c.licence}" for c in odd)
        remedy = "CC-BY-4.0 suits documents, CDLA-Permissive-2.0 data, OpenMDW-1.0 everything of a model"
        yield Finding("licence.suits", NOTE, f"open, but no licence for this kind of thing: {names}", remedy=remedy)


# ---- Open Source AI Definition ---------------------------------------------------------------------------------------


def elements(found: list[Component], terms: Terms, data: tuple[str, list[str]], told: Declared) -> list[Element]:
    """Data Information, Code and Parameters, each with its verdict and evidence.

    Args:
        data: what the data manifest proved: "pass", "fail", "person" or "" (there is none), with lines.
    """
    by_key = {c.key: c for c in found}
    return [_data_information(by_key, *data), _code(by_key), _parameters(by_key, terms, told)]


def _data_information(by_key: dict[str, Component], verdict: str, lines: list[str]) -> Element:
    name = "Data Information"
    if verdict:
        return Element(name, verdict, tuple(lines))
    data, code, card = (by_key[k] for k in ("datasets", "preprocessing-code", "data-card"))
    if all(c.state in COUNTED for c in (data, code, card)):
        evidence = tuple(f"{c.name}: {c.licence}, {', '.join(c.where[:2])}" for c in (data, code, card))
        return Element(name, PASS, (*evidence, "the data themselves and the code that made them are released"))
    known = [c for c in (data, card) if c.state != "missing"]
    if known:
        shown = [f"{c.name}: {c.state}, {', '.join(c.where[:3])}" for c in (data, card, code)]
        return Element(
            name, PERSON, (*shown, "is this enough to build a substantially equivalent system? A person must read it")
        )
    return Element(name, FAIL, ("no description of the training data, no list of data sets, no data card",))


_NEEDED = ("model-architecture", "training-code", "preprocessing-code", "evaluation-code", "inference-code")


def _code(by_key: dict[str, Component]) -> Element:
    lines, verdicts = [], []
    for key in _NEEDED:
        c = by_key[key]
        found = read_expression(c.licence)
        where = f", {', '.join(c.where[:2])}" if c.where else ""
        if c.state in COUNTED and found is not None and found.holds(is_osi_approved):
            verdicts.append(PASS)
            lines.append(f"{c.name}: {c.licence}{where}")
        elif c.state in COUNTED:
            verdicts.append(PERSON)
            lines.append(f"{c.name}: {c.licence} is open but not approved by OSI{where}")
        elif c.state == "linked":
            verdicts.append(PERSON)
            lines.append(f"{c.name}: linked, not looked at{where}")
        else:
            verdicts.append(FAIL)
            lines.append(_why(c))
    verdict = FAIL if FAIL in verdicts else PERSON if PERSON in verdicts else PASS
    return Element("Code", verdict, tuple(lines))


def _parameters(by_key: dict[str, Component], terms: Terms, told: Declared) -> Element:
    weights = by_key["model-parameters"]
    if weights.state == "missing":
        return Element("Parameters", FAIL, ("there are no weights",))
    claim = next(c for c in told.claims if c.key == "model-parameters")
    stated = claim.licence or told.licences.get("data") or told.licences.get("distribution")
    ruling = terms.ruling("data", stated)
    where = ", ".join(weights.where[:2])
    return Element("Parameters", *_judged(ruling, where))


def _judged(ruling: Ruling, where: str) -> tuple[str, tuple[str, ...]]:
    if ruling.osi:
        return PASS, (f"{ruling.name}, approved by OSI: {where}",)
    if ruling.state == "open":
        return PERSON, (f"{ruling.name} is open but not approved by OSI, who calls for OSI-approved terms: {where}",)
    if ruling.state == "none":
        return FAIL, (f"no licence is stated for the weights: {where}",)
    if ruling.state == "doubtful":
        return PERSON, (f"a person must read the terms: {ruling.name}", *ruling.why[:6])
    return FAIL, (f"{ruling.name}: no OSI-approved terms", *ruling.why[:6])
