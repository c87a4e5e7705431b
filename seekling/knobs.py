"""Typed dataclass fields that know their help, range and how to read themselves from TOML values or command-line text.

A recipe is made of these; nothing here knows what they are called.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

# Where a field names no bound of its own: no count is larger, and single precision holds every number.
MOST = {int: 10**15, float: 1e30}


def knob(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    derived: str = "",
    flag: bool = True,
) -> Any:
    """A dataclass field with its help, its range (low/high inclusive, above/below exclusive) and how None is derived."""
    meta = dict(help=help, low=low, high=high, above=above, below=below, choices=choices, derived=derived, flag=flag)
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True)
class Knob:
    """One field: section, type (``kind``; tuples are of strings), whether it may be None, default and metadata."""

    name: str
    section: str
    kind: type
    optional: bool
    default: Any
    meta: Mapping[str, Any]

    def complaint(self, value: Any) -> str:
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list of texts"}
        return f"{self.name} must be {kinds[self.kind]}, not {value!r}"

    def read(self, value: Any) -> Any:
        """The value in the field's type. Raises ValueError whose text names field, value and what is allowed."""
        if value is None and self.optional:
            return None
        value = self._convert(value)
        meta = self.meta
        for word in value if self.kind is tuple else (value,):
            if isinstance(word, str) and not word.isascii() and word != word.encode("utf-8", "replace").decode():
                raise ValueError(f"{self.name} {word!r} is not UTF-8, which recipe.toml is: rename the file or folder")
            if meta["choices"] is not None and word not in meta["choices"]:
                near = difflib.get_close_matches(word, meta["choices"], n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise ValueError(f"{self.name} must be one of {', '.join(meta['choices'])}, not {word!r}{hint}")
        if self.kind in (int, float) and not self._in_range(value):
            raise ValueError(f"{self.name} must be {self.range_text()}, not {value!r}")
        if self.kind in (int, float) and meta["high"] is None and value > MOST[self.kind]:
            raise ValueError(f"{self.name} must be at most {MOST[self.kind]:g}, not {value!r}")
        return value

    def _convert(self, value: Any) -> Any:
        if self.kind is tuple:
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
                raise ValueError(self.complaint(value))
            return tuple(items)
        if isinstance(value, str) and self.kind is not str:
            return self._parse(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ValueError(self.complaint(value)) from None
        if type(value) is not self.kind:
            raise ValueError(self.complaint(value))
        return value

    def _parse(self, text: str) -> Any:
        """A number or truth value as people type it: 1_000, 10M, 1.5e9."""
        if self.kind is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            raise ValueError(self.complaint(text))
        try:
            number = read_number(text)
        except ValueError:
            raise ValueError(self.complaint(text)) from None
        if self.kind is float:
            return float(number)
        if number != int(number):
            raise ValueError(self.complaint(text))
        return int(number)

    def _in_range(self, value: float) -> bool:
        m = self.meta
        return (
            math.isfinite(value)
            and (m["low"] is None or value >= m["low"])
            and (m["high"] is None or value <= m["high"])
            and (m["above"] is None or value > m["above"])
            and (m["below"] is None or value < m["below"])
        )

    def range_text(self) -> str:
        m = self.meta
        words = [("low", "at least"), ("above", "more than"), ("high", "at most"), ("below", "less than")]
        told = [f"{word} {m[key]:{',' if isinstance(m[key], int) else 'g'}}" for key, word in words if m[key] is not None]
        return " and ".join(told) or "finite"


def read_number(text: str) -> int | float:
    """A finite number as people type it: 1_000, 10M (million), 2.5B (1e9), 1.5e9. Raises ValueError."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}.get(text[-1:].upper(), 1)
    body = text[:-1] if scale > 1 else text
    try:
        return int(body) * scale
    except ValueError:
        number = float(body) * scale
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def toml_value(value: Any) -> str:
    """A bool, int, float, string or list of strings as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in plain) + '"'
    return repr(value)


def collect(tree: type) -> dict[str, Knob]:
    """Every field of every section of a dataclass of dataclasses, by its name, which must be unique over the sections."""
    found: dict[str, Knob] = {}
    for section, part in get_type_hints(tree).items():
        hints = get_type_hints(part)
        for field in dataclasses.fields(part):
            hint, optional = hints[field.name], field.default is None
            if isinstance(hint, types.UnionType):
                hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
            if field.name in found:
                raise TypeError(f"two fields are called {field.name}")
            kind = typing.get_origin(hint) or hint
            found[field.name] = Knob(field.name, section, kind, optional, field.default, field.metadata)
    return found
