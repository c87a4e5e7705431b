"""Run a release again from its manifest and compare: data, first losses, final score.

Every stage is the installed Seekling's own verb with the stage's recipe, in a process and a folder of its own; of the release
only the recipe and the data manifest are read, nothing in it is run. A recipe may name no path, no address and no tracker.

On the same kind of machine (processor, kernels, torch) losses must be equal bit for bit, elsewhere within the stated tolerance.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, DataError, MachineError, RecipeError, SeeklingError, raise_all
from seekling.release import layout
from seekling.release.machine_facts import this_machine
from seekling.tree import Tree

if TYPE_CHECKING:
    from seekling.release.check.finding import Finding

SAME = ("processor", "architecture", "torch", "kernels")
METRICS = {"bits_per_byte": ("bpb", "bits_per_byte"), "ce": ("ce",), "accuracy": ("accuracy",), "reward": ("reward",)}
RUN_MANIFEST = "data_manifest.json"  # of a run; a new run that finds one reads the same sources
EQUAL, WITHIN, DIFFERS, UNKNOWN = "equal", "within the band", "DIFFERS", "not stated"
PATIENCE = 900.0  # seconds for a stopped stage to save


@dataclass(frozen=True)
class Comparison:
    """One number or hash: what the release states, what came out."""

    what: str
    stated: Any
    found: Any
    verdict: str
    detail: str = ""


@dataclass
class StageResult:
    """A stage that was run again."""

    folder: str
    verb: str
    steps: int
    of: int
    seconds: float
    comparisons: list[Comparison] = field(default_factory=list)


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


Watch = Callable[[str, int, int, float | None], None]  # stage, step, steps to do, loss


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
    out = Reproduction(str(manifest["name"]), same, differences)
    version = str((manifest["code"]).get("version"))
    from seekling import __version__

    if version != __version__:
        out.notes.append(f"the release was made with Seekling {version}, this is {__version__}")
    stages = manifest["stages"] if steps is None else manifest["stages"][:1]
    runs: dict[str, Path] = {}
    for number, stage in enumerate(stages, 1):
        run = work / f"{number}-{stage['verb']}"
        recipe = safe_recipe(folder, manifest, stage, runs, data, base)
        result = run_stage(folder, stage, recipe, run, steps, watch, say)
        compare_stage(stage, manifest["reproduce"], same, run, result, whole=steps is None or steps >= stage["steps"])
        out.stages.append(result)
        runs[stage["folder"]] = run
    return out


# ---- what is read of the release -------------------------------------------------------------------------------------


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, once it fits its schema and the stages' files are those it lists.

    Raises:
        CheckpointError: what is wrong, with the file's name.
    """
    manifest = layout.read_manifest(folder)
    raise_all(CheckpointError, [line[:300] for line in layout.manifest_problems(manifest)][:20], f"{folder / layout.MANIFEST}")
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    bad = []
    for stage in manifest["stages"]:
        if not _inside(stage["folder"]):
            raise CheckpointError(
                f"{folder / layout.MANIFEST}: a stage names the folder {stage['folder']!r}, outside the release"
            )
        for name in ("recipe.toml", RUN_MANIFEST):
            path = f"{stage['folder']}/{name}"
            there = (folder / path).is_file() and not (folder / path).is_symlink()
            if not there and (path in listed or name == "recipe.toml"):
                bad.append(f"{path} is missing; get the release again")
            elif there and path not in listed:
                bad.append(f"{path} is not in the list of release.json; get the release again")
            elif there and layout.sha256(folder / path) != listed[path]:
                bad.append(f"{path} was changed since the release was made; get the release again")
    raise_all(CheckpointError, bad, str(folder))
    return manifest


def _inside(path: str) -> bool:
    parts = path.split("/")
    return path != "" and not path.startswith("/") and "\\" not in path and ".." not in parts and "" not in parts


