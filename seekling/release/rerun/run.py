"""Run a release again from its manifest and compare: data, first losses, final score.

Every stage is the installed Seekling's own verb with the stage's recipe, in a process and a folder of its own; lessons and
practice of ``seekling run`` are that command going on with the repeated pretraining. Of the release only recipes and the data
manifests are read, nothing in it is run. A recipe may name no path, no address, no tracker and no reward of a file.

On the same kind of machine (processor, kernels, torch) losses must be equal bit for bit, elsewhere within the stated tolerance.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.release.rerun.compare import DIFFERS, StageResult, compare_machine, compare_stage
from seekling.release.rerun.process import Watch, run_stage, run_taught
from seekling.release.rerun.recipes import checked_manifest, safe_recipe, safe_story


@dataclass
class Reproduction:
    """What was repeated. ``same_machine``: whether losses had to be equal; ``differences``: what of the machine is another."""

    release: str
    same_machine: bool
    differences: list[str]
    stages: list[StageResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether everything that was compared agrees."""
        return all(c.verdict != DIFFERS for stage in self.stages for c in stage.comparisons)


def reproduce(
    folder: Path,
    *,
    steps: int | None = None,
    data: Path | None = None,
    base: Path | None = None,
    work: Path,
    say: Callable[[str], None] = lambda text: None,
    watch: Watch = lambda stage, step, steps, loss: None,
) -> Reproduction:
    """Repeat the stages of a release.

    Args:
        steps: stop the first stage after so many steps and compare only those; None runs all stages to their end.
        data: where text files that the recipe names lie, when they are not in the release.
        base: the base model that the first stage starts from, when it starts from one.
        work: an empty folder for the runs.

    Raises:
        CheckpointError: no release, a damaged manifest, a missing or changed file, a stage that ends with an error.
        RecipeError: a recipe that names what a reproduction must not touch.
        DataError, MachineError: what is needed is not here.
    """
    manifest = checked_manifest(folder)
    same, differences = compare_machine(manifest)
    out = Reproduction(str(manifest["name"]), same, differences, notes=_notes(manifest))
    stages = manifest["stages"] if steps is None else manifest["stages"][:1]
    terms, runs = manifest["reproduce"], {}
    taught = [s for s in stages if s.get("part_of") == "run" and s["verb"] != "pretrain"]
    story = safe_story(folder) if taught else None
    for number, stage in enumerate(stages, 1):
        if story is not None and stage in taught:
            continue
        run = runs[stage["folder"]] = work / f"{number}-{stage['verb']}"
        recipe = safe_recipe(folder, manifest, stage, runs, data, base)
        out.stages.append(run_stage(folder, stage, recipe, run, steps, watch, say))
        compare_stage(stage, terms, same, run, out.stages[-1], whole=steps is None or steps >= stage["steps"])
        if story is not None and stages[number : number + 1] == taught[:1]:
            for later, result in zip(taught, run_taught(taught, story, run, watch, say), strict=True):
                runs[later["folder"]] = run / later["verb"]
                compare_stage(later, terms, same, runs[later["folder"]], result, whole=True)
                out.stages.append(result)
    return out


def _notes(manifest: dict[str, Any]) -> list[str]:
    from seekling import __version__

    version = str(manifest["code"].get("version"))
    return [] if version == __version__ else [f"the release was made with Seekling {version}, this is {__version__}"]
