"""Small programming tasks: the reply is a Python function, and its results decide.

The code runs in the sandbox (:mod:`seekling.sandbox`), never in the trainer.  It is given arguments and writes results; what
they should be stays here, so a program cannot pass by leaving early or by printing that it passed.
"""

import json
import random
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from seekling.sandbox import Limits, run_python
from seekling.tasks.base import Problem, Task

FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.S)
LIMITS = Limits(seconds=2.0, memory_mb=256)
Tests = Sequence[tuple[list[Any], Any]]


def code_of(answer: str) -> str:
    """The program in an answer: what its last fence holds, else all of it."""
    found = FENCE.findall(answer)
    return found[-1] if found else answer


def passes(code: str, function: str, tests: Tests, limits: Limits = LIMITS) -> bool:
    """Whether ``function`` of the program gives every expected result, in one sandboxed process.

    Args:
        tests: (arguments, expected result) pairs; both plain JSON.

    Raises:
        MachineError: nothing here can confine a program.
    """
    mark = secrets.token_hex(16)
    calls = json.dumps([arguments for arguments, _ in tests])
    end = f"\nimport json as _j\nprint('\\n{mark}' + _j.dumps([{function}(*_a) for _a in _j.loads({calls!r})]))\n"
    ran = run_python(code + end, limits=limits)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(mark)]
    if not ran.ok or len(lines) != 1:
        return False
    try:
        got = json.loads(lines[0][len(mark) :])
    except ValueError:
        return False
    return _same(got, [expected for _, expected in tests])


def _same(a: Any, b: Any) -> bool:
    """Equal with equal kinds: True is not 1, 2.0 is not 2."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def judge_code(answer: str, problem: Problem) -> bool:
    """Judge of tasks whose metadata has ``function`` and ``tests``."""
    return passes(code_of(answer), problem.metadata["function"], problem.metadata["tests"])


# ---- the project's own ------------------------------------------------------------------------------------------------------

KINDS: tuple[tuple[int, str, str, Callable[[Any, int], Any], str], ...] = (  # level, argument, said, result, as Python
    (1, "n", "n plus {k}", lambda n, k: n + k, "n + {k}"),
    (1, "n", "n times {k}", lambda n, k: n * k, "n * {k}"),
    (1, "s", "the string s repeated {k} times", lambda s, k: s * k, "s * {k}"),
    (2, "xs", "the sum of the numbers in the list xs that are larger than {k}", lambda xs, k: sum(x for x in xs if x > k),
     "sum(x for x in xs if x > {k})"),
    (2, "xs", "how many numbers in the list xs are multiples of {k}", lambda xs, k: sum(x % k == 0 for x in xs),
     "sum(x % {k} == 0 for x in xs)"),
    (2, "s", "the string s backwards, followed by its first {k} letters", lambda s, k: s[::-1] + s[:k], "s[::-1] + s[:{k}]"),
    (3, "xs", "the list xs sorted from large to small, without its first {k} elements",
     lambda xs, k: sorted(xs, reverse=True)[k:], "sorted(xs, reverse=True)[{k}:]"),
    (3, "s", "every letter of the string s that occurs in it at least {k} times, in order and without repetition",
     lambda s, k: "".join(c for c in dict.fromkeys(s) if s.count(c) >= k),
     "''.join(c for c in dict.fromkeys(s) if s.count(c) >= {k})"),
)  # fmt: skip


def function_task(r: random.Random, level: int) -> tuple[str, str, str, dict[str, Any]]:
    """A function to write, with five tests drawn for it."""
    _, argument, said, result, source = r.choice([kind for kind in KINDS if kind[0] == level])
    k = r.randint(2, 5)
    draw: dict[str, Callable[[], Any]] = {
        "n": lambda: r.randint(-50, 50),
        "s": lambda: "".join(r.choice("abcd") for _ in range(r.randint(1, 8))),
        "xs": lambda: [r.randint(-9, 20) for _ in range(r.randint(0, 7))],
    }
    tests = [([value], result(value, k)) for value in (draw[argument]() for _ in range(5))]
    question = f"Write a Python function f({argument}) that returns {said.format(k=k)}."
    answer = f"def f({argument}):\n    return {source.format(k=k)}"
    return question, answer, "", {"function": "f", "tests": tests}


CODE = Task("code", function_task, judge_code)
