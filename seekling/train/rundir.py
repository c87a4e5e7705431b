"""A run folder belongs to one process at a time, and its recipe and data must stay what they were."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from seekling.data import TokenStream
from seekling.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes on one run are then not noticed
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claim(run: Path) -> Iterator[None]:
    """Hold the run folder; the system releases it when the process ends, however it ends.

    Raises:
        CheckpointError: another process is training in it, or it cannot be written.
    """
    try:
        file = open(run / ".lock", "a")  # noqa: SIM115  closed below
    except OSError as error:
        raise CheckpointError(f"{run} cannot be written ({error.strerror}); check its permissions") from None
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(f"another process is training in {run}; wait for it or stop it first") from None
        yield


def text_fingerprint(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(stream: TokenStream) -> str:
    """SHA-256 over token ids and document edges, whatever integer type they are stored in."""
    digest = hashlib.sha256()
    for array in (stream.tokens, stream.offsets):
        for start in range(0, len(array), 1 << 20):
            digest.update(np.ascontiguousarray(array[start : start + (1 << 20)], dtype="<i8").tobytes())
    return digest.hexdigest()
