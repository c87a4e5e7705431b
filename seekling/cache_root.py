"""Where Seekling keeps what it fetched."""

import os
from pathlib import Path


def cache_root(given: str | Path | None = None) -> Path:
    """The folder of fetched models and prepared text: ``given``, $SEEKLING_CACHE, or ~/.cache/seekling."""
    if given is not None:
        return Path(given)
    if os.environ.get("SEEKLING_CACHE"):
        return Path(os.environ["SEEKLING_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seekling"
