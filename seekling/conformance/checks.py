"""The list of checks and how it is run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from seekling.conformance.target import Failed, Skipped, Target

Level = Literal["must", "should"]
Verdict = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One thing a server does or does not.

    Attributes:
        surface: whose clients need it; level: "must" where they break without it.
    """

    surface: str
    title: str
    level: Level
    run: Callable[[Target], None]


@dataclass(frozen=True)
class Result:
    """What came of a check; ``note`` says what is wrong, or why it was skipped."""

    surface: str
    title: str
    level: Level
    verdict: Verdict
    note: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


CHECKS: list[Check] = []


def check(surface: str, title: str, level: Level = "must") -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Put a function on the list."""

    def keep(run: Callable[[Target], None]) -> Callable[[Target], None]:
        CHECKS.append(Check(surface, title, level, run))
        return run

    return keep


def every() -> list[Check]:
    """All checks, in order."""
    from seekling.conformance import (  # noqa: F401  each puts its checks on the list
        chat,
        completions,
        doors,
        errors,
        messages,
        ollama,
        responses,
        tools,
    )

    return CHECKS


# What a surface is asked first; who answers 404, 405 or 501 does not have it.
PROBES: dict[str, tuple[str, str]] = {
    "chat": ("POST", "/v1/chat/completions"),
    "tools": ("POST", "/v1/chat/completions"),
    "errors": ("POST", "/v1/chat/completions"),
    "completions": ("POST", "/v1/completions"),
    "embeddings": ("POST", "/v1/embeddings"),
    "responses": ("POST", "/v1/responses"),
    "anthropic": ("POST", "/v1/messages"),
    "ollama": ("POST", "/api/chat"),
}


def missing(target: Target) -> dict[str, str]:
    """Surfaces the server does not have, and how it said so."""
    out = {}
    for surface, (method, path) in PROBES.items():
        answer = target.request(method, path, {})
        if answer.status in (404, 405, 501) and b"model" not in answer.raw:
            out[surface] = f"{path} answers {answer.status}"
    return out


def run_all(target: Target, checks: Iterable[Check], done: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """Every check once, one after the other.

    Raises:
        OSError: nobody answers at all.
    """
    absent, results = missing(target), []
    for one in checks:
        began, verdict, note = time.perf_counter(), "pass", ""
        try:
            if one.surface in absent:
                raise Skipped(absent[one.surface])
            one.run(target)
        except Skipped as why:
            verdict, note = "skip", str(why)
        except (Failed, OSError) as error:
            verdict, note = "fail", str(error) or type(error).__name__
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:  # of another shape than it must be
            verdict, note = "fail", f"the answer has another shape: {type(error).__name__} {error}"
        result = Result(one.surface, one.title, one.level, verdict, note, round(time.perf_counter() - began, 3))  # type: ignore[arg-type]
        results.append(result)
        done(result)
    return results
