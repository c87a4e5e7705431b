"""Rows of training tokens: the stream cut into windows without waste, in an order that follows from seed and row number alone.

Row r of an epoch begins at token p·T, where p = permutation(seed, epoch)[r]; it is T + 1 + extra tokens long, so that every
position has its next token (and MTP its further ones). Each pair of neighbouring tokens is met exactly once an epoch.

Shapes: B rows, T seq_len, S = T + 1 + extra, N tokens of the stream.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seekling.data.stream import TokenStream
from seekling.errors import DataError


@dataclass(frozen=True)
class Batch:
    """``tokens_BS`` int64; ``doc_BS`` int32, the document's number in its row, rising from 0.

    ``mask_BS`` is True where a token may be a target, None where all may.
    """

    tokens_BS: Tensor
    doc_BS: Tensor
    mask_BS: Tensor | None = None

    def part(self, rows: slice) -> "Batch":
        """Some of the rows."""
        return Batch(self.tokens_BS[rows], self.doc_BS[rows], None if self.mask_BS is None else self.mask_BS[rows])

    def to(self, device: str | torch.device) -> "Batch":
        mask_BS = None if self.mask_BS is None else self.mask_BS.to(device)
        return Batch(self.tokens_BS.to(device), self.doc_BS.to(device), mask_BS)


class Packed:
    """Random access to the rows of endless epochs; holds no state, so a row number is the whole data cursor.

    Args:
        stream: what to read.
        seq_len: T.
        extra: further tokens a row has beyond the next-token targets (the MTP depth).
        seed: of the order; None reads in the stream's own order (evaluation).
        document_mask: False gives the whole row one document number.

    Raises:
        DataError: the stream has no pair of tokens.
    """

    def __init__(
        self, stream: TokenStream, seq_len: int, extra: int = 0, seed: int | None = 0, *, document_mask: bool = True
    ) -> None:
        if len(stream) < 2:
            raise DataError("the text holds fewer than two tokens: there is nothing to learn from; add text")
        self.stream, self.seq_len, self.extra, self.seed, self.document_mask = stream, seq_len, extra, seed, document_mask
        self.n_rows = -(-(len(stream) - 1) // seq_len)

    @property
    def row_length(self) -> int:
        """S."""
        return self.seq_len + 1 + self.extra

    def batch(self, first_row: int, n: int) -> Batch:
        """Rows ``first_row … first_row + n - 1`` of the endless sequence of epochs."""
        N = len(self.stream)
        rows_B = np.arange(first_row, first_row + n)
        epoch_B, place_B = np.divmod(rows_B, self.n_rows)
        window_B = place_B
        if self.seed is not None:
            window_B = np.concatenate(
                [epoch_order(self.seed, int(e), self.n_rows)[place_B[epoch_B == e]] for e in np.unique(epoch_B)]
            )
        at_BS = (window_B * self.seq_len)[:, None] + np.arange(self.row_length)
        over_BS = at_BS >= N
        short = bool(over_BS.any())
        if short:
            np.minimum(at_BS, N - 1, out=at_BS)
        tokens_BS = self.stream.tokens[at_BS].astype(np.int64)
        if self.document_mask:
            doc_BS = np.searchsorted(self.stream.offsets, at_BS, side="right")
            doc_BS += over_BS  # what lies behind the last token is a document of its own …
        else:
            doc_BS = np.zeros_like(at_BS)
        doc_BS -= doc_BS[:, :1]
        mask_BS = torch.from_numpy(~over_BS) if short else None  # … and no target
        return Batch(torch.from_numpy(tokens_BS), torch.from_numpy(doc_BS.astype(np.int32)), mask_BS)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n_rows: int) -> np.ndarray:
    """The permutation of an epoch: the order of n random 64-bit numbers of Philox keyed by seed and epoch.

    Raw generator output is what numpy keeps stable from version to version; its ``permutation`` is not.
    """
    bits = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(n_rows)
    return np.argsort(bits, kind="stable")
