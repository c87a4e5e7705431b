"""Errors a user can fix. The command line prints them as one line and exits with code 2; nothing else is caught.

Every message names the thing that is wrong and the remedy.
"""

from collections.abc import Iterable


class SeeklingError(Exception):
    """Base of every error that the user, not a developer, can mend."""


class ConfigError(SeeklingError):
    """A model configuration is unknown, incomplete or contradicts itself."""


class RecipeError(SeeklingError):
    """A recipe (flag, TOML key or combination of them) cannot be carried out."""


class DataError(SeeklingError):
    """A source, text file or token cache is missing, empty or damaged."""


class CheckpointError(SeeklingError):
    """A checkpoint or run folder is missing, incomplete or damaged."""


class MachineError(SeeklingError):
    """This machine lacks something the command needs (memory, disk, an instruction set)."""


def raise_all(kind: type[SeeklingError], problems: Iterable[str], what: str = "") -> None:
    """Raise one ``kind`` that lists every problem; do nothing when there is none.

    Args:
        kind: the error class to raise.
        problems: one line each, naming the thing and the remedy.
        what: where they were found, put in front ("config.json", "recipe").
    """
    found = list(problems)
    if not found:
        return
    prefix = f"{what}: " if what else ""
    if len(found) == 1:
        raise kind(prefix + found[0])
    raise kind(f"{prefix}{len(found)} problems\n" + "\n".join(f"  - {line}" for line in found))
