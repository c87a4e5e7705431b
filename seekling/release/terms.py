"""What the licences of ancestors and data forbid a release to do, with the clause that says so.

Known licences are judged by their ids. The text of any other is read for the sentences that matter: outputs that may not train
other models, and uses that are reserved. What is found is quoted; a person decides whether it really applies and says so by
naming another licence in ``--about``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seekling.release.ancestors import Ancestor
from seekling.release.licences import ids_of
from seekling.release.sources import SourceFacts

BASE, TEACHER, ADAPTER = "base model", "teacher", "merged adapter"


@dataclass(frozen=True)
class Clause:
    """A rule of known licences: those ids, for those roles, forbidden (``keep`` None) unless released under an id of ``keep``
    or under a name that begins with ``name``."""

    ids: str
    roles: tuple[str, ...]
    where: str
    says: str
    keep: str | None = None
    name: str | None = None


DERIVED = (BASE, ADAPTER)
CLAUSES = (
    Clause(
        r"LicenseRef-(llama-?2|llama-?3)(-.*)?$",
        (TEACHER,),
        "Llama 2 and 3 Community License, 1.b.v",
        "You will not use the Llama Materials or any output or results of the Llama Materials to improve any other large "
        "language model (excluding Llama or derivative works thereof).",
    ),
    Clause(
        r"LicenseRef-llama-?[\d.]+(-.*)?$",
        DERIVED,
        "Llama Community License, 1.b.i",
        "If you distribute or make available the Llama Materials (or any derivative works thereof), you shall provide a copy "
        "of "
        "this Agreement with any such Llama Materials.",
        keep=r"LicenseRef-llama.*",
    ),
    Clause(
        r"LicenseRef-llama-?(3|3\.\d|4)(-.*)?$",
        (BASE, TEACHER, ADAPTER),
        "Llama 3, 3.1 … 4 Community License, 1.b.i",
        "If you use the Llama Materials or any outputs or results of the Llama Materials to create, train, fine tune, or "
        "otherwise improve an AI model, which is distributed or made available, you shall also include “Llama” at the "
        "beginning "
        "of any such AI model name.",
        keep=r".*",
        name="llama",
    ),
    Clause(
        r"LicenseRef-gemma(-.*)?$",
        (BASE, TEACHER, ADAPTER),
        "Gemma Terms of Use, 3.1",
        "You must include the use restrictions referenced in Section 3.2 as an enforceable provision in any agreement "
        "governing "
        "the use and/or distribution of Model Derivatives.",
        keep=r"LicenseRef-gemma.*",
    ),
    Clause(
        r"LicenseRef-(openai|chatgpt|gpt-?4|anthropic|claude|google-api|gemini)(-.*)?$",
        (TEACHER,),
        "the provider's terms "
        r"of service",
        "You may not use Output to develop models that compete with the provider.",
    ),
    Clause(
        r"LicenseRef-(bigscience-|.*open-?rail|creativeml-).*$",
        DERIVED,
        "RAIL licences, 4 (a)",
        "Use-based restrictions as referenced in paragraph 5 MUST be included as an enforceable provision by You in any type "
        "of "
        "legal agreement governing the use and/or distribution of the Model or Derivatives of the Model.",
        keep=r"LicenseRef-(bigscience-|.*open-?rail|creativeml-).*",
    ),
    Clause(
        r"CC-BY-(NC-)?ND-[\d.]+$",
        DERIVED,
        "Creative Commons BY-ND, 2 (a)(1)(B)",
        "produce and reproduce, but not Share, Adapted Material.",
    ),
    Clause(
        r"CC-BY-NC-SA-[\d.]+$",
        DERIVED,
        "Creative Commons BY-NC-SA, 3 (b)(1)",
        "The Adapter's License You apply must be a Creative Commons license with the same License Elements.",
        keep=r"CC-BY-NC-SA-.*",
    ),
    Clause(
        r"CC-BY-NC-[\d.]+$",
        DERIVED,
        "Creative Commons BY-NC, 2 (a)(1)",
        "… for NonCommercial purposes only.",
        keep=r"CC-BY-NC-.*",
    ),
    Clause(
        r"CC-BY-SA-[\d.]+$",
        DERIVED,
        "Creative Commons BY-SA, 3 (b)(1)",
        "The Adapter's License You apply must be a Creative Commons license with the same License Elements, this version or "
        "later, or a BY-SA Compatible License.",
        keep=r"CC-BY-SA-.*|GPL-3\.0.*",
    ),
    Clause(
        r"A?GPL-[\d.]+(-only|-or-later)?$",
        DERIVED,
        "GNU (Affero) General Public License 3, 5 (c)",
        "You must license the entire work, as a whole, under this License to anyone who comes into possession of a copy.",
        keep=r"A?GPL-.*",
    ),
)

# Sentences that forbid, for licences that nobody has read for us.
NO = r"(?:shall not|may not|must not|will not|can ?not|not (?:be )?(?:use|permitted|allowed)|prohibited|forbidden|agree not to)"
READ = {
    TEACHER: (
        rf"{NO}[^.]*\b(?:outputs?|results?|generat\w+)\b[^.]*\b(?:train|improve|develop|distil|create|compet)\w*",
        rf"\b(?:outputs?|results?)\b[^.]*{NO}[^.]*\b(?:train|improve|develop|distil|create|compet)\w*",
    ),
    BASE: (
        r"non-?commercial",
        r"\bresearch (?:purposes? )?only\b",
        rf"{NO}[^.]{{0,80}}\b(?:distribut|commercial|sublicens)\w*",
    ),
}
READ[ADAPTER] = READ[BASE]


def refusals(
    licence: str, name: str, bases: Iterable[Ancestor], teachers: Iterable[Ancestor], merged: Iterable[Ancestor]
) -> list[str]:
    """Why weights of this name must not be released under this licence, one line for each ancestor and clause."""
    out: list[str] = []
    for role, models in ((BASE, bases), (TEACHER, teachers), (ADAPTER, merged)):
        for model in models:
            if model.own:
                continue
            if model.licence is None:
                out.append(
                    f"the {role} {model.name} states no licence that could be found; if you know it, say so in --about: "
                    f'[models."{model.name}"] licence = "…"'
                )
                continue
            out += _refused(role, model, licence, name)
    return out


def _refused(role: str, model: Ancestor, licence: str, name: str) -> Iterator[str]:
    ids = ids_of(model.licence or "")
    rules = [rule for rule in CLAUSES for spdx in ids if role in rule.roles and re.match(rule.ids, spdx, re.I)]
    for rule in rules:
        if rule.name is not None:
            if not name.lower().startswith(rule.name):
                yield (
                    f"the licence of the {role} {model.name} ({model.licence}) asks for another name: {rule.where}: "
                    f"“{rule.says}” "
                    f"Release it with --name {rule.name.capitalize()}-{name}"
                )
        elif rule.keep is None:
            yield f"the licence of the {role} {model.name} ({model.licence}) forbids this release: {rule.where}: “{rule.says}”"
        elif not all(re.match(rule.keep, mine, re.I) for mine in ids_of(licence)):
            yield (
                f"the licence of the {role} {model.name} ({model.licence}) does not let it go out under {licence}: "
                f"{rule.where}: "
                f"“{rule.says}” Release it under that licence with --licence"
            )
    if not rules and model.text is not None and any(i.startswith("LicenseRef-") for i in ids):
        found = forbidding(model.text, role)
        if found:
            yield (
                f"the licence text of the {role} {model.name} ({model.licence}) seems to forbid this release: “{found}” If "
                f"that is "
                f'not so, name the licence it is in --about: [models."{model.name}"]'
            )
    elif not rules and model.text is None and any(i.startswith("LicenseRef-") for i in ids):
        yield (
            f"the licence of the {role} {model.name} is {model.licence}, whose text is not at hand: give it in --about: "
            f'[models."{model.name}"] licence_file = "FILE"'
        )


def forbidding(text: str, role: str) -> str | None:
    """The first sentence of a licence that forbids what is done with such an ancestor; for a teacher: training on its
    outputs."""
    for sentence in re.split(r"(?<=[.;])\s+", " ".join(text.split())):
        if any(re.search(pattern, sentence, re.I) for pattern in READ[role]):
            return sentence[:400]
    return None


def text_refusals(sources: Iterable[SourceFacts]) -> list[str]:
    """Why the training text itself must not be put into a release."""
    out = []
    for source in sources:
        for name in ids_of(source.licence):
            if "-ND-" in name:
                out.append(
                    f"the text of {source.name} must not be shared in parts: {name}, 2 (a)(1)(B): “produce and reproduce, "
                    f"but not "
                    "Share, Adapted Material”; release without --with-data"
                )
            elif name.startswith("LicenseRef-") and name != "LicenseRef-Public-Domain":
                out.append(
                    f"the text of {source.name} is under {name}, which may not let it be shared; release without --with-data"
                )
    return out
