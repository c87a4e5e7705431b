"""Running code that a model wrote: in a process of its own that can reach nothing and is bounded in everything.

`run_python` is all that callers need. It imports neither torch nor any other room.
"""

from seekling.sandbox.run import Limits, Result, confinement, run_python

__all__ = ["Limits", "Result", "confinement", "run_python"]
