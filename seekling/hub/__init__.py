"""Models from elsewhere: small ones that ship as packages, and repositories of model hubs, kept under ``CACHE/models``."""

from seekling.hub.names import find, pulled

__all__ = ["find", "pulled"]
