"""What one key may ask for: requests a minute and at a time, tokens a day. Beyond it is a 429 that says when to return."""

import time
from collections import defaultdict
from dataclasses import dataclass

from seekling.serve.failures import ApiError
from seekling.serve.keys import Key
from seekling.serve.ledger import Ledger, until_tomorrow
from seekling.serve.state import Limits


@dataclass(frozen=True)
class Allowance:
    """Of one key: its own numbers, else the server's; 0 is no limit."""

    rpm: int
    concurrent: int
    daily_tokens: int


def allowance(key: Key | None, limits: Limits) -> Allowance:
    """What a key may do."""
    own = (None, None, None) if key is None else (key.rpm, key.concurrent, key.daily_tokens)
    given = (limits.rpm, limits.concurrent, limits.daily_tokens)
    return Allowance(*(g if o is None else o for o, g in zip(own, given, strict=True)))


class Rates:
    """Counts requests as they come and go."""

    def __init__(self, limits: Limits, ledger: Ledger):
        self._limits, self._ledger = limits, ledger
        self._levels: dict[str, tuple[float, float]] = {}
        self._running: dict[str, int] = defaultdict(int)

    def enter(self, key: Key | None) -> dict[str, str]:
        """Count a request that begins; the headers its answer gets.

        Raises:
            ApiError: 429, with Retry-After.
        """
        name, allowed = "" if key is None else key.id, allowance(key, self._limits)
        told: dict[str, str] = {}
        if allowed.concurrent and self._running[name] >= allowed.concurrent:
            message = f"{self._running[name]} requests of this key run; {allowed.concurrent} may"
            raise ApiError(429, message, code="concurrency_limit", headers={"Retry-After": "1"})
        if allowed.daily_tokens:
            told |= self._tokens(name, allowed.daily_tokens)
        if allowed.rpm:
            told |= self._minute(name, allowed.rpm)
        self._running[name] += 1
        return told

    def leave(self, key: Key | None) -> None:
        """It has ended."""
        self._running["" if key is None else key.id] -= 1

    def _tokens(self, name: str, most: int) -> dict[str, str]:
        used, wait = self._ledger.used(name).tokens, until_tomorrow()
        told = {
            "x-ratelimit-limit-tokens": str(most),
            "x-ratelimit-remaining-tokens": str(max(0, most - used)),
            "x-ratelimit-reset-tokens": f"{wait}s",
        }
        if used >= most:
            message = f"{used} tokens of this key's {most} a day are used: the next day (UTC) begins in {wait} s"
            raise ApiError(429, message, code="quota_exceeded", headers=told | {"Retry-After": str(wait)})
        return told

    def _minute(self, name: str, most: int) -> dict[str, str]:
        now = time.time()
        level, at = self._levels.get(name) or self._ledger.rate(name) or (float(most), now)
        level = min(float(most), level + max(0.0, now - at) * most / 60)
        told = {"x-ratelimit-limit-requests": str(most)}
        if level < 1:
            self._levels[name] = level, now
            wait = int((1 - level) * 60 / most) + 1
            told |= {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{wait}s", "Retry-After": str(wait)}
            raise ApiError(429, f"more than {most} requests a minute: wait {wait} s", code="rate_limit_exceeded", headers=told)
        self._levels[name] = level - 1, now
        self._ledger.keep_rate(name, level - 1, now)
        reset = int((most - level + 1) * 60 / most)
        return told | {"x-ratelimit-remaining-requests": str(int(level - 1)), "x-ratelimit-reset-requests": f"{reset}s"}
