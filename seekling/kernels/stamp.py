"""What the native library is built from, in a few letters: setup.py compiles them in, the loader compares. Nothing but the
standard library, as setup.py runs this file before anything is installed."""

import hashlib
from pathlib import Path


def stamp(kernels: Path) -> str | None:
    """Of the sources in ``kernels``/csrc and the setup.py that has the flags; None outside of a source checkout."""
    home = kernels.parent.parent
    sources = sorted(path for path in (kernels / "csrc").glob("*") if path.suffix in (".cpp", ".h"))
    if not sources or not (home / "setup.py").is_file() or not (home / "pyproject.toml").is_file():
        return None
    digest = hashlib.sha256()
    for path in [home / "setup.py", *sources]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
