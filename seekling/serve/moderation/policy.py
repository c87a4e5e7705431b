"""The policy file: what is looked for, where, and what happens then. TOML; all that is wrong in it is told at once."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.errors import DataError, RecipeError, raise_all
from seekling.serve.moderation.pii import KINDS

ACTIONS = ("off", "flag", "mask", "block")
PLACES = ("input", "output")
READ = ("system", "assistant", "tools", "embeddings")
DEFAULT = Path(__file__).with_name("default.toml")


@dataclass(frozen=True)
class Rule:
    """Patterns under one name."""

    name: str
    where: tuple[str, ...]
    action: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Head:
    """A classifier's category: from which probability on it is noted or refused; None for never."""

    name: str
    where: tuple[str, ...]
    flag: float | None = None
    block: float | None = None


@dataclass(frozen=True)
class Policy:
    """A policy, read and checked.

    Attributes:
        hold: characters of a stream that are held back.
        read: what of `READ` is read besides users' messages, tools' results and bare prompts, which always are.
        pii: place -> kind -> action.
        leak_words, leak: words of the system message in a row that an answer may not repeat, and what happens then.
    """

    name: str
    hold: int = 64
    wrap_results: bool = False
    read: frozenset[str] = frozenset()
    leak_words: int = 12
    leak: str = "off"
    pii: dict[str, dict[str, str]] = field(default_factory=dict)
    heads: tuple[Head, ...] = ()
    rules: tuple[Rule, ...] = ()

    def kinds(self, place: str) -> tuple[str, ...]:
        """The kinds of personal data looked for there."""
        return tuple(kind for kind, action in self.pii.get(place, {}).items() if action != "off")


def load(path: str | Path) -> Policy:
    """Read a policy file, or the built-in one for the word "default".

    Raises:
        RecipeError: what is wrong in it, all of it; DataError: it cannot be read.
    """
    path = DEFAULT if str(path) == "default" else Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"the policy {path} cannot be read ({error.strerror}): give a TOML file or the word default") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the policy {path} is no TOML: {error}") from None
    raise_all(RecipeError, _problems(raw), f"policy {path.name}")
    stream, system, tools = raw.get("stream", {}), raw.get("system", {}), raw.get("tools", {})
    return Policy(
        str(raw.get("name", path.stem)),
        stream.get("hold_chars", 64),
        tools.get("wrap_results", False),
        frozenset(part for part, wanted in raw.get("read", {}).items() if wanted),
        system.get("leak_words", 12),
        system.get("leak", "off"),
        raw.get("pii", {}),
        tuple(Head(n, tuple(h["where"]), h.get("flag"), h.get("block")) for n, h in raw.get("classifier", {}).items()),
        tuple(Rule(r["name"], tuple(r["where"]), r["action"], _pattern(r["any"])) for r in raw.get("rule", [])),
    )


def _pattern(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


SHAPE: dict[str, dict[str, type]] = {
    "stream": {"hold_chars": int},
    "tools": {"wrap_results": bool},
    "read": dict.fromkeys(READ, bool),
    "system": {"leak_words": int, "leak": str},
}


def _problems(raw: dict[str, Any]) -> Iterator[str]:
    for key in raw.keys() - {"name", "pii", "classifier", "rule", *SHAPE}:
        yield f"there is no [{key}]: known are {', '.join(sorted({'name', 'pii', 'classifier', 'rule', *SHAPE}))}"
    for table, keys in SHAPE.items():
        given = raw.get(table, {})
        if not isinstance(given, dict):
            yield f"{table} must be a table"
            continue
        for key, value in given.items():
            if key not in keys:
                yield f"{table}.{key} is unknown: known are {', '.join(keys)}"
            elif type(value) is not keys[key]:
                yield f"{table}.{key} is {value!r}: give a value of type {keys[key].__name__}"
    hold, words = raw.get("stream", {}).get("hold_chars", 64), raw.get("system", {}).get("leak_words", 12)
    if isinstance(hold, int) and not 0 <= hold <= 4096:
        yield f"stream.hold_chars is {hold}: give 0 to 4096"
    if isinstance(words, int) and not 4 <= words <= 1000:
        yield f"system.leak_words is {words}: give 4 to 1000"
    if raw.get("system", {}).get("leak", "off") not in ("off", "flag", "block"):
        yield f"system.leak is {raw['system']['leak']!r}: give off, flag or block"
    for place, kinds in raw.get("pii", {}).items():
        if place not in PLACES:
            yield f"pii.{place} is unknown: known are {', '.join(PLACES)}"
            continue
        for kind, action in kinds.items():
            if kind not in KINDS:
                yield f"pii.{place}.{kind} is unknown: known are {', '.join(KINDS)}"
            if action not in ACTIONS:
                yield f"pii.{place}.{kind} is {action!r}: give {', '.join(ACTIONS)}"
    yield from _head_problems(raw.get("classifier", {}))
    for number, rule in enumerate(raw.get("rule", []), 1):
        yield from _rule_problems(f"rule {number}", rule)


def _head_problems(heads: dict[str, Any]) -> Iterator[str]:
    from seekling.serve.moderation.classifier import built_in

    known = built_in().names if heads else ()
    for name, head in heads.items():
        if name not in known:
            yield f"classifier.{name} is unknown: the classifier tells {', '.join(known)}"
        if not isinstance(head, dict):
            yield f"classifier.{name} must be a table"
            continue
        for key in head.keys() - {"where", "flag", "block"}:
            yield f"classifier.{name}.{key} is unknown: known are where, flag, block"
        yield from _where(f"classifier.{name}", head.get("where"))
        for key in ("flag", "block"):
            if key in head and not (isinstance(head[key], float | int) and 0 < head[key] <= 1):
                yield f"classifier.{name}.{key} is {head[key]!r}: give a probability above 0"


def _rule_problems(where: str, rule: Any) -> Iterator[str]:
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str):
        yield f"{where} needs a name"
        return
    where = f"rule {rule['name']!r}"
    for key in rule.keys() - {"name", "where", "action", "any"}:
        yield f"{where}: {key} is unknown: known are name, where, action, any"
    yield from _where(where, rule.get("where"))
    if rule.get("action") not in ("flag", "block"):
        yield f"{where}: action is {rule.get('action')!r}: give flag or block"
    patterns = rule.get("any")
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        yield f"{where}: any must be a list of patterns"
        return
    for pattern in patterns:
        try:
            if re.compile(pattern).match(""):
                yield f"{where}: {pattern!r} fits every text"
        except re.error as error:
            yield f"{where}: {pattern!r} is no regular expression ({error})"


def _where(of: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not value or any(place not in PLACES for place in value):
        yield f"{of}: where is {value!r}: give a list of {', '.join(PLACES)}"
