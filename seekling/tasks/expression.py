"""Arithmetic in text, evaluated without running any of it: whole numbers, + - * / and brackets, exact fractions."""

import re
from dataclasses import dataclass
from fractions import Fraction

TOKEN = re.compile(r"\s*(?:(\d{1,6})|([-+*/()]))")
MOST_CHARACTERS, MOST_DEPTH = 200, 30


@dataclass(frozen=True)
class Value:
    """The value of an expression and the numbers written in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def value_of(text: str) -> Value | None:
    """None for anything that is no such expression, is too long, or divides by zero."""
    text = text.strip()
    if not text or len(text) > MOST_CHARACTERS:
        return None
    tokens, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[1] or match[2])
        at = match.end()
    reader = _Reader(tokens)
    try:
        value = reader.sum(0)
    except (ValueError, ZeroDivisionError):
        return None
    return Value(value, tuple(reader.numbers)) if reader.at == len(tokens) else None


class _Reader:
    """Recursive descent: sums of products of numbers, bracketed sums and negations."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0
        self.numbers: list[int] = []

    def _next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _take(self) -> str:
        if self.at >= len(self.tokens):
            raise ValueError("the expression ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self._next() in ("+", "-"):
            value = value + self.product(depth) if self._take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self._next() in ("*", "/"):
            value = value * self.factor(depth) if self._take() == "*" else value / self.factor(depth)
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MOST_DEPTH:
            raise ValueError("too many brackets")
        token = self._take()
        if token == "-":
            return -self.factor(depth + 1)
        if token == "(":
            value = self.sum(depth + 1)
            if self._take() != ")":
                raise ValueError("a bracket is not closed")
            return value
        if not token.isdigit():
            raise ValueError(f"{token} where a number was expected")
        self.numbers.append(int(token))
        return Fraction(int(token))
