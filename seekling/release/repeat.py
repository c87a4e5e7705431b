"""The command that repeats a run, from its recipe alone: as few flags as give back the very same recipe."""

import shlex
from typing import Any

from seekling.errors import SeeklingError
from seekling.machine import look
from seekling.recipe import Recipe, knobs, resolve

# Where the run lies and how its length was once found do not change what is computed.
FREE = ("out", "minutes", "tokens")
# Said even where this machine would derive the same, since another machine would not.
ALWAYS = ("size", "steps", "seed", "threads", "dtype")


def repeat_command(recipe: Recipe, out: str) -> str | None:
    """``seekling pretrain …`` whose resolved recipe equals this one apart from folder and time budget.

    None when no flags do, which only a recipe written by another version can cause; ``--recipe`` still repeats such a run.
    """
    machine = look()
    wanted = {name: value for name, value in recipe.flat().items() if knobs()[name].meta["flag"] and name not in FREE}

    def same(flags: dict[str, Any]) -> bool:
        try:
            got = resolve(Recipe.of(**flags, out=out), machine).flat()
        except SeeklingError:
            return False
        return all(got[name] == value for name, value in wanted.items())

    flags = {name: value for name, value in wanted.items() if name in ALWAYS or value != knobs()[name].default}
    if not same(flags):  # some fields refuse to be said together with others that follow from them
        flags = {name: value for name, value in flags.items() if knobs()[name].section != "model" or name == "dense"}
        if not same(flags):
            return None
    for name in 2 * [n for n in flags if n not in ALWAYS]:  # twice: some can go only after others have gone
        fewer = {n: v for n, v in flags.items() if n != name}
        if same(fewer):
            flags = fewer
    words = ["seekling", "pretrain"]
    for name in (n for n in knobs() if n in flags):
        words += flag_words(name, flags[name])
    return shlex.join([*words, "--out", out])


def flag_words(name: str, value: Any) -> list[str]:
    """A field as command-line words."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    values = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    if any(v.startswith("-") for v in values):  # else it would be read as a flag
        return [f"{flag}={v}" for v in values]
    return [flag, *values]
