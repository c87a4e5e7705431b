"""Reading text that arrives in parts: a parser written as if all were there, which waits wherever it cannot decide yet.

Marks of the vocabulary are single characters here (`Marks`), taken from the half surrogate pairs that no text can hold. So a
mark and text that imitates it stay two things, and a parser searches both with plain string methods.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable
from functools import cache
from typing import Any

Wait = Generator[None, None, None]
_FIRST = 0xD800


def json_value(text: str) -> Any:
    """A JSON value. ValueError for what is none: NaN and infinities too, which Python's reader takes, and endless nesting."""
    try:
        return json.loads(text, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def no_constant(name: str) -> Any:
    """For ``parse_constant``: NaN and infinities are no JSON."""
    raise ValueError(f"{name} is no JSON number")


class Malformed(Exception):
    """What was read is not what it began to be. The text says why."""


class Marks:
    """Marks ↔ single characters.

    Args:
        known: marks a grammar may hold.
        atomic: those of them that arrive as tokens of their own; the others are recognised in the text.
        hidden: those that nobody reads.
    """

    def __init__(self, known: Iterable[str], atomic: Iterable[str] = (), hidden: Iterable[str] = ()) -> None:
        self.char = {mark: chr(_FIRST + number) for number, mark in enumerate(sorted(known, key=len, reverse=True))}
        self._text = {char: mark for mark, char in self.char.items()}
        self._shown = self._text | {self.char[mark]: "" for mark in hidden}
        taken = set(atomic)
        self._literal = [mark for mark in self.char if mark not in taken]
        self._pattern = re.compile("|".join(map(re.escape, self._literal)) or r"(?!)")
        self._begins = re.compile("|".join(sorted({re.escape(mark[0]) for mark in self._literal})) or r"(?!)")
        self._every = re.compile("|".join(map(re.escape, self.char)) or r"(?!)")

    def read(self, text: str, final: bool) -> tuple[str, str]:
        """Text with the marks in it as characters, and the end of it that may yet become one."""
        text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text) if _has_half(text) else text
        if self._begins.search(text) is None:  # nearly always
            return text, ""
        text = self._pattern.sub(lambda found: self.char[found[0]], text)
        held = 0 if final else longest_prefix_at_end(text, self._literal)
        return text[: len(text) - held], text[len(text) - held :]

    def compiled(self, written: str) -> str:
        """A grammar's own string with its marks as characters."""
        return self._every.sub(lambda found: self.char[found[0]], written)

    def plain(self, text: str) -> str:
        """Text with every mark written out."""
        return "".join(self._text.get(c, c) for c in text) if _has_half(text) else text

    def shown(self, text: str) -> str:
        """Text as people read it."""
        return "".join(self._shown.get(c, c) for c in text) if _has_half(text) else text


def _has_half(text: str) -> bool:
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None


def longest_prefix_at_end(text: str, words: Iterable[str]) -> int:
    """Length of the longest end of ``text`` that one of ``words`` begins with, but is longer."""
    best = 0
    for word in words:
        for length in range(min(len(word) - 1, len(text)), best, -1):
            if text.endswith(word[:length]):
                best = length
                break
    return best


class Reader:
    """A buffer with the operations of a parser; those that may have to wait are generators.

    ``seen`` collects what was consumed since it was last emptied, so that it can be given back as text.
    """

    def __init__(self) -> None:
        self.buffer, self.closed, self.seen = "", False, ""

    def eat(self, length: int) -> str:
        """Take characters that are there."""
        text, self.buffer = self.buffer[:length], self.buffer[length:]
        self.seen += text
        return text

    def until(self, signs: tuple[str, ...], emit: Callable[[str], None]) -> Generator[None, None, str]:
        """Give all text before the first of the signs to ``emit`` and take the sign; "" when the text ends before one.

        Of signs that begin at one place the longest counts.
        """
        pattern = _alternatives(signs)
        while True:
            found = pattern.search(self.buffer)
            if found:
                if found.start():
                    emit(self.eat(found.start()))
                return self.eat(len(found[0]))
            keep = 0 if self.closed else longest_prefix_at_end(self.buffer, signs)
            if len(self.buffer) > keep:
                emit(self.eat(len(self.buffer) - keep))
            if self.closed:
                return ""
            yield

    def optional(self, text: str) -> Wait:
        """Take as much of ``text`` as stands here."""
        for char in text:
            while not self.buffer and not self.closed:
                yield
            if not self.buffer.startswith(char):
                return
            self.eat(1)

    def space(self) -> Wait:
        """Take blanks and line breaks."""
        while True:
            self.eat(len(self.buffer) - len(self.buffer.lstrip()))
            if self.buffer or self.closed:
                return
            yield

    def one_of(self, signs: tuple[str, ...]) -> Generator[None, None, str]:
        """Take the sign that stands here after blanks; "" when it is none of them (then nothing but blanks is taken)."""
        yield from self.space()
        while True:
            for sign in signs:
                if self.buffer.startswith(sign):
                    return self.eat(len(sign))
            if self.closed or not any(sign.startswith(self.buffer) for sign in signs):
                return ""
            yield


@cache
def _alternatives(signs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))) or r"(?!)")
