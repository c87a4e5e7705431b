"""Generated text: simple stories, numbers, short conversations. The same seed and index give the same document for ever.

python -m seekling.data.generate stories 5     # prints five of them
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, TypeVar

from seekling.data.filters import Content

VERSION = 1  # goes up whenever any document changes: caches and manifests name it
Item = TypeVar("Item")


class Dice:
    """Choices from one seeded generator. Only ``random()`` is drawn, whose sequence Python guarantees to keep."""

    def __init__(self, *key: Any) -> None:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self._random() * (high - low + 1))

    def one(self, options: Sequence[Item]) -> Item:
        return options[int(self._random() * len(options))]

    def some(self, options: Sequence[Item], count: int) -> list[Item]:
        """Different options, in a random order."""
        left = list(options)
        return [left.pop(int(self._random() * len(left))) for _ in range(count)]

    def chance(self, share: float) -> bool:
        return self._random() < share


def generate(kind: str, seed: int, index: int) -> Content:
    """Document ``index`` of a generator: "stories" and "numbers" give text, "talk" gives chat messages."""
    dice = Dice(kind, VERSION, seed, index)
    if kind == "stories":
        from seekling.data.stories import story

        return story(dice)
    if kind == "numbers":
        from seekling.data.numbers import page

        return page(dice)
    if kind == "talk":
        from seekling.data.talk import conversation

        return conversation(dice)
    raise ValueError(f"there is no generator {kind!r}")
