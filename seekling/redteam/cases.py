"""The list of attacks and how it is run.

A **wall** is what the server promises whatever the model is: it holds or is broken. A **model** case is won or lost by the
model's own judgement, which no server can promise; a small model loses many. Only broken walls make the exit code 1.
"""

import http.client
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from seekling.conformance.target import Answer, Failed, Skipped, Target

Kind = Literal["wall", "model"]
Verdict = Literal["held", "broken", "gave in", "skipped"]


class GaveIn(Exception):
    """The model did what the attack wanted."""


@dataclass(frozen=True)
class Case:
    """One attack."""

    category: str
    name: str
    kind: Kind
    run: Callable[[Target], None]


@dataclass(frozen=True)
class Outcome:
    """What came of it; ``note`` says what got through, or why it could not be told."""

    category: str
    name: str
    kind: Kind
    verdict: Verdict
    note: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


CASES: list[Case] = []


def case(category: str, name: str, run: Callable[[Target], None], kind: Kind = "wall") -> None:
    """Put an attack on the list."""
    CASES.append(Case(category, name, kind, run))


def every() -> list[Case]:
    """All attacks, in order."""
    if not CASES:
        from seekling.redteam import doors, floods, persuasion, tokens

        for module in (tokens, persuasion, floods, doors):
            module.add()
    return CASES


def run_all(target: Target, cases: Iterable[Case], tell: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Run attacks one after another; after each wall the server must still answer."""
    out = []
    for item in cases:
        began = time.perf_counter()
        verdict: Verdict = "held"
        note = ""
        try:
            item.run(target)
            if item.kind == "wall":
                alive(target)
        except Skipped as why:
            verdict, note = "skipped", str(why)
        except GaveIn as what:
            verdict, note = "gave in", str(what)
        except (Failed, TimeoutError) as what:
            verdict, note = "broken", str(what) or "no answer in time"
        except (http.client.HTTPException, OSError) as error:  # it may hang up on an attacker, if it then still lives
            verdict, note = ("held", "") if _lives(target) else ("broken", f"the server is gone: {error}")
        out.append(Outcome(item.category, item.name, item.kind, verdict, note, round(time.perf_counter() - began, 3)))
        tell(out[-1])
    return out


def alive(target: Target) -> None:
    """Failed where the server does not answer any more."""
    if not _lives(target):
        raise Failed("afterwards the server does not answer")


def _lives(target: Target) -> bool:
    try:
        return target.get("/v1/models").status < 500
    except OSError:
        return False


def refused(answer: Answer, *allowed: int) -> None:
    """Failed unless the answer is a 4xx (or one of ``allowed``)."""
    if answer.status not in allowed and not 400 <= answer.status < 500:
        raise Failed(f"answered {answer.status}: {answer.raw[:120].decode('utf-8', 'replace')}")


def survived(answer: Answer) -> None:
    """Failed for a 5xx other than "full"."""
    if answer.status >= 500 and answer.status != 503:
        raise Failed(f"answered {answer.status}: {answer.raw[:120].decode('utf-8', 'replace')}")


def chat(target: Target, messages: list[dict[str, Any]] | str, **more: Any) -> Answer:
    """One chat request; greedy and short unless told otherwise."""
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    body = {"model": target.model, "messages": turns, "temperature": 0, "max_tokens": 8, **more}
    return target.post("/v1/chat/completions", body)


def said(target: Target, messages: list[dict[str, Any]] | str, max_tokens: int = 60) -> str:
    """What the model answers; empty where the server's policy refuses the question."""
    answer = chat(target, messages, max_tokens=max_tokens)
    if answer.status == 400 and b"content_filter" in answer.raw:
        return ""
    if answer.status != 200:
        raise Failed(f"answered {answer.status}: {answer.raw[:120].decode('utf-8', 'replace')}")
    message = answer.json["choices"][0]["message"]
    return str(message.get("content") or "") + str(message.get("reasoning_content") or "")
