"""Drafts by the MTP layer in one native call: it reads new entries and goes on from the last (csrc/infer_step_draft.cpp)."""

import itertools
from collections.abc import Sequence

import numpy as np

from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import PAGE, Chunk
from seekling.kernels.infer_model import CDrafting, CStep


class InNative:
    """The MTP layer over a `NativeRunner` that ``drafts``, and a part of it."""

    def __init__(self, runner: NativeRunner):
        self._runner = runner

    @property
    def raw_states(self) -> list[np.ndarray]:
        return self._runner.raw_states

    def no_states(self) -> np.ndarray:
        return np.empty((0, self._runner.state_floats), np.float32)

    def choose_among(self, tokens: int) -> None:
        """Drafts shall be of so many first tokens; 0 = of all."""
        self._runner.draft_vocabulary(tokens)

    def draft(self, chunks: Sequence[Chunk], states: Sequence[np.ndarray], tokens: int, least: float = 0.0) -> list[list[int]]:
        """Let the layer read new entries of some sequences, and what it expects to follow each.

        Args:
            chunks: entries ``start …``; the ids are those one token after the states. Drafts end with the chunk's pages.
            states: `raw_states` of those places, one (T, D padded to 32) a chunk.
            tokens: most tokens of a draft; 0 only reads.
            least: a draft ends before the token whose probabilities, multiplied along it, fall below this.
        """
        runner, table = self._runner, self._runner.adapters
        ids: list[int] = []
        pages: list[int] = []
        row_ends, starts, offsets, ends = [0], [], [], []
        for chunk in chunks:
            ids += chunk.ids
            row_ends.append(len(ids))
            starts.append(chunk.start)
            offsets.append(len(pages))
            pages += chunk.pages
            ends.append(len(chunk.pages) * PAGE)
        runner.check(ids, pages, max(min(end, chunk.end + tokens) for end, chunk in zip(ends, chunks, strict=True)))
        wanted = [end - 1 for end in row_ends[1:]] if tokens else []
        adapters = [-1 if chunk.adapter is None else table[chunk.adapter] for chunk in chunks] if table else [-1]
        parts = [ids, row_ends, starts, offsets, pages, adapters, wanted, ends]
        numbers = np.array(list(itertools.chain.from_iterable(parts)), np.int32)
        at = list(itertools.accumulate((4 * len(part) for part in parts), initial=numbers.__array_interface__["data"][0]))
        given = states[0] if len(states) == 1 else np.concatenate(states)  # rows of steps, one behind the other in memory
        drafts = np.empty((len(chunks), tokens), np.int32)
        step = CStep(*at[:5], at[5] if max(adapters) >= 0 else None, at[6], None, None, None, None, 0, len(chunks), len(wanted),
                     runner.team(), 0)  # fmt: skip
        runner._native.draft(
            step,
            CDrafting(given.__array_interface__["data"][0], at[7], drafts.__array_interface__["data"][0], None, tokens, least),
        )
        return [[token for token in row if token >= 0] for row in drafts.tolist()]
