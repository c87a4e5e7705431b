"""Declared sources and corpora: TOML entries read, checked (all problems at once) and chosen by name."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from seekling.data.filters import step_problems
from seekling.errors import DataError, raise_all

KINDS = ("package", "hub", "file", "generated")
REGISTRIES = ("pip", "npm")
GENERATORS = ("stories", "numbers", "talk")


@dataclass(frozen=True)
class Source:
    """One declared source (``sources.toml`` says what each key means).

    Hub sources have further: ``config`` and ``split`` of the data set, ``field`` of a row, ``limit`` on its rows.
    """

    name: str
    kind: str
    where: str
    licence: str
    attribution: str
    about: str = ""
    registry: str = "pip"
    version: str = ""
    sha256: str = ""
    files: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    filters: tuple[Mapping[str, Any], ...] = ()
    weight: float = 1.0
    language: str = ""
    config: str = ""
    split: str = "train"
    field: str = "text"
    limit: int = 0

    @property
    def archive(self) -> tuple[str, str, str, str]:
        """What several sources may share: (registry, package, version, sha256)."""
        return self.registry, self.where, self.version, self.sha256


@dataclass(frozen=True)
class Corpus:
    """Named sources with generated text beside them."""

    name: str
    about: str
    sources: tuple[Source, ...]
    generated: tuple[Source, ...]
    generated_share: float


def read_sources(path: str | Path) -> dict[str, Source]:
    """The sources a TOML file declares.

    Raises:
        DataError: listing every unknown key, missing key and bad value.
    """
    return parse_sources(_read(path), str(path))


def parse_sources(tables: Mapping[str, Any], where: str = "sources") -> dict[str, Source]:
    """`read_sources` of tables already read."""
    problems = [f"[{name}] {line}" for name, table in tables.items() for line in _source_problems(table)]
    raise_all(DataError, problems, where)
    return {name: Source(name=name, **{k: _frozen(v) for k, v in table.items()}) for name, table in tables.items()}


def catalogue() -> dict[str, Source]:
    """The sources that come with Seekling."""
    return parse_sources(_built_in("sources.toml"), "sources.toml")


def corpora() -> dict[str, Corpus]:
    """The corpora that come with Seekling."""
    known, found = catalogue(), {}
    for name, table in _built_in("corpora.toml").items():
        parts = {key: tuple(known[source] for source in table[key]) for key in ("sources", "generated")}
        found[name] = Corpus(name, table["about"], **parts, generated_share=table["generated_share"])
    return found


def corpus_named(name: str) -> Corpus:
    """A built-in corpus. DataError for an unknown name, with the nearest one."""
    known = corpora()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise DataError(
            f"there is no corpus {name!r}; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(known)}"
            " For your own text use --data FOLDER"
        )
    return known[name]


def file_source(path: str | Path) -> Source:
    """A folder or file on this machine as a source."""
    path = Path(path)
    return Source(
        name=path.resolve().name or "data",
        kind="file",
        where=str(path),
        licence="NOASSERTION",
        attribution="files of the user",
    )


def own_sources(paths: Sequence[str | Path]) -> list[Source]:
    """What ``--data`` names: folders and text files, or .toml files that declare sources. Names are made unique."""
    found: list[Source] = []
    for path in paths:
        found += read_sources(path).values() if Path(path).suffix == ".toml" else [file_source(path)]
    return unique_names(found)


def unique_names(sources: Iterable[Source]) -> list[Source]:
    """The sources; of several with one name the later ones get a number."""
    out: list[Source] = []
    seen: set[str] = set()
    for source in sources:
        name, n = source.name, 2
        while name in seen:
            name, n = f"{source.name}-{n}", n + 1
        seen.add(name)
        out.append(source if name == source.name else Source(**{**vars(source), "name": name}))
    return out


# ---- checks ----------------------------------------------------------------------------------------------------------

KEYS = {f.name for f in fields(Source)} - {"name"}
TYPES: dict[str, Any] = {"weight": (int, float), "limit": int, "files": list, "exclude": list, "filters": list}
NEEDED = {
    "package": ("version", "sha256", "files"),
    "hub": ("version",),
    "file": (),
    "generated": (),
}


def _source_problems(table: Any) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield 'must be a table: [name], then keys such as kind = "file"'
        return
    for key, value in table.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            yield f"unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(KEYS))}")
        elif not isinstance(value, TYPES.get(key, str)) or isinstance(value, bool):
            yield f"{key} has the wrong type ({type(value).__name__})"
    kind = table.get("kind")
    if kind not in KINDS:
        yield f"kind {kind!r} is not one of {', '.join(KINDS)}"
        return
    for key in ("where", "licence", "attribution", *NEEDED[kind]):
        if not table.get(key):
            yield f"a {kind} source needs {key}"
    if kind == "generated" and table.get("where") not in GENERATORS:
        yield f"there is no generator {table.get('where')!r}; known are {', '.join(GENERATORS)}"
    if table.get("registry", "pip") not in REGISTRIES:
        yield f"registry {table['registry']!r} is not one of {', '.join(REGISTRIES)}"
    if kind == "package" and not re.fullmatch(r"[0-9a-f]{64}", str(table.get("sha256", ""))):
        yield "sha256 must be 64 hexadecimal digits"
    if kind == "package" and not re.fullmatch(r"[A-Za-z0-9@][A-Za-z0-9._/@-]*", str(table.get("where", ""))):
        yield f"{table.get('where')!r} is no package name"
    if kind == "package" and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", str(table.get("version", ""))):
        yield f"{table.get('version')!r} is no version: name exactly one"
    weight = table.get("weight", 1)
    if isinstance(weight, (int, float)) and not 0 < weight <= 100:
        yield f"weight {weight} is not between 0 and 100"
    filters = table.get("filters", [])
    for options in filters if isinstance(filters, list) else []:
        yield from step_problems(options)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _built_in(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("seekling.data").joinpath(name).read_text("utf-8"))
