"""Whether a text is the licence it claims to be: SPDX matching, and what was added or taken out where it is not.

A title, a front matter id and a hub's guess prove nothing: "MIT" with one more sentence is another licence. A text is compared
word by word with the template; what the template leaves free (names, bullets, optional parts) may differ, copyright lines and
titles are passed over, and every other difference is shown.
"""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from seekling.release.licence_template import BULLET, Alt, Item, Opt, Word, template, words_of
from seekling.release.licences import templates

MOST_CHARACTERS = 200_000
MOST_FREE = 40  # words that one free place may hold; more would be room for a clause
CLOSE = 0.5  # share of common words below which a text is no version of a licence

_NOTICE = re.compile(r"^\W*(copyright|\(c\)|©)\W", re.IGNORECASE)
_OWNER = re.compile(r"^\W*(Copyright|COPYRIGHT)\W+(by )?[A-Z]")
_YEAR = re.compile(r"\b(19|20)\d\d\b|\(c\)|©|[\[<{](yyyy|year)", re.IGNORECASE)
# Words of obligations: where one stands there is more than a name or a heading.
BINDING = frozenset(
    "must shall not only unless require requires required prohibit prohibits prohibited permission provided commercial "
    "noncommercial agree agrees may cannot".split()
)
_BINDS = re.compile(rf"\b({'|'.join(sorted(BINDING - {'may'}))}|may not)\b", re.IGNORECASE)
_RESERVED = re.compile(r"^\W*all rights reserved\W*$", re.IGNORECASE)
_TITLE_WORDS, _NOTICE_WORDS = 12, 16


@dataclass(frozen=True)
class Change:
    """A difference from the template: ``added`` text as the file has it, ``removed`` words the licence has; where it stands."""

    line: int
    added: str
    removed: str
    before: str

    def __str__(self) -> str:
        parts = [f"+ {self.added}"] if self.added else []
        parts += [f"- {self.removed}"] if self.removed else []
        return f"line {self.line}: " + " / ".join(parts)


@dataclass(frozen=True)
class Match:
    """What a text is.

    Attributes:
        id: the licence it is, or comes nearest to; None where it resembles none that has a template here.
        exact: whether it is that licence.
        changes: what differs where it is not.
        share: of words in common with the licence, 0 to 1.
    """

    id: str | None
    exact: bool
    changes: tuple[Change, ...] = ()
    share: float = 0.0


def identify(text: str) -> Match:
    """The licence that a text is, or the nearest one with the differences."""
    if len(text) > MOST_CHARACTERS:
        return Match(None, False)
    found = read(text)
    if not found.words:
        return Match(None, False)
    have = found.counted()
    likeness = sorted(((_likeness(have, id), id) for id in templates()), reverse=True)
    for share, id in likeness[:6]:
        if share > CLOSE and follows(template(id), found.plain, found.passed):
            return Match(id, True, (), share)
    share, id = likeness[0]
    if share <= CLOSE:
        return Match(None, False, (), share)
    return compare(text, id)


def compare(text: str, id: str) -> Match:
    """A text against one licence. Raises LicenceError for an id without a template."""
    items = template(id)
    if len(text) > MOST_CHARACTERS:
        return Match(id, False)
    found = read(text)
    share = _likeness(found.counted(), id)
    if follows(items, found.plain, found.passed):
        return Match(id, True, (), share)
    return Match(id, False, tuple(_changes(items, found, text)) if share > CLOSE else (), share)


# ---- what of a text counts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """A licence file: its words, and which runs of them (first -> one past the last) are a title or a copyright notice."""

    words: list[Word]
    passed: dict[int, int]

    @property
    def plain(self) -> list[str]:
        return [w.word for w in self.words]

    def counted(self) -> Counter[str]:
        """How often each word stands outside titles and notices."""
        free = {k for first, end in self.passed.items() for k in range(first, end)}
        return Counter(w.word for k, w in enumerate(self.words) if k not in free)


def read(text: str) -> Read:
    """Take a licence file apart."""
    words = words_of(text)
    passed: dict[int, int] = {}
    position, at, top = 0, 0, True
    for line in text.splitlines(keepends=True):
        position += len(line)
        first = at
        while at < len(words) and words[at].start < position:
            at += 1
        if at == first:
            continue
        notice, title = _is_notice(line), top and _is_title(line)
        top = top and (notice or title)
        if notice or title:
            passed[first] = at
    return Read(words, passed)


def _is_notice(line: str) -> bool:
    if _RESERVED.search(line):
        return True
    short = len(line.split()) <= _NOTICE_WORDS and not _BINDS.search(line)
    return short and bool((_NOTICE.search(line) and _YEAR.search(line)) or _OWNER.search(line))


def _is_title(line: str) -> bool:
    named = re.search(r"\blicen[sc]e\b|https?://|^\W*version \d", line, re.IGNORECASE)
    return bool(named) and len(line.split()) <= _TITLE_WORDS and not _BINDS.search(line)


# ---- exact -----------------------------------------------------------------------------------------------------------


