"""What is in a model folder or file, without loading its weights: ``seekling inspect``."""

from seekling.inspection.look import inspect
from seekling.inspection.report import Inspection

__all__ = ["Inspection", "inspect"]
