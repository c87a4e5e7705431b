"""Personal data in a text: patterns that find candidates, checksums that throw out what only looks like one.

Sources: ISO/IEC 7812 (Luhn), ISO 13616 (IBAN, mod 97), GB 11643 and ISO 7064 MOD 11-2 (resident identity card).
"""

import datetime
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """Something at ``text[start:end]``."""

    kind: str
    start: int
    end: int


def luhn(digits: str) -> bool:
    """The check digit of payment cards."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


# What a card's number begins with, and how long it then is (ISO/IEC 7812 issuer ranges).
ISSUERS = (
    ("4", (13, 16, 19)),
    ("5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)", (16,)),
    ("3[47]", (15,)),
    ("30[0-5]|36|3[89]", (14,)),
    ("35(?:2[89]|[3-8])|6(?:011|4[4-9]|5)|62|81", (16, 17, 18, 19)),
)


def _card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    known = any(len(digits) in lengths and re.match(start, digits) for start, lengths in ISSUERS)
    return known and len(set(digits)) > 1 and luhn(digits)


# Lengths of the countries' IBANs (ISO 13616 registry).
IBAN_LENGTHS = {
    code[:2]: int(code[2:])
    for code in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 "
        "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 "
        "MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 "
        "SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
    ).split()
}


def _iban(text: str) -> bool:
    code = re.sub(r"[\s-]", "", text).upper()
    if IBAN_LENGTHS.get(code[:2]) != len(code):
        return False
    return int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


def identity_digit(first17: str) -> str:
    """The check digit of a resident identity card's first 17 digits."""
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(first17))
    return "10X98765432"[total % 11]


def _cn_id(text: str) -> bool:
    number = text.upper()
    try:
        born = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1880 <= born.year <= 2100 and identity_digit(number[:17]) == number[17]


def _ssn(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


Check = Callable[[str], bool]
NO_DIGIT_BEFORE, NO_DIGIT_AFTER = r"(?<![\w.])", r"(?!\w|\.\d)"
KINDS: dict[str, tuple[re.Pattern[str], Check | None]] = {
    "secret": (
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|xox[abprs]-[A-Za-z0-9-]{10,})"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",
            re.ASCII,
        ),
        None,
    ),
    "email": (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", re.ASCII), None),
    "iban": (
        re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?!\w)", re.ASCII),
        _iban,
    ),
    "cn_id": (re.compile(NO_DIGIT_BEFORE + r"[1-9]\d{16}[\dXx](?!\w)", re.ASCII), _cn_id),
    "card": (re.compile(NO_DIGIT_BEFORE + r"\d(?:[ -]?\d){12,18}" + NO_DIGIT_AFTER, re.ASCII), _card),
    "ssn": (re.compile(NO_DIGIT_BEFORE + r"\d{3}-\d{2}-\d{4}" + NO_DIGIT_AFTER, re.ASCII), _ssn),
    "phone": (
        re.compile(
            r"(?<![\w.+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,13}"
            r"|(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}"
            r"|\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})" + NO_DIGIT_AFTER,
            re.ASCII,
        ),
        _phone,
    ),
    "ipv4": (
        re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d)"),
        lambda text: not text.startswith(("127.", "0.", "10.", "192.168.")),
    ),
}
LONGEST = 90  # characters: nothing of these is longer but e-mail addresses nobody has
WIDE = str.maketrans("０１２３４５６７８９＠．－＋　", "0123456789@.-+ ")  # as long as what it replaces


def find(text: str, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Found]:
    """Everything of these kinds, in order and without overlaps (the kind named first in `KINDS` wins)."""
    text = text.translate(WIDE)
    taken: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            taken += [f for f in _of(kind, text) if not any(f.start < o.end and o.start < f.end for o in taken)]
    return sorted(taken, key=lambda found: found.start)


def _of(kind: str, text: str) -> Iterator[Found]:
    pattern, check = KINDS[kind]
    at = 0
    while match := pattern.search(text, at):
        at = match.end()
        if check is None or check(match[0]):
            yield Found(kind, match.start(), match.end())
            continue
        shorter = _shorter(kind, match[0], check)
        if shorter:
            at = match.start() + shorter
            yield Found(kind, match.start(), at)


def _shorter(kind: str, text: str, check: Check) -> int:
    """Length of a beginning that passes: a number may run into the next word (``4111… 12`` or an IBAN and a word)."""
    if kind not in ("card", "iban"):
        return 0
    ends = [m.start() for m in re.finditer(r"[ -]", text)]
    return next((end for end in reversed(ends) if check(text[:end])), 0)
