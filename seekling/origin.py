"""Which Seekling this is and where it runs: version, processor, and in a Git checkout the commit and whether files were
changed.

It is saved with every checkpoint and in every release, so that a model can be traced to the code that made it.
"""

import functools
import shutil
import subprocess
from pathlib import Path

MERGE_RECORD = "seekling-merge.json"  # in a merged folder: what went in, for whoever releases it
ROOT = Path(__file__).resolve().parent.parent


def git(*words: str, root: Path = ROOT) -> str | None:
    """What ``git`` prints in our checkout; None where there is no git or no checkout."""
    if shutil.which("git") is None or not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


@functools.cache
def origin() -> dict[str, str | bool | None]:
    """``seekling`` (version), ``commit``, ``dirty`` (both None outside a checkout) and ``processor``."""
    from seekling import __version__
    from seekling.machine import look

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain") if commit else None
    return {
        "seekling": __version__,
        "commit": commit.strip() if commit else None,
        "dirty": None if status is None else bool(status.strip()),
        "processor": look().cpu,
    }