def follows(items: Sequence[Item], words: Sequence[str], passed: Mapping[int, int] = MappingProxyType({})) -> bool:
    """Whether the words are what the template allows. Time grows with their number times the optional parts, no worse.

    Args:
        passed: runs of words that may also be left out (first -> one past the last).
    """
    program = list(_program(items))
    waiting: dict[int, set[int]] = {0: {0}}
    end = len(words)
    for at in range(end + 1):
        todo, seen = list(waiting.pop(at, ())), set()
        while todo:
            step = todo.pop()
            if step in seen:
                continue
            seen.add(step)
            if at in passed:
                waiting.setdefault(passed[at], set()).add(step)
            if step == len(program):
                if at == end:
                    return True
                continue
            item = program[step]
            if isinstance(item, str):
                if at < end and words[at] == item:
                    waiting.setdefault(at + 1, set()).add(step + 1)
            elif isinstance(item, int):
                todo += [step + 1, item]
            else:
                for n in _lengths(item, words, at):
                    if n:
                        waiting.setdefault(at + n, set()).add(step + 1)
                    else:
                        todo.append(step + 1)
        if not waiting:
            return False
    return False


def _program(items: Sequence[Item], first: int = 0) -> Iterator[str | Alt | int]:
    """The template as steps: a word, a free place, or the step to go on at instead of the next."""
    at = first
    for item in items:
        inner: list[str | Alt | int] = [item] if not isinstance(item, Opt) else list(_program(item.items, at + 1))
        if isinstance(item, Opt):
            at += 1
            yield at + len(inner)
        yield from inner
        at += len(inner)


def _lengths(alt: Alt, words: Sequence[str], at: int) -> Iterator[int]:
    """How many words from ``at`` on a free place may take."""
    pattern = _compiled(alt.pattern)
    usual = len(alt.usual)
    for n in range(min(MOST_FREE, len(words) - at) + 1):
        span = words[at : at + n]
        text = " ".join(span)
        if len(text) > 600 or (n and span[-1] in BINDING and span[-1] not in alt.usual and span[-1] not in alt.pattern):
            return  # a name may stand here, no clause
        if (n == usual and tuple(span) == alt.usual) or pattern.fullmatch(text):
            yield n


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of a template as it applies to words: its own words in their compared form, no punctuation."""
    if re.fullmatch(r"\.[*+]|\.\{\d+,\d+\}", pattern):
        return re.compile(r".+" if pattern == ".+" else r".*", re.DOTALL)
    if pattern == BULLET:
        return re.compile(pattern)
    if re.fullmatch(r"[^\w\\]*|-\{1,2\}|#\*|,\|", pattern):
        return re.compile("")
    plain = re.sub(r"\\s[+*]?|\[ \\t\\r\\n\\f\]\{\d+,\d+\}| ", " *", pattern.casefold().replace("licence", "license"))
    plain = re.sub(r",\??|-|:|\\\(|\\\)", "", plain.replace(r"\.", " *"))
    try:
        return re.compile(rf" *(?:{plain}) *", re.DOTALL)
    except re.error:
        return re.compile("")


# ---- differences -----------------------------------------------------------------------------------------------------


MUST, MAY, FREE = 0, 1, 2


def _usual(items: Sequence[Item], mark: int) -> Iterator[tuple[str, int]]:
    """The licence's own words, each with whether it must be there, may be missing, or may be another."""
    for item in items:
        if isinstance(item, Opt):
            yield from _usual(item.items, MAY)
        elif isinstance(item, Alt):
            yield from ((word, FREE) for word in item.usual)
        else:
            yield item, mark


@functools.cache
def _needed(id: str) -> Counter[str]:
    """How often the licence has each word that must be there."""
    return Counter(word for word, mark in _usual(template(id), MUST) if mark == MUST)


def _likeness(have: Counter[str], id: str) -> float:
    need = _needed(id)
    total = need.total() + have.total()
    few, many = sorted((need, have), key=len)
    return 2 * sum(min(n, many[word]) for word, n in few.items()) / total if total else 0.0


def _changes(items: Sequence[Item], found: Read, text: str) -> list[Change]:
    usual = list(_usual(items, MUST))
    a, b = [w for w, _ in usual], found.plain
    codes = difflib.SequenceMatcher(None, a, b, autojunk=len(b) > 20_000).get_opcodes()
    marks = [mark for _, mark in usual]
    passed = {k for first, end in found.passed.items() for k in range(first, end)}
    strict = []
    shown = []
    for kind, i, j, k, m in codes:
        lacking = " ".join(w for w, mark in usual[i:j] if mark == MUST)
        if kind == "equal" or (not lacking and all(n in passed for n in range(k, m))):
            continue
        added = " ".join(text[found.words[k].start : found.words[m - 1].end].split()) if m > k else ""
        start = found.words[min(k, len(b) - 1)].start
        change = Change(text.count("\n", 0, start) + 1, added, lacking, " ".join(a[max(0, i - 6) : i]))
        strict.append(change)
        around = marks[max(0, i - 1) : j + 1] if i == j else marks[i:j]
        if lacking or FREE not in around or MUST in around or m - k > MOST_FREE:
            shown.append(change)
    return shown or strict  # a free place that holds more than it may is a difference as well