def recipe_kinds() -> dict[str, type[Tree]]:
    """The recipe of every verb that trains."""
    from seekling.recipe import Recipe
    from seekling.train.distill_recipe import DistillRecipe
    from seekling.train.dpo_recipe import DpoRecipe
    from seekling.train.grpo_recipe import GrpoRecipe
    from seekling.train.sft_recipe import SftRecipe

    kinds: tuple[type[Tree], ...] = (Recipe, SftRecipe, GrpoRecipe, DpoRecipe, DistillRecipe)
    return {kind.verb(): kind for kind in kinds}


def safe_recipe(
    folder: Path,
    manifest: Mapping[str, Any],
    stage: Mapping[str, Any],
    runs: Mapping[str, Path],
    data: Path | None,
    base: Path | None,
) -> Tree:
    """The recipe of a stage with its outer things put in place, and none of the release's choosing left.

    Raises:
        RecipeError: an unknown verb or a recipe that cannot be read, or that names an address.
        DataError: a file is not here. CheckpointError: it was changed.
    """
    kinds = recipe_kinds()
    if stage["verb"] not in kinds:
        raise RecipeError(f"{stage['folder']}: there is no verb {stage['verb']!r} that trains; update Seekling")
    recipe = kinds[stage["verb"]].load(folder / stage["folder"] / "recipe.toml")
    flat = recipe.flat()
    values: dict[str, Any] = {"trackers": (), "command": "", "out": None}
    values = {name: value for name, value in values.items() if name in flat}
    for name in ("data", "eval_data"):
        if flat.get(name):
            values[name] = tuple(str(_text_file(folder, manifest, stage, str(item), data)) for item in flat[name])
    if flat.get("model"):
        values["model"] = str(_start(stage, runs, base))
    teacher = str(flat.get("teacher") or "")
    if teacher:
        values["teacher"] = str(_teacher(teacher, stage))
    return recipe.replaced(values)


def _text_file(folder: Path, manifest: Mapping[str, Any], stage: Mapping[str, Any], name: str, data: Path | None) -> Path:
    last = Path(name).name
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    for place in (stage["folder"], "data"):
        path = folder / place / last
        if last in ("", "..") or last.endswith(".toml") or path.is_symlink() or not path.is_file():
            continue  # never a .toml: it would declare sources of its own
        if listed.get(f"{place}/{last}") != layout.sha256(path):
            raise CheckpointError(f"{path} was changed since the release was made; get the release again")
        return path.absolute()
    if data is not None and last not in ("", "..") and (data / last).exists():
        return (data / last).absolute()
    raise DataError(f"{stage['folder']} was trained on {last!r}, which is not in the release: give its folder with --data DIR")


def _start(stage: Mapping[str, Any], runs: Mapping[str, Path], base: Path | None) -> Path:
    before = str(stage.get("starts_from") or "")
    if before in runs:
        return runs[before].absolute()
    found = base if base is not None else _pulled(before)
    if found is None or not found.exists():
        what = f"{stage['folder']} starts from {before or 'an unnamed model'}"
        raise DataError(f"{what}, which is not here: pull it, or give its folder with --base DIR")
    return found.absolute()


def _teacher(name: str, stage: Mapping[str, Any]) -> Path:
    if "://" in name:
        raise RecipeError(
            f"{stage['folder']} asked a teacher behind an address; that cannot be repeated from the release alone"
        )
    found = _pulled(name)
    if found is None:
        raise DataError(f"{stage['folder']} learned from {name}, which is not here: pull it first")
    return found


def _pulled(name: str) -> Path | None:
    from seekling.hub.names import find

    return find(name) if name else None


# ---- the machine -----------------------------------------------------------------------------------------------------


