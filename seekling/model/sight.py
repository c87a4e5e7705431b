"""What all layers of one pass share: the tokens' rotation and which keys each token may see, made once and not per layer.

Shapes: B batch, T time, S keys, R rotary channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from seekling.kernels.attention import first_visible
from seekling.kernels.tree_attention import TokenTree
from seekling.model.cache import Cache


@dataclass
class WholeRows:
    """Rows seen from their first token on, each position looking back; inside its document where ``doc_BT`` is given."""

    shape: tuple[int, int]
    cos: Tensor
    sin: Tensor
    doc_BT: Tensor | None = None
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    @cached_property
    def first_BT(self) -> Tensor | None:
        """First visible key of each token, for the native kernels; None = 0 everywhere."""
        return first_visible(self.doc_BT, *self.shape)

    def mask(self, window: int | None = None) -> Tensor | None:
        """(B or 1, 1, T, T), True = may see; None where plain causal attention says it all."""
        if window not in self._masks:
            self._masks[window] = causal_mask(self.shape[1], self.shape[1], self.doc_BT, self.cos.device, window)
        return self._masks[window]

    @cached_property
    def tree(self) -> TokenTree:
        """The rows' documents as a stream of tokens."""
        return TokenTree.of_documents(self.doc_BT, *self.shape)


@dataclass
class Stream:
    """A stream of tokens (one row to the layers) whose attention runs inside a tree; ``cos``, ``sin``: tables by position.

    Attention that only knows rows gets them padded: ``whole`` describes them, ``split`` and ``join`` lead there and back.
    """

    tree: TokenTree
    cos: Tensor
    sin: Tensor

    @cached_property
    def whole(self) -> WholeRows:
        """The padded rows."""
        A, T = self.tree.padded[0].shape
        return WholeRows((A, T), self.cos[:T], self.sin[:T])

    def split(self, x_1ND: Tensor) -> Tensor:
        """The stream as padded rows (A, T, D)."""
        return x_1ND[0][self.tree.padded[0].to(x_1ND.device)]

    def join(self, x_ATD: Tensor) -> Tensor:
        """Padded rows as the stream (1, N, D) again: of a shared prefix the first copy counts."""
        return x_ATD.flatten(0, 1)[self.tree.padded[1].to(x_ATD.device)][None]


@dataclass
class CachedRows:
    """New tokens of cached rows: ``positions_BT`` are their places, ``end`` the slots the longest row then holds."""

    cache: Cache
    rows: Sequence[int]
    positions_BT: Tensor
    end: int
    cos: Tensor
    sin: Tensor
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None = None) -> Tensor:
        """(B, T, S), True = may see."""
        if window not in self._masks:
            slots, positions = torch.arange(self.end, device=self.positions_BT.device), self.positions_BT[..., None]
            mask = slots <= positions
            self._masks[window] = mask if window is None else mask & (slots > positions - window)
        return self._masks[window]


def causal_mask(T: int, S: int, doc_BT: Tensor | None, device: torch.device | str, window: int | None = None) -> Tensor | None:
    """(B, 1, T, S) for packed documents, (1, 1, T, S) otherwise; None where plain causal attention over S = T says it all."""
    if window is not None and window >= S:
        window = None
    if doc_BT is None and T == S and window is None:
        return None
    mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    if window is not None:
        mask &= torch.ones_like(mask).triu(S - T - window + 1)
    if doc_BT is None:
        return mask[None, None]
    return (mask & (doc_BT[:, :, None] == doc_BT[:, None, :]))[:, None]
