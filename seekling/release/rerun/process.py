"""Stages in processes of their own, followed by their logs."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, MachineError
from seekling.release.rerun.compare import StageResult, record_of
from seekling.release.rerun.recipes import RUN_MANIFEST
from seekling.tree import Tree

PATIENCE = 900.0  # seconds for a stopped stage to save

Watch = Callable[[str, int, int, float | None], None]  # stage, step, steps to do, loss


@dataclass
class Leg:
    """A stage's log while it grows: the last step seen, and when that was."""

    name: str
    log: Path
    wanted: int
    done: int = 0
    ended: float = field(default_factory=time.monotonic)
    at: int = 0
    rest: bytes = b""

    def read(self, watch: Watch) -> None:
        """Take in what was written since."""
        if not self.log.is_file():
            return
        with open(self.log, "rb") as file:
            file.seek(self.at)
            self.rest += file.read()
            self.at = file.tell()
        *lines, self.rest = self.rest.split(b"\n")
        for record in map(record_of, lines):
            if record.get("kind") == "step":
                self.done, self.ended = max(self.done, int(record["step"])), time.monotonic()
                loss = record.get("loss")
                watch(self.name, min(self.done, self.wanted), self.wanted, loss if isinstance(loss, float) else None)


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
    leg = Leg(str(stage["folder"]), run / "log.jsonl", wanted)
    began = time.monotonic()
    words = [stage["verb"], "--recipe", str(asked), "--out", str(run)]
    _to_the_end(words, run.with_name(run.name + ".out"), [leg], stop=wanted < stage["steps"], watch=watch)
    return StageResult(leg.name, str(stage["verb"]), wanted, stage["steps"], time.monotonic() - began)


def run_taught(
    stages: Sequence[Mapping[str, Any]], story: str, run: Path, watch: Watch, say: Callable[[str], None]
) -> list[StageResult]:
    """What ``seekling run`` does after pretraining, again in the repeated run. Raises CheckpointError.

    Args:
        story: story.toml, what is taught.
    """
    (run / "story.toml").write_text(story, "utf-8")
    say(f"{' and '.join(s['folder'] for s in stages)}: seekling run --resume, with evaluations before and after")
    legs = [Leg(str(s["folder"]), run / s["verb"] / "log.jsonl", s["steps"]) for s in stages]
    began = time.monotonic()
    _to_the_end(["run", "--resume", str(run)], run.with_name(run.name + "-taught.out"), legs, stop=False, watch=watch)
    starts = [began, *(leg.ended for leg in legs[:-1])]
    return [
        StageResult(leg.name, str(s["verb"]), leg.done, s["steps"], leg.ended - start)
        for leg, s, start in zip(legs, stages, starts, strict=True)
    ]


def _fits(recipe: Tree) -> None:
    from seekling.recipe import Recipe

    if isinstance(recipe, Recipe):
        from seekling.dial import fits_in_memory
        from seekling.machine import look

        if not fits_in_memory(recipe, look()):
            raise MachineError("this release's training does not fit into this machine's memory; use one like the release's")


def _to_the_end(words: list[str], output: Path, legs: list[Leg], *, stop: bool, watch: Watch) -> None:
    """Run the command until it ends, or until its last log has as many steps as are wanted. Raises CheckpointError."""
    with _process([sys.executable, "-m", "seekling", *words], output) as process:
        _follow(process, legs, stop=stop, watch=watch)
        code = process.wait()
    short = next((leg for leg in legs if leg.done < leg.wanted), legs[-1])
    # Asked when the last steps were done already, the process may be on its way out, where the signal ends it as it ends any.
    fine = (0, 130, -signal.SIGINT) if stop else (0,)
    if code not in fine or not short.done or (stop and short.done < short.wanted):
        leg = short
        raise CheckpointError(f"{leg.name} ended at step {leg.done} of {leg.wanted}: {_last_words(output)}")


@contextlib.contextmanager
def _process(words: list[str], output: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The training process, its output in a file; it never outlives the block."""
    with open(output, "wb") as file:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
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


def _follow(process: "subprocess.Popen[bytes]", legs: list[Leg], *, stop: bool, watch: Watch) -> None:
    """Read the logs while they grow; ask the process to stop once the last has its steps."""
    asked = 0.0
    while True:
        ended = process.poll() is not None
        for leg in legs:
            leg.read(watch)
        if ended:
            return
        if stop and legs[-1].done >= legs[-1].wanted and not asked:
            process.send_signal(signal.SIGINT)
            asked = time.monotonic()
        if asked and time.monotonic() - asked > PATIENCE:
            raise CheckpointError(f"{legs[-1].name} did not stop within {PATIENCE:g} s")
        time.sleep(0.1)


def _last_words(output: Path) -> str:
    text = output.read_text("utf-8", "replace").strip().splitlines()
    errors = [line for line in text if line.startswith("error: ")]
    return (errors or text or ["it said nothing"])[-1].removeprefix("error: ")[:500]
