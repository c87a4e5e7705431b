"""Every source of training text of every stage, with what the Open Source AI Definition asks to know of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError
from seekling.release.about import About
from seekling.release.layout import MANIFEST, sha256
from seekling.release.licences import ids_of, is_open

DATA_MANIFEST = "data_manifest.json"
OWN_LICENCE = "MIT"  # of text that Seekling's own generators and tasks write


@dataclass(frozen=True)
class SourceFacts:
    """One source in one stage. ``generator`` wrote synthetic text: a program, or with ``generator_is_model`` a model."""

    name: str
    stage: str
    kind: str  # package, hub, file, generated, task
    licence: str
    where: str = ""
    version: str = ""
    url: str | None = None
    attribution: str = ""
    about: str = ""
    obtained: str | None = None
    sha256: str | None = None
    language: str = ""
    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    share: float | None = None
    synthetic: bool = False
    generator: str | None = None
    generator_is_model: bool = False
    files: tuple[str, ...] = ()
    in_release: bool = False

    @property
    def osaid_kind(self) -> str:
        """open, public, obtainable or unshareable."""
        if is_open_data(self.licence) and (self.url or self.synthetic or self.in_release or self.kind in ("package", "hub")):
            return "open"
        return "public" if self.url or self.kind in ("package", "hub") else "unshareable"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"files": list(self.files), "osaid_kind": self.osaid_kind}


def is_open_data(expression: str) -> bool:
    """Whether every licence of an expression lets anybody use, change and share the text."""
    ids = ids_of(expression)
    return bool(ids) and all(is_open(name) for name in ids)


def sources_of(recipe: Any, run: Path, stage: str, about: About) -> list[SourceFacts]:
    """The sources of one run, what ``--about`` says of them put in where the run knows nothing.

    Raises:
        CheckpointError: its data manifest is damaged, missing where the stage read text, or a file was changed since.
    """
    values = recipe.flat()
    tasks = task_sources(values, stage)
    asked = values.get("teacher") and values.get("method") == "traces"
    if asked and tasks:  # what was learned from are the teacher's answers to them
        tasks = [replace(t, generator=str(values["teacher"]), generator_is_model=True) for t in tasks]
    read = _listed(run, stage) if stage == "pretrain" or (values.get("data") and not (asked and tasks)) else []
    unchanged(read, files_read(values.get("data") or (), run))
    if stage == "grpo":
        tasks = [_rewarded(task, recipe) for task in tasks]
    return [_with_about(own_lessons(source, run), about) for source in (*tasks, *read)]


def _rewarded(source: SourceFacts, recipe: Any) -> SourceFacts:
    """A practised task with an example of it, how many answers were drawn, and what they were rewarded for."""
    from seekling.release.practice import practised, reward_text

    example = next((p for p in practised(recipe) if source.name.split("@")[0] == p.task), None)
    said = f"{recipe.practice.group} answers of the model itself were drawn to each problem; {reward_text(recipe)}"
    shown = "" if example is None else f" (such as “{example.question}”: {example.answer})"
    return replace(source, about=f"problems with exact answers{shown}; {said}")


def _file(entry: Any) -> str:
    """A file of a source: its name, and its SHA-256 where the manifest has a pair of both."""
    return " sha256:".join(map(str, entry)) if isinstance(entry, list | tuple) else str(entry)


def files_read(named: tuple[str, ...], run: Path) -> tuple[Path, ...]:
    """The files that a recipe names where they lie now: a run and what it wrote itself may have been moved together."""
    homes = (run, run.parent)
    found = []
    for path in map(Path, named):
        beside = [home / path.name for home in homes if (home / path.name).is_file() and (home / "recipe.toml").is_file()]
        found.append(beside[0] if beside else path)
    return tuple(found)


def unchanged(sources: list[SourceFacts], files: tuple[Path, ...]) -> None:
    """Raise CheckpointError where a file of conversations is not what the run read; one that is gone cannot be compared."""
    hashes = {source.sha256: source.where for source in sources if source.kind == "file" and source.sha256}
    for path in files:
        if path.is_file() and hashes and path.name in hashes.values() and sha256(path) not in hashes:
            raise CheckpointError(f"{path} was changed since the run read it; put the original back, or repeat the run")


def task_sources(values: Mapping[str, Any], stage: str) -> list[SourceFacts]:
    """The tasks of reinforcement learning: problems made by seeded programs, answers judged exactly."""
    return [_task_source(task, stage, values) for task in values.get("tasks", ())]


def _task_source(task: str, stage: str, values: Mapping[str, Any]) -> SourceFacts:
    """A task: a seeded program of ours or of reasoning-gym, or a file of the user's, whose licence is for them to say."""
    asked = (values.get("asked") or 0) if values.get("method") == "traces" else (values.get("steps") or 0) * values["problems"]
    facts: dict[str, Any] = dict(
        name=task, stage=stage, kind="task", language="en",
        documents=asked // max(1, len(values["tasks"])) or None,
        about="problems with exact answers; what the model writes to them is its own training text",
    )  # fmt: skip
    file, jsonl, _ = task.partition(".jsonl")
    if jsonl:
        path = Path(file + jsonl)
        hashed = sha256(path) if path.is_file() else None
        return SourceFacts(**facts | {"name": path.stem, "kind": "file"}, licence="", where=path.name, sha256=hashed)
    program, licence, maker = "seekling/tasks", OWN_LICENCE, "Seekling's own generator"
    if task.startswith("rg:"):
        from importlib.metadata import version

        program, licence, maker = f"reasoning-gym {version('reasoning-gym')}", "Apache-2.0", "reasoning-gym's authors"
    level = "" if "@" in task else f", level {values.get('level')}"
    generator = f"the seeded task {task} of {program}"
    return SourceFacts(**facts, licence=licence, where=program + level, synthetic=True, generator=generator, attribution=maker)


