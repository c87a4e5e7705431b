"""What a repeated stage is compared by: the kind of machine, the data's hash, the first losses, the final score."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.release.machine_facts import this_machine

SAME = ("processor", "architecture", "torch", "kernels")
METRICS = {"bits_per_byte": ("bpb", "bits_per_byte"), "ce": ("ce",), "accuracy": ("accuracy",), "reward": ("reward",)}
EQUAL, WITHIN, DIFFERS, UNKNOWN = "equal", "within the band", "DIFFERS", "not stated"


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


def compare_machine(manifest: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether this is the release's kind of machine, and what is another."""
    stated, here = manifest["reproduce"]["machine"], this_machine()
    other = [f"{key}: {stated[key]} there, {here[key]} here" for key in SAME if key in stated and stated[key] != here[key]]
    lacking = [key for key in ("processor", "torch") if key not in stated]
    return not other and not lacking, other + [f"{key}: not stated in the release" for key in lacking]


def compare_stage(
    stage: Mapping[str, Any], terms: Mapping[str, Any], same: bool, run: Path, result: StageResult, *, whole: bool
) -> None:
    """Put data, number of steps, losses and final score of a repeated stage beside the stated ones."""
    records = [record_of(line) for line in (run / "log.jsonl").read_bytes().split(b"\n") if line]
    result.comparisons.append(_data(stage, run))
    if whole and result.steps != stage["steps"]:  # lessons end when enough was learned, on another machine perhaps elsewhere
        verdict = DIFFERS if same else WITHIN
        result.comparisons.append(Comparison("steps until enough was learned", stage["steps"], result.steps, verdict))
    result.comparisons.append(_losses(stage, records, result.steps, same, terms.get("tolerance")))
    if whole and stage.get("final") is not None:
        result.comparisons.append(_final(stage["final"], records))


def record_of(line: bytes) -> dict[str, Any]:
    """A log line; empty where it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _data(stage: Mapping[str, Any], run: Path) -> Comparison:
    stated, found = stage.get("data_fingerprint"), None
    if stage["verb"] == "grpo":
        return _problems(stated, run)
    for path in sorted((run / "checkpoints").glob("step-*/training_state/state.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads(path.read_text("utf-8"))["pinned"].get("data")
            break
    verdict = UNKNOWN if stated is None else EQUAL if stated == found else DIFFERS
    return Comparison("training data (hash)", stated, found, verdict)


def _problems(stated: Any, run: Path) -> Comparison:
    from seekling.release.practice import practice_fingerprint
    from seekling.train.grpo_recipe import GrpoRecipe

    found = practice_fingerprint(GrpoRecipe.load(run / "recipe.toml"))
    verdict = UNKNOWN if stated is None else EQUAL if stated == found else DIFFERS
    return Comparison("problems practised (hash)", stated, found, verdict)


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
