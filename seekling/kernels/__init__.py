"""Native code for the hot parts of the network, each beside its torch oracle.

``ops`` is what the model calls: the same mathematics by the native library where it is built and fits (CPU, bfloat16 or
float32), by plain torch everywhere else.
"""

from seekling.kernels.native import available, status

__all__ = ["available", "status"]
