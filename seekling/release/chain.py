"""Where a model comes from: the stages that trained it, oldest first, what they started from, and what they read.

A run of pretraining is a chain of one stage. A fine-tuned run names what it started from in ``start.model``: another run, which
is followed; a release, whose own ancestors and sources come along; or a model of somebody else, which becomes an ancestor with
its licence. A merged folder says in ``seekling-merge.json`` what went into it.
"""

import functools
import importlib
import json
import pkgutil
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, RecipeError
from seekling.origin import MERGE_RECORD
from seekling.release.about import About
from seekling.release.ancestors import Ancestor, ancestor_of
from seekling.release.runlog import Records, read_records
from seekling.release.sources import SourceFacts, inherited_sources, sources_of
from seekling.tree import Tree

STORY = "story.toml"  # of seekling run, whose stages after pretraining are folders in the run's
TAUGHT = ("sft", "grpo")  # those folders, in their order
WORDS = {
    "pretrain": "pretraining", "sft": "lessons (SFT)", "dpo": "preferences (DPO)", "grpo": "practice by reward (GRPO)",
    "distill": "distillation",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One run. ``checkpoint`` is its newest intact one, ``state`` what that says of training, ``starts_from`` the number of the
    stage before it, the name of an ancestor, or None for random weights."""

    number: int
    run: Path
    recipe: Any
    log: Records
    checkpoint: Path
    state: dict[str, Any]
    starts_from: int | str | None = None

    @property
    def verb(self) -> str:
        return self.recipe.verb()

    @property
    def folder(self) -> str:
        """Its place in the release."""
        return f"stages/{self.number}-{self.verb}"

    def value(self, name: str, default: Any = None) -> Any:
        """A field of the recipe by its flat name."""
        return self.recipe.flat().get(name, default)

    @property
    def planned(self) -> int:
        """Steps that the recipe allows; lessons end earlier where enough was learned."""
        return int(self.value("steps") or 0)

    @property
    def steps(self) -> int:
        """Steps that were done."""
        return int(self.state.get("step") or self.planned)

    @property
    def story(self) -> Path | None:
        """The run of ``seekling run`` that this stage is a part of."""
        return story_of(self.run)

    @functools.cached_property
    def final(self) -> dict[str, Any] | None:
        """The evaluation after the last step."""
        found = [e for e in self.log.evals if e.get("final") is True or e["step"] >= self.steps]
        return found[-1] if found else None


@dataclass(frozen=True)
class Chain:
    """All of it. ``weights`` is the folder whose model files are released."""

    stages: tuple[Stage, ...]
    weights: Path
    base_models: tuple[Ancestor, ...] = ()
    teachers: tuple[Ancestor, ...] = ()
    merged: tuple[Ancestor, ...] = ()
    sources: tuple[SourceFacts, ...] = ()
    relation: str | None = None
    base_flops: float | None = None  # of the base models, where they say so
    notes: tuple[str, ...] = field(default=())

    @property
    def last(self) -> Stage:
        return self.stages[-1]

    @property
    def is_adapter(self) -> bool:
        from seekling.lm import is_adapter

        return is_adapter(self.weights)

    @property
    def stays_adapter(self) -> bool:
        """Whether an adapter is released as one: directly over somebody else's model, which others have too."""
        return self.is_adapter and self.relation == "adapter"


def open_chain(path: str | Path, about: About) -> Chain:
    """Everything behind a run, or behind a folder that ``seekling merge`` wrote.

    Raises:
        CheckpointError: no run; not finished; a damaged or missing checkpoint; something it started from is gone.
        RecipeError: a recipe that cannot be read.
    """
    path = Path(path)
    if not path.exists() and len(path.parts) == 1 and Path("runs", path).is_dir():
        path = Path("runs", path)
    if (path / MERGE_RECORD).is_file():
        return _merged(path, about)
    taught = [path / name for name in reversed(TAUGHT) if (path / name / "recipe.toml").is_file()]
    if (path / STORY).is_file():  # of seekling run: the last stage is what it came to
        if not taught or taught[0].name != TAUGHT[-1]:
            raise CheckpointError(f"{path} is not finished (it was not taught to the end): seekling run --resume {path}")
        path = taught[0]
    return _numbered(_chain_of(path, about, ()))


def _chain_of(run: Path, about: About, seen: tuple[Path, ...]) -> Chain:
    """The chain that ends with a run; numbers are given at the end."""
    home = run.resolve()
    if home in seen:
        raise CheckpointError(f"{run} starts from itself; its recipe.toml was changed")
    stage = read_stage(run)
    before, origin = _before(stage, about, (*seen, home))
    read = tuple(sources_of(stage.recipe, stage.run, stage.verb, about))
    if before is None:
        return Chain((stage,), stage.checkpoint, sources=read)
    chain = _taught(before, stage, read, about, (*seen, home))
    lora = bool(stage.value("lora")) and not chain.stages and not chain.merged
    return replace(
        chain,
        stages=(*chain.stages, replace(stage, starts_from=origin)),
        weights=stage.checkpoint,
        relation="adapter" if lora and chain.base_models else "finetune" if chain.base_models else None,
    )


def _taught(chain: Chain, stage: Stage, read: tuple[SourceFacts, ...], about: About, seen: tuple[Path, ...]) -> Chain:
    """The chain with a stage's sources and teachers: who is named in its recipe, and whoever wrote its texts."""
    names = [str(stage.value("teacher") or ""), *(str(s.generator) for s in read if s.generator_is_model)]
    teachers = {teacher.name: teacher for teacher in chain.teachers}
    sources = [*chain.sources, *read]
    for name in dict.fromkeys(n for n in names if n):
        found = locate(name, stage.run) if "://" not in name else None
        run = run_around(found) if found is not None else None
        if run is None:
            teacher = ancestor_of(name, found, about)
            teachers |= {a.name: a for a in (teacher, *teacher.parents)}
            continue
        behind = _chain_of(run, about, seen)
        teachers |= {run.name: Ancestor(run.name, None, own=True)}
        teachers |= {a.name: a for a in (*behind.base_models, *behind.teachers)}
        sources += [replace(s, stage=f"teacher: {s.stage}") for s in behind.sources]
    return replace(chain, teachers=tuple(teachers.values()), sources=tuple(sources))


def _before(stage: Stage, about: About, seen: tuple[Path, ...]) -> tuple[Chain | None, int | str | None]:
    """The chain that a stage goes on from, and how it is named there."""
    model = stage.value("model") if "start" in stage.recipe.sections() else None
    if not model:
        return None, None
    found = _before_in_story(stage) or locate(str(model), stage.run)
    if found is not None:
        run = run_around(found)
        if run is not None:
            before = _chain_of(run, about, seen)
            return before, len(before.stages) - 1
        if (found / MERGE_RECORD).is_file():
            before = _merged(found, about)
            return before, len(before.stages) - 1 if before.stages else str(model)
    base = ancestor_of(str(model), found, about)
    return Chain(
        (), stage.checkpoint, (base, *base.parents), sources=inherited_sources(found), base_flops=base.flops
    ), base.name


def _before_in_story(stage: Stage) -> Path | None:
    """What a stage of ``seekling run`` goes on from: its neighbour in the run's folder, wherever that was moved to."""
    home = stage.story
    name = stage.run.resolve().name
    if home is None or home == stage.run.resolve():
        return None
    earlier = TAUGHT[: TAUGHT.index(name)]
    return home / earlier[-1] if earlier else home


def _merged(folder: Path, about: About) -> Chain:
    """The chain of a folder made by ``seekling merge``."""
    record = _json(folder / MERGE_RECORD)
    adapter = locate(str(record.get("adapter", "")), folder)
    run = run_around(adapter) if adapter is not None else None
    if run is not None:
        chain = _numbered(_chain_of(run, about, ()))
        last = Ancestor(run.name, None, fingerprint=record.get("base_fingerprint"), own=True)
        return replace(chain, weights=folder, relation="merge" if chain.base_models else None, merged=(last,))
    base = locate(str(record.get("base", "")), folder)
    base_run = run_around(base) if base is not None else None
    foreign = ancestor_of(str(record.get("adapter", "")), adapter, about)
    if base_run is not None:
        chain = _numbered(_chain_of(base_run, about, ()))
        return replace(chain, weights=folder, relation="merge", merged=(foreign,))
    start = ancestor_of(str(record.get("base", "")), base, about)
    return Chain((), folder, (start, *start.parents), merged=(foreign,), relation="merge", base_flops=start.flops)


def _numbered(chain: Chain) -> Chain:
    return replace(chain, stages=tuple(replace(stage, number=i) for i, stage in enumerate(chain.stages, 1)))


# ---- one run ---------------------------------------------------------------------------------------------------------


def read_stage(run: Path) -> Stage:
    """A finished run with its newest checkpoint, every byte of which is checked.

    Raises:
        CheckpointError: it is no run, has no intact checkpoint, a damaged file, or is not finished.
    """
    from seekling.train.state import Checkpoints, problems_of

    if not (run / "recipe.toml").is_file():
        why = "is not a run (it has no recipe.toml)" if run.exists() else "does not exist"
        raise CheckpointError(f"{run} {why}; give the folder that seekling run, pretrain, sft or grpo wrote")
    recipe = read_recipe(run / "recipe.toml")
    found = Checkpoints(run / "checkpoints").found()
    if not found:
        raise CheckpointError(f"{run} has no checkpoint; let the run save one before it is released")
    wrong = problems_of(found[0], hashes=True)
    if wrong:
        raise CheckpointError(f"{found[0]} is damaged ({wrong[0]}): restore the file or repeat the run before releasing it")
    state = _json(found[0] / "training_state" / "state.json")
    steps, done = recipe.flat().get("steps") or 0, state.get("step", 0)
    log = read_records(run / "log.jsonl")
    if done < (steps if log.enough is None else min(log.enough, steps)):
        story = story_of(run)
        again = f"{recipe.verb()} --resume {run}" if story is None else f"run --resume {story}"
        raise CheckpointError(f"{run} is not finished (step {done:,} of {steps:,}); go on with: seekling {again}")
    if log.problems:
        raise CheckpointError(f"{run}: {log.problems[0]}; a release needs the whole log")
    return Stage(0, run, recipe, log, found[0], state)


def read_recipe(path: Path) -> Any:
    """A recipe of whatever verb, told by its sections.

    Raises:
        RecipeError: no verb has these sections, or the recipe is damaged.
    """
    try:
        sections = set(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    for kind in recipe_kinds():
        if set(kind.sections()) == sections:
            return kind.load(path)
    names = ", ".join(f"[{name}]" for name in sorted(sections))
    raise RecipeError(f"{path} is a recipe of no verb that is known here (its sections are {names})")


@functools.cache
def recipe_kinds() -> tuple[type[Tree], ...]:
    """Every recipe class: pretraining's, and each of ``seekling/train/*_recipe.py``."""
    import seekling.train

    modules = ["seekling.recipe"]
    modules += [f"seekling.train.{m.name}" for m in pkgutil.iter_modules(seekling.train.__path__) if m.name.endswith("_recipe")]
    found: dict[str, type[Tree]] = {}
    for name in modules:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Tree) and value is not Tree and value.__module__ == name:
                found[value.verb()] = value
    return tuple(found.values())


def story_of(run: Path) -> Path | None:
    """The folder of ``seekling run`` that a run is, or is a stage of."""
    home = run.resolve()
    places = (home, home.parent) if home.name in TAUGHT else (home,)
    return next((place for place in places if (place / STORY).is_file()), None)


def run_around(path: Path) -> Path | None:
    """The run that a path is, or lies in as one of its checkpoints."""
    home = path.resolve()
    for place in (home, home.parent.parent if home.parent.name == "checkpoints" else home):
        if (place / "recipe.toml").is_file():
            return place
    return None


def locate(model: str, run: Path) -> Path | None:
    """Where a model named in a recipe lies now: as it was given, seen from the run's folder or its parents, or pulled."""
    from seekling.hub.names import find

    if not model:
        return None
    given, around = Path(model), (run.absolute(), *list(run.absolute().parents)[:3])
    moved = [Path(*given.parts[-count:]) for count in (3, 2, 1)]  # what was moved together still lies beside the run
    ends = moved if given.is_absolute() else [given]
    places = [given, *(parent / end for end in ends for parent in around), Path("runs") / given]
    for place in places:
        if place.exists():
            return place
    return find(model)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is missing or damaged")
    return value
