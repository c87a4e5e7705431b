"""Reasoning kept within bounds: a token budget that closes softly, and a watch for text that only repeats itself."""

import re
from collections.abc import Sequence

_SENTENCE_END = re.compile(r"[.!?。！？…:;；：]\s*$|\n\s*$")
_LONGEST, _SPAN, _TIMES, _EVERY = 64, 48, 4, 8


class ThinkingGuard:
    """Watches one answer's reasoning, from the prompt's ``<think>`` to the ``</think>`` that ends it.

    Args:
        end_id: the token that ends the reasoning.
        budget: most tokens before it; None for any number.
        loops: close reasoning that repeats itself.

    In the last tenth of the budget the reasoning is closed at the end of a sentence, at the budget wherever it is.
    """

    def __init__(self, end_id: int, budget: int | None = None, loops: bool = False):
        self.active = True
        self._end, self._budget, self._loops = end_id, budget, loops
        self._soft = None if budget is None else budget - max(4, budget // 10)
        self._spent = 0
        self._sentence_over = self._looping = False

    def forced(self) -> int | None:
        """The end token once it is time, else None."""
        if not self.active:
            return None
        if self._looping or (self._budget is not None and self._spent >= self._budget):
            return self._end
        return self._end if self._soft is not None and self._spent >= self._soft and self._sentence_over else None

    def push(self, token_id: int, text: str, token_ids: Sequence[int]) -> None:
        """Take the token just drawn, the text it completed, and the whole answer so far."""
        if not self.active:
            return
        self._spent += 1
        if token_id == self._end:
            self.active = False
        elif text:
            self._sentence_over = bool(_SENTENCE_END.search(text))
        self._looping = self._looping or (self._loops and in_a_loop(token_ids))


def in_a_loop(ids: Sequence[int]) -> bool:
    """Whether ``ids`` ends in one block of at most 64 tokens, at least four times and over at least 48 tokens.

    Looked at every eighth token only, which is soon enough.
    """
    if len(ids) < _SPAN or len(ids) % _EVERY:
        return False
    recent = list(ids[-_LONGEST * _TIMES :])
    for period in range(1, _LONGEST + 1):
        span = period * max(_TIMES, -(-_SPAN // period))
        if span > len(recent):
            continue
        if recent[-span:-period] == recent[-span + period :]:
            return True
    return False
