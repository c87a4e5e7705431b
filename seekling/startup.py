"""What a start, and a large request, takes no time for."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """For imports, loading and large JSON: they make objects by the hundred thousand, all of which stay.

    Looking for garbage among them is a tenth of a start, and nine tenths of a body of a million lists.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
