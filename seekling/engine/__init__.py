"""Generation: the engine and what it takes and gives. A walk through one request is in `engine.py`."""

from seekling.engine.engine import Engine
from seekling.engine.sampling import Completion, Delta, Sampling

__all__ = ["Completion", "Delta", "Engine", "Sampling"]
