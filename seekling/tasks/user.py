"""Tasks of the user: problems from a file, judged by comparison, by a Python reward file, or by running code.

    --tasks problems.jsonl              {"question": …, "answer": …} a line; "steps" and "metadata" if there are some
    --tasks problems.jsonl:reward.py    def reward(answer, problem): … a number from 0 to 1, any way it likes
    {"question": …, "function": "f", "tests": [[[arguments], result], …]}    the reply's function runs in the sandbox

A reward file runs in a process of its own with bounded memory.  What raises, is no number from 0 to 1 or takes longer than
``SECONDS`` is worth 0 and counted; the process that hung is killed and another takes its place.
"""

import hashlib
import json
import math
import os
import random
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError, raise_all
from seekling.tasks.base import Problem, Task, is_unseen
from seekling.tasks.code import judge_code

SECONDS = 5.0
MEMORY_MB = 2048
KEYS = {"question", "answer", "steps", "metadata", "function", "tests"}
SHOWN = 8


def user_task(name: str) -> Task:
    """The task of ``FILE.jsonl`` or ``FILE.jsonl:REWARD.py``.

    Raises:
        RecipeError: every line that is broken; a reward file that cannot be run, raises on the first problem's own answer, or
            gives no number there.
    """
    file, _, reward = name.partition(".jsonl")
    path, reward = Path(file + ".jsonl"), reward.removeprefix(":")
    rows = read_problems(path, with_reward=bool(reward))
    sides = [[r for r in rows if is_unseen(r["question"]) is side] for side in (False, True)]
    if not all(sides):
        raise RecipeError(f"{path} holds {len(rows)} different problems, too few to keep some for evaluation; give 10 or more")

    def make(r: random.Random, level: int) -> tuple[str, str, str, dict[str, Any]]:
        row = r.choice(rows)
        extra = {"function": row["function"], "tests": row["tests"]} if "tests" in row else {}
        return row["question"], row.get("answer", ""), row.get("steps", ""), {**row.get("metadata", {}), **extra}

    failures: Counter[str] = Counter()
    judge: Callable[[str, Problem], float] | None = judge_code if "tests" in rows[0] else None
    if reward:
        judge = RewardFile(Path(reward), failures)
        judge.probe(rows[0])
    key = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return Task(name, make, judge, levels=1, failures=failures, key=key)


def read_problems(path: Path, with_reward: bool = False) -> list[dict[str, Any]]:
    """The problems of a file, each question once. Raises RecipeError with every line that is broken."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--tasks {path} cannot be read ({error}); give a .jsonl file of problems") from None
    rows: dict[str, dict[str, Any]] = {}
    bad = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = f"is not valid JSON ({error})"
        wrong = row if isinstance(row, str) else problem_with(row, with_reward)
        if wrong:
            bad.append(f"{path}:{number} {wrong}")
        else:
            rows.setdefault(row["question"], row)
    if len(bad) > SHOWN:
        bad = [*bad[:SHOWN], f"… and {len(bad) - SHOWN} more"]
    raise_all(RecipeError, bad, "problems")
    if not rows:
        raise RecipeError(f"{path} holds no problem: give a line with question and answer for each")
    kinds = {"tests" in row for row in rows.values()}
    if len(kinds) > 1:
        raise RecipeError(f"{path} mixes problems with tests and problems with answers; give two files")
    return list(rows.values())


def problem_with(row: Any, with_reward: bool) -> str:
    """What is wrong with one line, empty where nothing is."""
    if not isinstance(row, dict):
        return "is no JSON object"
    unknown = sorted(set(row) - KEYS)
    if unknown:
        return f"has unknown keys ({', '.join(unknown)}); put what a reward needs into metadata"
    if ("tests" in row) != ("function" in row):
        return "needs function and tests together"
    for key, needed in (("question", True), ("answer", not with_reward and "tests" not in row), ("steps", False)):
        if (needed or key in row) and (not isinstance(row.get(key), str) or (needed and not row[key])):
            return f"needs {key} as text"
    if not isinstance(row.get("metadata", {}), dict):
        return "needs metadata as a JSON object"
    if "tests" in row:
        tests = row["tests"]
        good = (
            isinstance(tests, list)
            and tests
            and all(isinstance(t, list) and len(t) == 2 and isinstance(t[0], list) for t in tests)
        )
        if not good:
            return "needs tests as a list of [[arguments], result] and not empty"
        if not isinstance(row["function"], str) or not row["function"].isidentifier():
            return "needs function as the name of a Python function"
    return ""


class RewardFile:
    """A user's ``reward(answer, problem)`` behind a pipe; callable as a judge."""

    def __init__(self, path: Path, failures: Counter[str], seconds: float = SECONDS, memory_mb: int = MEMORY_MB):
        if not path.is_file():
            raise RecipeError(f"there is no reward file {path}")
        self.path, self.failures, self.seconds, self.memory_mb = path, failures, seconds, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._start()

    def probe(self, row: dict[str, Any]) -> None:
        """One call before the run, with a problem's own answer. Raises RecipeError for what would fail on every reply."""
        answer = row.get("answer", "")
        said = self._ask(answer, {k: row.get(k, d) for k, d in (("question", ""), ("answer", ""), ("metadata", {}))})
        if "value" not in said or not 0 <= said["value"] <= 1:
            why = {"raised": "raises", "hung": "hangs", "died": "ends its process"}
            told = next((f"{word} ({said[key]})" for key, word in why.items() if key in said), f"gives {said}")
            raise RecipeError(f"the reward file {self.path} {told} on the first problem; it must give a number from 0 to 1")

    def __call__(self, answer: str, problem: Problem) -> float:
        asked = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
        said = self._ask(answer, asked)
        value = said.get("value")
        if value is None:
            self.failures[next(iter(said))] += 1
        elif math.isnan(value):
            self.failures["nan"] += 1
        elif not 0 <= value <= 1:
            self.failures["out of range"] += 1
        else:
            return float(value)
        return 0.0

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process = None

    __del__ = close

    def _start(self) -> None:
        worker = Path(__file__).with_name("reward_worker.py")
        command = [sys.executable, "-I", str(worker), str(self.path.resolve()), str(self.memory_mb)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean, start_new_session=True
        )
        said = self._read(max(30.0, self.seconds))  # imports may be heavy
        if "ready" not in said:
            why = said.get("broken") or ("it hangs while it is read" if "hung" in said else "its process ended")
            self.close()
            raise RecipeError(f"the reward file {self.path} cannot be used: {why}")

    def _ask(self, answer: str, problem: dict[str, Any]) -> dict[str, Any]:
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"answer": answer, "problem": problem}).encode() + b"\n")
            self.process.stdin.flush()
            said = self._read(self.seconds)
        except BrokenPipeError:
            said = {"died": "no answer"}
        except BaseException:  # stopped from outside: what it says later must not be taken for the next answer
            self.close()
            raise
        if "hung" in said or "died" in said:
            self.close()
        return said

    def _read(self, seconds: float) -> dict[str, Any]:
        """The worker's next line; {"hung": …} after the limit, {"died": …} where it has ended."""
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(seconds):
                return {"hung": f"after {seconds:g} s"}
        line = self.process.stdout.readline()
        try:
            said = json.loads(line)
        except ValueError:
            return {"died": "no answer"}
        return said if isinstance(said, dict) and said else {"died": "no answer"}
