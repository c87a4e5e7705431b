"""Generation: the engine and what it takes and gives. A walk through one request is in ``docs/walk-of-a-request.md``."""

from seekling.startup import without_collecting

with without_collecting():
    from seekling.engine.engine import Engine
    from seekling.engine.handle import Handle
    from seekling.engine.loop import QueueFull
    from seekling.engine.sampling import Completion, Delta, Sampling

__all__ = ["Completion", "Delta", "Engine", "Handle", "QueueFull", "Sampling"]
