"""What the stages after pretraining are judged by, scored with the very weights that are released: problems with exact answers,
and held-out conversations. Beside each score stands what the same model reached before, and what the run's own log says.

What cannot be asked again (pairs of preference, files that are gone) is taken from the log of the last stage, and says so.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release.scores import Score
from seekling.release.sources import files_read
from seekling.train.story import EVALUATION

if TYPE_CHECKING:
    from seekling.lm import LM
    from seekling.release.chain import Stage

Metrics = dict[str, tuple[float, float | None, float | None, float | None]]


def stage_scores(stages: tuple["Stage", ...], lm: "LM") -> tuple[list[Score], list[dict[str, Any]]]:
    """Scores of the released model, the tasks first, and the first problems of every task with its answers."""
    found: list[Score] = []
    answered: list[dict[str, Any]] = []
    last = stages[-1]
    practised = next((s for s in reversed(stages) if s.value("tasks")), None)
    if practised is not None:
        found, answered = task_scores(practised, lm, practised is last)
    taught = next((s for s in reversed(stages) if s.verb in ("sft", "distill") and s.value("data")), None)
    if taught is not None:
        found += conversation_scores(taught, lm, taught is last)
    if not found and last.final is not None:
        found = logged_scores(last)
    return found, answered


# ---- problems with exact answers -------------------------------------------------------------------------------------


def task_scores(stage: "Stage", lm: "LM", last: bool) -> tuple[list[Score], list[dict[str, Any]]]:
    """The unseen problems of a stage's tasks, asked again.

    Args:
        last: whether the stage is the last, so that its log speaks of these weights.
    """
    from seekling.train import scores

    drawn = _drawn(stage)
    earlier, logged = _earlier(stage), _logged(stage) if last else {}
    out, answered = [], []
    for name, values in scores.task_scores(lm, stage.recipe, drawn).items():
        n = int(values["problems"])
        metrics = {_metric(key): _share(values, key, n) for key in ("accuracy", *_ways(values))}
        beside = {when: _numbers(tasks[name]) for when, tasks in earlier.items() if name in tasks}
        what = f"{n:,} unseen problems, greedy answers" + (f" and {drawn} drawn" if drawn else "")
        out.append(Score(name, metrics, n, what, beside, _numbers(logged.get(name, {}))))
        answered += [{"task": name, **row} for row in values["samples"]]
    return out, answered


def _drawn(stage: "Stage") -> int:
    """Answers that ``seekling run`` draws to each problem; 0 in other runs."""
    from seekling.train.story import STORY
    from seekling.train.story_recipe import StoryRecipe

    return 0 if stage.story is None else StoryRecipe.load(stage.story / STORY).story.drawn


def _earlier(stage: "Stage") -> dict[str, dict[str, Any]]:
    """Scores of the same problems before: after each earlier stage of ``seekling run``, else before this stage."""
    if stage.story is None:
        first = next((e for e in stage.log.evals if e["step"] == 0), {})
        return {"before this stage": _tables(first.get("tasks"))}
    places = {"after pretraining": stage.story} | ({"after lessons": stage.story / "sft"} if stage.verb == "grpo" else {})
    return {when: _evaluation(place) for when, place in places.items()}


def _logged(stage: "Stage") -> dict[str, Any]:
    return _evaluation(stage.run) if stage.story is not None else _tables((stage.final or {}).get("tasks"))


def _evaluation(run: Path) -> dict[str, Any]:
    try:
        return _tables(json.loads((run / EVALUATION).read_text("utf-8"))["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _tables(value: Any) -> dict[str, Any]:
    return {k: v for k, v in value.items() if isinstance(v, Mapping)} if isinstance(value, Mapping) else {}


def _ways(values: Mapping[str, Any]) -> list[str]:
    """pass@1, maj@k and pass@k, where answers were drawn."""
    return [key for key in values if "@" in key and not key.endswith("_interval")]


def _metric(key: str) -> str:
    return "exact_match" if key == "accuracy" else key


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    held = [key for key in ("accuracy", *_ways(values)) if isinstance(values.get(key), int | float)]
    return {_metric(key): float(values[key]) for key in held}


def _share(values: Mapping[str, Any], key: str, n: int) -> tuple[float, float | None, float | None, float | None]:
    share = float(values[key])
    low, high = values.get(f"{key}_interval") or (None, None)
    return share, math.sqrt(share * (1 - share) / n) if n else None, low, high


# ---- conversations ---------------------------------------------------------------------------------------------------


def conversation_scores(stage: "Stage", lm: "LM", last: bool) -> list[Score]:
    """Cross-entropy and accuracy on what the assistant says in the conversations that were held out; from the log, where their
    file is gone and the stage is the last."""
    from seekling.train.sft import judge, lessons_of

    files = files_read(stage.value("data"), stage.run)
    if not all(path.is_file() for path in files):
        return logged_scores(stage) if last else []
    assert lm.tokenizer is not None
    recipe = stage.recipe.replaced({"data": tuple(map(str, files))})
    heldout = lessons_of(recipe, lm.tokenizer, lm.config).heldout
    if heldout is None:
        return []
    found, first, final = judge(lm.model, heldout), _first(stage), stage.final or {}
    what = f"{found['tokens']:,} tokens that the assistant says in held-out conversations"
    metrics: Metrics = {"ce": (found["ce"], None, None, None), "acc": (found["accuracy"], None, None, None)}
    before, logged = {"before this stage": first} if first else {}, _spoken(final) if last else {}
    return [Score(f"{stage.verb}_heldout", metrics, found["tokens"], what, before, logged)]


def _first(stage: "Stage") -> dict[str, float]:
    return _spoken(next((e for e in stage.log.evals if e["step"] == 0), {}))


def _spoken(record: Mapping[str, Any]) -> dict[str, float]:
    keys = {"ce": "ce", "accuracy": "acc"}
    return {name: float(record[key]) for key, name in keys.items() if isinstance(record.get(key), int | float)}


# ---- what only the log knows -----------------------------------------------------------------------------------------


def logged_scores(stage: "Stage") -> list[Score]:
    """The last evaluation of the last stage as its log has it."""
    final, first = stage.final or {}, _first(stage)
    if "bpb" in final or not _spoken(final):
        return []
    metrics: Metrics = {name: (value, None, None, None) for name, value in _spoken(final).items()}
    n = int(final.get("tokens") or final.get("pairs") or 0)
    what = "held-out data of the last stage, as its log has it; not asked again"
    return [Score(f"{stage.verb}_heldout", metrics, n, what, {"before this stage": first} if first else {})]
