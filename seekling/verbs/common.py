"""What several verbs share."""

from typing import Any

from seekling.errors import RecipeError, raise_all


def console() -> Any:
    """A rich console that does not re-wrap lines in files."""
    from rich.console import Console

    return Console(soft_wrap=True)


def set_threads(threads: int | None) -> None:
    """Tell torch how many threads to use: as asked, else the cores this process may use."""
    import torch

    from seekling.machine import usable_cores

    raise_all(RecipeError, ["--threads must be at least 1"] if threads is not None and threads < 1 else [])
    torch.set_num_threads(threads or usable_cores())