def own_lessons(source: SourceFacts, run: Path) -> SourceFacts:
    """The lessons that ``seekling run`` wrote itself are no files of the user's."""
    if source.where != "lessons.jsonl" or not (run.parent / "story.toml").is_file():
        return source
    return replace(
        source,
        kind="generated",
        licence=OWN_LICENCE,
        attribution="Seekling's own generator",
        about="worked problems of the tasks, and ordinary talk",
        language="en",
        synthetic=True,
        generator="seekling/tasks/lessons.py, seeded",
    )


def _listed(run: Path, stage: str) -> list[SourceFacts]:
    path = run / DATA_MANIFEST
    try:
        tables = json.loads(path.read_text("utf-8"))["sources"]
        return [_source(name, table, stage) for name, table in tables.items()]
    except FileNotFoundError:
        raise CheckpointError(
            f"{run} has no {DATA_MANIFEST}, so nobody can say what it was trained on; repeat the run with this version"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error.__class__.__name__}); restore it") from None


def _source(name: str, table: Mapping[str, Any], stage: str) -> SourceFacts:
    kind, where, version = str(table["kind"]), str(table.get("where", "")), str(table.get("version", ""))
    where = Path(where).name if kind == "file" else where  # where it lay is nobody's business
    teacher = table.get("teacher")
    generated = kind == "generated" or bool(teacher)
    return SourceFacts(
        name=name,
        stage=stage,
        kind=kind,
        where=where,
        version=version,
        url=address(kind, where, version, table),
        licence=str(table.get("licence", "")),
        attribution=str(table.get("attribution", "")),
        about=str(table.get("about", "")),
        sha256=table.get("sha256"),
        language=str(table.get("language", "")),
        documents=table.get("documents"),
        bytes=table.get("bytes"),
        tokens=table.get("tokens"),
        share=table.get("share"),
        synthetic=generated,
        generator=str(teacher) if teacher else f"seekling/data, generator {where} {version}".strip() if generated else None,
        generator_is_model=bool(teacher),
        files=tuple(_file(f) for f in table.get("files", ())),
    )


def address(kind: str, where: str, version: str, table: Mapping[str, Any]) -> str | None:
    """Where a published source is: a package URL, or the page of a data set."""
    if kind == "package":
        registry = "npm" if table.get("registry") == "npm" else "pypi"
        return f"pkg:{registry}/{where}@{version}"
    if kind == "hub":
        return f"https://huggingface.co/datasets/{where}"
    return None


def _with_about(source: SourceFacts, about: About) -> SourceFacts:
    said: dict[str, Any] = dict(about.sources.get(source.name, {}))
    if not said:
        return source
    teacher = said.pop("teacher", None)
    if source.licence not in ("", "NOASSERTION"):  # what is declared with the data counts
        said.pop("licence", None)
    out = replace(source, **{key: value for key, value in said.items() if value})
    return replace(out, synthetic=True, generator=teacher, generator_is_model=True) if teacher else out


def inherited_sources(base: Path | None) -> tuple[SourceFacts, ...]:
    """The sources that a base model's own release states; none where it is no release."""
    if base is None or not (base / MANIFEST).is_file():
        return ()
    from seekling.release.layout import read_manifest

    known = set(SourceFacts.__dataclass_fields__)
    tables = read_manifest(base).get("data", {}).get("sources", [])
    rows = [{k: v for k, v in table.items() if k in known and k != "in_release"} for table in tables]
    return tuple(SourceFacts(**row | {"files": tuple(row.get("files", ())), "stage": f"base: {row['stage']}"}) for row in rows)
