"""What a publisher says that no run knows: ``--about FILE.toml``. Everything is optional; the release names what it misses.

[producer]              name, contact, representative (in the EU)
[model]                 description, use: one or two sentences each
[sources.NAME]          licence, attribution, url, about, teacher (the model that wrote the text), obtained (YYYY-MM)
[models.NAME]           licence, licence_file, url, flops: of a base model or teacher that does not say so itself
[eu]                    market_date, opt_out, illegal_content, other: for the public summary of training content
did_not_work = [...]    sentences for that section of the report
[[ablations]]           name, run, about: further runs to compare with, in one table
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError, raise_all

KEYS: dict[str, tuple[str, ...]] = {
    "producer": ("name", "contact", "representative"),
    "model": ("description", "use"),
    "sources": ("licence", "attribution", "url", "about", "teacher", "obtained"),
    "models": ("licence", "licence_file", "url", "flops"),
    "eu": ("market_date", "opt_out", "illegal_content", "other"),
    "ablations": ("name", "run", "about"),
}
NAMED = ("sources", "models")  # tables of tables


@dataclass(frozen=True)
class About:
    """The file's tables, checked."""

    producer: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    eu: Mapping[str, str] = field(default_factory=dict)
    did_not_work: tuple[str, ...] = ()
    ablations: tuple[Mapping[str, str], ...] = ()
    folder: Path = Path()


def read_about(path: str | Path | None) -> About:
    """The file, or an empty one for None.

    Raises:
        RecipeError: it cannot be read, or listing every unknown key and wrong type.
    """
    if path is None:
        return About()
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"--about {path} cannot be read: {error}") from None
    raise_all(RecipeError, _problems(raw), str(path))
    lists: dict[str, Any] = {key: tuple(raw.get(key, ())) for key in ("did_not_work", "ablations")}
    tables: dict[str, Any] = {key: raw.get(key, {}) for key in KEYS if key not in lists}
    return About(**tables, **lists, folder=path.absolute().parent)


def _problems(raw: Mapping[str, Any]) -> Iterator[str]:
    for key, value in raw.items():
        if key == "did_not_work":
            if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
                yield "did_not_work must be a list of sentences"
        elif key not in KEYS:
            yield f"unknown key {key!r}; known are {', '.join([*KEYS, 'did_not_work'])}"
        elif key == "ablations":
            tables = enumerate(value, 1) if isinstance(value, list) else [(1, value)]
            for number, table in tables:
                yield from _table(f"ablations {number}", table, KEYS[key])
                if isinstance(table, Mapping) and not (table.get("name") and table.get("run")):
                    yield f"ablations {number} needs name and run"
        elif key in NAMED and isinstance(value, Mapping):
            for name, table in value.items():
                yield from _table(f"{key}.{name}", table, KEYS[key])
        else:
            yield from _table(key, value, KEYS[key])


def _table(where: str, table: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield f"[{where}] must be a table with {', '.join(keys)}"
        return
    for key, value in table.items():
        if key not in keys:
            yield f"[{where}] has no key {key!r}; known are {', '.join(keys)}"
        elif key == "flops":
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                yield f"[{where}] flops must be a number"
        elif not isinstance(value, str):
            yield f"[{where}] {key} must be text"
