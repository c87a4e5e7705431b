"""Reading a run's log for a report: whatever is readable is used, and whatever is not is named, with its line number.

Training reads the same file strictly (:func:`seekling.train.log.read_log`); a report has to come out of a damaged run too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAN = float("nan")
LARGEST = 1e60  # no quantity of a run comes near it; sums and axis margins of what lies below stay finite


@dataclass
class Records:
    """The log by kind, each list in the order of its steps; ``problems`` has a line for everything left out."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    enough: int | None = None  # the step at which a check found that enough was learned, which ends a run early

    def series(self, key: str) -> list[float]:
        """A number of every step record; NaN where it is missing or not finite."""
        return [number(record, key) for record in self.steps]

    @property
    def last(self) -> dict[str, Any]:
        """The newest step record; empty when there is none."""
        return self.steps[-1] if self.steps else {}


def read_records(path: Path) -> Records:
    """Everything readable in a ``log.jsonl``; a missing file is an empty log, and said so."""
    out = Records()
    kinds = {"step": out.steps, "eval": out.evals, "tasks": out.evals, "sample": out.samples, "event": out.events}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        out.problems.append(f"{path.name} cannot be read ({error.strerror}), so there are no curves")
        return out
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = parse(line)
        if record is not None:
            kinds.get(record["kind"], []).append(record)
            if record.get("enough") is True and out.enough is None:
                out.enough = record["step"]
        elif line_number == len(lines):
            out.problems.append(f"{path.name} line {line_number}, the last, is cut off; it is left out of this report")
        else:
            out.problems.append(f"{path.name} line {line_number} is damaged; it is left out of every number and figure here")
    for records in kinds.values():
        records.sort(key=lambda r: r["step"])
    return out


def parse(line: bytes) -> dict[str, Any] | None:
    """One line's record, or None when it is not an object with a kind and a step."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1 << 60 else None


def number(record: Mapping[str, Any], key: str) -> float:
    """``record[key]`` as a finite number, else NaN (the log writes what is not finite by name)."""
    return finite(record.get(key))


def finite(value: Any) -> float:
    """A finite number as it is, anything else as NaN; so is what no computation here can mean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        value = float(value)
    except OverflowError:
        return NAN
    return value if abs(value) < LARGEST else NAN  # False for NaN too


def numbers(value: Any) -> list[float]:
    """A list of numbers, NaN for what is none; an empty list when it is no list."""
    return [finite(v) for v in value] if isinstance(value, list) else []


def table(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def known(value: float) -> float | None:
    """NaN as None, which JSON can hold."""
    return None if math.isnan(value) else value


def median(values: list[float]) -> float:
    """Middle of the finite values; NaN when there is none."""
    good = sorted(v for v in values if not math.isnan(v))
    if not good:
        return NAN
    half = len(good) // 2
    return good[half] if len(good) % 2 else (good[half - 1] + good[half]) / 2
