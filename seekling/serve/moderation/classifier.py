"""A tiny classifier: hashed character n-grams, one linear head a category, weights in a safetensors file of some hundred kB.

Features of a text are its n-grams of 1 to 5 characters after `plain`, hashed into 2**16 places, each counted as the root of
its count, length 1. A head's score is the probability its logistic regression gives; a long text is read in windows and the
worst one counts. `seekling.serve.moderation.train` makes the file; `card.md` beside it says from what and how good it is.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from seekling.errors import DataError
from seekling.serve.moderation.normalise import plain

HERE = Path(__file__).parent / "weights"
BITS = 16
SIZES = (1, 2, 3, 4, 5)
WINDOW, STEP = 240, 160  # characters
Array = np.ndarray


def features(text: str) -> tuple[Array, Array]:
    """Places (int64) and values (float32) of a plain text, each place once."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le", "replace"), "<u4").astype(np.uint64)
    hashes = []
    with np.errstate(over="ignore"):
        for size in SIZES:
            if len(codes) < size:
                break
            h = np.full(len(codes) - size + 1, size, np.uint64)
            for place in range(size):
                h = (h ^ codes[place : len(codes) - size + 1 + place]) * np.uint64(0x9E3779B97F4A7C15)
                h ^= h >> np.uint64(29)
            hashes.append(h)
    places, counts = np.unique(np.concatenate(hashes) >> np.uint64(64 - BITS), return_counts=True)
    values = np.sqrt(counts.astype(np.float32))
    return places.astype(np.int64), values / np.linalg.norm(values)


def windows(text: str) -> list[str]:
    """Overlapping pieces that cover a plain text."""
    return [text[at : at + WINDOW] for at in range(0, max(1, len(text) - (WINDOW - STEP)), STEP)]


@dataclass(frozen=True)
class Classifier:
    """Heads over the same features. weights: int8 (heads, 2**BITS); scale, bias: float32 (heads,)."""

    names: tuple[str, ...]
    weights: Array
    scale: Array
    bias: Array

    def scores(self, text: str) -> dict[str, float]:
        """Probability of each category, the largest of all windows."""
        return dict(zip(self.names, self._scores(plain(text)), strict=True))

    @lru_cache(1024)  # noqa: B019 (there is one classifier a process)
    def _scores(self, text: str) -> tuple[float, ...]:
        worst = np.full(len(self.names), -np.inf)
        for window in windows(text):
            places, values = features(window)
            worst = np.maximum(worst, (self.weights[:, places].astype(np.float32) @ values) * self.scale + self.bias)
        return tuple((1 / (1 + np.exp(-np.clip(worst, -60, 60)))).tolist())

    def __hash__(self) -> int:
        return id(self)


@cache
def built_in() -> Classifier:
    """The one that comes with the package. Raises DataError where its file is missing."""
    return load(HERE / "moderation.safetensors")


def load(path: Path) -> Classifier:
    """Read a classifier. Raises DataError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = tuple((file.metadata() or {})["names"].split(","))
            parts = [file.get_tensor(name) for name in ("weights", "scale", "bias")]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{path} is no moderation classifier ({error}): reinstall seekling, or train one") from None
    if parts[0].shape != (len(names), 1 << BITS):
        raise DataError(f"{path}: weights of shape {parts[0].shape}, not {(len(names), 1 << BITS)}: train it anew")
    return Classifier(names, *parts)
