"""The run's log: one JSON object a line in ``RUN/log.jsonl``, a progress bar on a terminal, and optional trackers.

Kinds: ``step`` (one optimizer step), ``eval``, ``sample``, ``event`` (something out of the ordinary). ``step`` in a line is the
number of optimizer steps done. When a run resumes, lines after its checkpoint are dropped, so that the file ends up as if the
run had never stopped, times apart (``TIMES`` lists the keys that depend on the clock).
"""

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from seekling.errors import DataError, RecipeError
from seekling.train.state import Saved, replace_text

TIMES = ("tokens_per_second", "utilisation", "speeds", "seconds", "elapsed")


def plain(value: Any) -> Any:
    """``value`` as strict JSON: a number that is not finite becomes its name, since JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def say_to(console: Any) -> Callable[[str], None]:
    """A function that prints a line on a ``rich`` console, or does nothing without one."""

    def say(text: str) -> None:
        if console is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    return say


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a log; a last line that a kill cut off is left out.

    Raises:
        DataError: a line other than the last is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    out = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            out.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise DataError(f"{path} line {number} is not JSON; restore the file or remove that line") from None
    return out


class RunLog:
    """Appends records to a JSONL file and hands them to the trackers; a line is flushed as soon as it is written.

    Args:
        path: the file; its folder must exist.
        keep_to_step: lines of later steps are dropped (0 empties the log of a run that starts).
        keep_hooks: False drops evaluations and samples of that very step too: the checkpoint was made before them.
        trackers: further writers, see :func:`open_trackers`.
    """

    def __init__(self, path: Path, keep_to_step: int = 0, trackers: Sequence["Tracker"] = (), keep_hooks: bool = True) -> None:
        self.trackers = trackers
        kept = [r for r in read_log(path) if r["step"] <= keep_to_step] if keep_to_step > 0 else []
        if not keep_hooks:
            kept = [r for r in kept if r["step"] < keep_to_step or r["kind"] in ("step", "event")]
        replace_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
        self.seen = {(r["kind"], r["step"]) for r in kept}
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed in close()

    @classmethod
    def of_run(cls, run: Path, saved: Saved | None, trackers: Sequence[str]) -> "RunLog":
        """The log of a run that starts, or that goes on from ``saved``, with the trackers of these names."""
        writers = open_trackers(trackers, run)
        return cls(run / "log.jsonl", saved.step if saved else 0, writers, saved is None or saved.values["hooks_done"])

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line."""
        record = plain({"kind": kind, "step": step, **values})
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        self.seen.add((kind, step))
        for tracker in self.trackers:
            tracker.write(record)

    def sync(self) -> None:
        """Make the lines so far survive a power cut; called before a checkpoint refers to them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        for tracker in self.trackers:
            tracker.close()


# ---- trackers --------------------------------------------------------------------------------------------------------


class Tracker(Protocol):
    """A further place that log records go to."""

    def write(self, record: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a record under a path-like name: ``{"maxvio": [1, 2]}`` -> ``maxvio/0``, ``maxvio/1``."""
    out: dict[str, float] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int | float):
            out[name] = value
        elif isinstance(value, Mapping):
            out |= numbers(value, name + "/")
        elif isinstance(value, list):
            out |= numbers({str(i): v for i, v in enumerate(value)}, name + "/")
    return out


class TensorBoard:
    """Writes to ``RUN/tensorboard``."""

    def __init__(self, run: Path) -> None:
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(run / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        for name, value in numbers(record).items():
            self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Writes to a Weights & Biases run named after the folder; leaves this machine only because it was asked for."""

    def __init__(self, run: Path) -> None:
        self._run = importlib.import_module("wandb").init(project="seekling", name=run.name, dir=str(run), resume="allow")

    def write(self, record: dict[str, Any]) -> None:
        values = {f"{record['kind']}/{k}": v for k, v in numbers(record).items() if k != "step"}
        self._run.log(values | {"step": record["step"]})

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


def open_trackers(names: Sequence[str], run: Path) -> list[Tracker]:
    """Start the trackers of these names.

    Raises:
        RecipeError: a name is not known or its package is not installed.
    """
    out: list[Tracker] = []
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"tracker {name!r} is not known; choose from {', '.join(TRACKERS)}")
        try:
            out.append(TRACKERS[name](run))
        except ImportError:
            raise RecipeError(f"tracker {name!r} needs a package that is not installed: pip install {name}") from None
    return out


# ---- the terminal ----------------------------------------------------------------------------------------------------


class Progress:
    """A bar with loss, tokens a second and time left on a terminal; a line every few seconds where there is none.

    Args:
        console: a ``rich.console.Console``; None keeps silent.
        total: steps of the whole run.
        done: steps already done when this session starts.
    """

    LINE_SECONDS = 15.0

    def __init__(self, console: Any, total: int, done: int = 0, what: str = "training") -> None:
        self.console, self.total, self.start, self.what = console, total, done, what
        self.began, self.last_line = time.monotonic(), 0.0
        self._bar: Any = None

    def open(self) -> None:
        """Start the clock and show the bar."""
        console, self.began = self.console, time.monotonic()
        if console is not None and console.is_terminal:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn(self.what), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self._bar = Bar(*columns, TextColumn("{task.description}"), console=console)
            self._task = self._bar.add_task("", total=self.total, completed=self.start)
            self._bar.start()

    def resumed(self, step: int) -> None:
        """The run goes on from ``step``; time left is reckoned from there."""
        self.start = step

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self.console is not None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Show that ``step`` steps are done."""
        if self.console is None:
            return
        now = time.monotonic()
        left = (self.total - step) * (now - self.began) / max(1, step - self.start)
        text = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif now - self.last_line >= self.LINE_SECONDS or step == self.total:
            self.last_line = now
            self.say(f"step {step}/{self.total}  {text}")

    def note(self, done: int, text: str) -> None:
        """Show that ``done`` pieces of something other than steps are done."""
        if self.console is None:
            return
        now = time.monotonic()
        left = (self.total - done) * (now - self.began) / max(1, done - self.start)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{text}  {clock(left)} left")
        elif now - self.last_line >= self.LINE_SECONDS or done == self.total:
            self.last_line = now
            self.say(f"{done}/{self.total}  {text}  {clock(left)} left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def clock(seconds: float) -> str:
    """``3725`` -> ``1:02:05``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
