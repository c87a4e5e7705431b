"""Tiny seeded models of each DeepSeek generation with golden numbers, for those who build engines: ``seekling reference``."""

from seekling.reference.check import check
from seekling.reference.write import write

__all__ = ["check", "write"]
