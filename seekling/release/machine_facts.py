"""The machine, as far as equal losses depend on it: written into a release, compared when it is repeated."""

import platform
from typing import Any


def this_machine() -> dict[str, Any]:
    """This machine, as far as equal losses depend on it."""
    import torch

    from seekling.machine import look, native_status

    here = look()
    return {
        "processor": here.cpu, "cores": here.usable_cores, "system": platform.system(), "architecture": platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__, "kernels": native_status(),
    }  # fmt: skip
