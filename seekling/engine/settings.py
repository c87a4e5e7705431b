"""What is wrong with the settings of an `Engine`, all of it, before anything is opened."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from seekling.engine.backend import Backend
from seekling.engine.sampling import whole
from seekling.engine.speculate import MOST_DRAFTS
from seekling.quants import QUANTS

_COUNTS = (
    "cache_spill_bytes",
    "max_rows",
    "step_tokens",
    "max_queue",
    "cache_bytes",
    "cache_tokens",
    "threads",
    "draft_tokens",
)
_MAY_BE_NONE = ("cache_tokens", "threads", "draft_tokens")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "quant": (None, *QUANTS),
    "runner": ("auto", "native", "torch"),
    "cache_dtype": (None, "bf16", "int8"),
}


def problems(path_or_lm: Any, given: Mapping[str, Any]) -> list[str]:
    """One line each; ``given``: the keyword arguments by name."""
    bad = []
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            *most, last = (one if one is None else repr(one) for one in choices)
            bad.append(f"{name} is {given[name]!r}: give {', '.join(map(str, most))} or {last}")
    for name in _COUNTS:
        value = given[name]
        if value is None and name in _MAY_BE_NONE:
            continue
        if not whole(value, 1):
            bad.append(f"{name} is {value!r}: give a whole number of at least 1")
    speculate, drafts, adapters = given["speculate"], given["draft_tokens"], given["adapters"]
    if not (speculate is None or isinstance(speculate, (str, PathLike)) or hasattr(speculate, "model")):
        bad.append(f"speculate is {speculate!r}: give 'ngram', 'mtp', a folder or a loaded model")
    if drafts is not None and speculate is None:
        bad.append("draft_tokens is for speculate: give that too, or leave it")
    elif whole(drafts, MOST_DRAFTS + 1):
        bad.append(f"draft_tokens is {drafts}: give at most {MOST_DRAFTS}")
    if not isinstance(given["prefix_cache"], bool):
        bad.append(f"prefix_cache is {given['prefix_cache']!r}: give True or False")
    if not isinstance(given["cache_spill"], (str, PathLike, type(None))):
        bad.append(f"cache_spill is {given['cache_spill']!r}: give a folder")
    if given["beside"] is not None and not hasattr(given["beside"], "submit"):
        bad.append(f"beside is a {type(given['beside']).__name__}: give another engine")
    if adapters is not None and not isinstance(adapters, Mapping):
        bad.append(f"adapters is a {type(adapters).__name__}: give a dict of names with folders or loaded adapters")
    if isinstance(path_or_lm, Backend):
        for name in ("quant", "dtype", "threads", "cache_dtype", "adapters"):
            if given[name]:
                bad.append(f"{name} is for a model, and this is a backend made ready: leave it")
    elif given["dtype"] is not None and hasattr(path_or_lm, "model") and hasattr(path_or_lm, "config"):
        bad.append("dtype is for a path; this model is loaded already: give the dtype to seekling.load")
    return bad
