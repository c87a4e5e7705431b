"""A keyed mark in the choice of words, which only the key's owner can find, and which leaves the distribution as it was.

Tournament sampling (Dathathri et al. 2024, "Scalable watermarking for identifying large language model outputs", its
non-distortionary form with two candidates): each of m layers gives every token a bit g by a keyed hash of the token and the
tokens before it, and turns the probabilities p into p (1 + g - Σ p g). Over random bits that is p again; along one text tokens
with g = 1 come more often than half of the time. The token itself is then drawn with the request's own uniform number, so a
token stays a function of its own logits, settings, context and seed: no bit depends on the company, and seeds still differ.

The mark is left out where the same context came before in the answer (or repetitions would be reinforced), and only the
likeliest `CANDIDATES` change places among each other: their sum stays.
"""

import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seekling.engine.sampler import Array, best, kept
from seekling.engine.sampling import Sampling
from seekling.errors import SeeklingError

CONTEXT = 4  # tokens before that choose the bits
LAYERS = 16  # 30 find the mark a little sooner (docs/results.md) and cost twice as much
CANDIDATES = 32  # at most MARKED of csrc/infer_sample.cpp
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Watermark:
    """A key, at least 16 secret bytes. It is shown by its `name` alone.

    Raises:
        SeeklingError: the key is shorter.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < 16:
            raise SeeklingError(
                f"a watermark key has at least 16 bytes, this one {len(self.key)}: make one with seekling watermark key"
            )

    @property
    def name(self) -> str:
        """Tells keys apart without telling the key."""
        return hashlib.sha256(b"seekling watermark name" + self.key).hexdigest()[:12]

    def seed(self, context: Sequence[int]) -> int:
        """64 bits that the key and the tokens before a place give it."""
        message = np.asarray(context[-CONTEXT:], "<i8").tobytes()
        return int.from_bytes(hmac.digest(self.key, message, "blake2b")[:8], "little")

    def marks(self, ids: Sequence[int], contexts: set[tuple[int, ...]]) -> int | None:
        """`seed` of the place behind ``ids``, prompt and answer so far; None where it gets no mark.

        ``contexts`` holds those of this answer that were marked, and is added to.
        """
        context = tuple(ids[-CONTEXT:])
        if context in contexts:
            return None
        contexts.add(context)
        return self.seed(context)

    def bits(self, context: Sequence[int], tokens_K: Array) -> Array:
        """(K, LAYERS) of 0 and 1: the bits of tokens after a context. Independent and fair to whoever lacks the key."""
        with np.errstate(over="ignore"):
            h_K = (tokens_K.astype(np.uint64) + np.uint64(1)) * MIX[0] + np.uint64(self.seed(context))
            h_K = (h_K ^ (h_K >> np.uint64(30))) * MIX[1]
            h_K = (h_K ^ (h_K >> np.uint64(27))) * MIX[2]
            h_K ^= h_K >> np.uint64(31)
        return ((h_K[:, None] >> np.arange(LAYERS, dtype=np.uint64)) & np.uint64(1)).astype(np.int64)

    def weights(
        self, x_V: Array, s: Sampling, ids: Sequence[int], contexts: set[tuple[int, ...]]
    ) -> tuple[Array | None, Array]:
        """`sampler.kept` under the mark, for a row that is not greedy (natively: csrc/infer_sample.cpp, `mark_found`).

        Args:
            x_V: adjusted logits; ids, contexts: as in `marks`.
        """
        ids_K, weights_K = kept(x_V, s)
        if self.marks(ids, contexts) is None:
            return ids_K, weights_K
        weights_K = weights_K.astype(np.float64)
        places = best(x_V if ids_K is None else x_V[ids_K], min(CANDIDATES, len(weights_K)))
        p_K = weights_K[places]
        total = p_K.sum()
        g_KL = self.bits(ids, places if ids_K is None else ids_K[places]).astype(np.float64)
        p_K /= total
        for layer in range(LAYERS):
            g_K = g_KL[:, layer]
            p_K *= 1.0 + g_K - (p_K @ g_K)
        weights_K[places] = p_K * total
        return ids_K, weights_K


# ---- its file ---------------------------------------------------------------------------------------------------------


def make_key(path: Path) -> Watermark:
    """A new random key in a file of mode 0600. Raises SeeklingError where there is a file already."""
    key = secrets.token_bytes(32)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise SeeklingError(f"{path} exists: a key that is lost cannot be made again, so give another name") from None
    with os.fdopen(handle, "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(handle)
    return Watermark(key)


def read_key(path: Path) -> Watermark:
    """The key of a file. Raises SeeklingError for a missing file, one that others may read, or no key."""
    make = "seekling watermark key FILE makes one"
    try:
        mode, text = path.stat().st_mode, path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise SeeklingError(f"the watermark key {path} cannot be read ({error.strerror}): {make}") from None
    except ValueError:
        raise SeeklingError(f"{path} is no watermark key: {make}") from None
    if mode & 0o077:
        raise SeeklingError(f"others may read the watermark key {path}: chmod 600 it")
    return Watermark(key)


# ---- finding it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detection:
    """What a text says about a key.

    Attributes:
        tokens: those that count: with a full context, and no context and token twice.
        ones: bits that are 1 among ``bits``; p_value: how likely at least so many are in a text made without the key.
    """

    tokens: int
    ones: int
    bits: int
    p_value: float

    @property
    def share(self) -> float:
        return self.ones / self.bits if self.bits else 0.5


def detect(watermark: Watermark, ids: Sequence[int]) -> Detection:
    """Count the bits of a text's tokens. The p-value is exact: without the key every bit is a fair coin of its own."""
    seen: set[tuple[int, ...]] = set()
    ones = 0
    for at in range(CONTEXT, len(ids)):
        gram = tuple(ids[at - CONTEXT : at + 1])
        if gram in seen:
            continue
        seen.add(gram)
        ones += int(watermark.bits(gram[:-1], np.array(gram[-1:])).sum())
    bits = len(seen) * LAYERS
    return Detection(len(seen), ones, bits, binomial_tail(bits, ones))


def binomial_tail(n: int, k: int) -> float:
    """P(X >= k) for n fair coins."""
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    if 2 * k < n:  # the sum over the shorter side is the more exact one
        return 1.0 - binomial_tail(n, n - k + 1)
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    term, total = 1.0, 0.0
    for i in range(k, n + 1):
        total += term
        term *= (n - i) / (i + 1)
        if term < 1e-17 * total:
            break
    return min(1.0, math.exp(log_term) * total)
