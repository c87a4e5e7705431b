"""Reward parts beside accuracy and format: one language throughout (DeepSeek-R1, §2.3.2), and length (DAPO, §3.4)."""

import dataclasses
import re

from seekling.tasks.base import Reward

HAN, LATIN = r"[\u3400-\u9fff\uf900-\ufaff]", r"[A-Za-z\u00c0-\u024f]"
SCRIPTS = {"en": (LATIN, HAN), "zh": (HAN, LATIN)}
_WORD = {LATIN: re.compile(LATIN + "+"), HAN: re.compile(HAN)}  # a Chinese character stands for a word


def language_share(text: str, language: str) -> float:
    """Share of the words of a text that are in the script of "en" or "zh"; 1 where there are none of either."""
    own, other = (len(_WORD[script].findall(text)) for script in SCRIPTS[language])
    return own / (own + other) if own + other else 1.0


def overlong_penalty(length: int, limit: int, margin: int) -> float:
    """0 up to ``margin`` tokens before the limit, then falling evenly to -1 at the limit."""
    return -min(1.0, max(0.0, (length - (limit - margin)) / margin)) if margin else 0.0


def shaped(reward: Reward, text: str, length: int, *, language: str, weight: float, limit: int, margin: int) -> Reward:
    """The reward with its language and length parts in the total.

    Args:
        text: the whole reply, thinking included. length: its tokens.
        language: "" leaves that part out. weight: what the full share of the language earns.
        margin: 0 leaves the length out.
    """
    share = language_share(text, language) if language else 1.0
    long = overlong_penalty(length, limit, margin)
    total = reward.total + (weight * share if language else 0.0) + long
    return dataclasses.replace(reward, total=total, language=share, overlong=long)
