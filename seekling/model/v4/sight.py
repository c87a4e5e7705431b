"""What all layers of one pass share: positions, rotation, where documents begin, and the cached rows.

Shapes: B batch, T time, R rotated channels.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from seekling.model.rope import RopeTable
from seekling.model.v4.cache import V4Cache

Turns = tuple[Tensor, Tensor]  # cos and sin


@dataclass
class Sight:
    """Tokens at ``positions_BT`` (B or 1, T): whole rows from position 0, or new tokens of cached rows.

    Attributes:
        ropes: the two tables, ``main`` and ``compress``.
        doc_BT: documents of packed whole rows; runs of equal numbers.
        cache, rows_B, starts_B: cached rows and the tokens they hold already.
    """

    ropes: dict[str, RopeTable]
    positions_BT: Tensor
    doc_BT: Tensor | None = None
    cache: V4Cache | None = None
    rows_B: Tensor | None = None
    starts_B: Tensor | None = None
    _turns: dict[str, Turns] = field(default_factory=dict)
    _alone: dict[int, "Sight"] = field(default_factory=dict)

    def turns(self, rope: str) -> Turns:
        """cos and sin of the tokens (B or 1, T, R/2)."""
        if rope not in self._turns:
            self._turns[rope] = self.ropes[rope].at(self.positions_BT)
        return self._turns[rope]

    @cached_property
    def end(self) -> int:
        """Tokens the longest row then holds."""
        return int(self.positions_BT[:, -1].max()) + 1

    @cached_property
    def documents(self) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Length of a document -> (rows, first places) of all that are so long; None without documents."""
        if self.doc_BT is None:
            return None
        found: dict[int, list[tuple[int, int]]] = {}
        for b, doc_T in enumerate(self.doc_BT.tolist()):
            ends = [t for t in range(1, len(doc_T)) if doc_T[t] != doc_T[t - 1]] + [len(doc_T)]
            first = 0
            for end in ends:
                found.setdefault(end - first, []).append((b, first))
                first = end
        device = self.doc_BT.device
        return {n: tuple(torch.tensor(p, device=device) for p in zip(*at, strict=True)) for n, at in found.items()}  # type: ignore[misc]

    def alone(self, length: int) -> "Sight":
        """The sight of one document by itself."""
        if length not in self._alone:
            self._alone[length] = Sight(self.ropes, torch.arange(length, device=self.positions_BT.device)[None])
        return self._alone[length]
