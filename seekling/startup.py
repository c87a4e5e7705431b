"""What a start takes no time for."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """For imports and loading: they make objects by the hundred thousand, all of which stay.

    Looking for garbage among them is a tenth of a start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
