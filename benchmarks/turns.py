"""Two workers that take turns: each a process that waits for a word, does one piece of work and answers with numbers.

Used by ``grpo.py`` and ``sft.py``: the peer may live in another environment, its memory is its own, and while one works the
other sleeps on its standard input.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], Mapping[str, Any]]


class Worker:
    """A benchmark script started with ``--worker NAME`` by some Python."""

    def __init__(self, python: str, script: str, name: str, *args: str):
        env = {**os.environ, "GOMP_SPINCOUNT": "20000", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
        command = [python, script, "--worker", name, *args]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self._answer()

    def ask(self, word: str) -> dict[str, Any]:
        """Have it do one piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):  # whatever else the peer's libraries print is not ours
                return json.loads(line[1:])
        raise SystemExit(f"the {self.name} worker ended ({self.process.wait()}); see above")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def answer(values: Mapping[str, Any]) -> None:
    """Tell the orchestrator."""
    print("@" + json.dumps({**values, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}), flush=True)


def serve(works: Mapping[str, Work]) -> None:
    """Answer words until the input ends."""
    for line in sys.stdin:
        answer(works[line.strip()]())


def peers_path() -> None:
    """Hide this folder from imports: a peer's libraries look for a package called kernels, and here lies a kernels.py."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