def compare_machine(manifest: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether this is the release's kind of machine, and what is another."""
    stated, here = manifest["reproduce"]["machine"], this_machine()
    other = [f"{key}: {stated[key]} there, {here[key]} here" for key in SAME if key in stated and stated[key] != here[key]]
    lacking = [key for key in ("processor", "torch") if key not in stated]
    return not other and not lacking, other + [f"{key}: not stated in the release" for key in lacking]


# ---- running ---------------------------------------------------------------------------------------------------------


def run_stage(
    folder: Path, stage: Mapping[str, Any], recipe: Tree, run: Path, steps: int | None, watch: Watch, say: Callable[[str], None]
) -> StageResult:
    """Train a stage again in ``run``, to its end or for so many steps. Raises CheckpointError, MachineError."""
    _fits(recipe)
    wanted = stage["steps"] if steps is None else min(steps, stage["steps"])
    run.mkdir(parents=True)
    asked = run.with_name(run.name + ".toml")
    asked.write_text(recipe.to_toml(), "utf-8")
    manifest = folder / stage["folder"] / RUN_MANIFEST
    if manifest.is_file():  # the run then reads the same sources, or says which it cannot have
        (run / RUN_MANIFEST).write_bytes(manifest.read_bytes())
    say(f"{stage['folder']}: seekling {stage['verb']}, {wanted:,} of {stage['steps']:,} steps")
    words = [sys.executable, "-m", "seekling", stage["verb"], "--recipe", str(asked), "--out", str(run)]
    began = time.monotonic()
    with _process(words, run) as process:
        done = _follow(process, run / "log.jsonl", str(stage["folder"]), wanted, stop=wanted < stage["steps"], watch=watch)
        code = process.wait()
    if done < wanted or code not in (0, 130):
        raise CheckpointError(f"{stage['folder']} ended at step {done} of {wanted}: {_last_words(run)}")
    return StageResult(str(stage["folder"]), str(stage["verb"]), wanted, stage["steps"], time.monotonic() - began)


def _fits(recipe: Tree) -> None:
    from seekling.recipe import Recipe

    if isinstance(recipe, Recipe):
        from seekling.dial import fits_in_memory
        from seekling.machine import look

        if not fits_in_memory(recipe, look()):
            raise MachineError("this release's training does not fit into this machine's memory; use one like the release's")


@contextlib.contextmanager
def _process(words: list[str], run: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The training process, its output in a file beside the run; it never outlives the block."""
    with open(run.with_name(run.name + ".out"), "wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            if process.poll() is None:
                process.kill()
            process.wait()


def _follow(process: "subprocess.Popen[bytes]", log: Path, name: str, wanted: int, *, stop: bool, watch: Watch) -> int:
    """Read the log while it grows; ask the process to stop after ``wanted`` steps. Returns the last step seen."""
    done, at, asked, rest = 0, 0, 0.0, b""
    while True:
        ended = process.poll() is not None
        if log.is_file():
            with open(log, "rb") as file:
                file.seek(at)
                rest += file.read()
                at = file.tell()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                record = _record(line)
                if record.get("kind") == "step":
                    done = max(done, int(record["step"]))
                    loss = record.get("loss")
                    watch(name, min(done, wanted), wanted, loss if isinstance(loss, float) else None)
        if ended:
            return done
        if stop and done >= wanted and not asked:
            process.send_signal(signal.SIGINT)
            asked = time.monotonic()
        if asked and time.monotonic() - asked > PATIENCE:
            raise CheckpointError(f"{name} did not stop within {PATIENCE:g} s")
        time.sleep(0.1)


def _record(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_words(run: Path) -> str:
    text = run.with_name(run.name + ".out").read_text("utf-8", "replace").strip().splitlines()
    errors = [line for line in text if line.startswith("error: ")]
    return (errors or text or ["it said nothing"])[-1].removeprefix("error: ")[:500]


# ---- comparing -------------------------------------------------------------------------------------------------------


def compare_stage(
    stage: Mapping[str, Any], terms: Mapping[str, Any], same: bool, run: Path, result: StageResult, *, whole: bool
) -> None:
    """Put data, losses and final score of a repeated stage beside the stated ones."""
    records = [_record(line) for line in (run / "log.jsonl").read_bytes().split(b"\n") if line]
    result.comparisons.append(_data(stage, run))
    result.comparisons.append(_losses(stage, records, result.steps, same, terms.get("tolerance")))
    if whole and stage.get("final") is not None:
        result.comparisons.append(_final(stage["final"], records))


def _data(stage: Mapping[str, Any], run: Path) -> Comparison:
    stated, found = stage.get("data_fingerprint"), None
    for path in sorted((run / "checkpoints").glob("step-*/training_state/state.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads(path.read_text("utf-8"))["pinned"].get("data")
            break
    verdict = UNKNOWN if stated is None else EQUAL if stated == found else DIFFERS
    return Comparison("training data (hash)", stated, found, verdict)


def _losses(stage: Mapping[str, Any], records: list[dict[str, Any]], steps: int, same: bool, tolerance: Any) -> Comparison:
    stated = {r["step"]: r["loss"] for r in stage["first_losses"] if r["step"] <= steps}
    found = {r["step"]: r.get("loss") for r in records if r.get("kind") == "step" and r["step"] in stated}
    gaps = {
        step: abs(loss - found[step]) if isinstance(found.get(step), int | float) else float("inf")
        for step, loss in stated.items()
    }
    what = f"losses of the first {len(stated)} logged steps"
    if not stated:
        return Comparison(what, None, None, UNKNOWN, f"the release states none up to step {steps}")
    worst = max(gaps.values())
    shown = list(stated.values())[-1], found.get(max(stated))
    if worst == 0:
        return Comparison(what, *shown, EQUAL, "bit for bit")
    first = next(step for step, gap in gaps.items() if gap)
    detail = f"first difference at step {first} ({stated[first]!r} stated, {found.get(first)!r} here), largest {worst:.3g}"
    if same or not isinstance(tolerance, int | float):
        return Comparison(what, *shown, DIFFERS, detail)
    return Comparison(what, *shown, WITHIN if worst <= tolerance else DIFFERS, f"{detail}; tolerance {tolerance:g}")


def _final(final: Mapping[str, Any], records: list[dict[str, Any]]) -> Comparison:
    keys = METRICS.get(final["metric"], (final["metric"],))
    scores = [r[key] for r in records if r.get("kind") == "eval" for key in keys if isinstance(r.get(key), int | float)]
    what = f"final {final['metric'].replace('_', ' ')}"
    if not scores:
        return Comparison(what, final["value"], None, DIFFERS, "the run ended without this score")
    gap = abs(scores[-1] - final["value"])
    verdict = EQUAL if gap == 0 else WITHIN if gap <= final["band"] else DIFFERS
    return Comparison(
        what, final["value"], scores[-1], verdict, "" if gap == 0 else f"off by {gap:.3g}; band ±{final['band']:g}"
    )


# ---- for `seekling release check --smoke` ----------------------------------------------------------------------------


def smoke_findings(folder: Path, steps: int, say: Callable[[str], None], watch: Watch) -> "Iterator[Finding]":
    """Repeat the first steps of a release and say what came of it; ``steps`` 0 takes the release's own number."""
    from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding

    if not (folder / layout.MANIFEST).is_file():
        text = "no release.json with a recipe and first losses: its training cannot be repeated by this program"
        yield Finding("smoke.none", PERSON, text, remedy="seekling release writes one")
        return
    try:
        wanted = steps or int(checked_manifest(folder)["reproduce"]["smoke_steps"])
        with tempfile.TemporaryDirectory(prefix="seekling-smoke-") as work:
            out = reproduce(folder, steps=max(1, wanted), work=Path(work), say=say, watch=watch)
    except SeeklingError as error:
        yield Finding(
            "smoke.run", FAIL, f"its first steps could not be repeated: {str(error).splitlines()[0]}", layout.MANIFEST
        )
        return
    for stage in out.stages:
        for c in stage.comparisons:
            verdict = FAIL if c.verdict == DIFFERS else NOTE if c.verdict == UNKNOWN else PASS
            detail = f" ({c.detail})" if c.detail else ""
            text = f"{stage.folder}: {stage.steps} steps from the declared start: {c.what} {c.verdict}{detail}"
            yield Finding("smoke.run", verdict, text, stage.folder)
    where = "the same kind of machine" if out.same_machine else f"another kind of machine ({'; '.join(out.differences[:2])})"
    yield Finding("smoke.machine", NOTE, f"repeated on {where}")
