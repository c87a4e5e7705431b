"""What the scheduler asks of a model: one call a step, over sequences whose cache lives in pages.

A runner owns the weights and one pool of pages. A page holds what `PAGE` tokens leave behind in every layer (keys and values,
or MLA's latents), so a sequence is nothing but its token ids and the numbers of its pages. The scheduler decides which
tokens run and where their pages are; the runner computes. There are two: `TorchRunner` over `Decoder.forward`'s own
mathematics (the oracle), `NativeRunner` over packed weights (fast on CPUs).

>>> runner.allocate(64)
>>> logits_RV = runner.step([Chunk(ids=[5, 9, 2], start=0, pages=[7])])          # (1, V): after the last token

Shapes: R rows of logits asked for, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

PAGE = 32  # tokens a page
Content = bytes  # of a page, all layers


@dataclass(slots=True)
class Chunk:
    """Tokens ``start .. start + len(ids)`` of one sequence, to be appended to its cache in this step.

    Attributes:
        ids: the new token ids, at least one.
        start: how many tokens of the sequence its pages hold already.
        pages: the sequence's page table, enough for ``start + len(ids)`` tokens; token t lies in ``pages[t // PAGE]``.
        want: for which tokens the step returns logits: the last, all of them, or none.
        adapter: which of the runner's adapters the sequence is computed with; None for the base.
        experts: what the routers chose for the rows of logits is to be told in the runner's ``chosen``.
    """

    ids: list[int]
    start: int
    pages: list[int]
    want: Literal["last", "all", "none"] = "last"
    adapter: str | None = None
    experts: bool = False

    @property
    def end(self) -> int:
        """Tokens the sequence holds after the step."""
        return self.start + len(self.ids)

    @property
    def rows(self) -> int:
        """Rows of logits this chunk asks for."""
        return {"last": 1, "all": len(self.ids), "none": 0}[self.want]


Experts = list[list[tuple[int, float]]]  # of one token: for each MoE layer its experts and their weights, by expert number


@dataclass(frozen=True)
class Chosen:
    """What the routers chose in a step, for each row of its logits; L MoE layers in their order, K experts a token.

    Attributes:
        experts: (R, L, K) int32, rising along K; weights: (R, L, K) float32, what each expert's output was multiplied with.
    """

    experts: np.ndarray
    weights: np.ndarray

    def row(self, row: int) -> Experts:
        pairs = zip(self.experts[row].tolist(), self.weights[row].tolist(), strict=True)
        return [list(zip(*layer, strict=True)) for layer in pairs]


@runtime_checkable
class Runner(Protocol):
    """See the module's docstring. One step runs at a time; a runner is not re-entrant.

    Attributes:
        chosen: after a step in which a chunk asked for ``experts``, those of all its rows of logits; else None.
    """

    page_tokens: int
    chosen: Chosen | None

    @property
    def page_bytes(self) -> int:
        """Bytes of a page's content."""

    def allocate(self, pages: int) -> None:
        """Create the pool: pages 0 .. pages - 1, replacing any earlier pool. Their content is undefined until written."""

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Append every chunk to its sequence; return the float32 logits asked for (R, V), in the order of the chunks.

        No two chunks of a step may write to the same page. A chunk sees what earlier steps wrote and its own tokens.
        """

    def bytes(self) -> int:
        """Bytes the pool may take."""

    def copy_page(self, src: int, dst: int) -> None:
        """Copy the content of one page over another (copy on write)."""

    def read_page(self, page: int) -> Content:
        """The content of a page, which `write_page` of an equal runner takes."""

    def write_page(self, page: int, content: Content) -> None:
        """Give a page the content of another."""
