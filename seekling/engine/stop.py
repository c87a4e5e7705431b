"""Stop strings in a stream: nothing that may still become one is let out."""

from collections.abc import Sequence


class StopFilter:
    """Passes text through until a stop string completes; how the text is cut into pieces makes no difference.

    Where several stop strings could end the text, the one that completes first counts, and of those the longest.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take new text; return what is certain to be before any stop string. Sets `stopped` when one completed."""
        if self.stopped:
            return ""
        self._held += text
        found = [(self._held.index(stop) + len(stop), -len(stop)) for stop in self._stops if stop in self._held]
        if found:
            end, length = min(found)
            self.stopped = True
            out, self._held = self._held[: end + length], ""
            return out
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """The text held back, at the end of the answer."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
