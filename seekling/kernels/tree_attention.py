"""Attention over a stream of tokens that is cut into documents, or into questions with several answers each.

A segment is a run of tokens; a group's first segment is the prefix of its others, which each see the prefix and themselves. So
the question of a group of answers is computed once, and nothing is padded.  Oracle: ``attend_tree`` below.

Shapes: N tokens, S segments, H query heads, G key-value heads, P channels of a head, R rotated ones, A rows, T tokens of a row.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from seekling.kernels import native
from seekling.kernels.attention import first_visible


@dataclass(frozen=True)
class TokenTree:
    """Groups of segments of a stream.

    Attributes:
        first: number of each group's first segment, and at the end the number of segments; int32 (groups + 1).
        segments: (start in the stream, tokens, position of the first token) of each; int32 (S, 3).
    """

    first: Tensor
    segments: Tensor

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> "TokenTree":
        """From the lengths of each group's segments, which lie in the stream one after another."""
        first, segments, start = [0], [], 0
        for lengths in groups:
            for i, length in enumerate(lengths):
                segments.append((start, length, lengths[0] if i else 0))
                start += length
            first.append(len(segments))
        return cls(torch.tensor(first, dtype=torch.int32), torch.tensor(segments, dtype=torch.int32).view(-1, 3))

    @classmethod
    def of_documents(cls, doc_BT: Tensor | None, rows: int, length: int) -> "TokenTree":
        """Rows of documents, flattened; positions go on over a whole row."""
        begins = first_visible(doc_BT, rows, length).flatten() == torch.arange(length, dtype=torch.int32).repeat(rows)
        start = begins.nonzero()[:, 0].to(torch.int32)
        size = torch.diff(start, append=torch.tensor([rows * length], dtype=torch.int32))
        return cls(torch.arange(len(start) + 1, dtype=torch.int32), torch.stack([start, size, start % length], 1).contiguous())

    @property
    def groups(self) -> int:
        return len(self.first) - 1

    @property
    def tokens(self) -> int:
        return int(self.segments[:, 1].sum())

    @cached_property
    def rows(self) -> list[tuple[Tensor, int]]:
        """What each segment sees, as places in the stream, and how many of them come before it."""
        out = []
        parts, first = self.segments.tolist(), self.first.tolist()
        for begin, end in itertools.pairwise(first):
            prefix = torch.arange(parts[begin][0], parts[begin][0] + parts[begin][1])
            for start, length, _ in parts[begin:end]:
                own = torch.arange(start, start + length)
                out.append((own, 0) if start == parts[begin][0] else (torch.cat([prefix, own]), len(prefix)))
        return out

    @cached_property
    def positions_N(self) -> Tensor:
        """Place of each token in what it sees."""
        out = torch.zeros(self.tokens, dtype=torch.int64)
        for start, length, position in self.segments.tolist():
            out[start : start + length] = torch.arange(position, position + length)
        return out

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """The tree as padded rows, (A, T) places in the stream, and each token's place (N,) in those rows flattened."""
        width = max(len(row) for row, _ in self.rows)
        index_AT, home_N = torch.zeros(len(self.rows), width, dtype=torch.int64), torch.zeros(self.tokens, dtype=torch.int64)
        for a, (row, before) in enumerate(self.rows):
            index_AT[a, : len(row)] = row
            home_N[row[before:]] = a * width + torch.arange(before, len(row))
        return index_AT, home_N


class TreeAttention(torch.autograd.Function):
    """See ops.tree_attention."""

    @staticmethod
    def forward(
        ctx, q_NHP: Tensor, k_NGP: Tensor, v_NGP: Tensor, cos: Tensor, sin: Tensor, tree: TokenTree, scale: float,
        interleave: bool, window: int,
    ):  # fmt: skip
        q, k, v, cos, sin = (t.contiguous() for t in (q_NHP, k_NGP, v_NGP, cos, sin))
        N, H, P = q.shape
        o_NHP, lse_NH = torch.empty_like(q), torch.empty(N, H, dtype=torch.float32)
        sizes = (tree.groups, N, H, k.shape[1], P, 2 * cos.shape[-1], window, float(scale), int(interleave))
        native.call("tree_forward", q.dtype, q, k, v, cos, sin, tree.first, tree.segments, o_NHP, lse_NH, *sizes)
        ctx.save_for_backward(q, k, v, cos, sin, o_NHP, lse_NH)
        ctx.tree, ctx.sizes = tree, sizes
        return o_NHP

    @staticmethod
    def backward(ctx, do_NHP: Tensor):  # type: ignore[override]
        q, k, v, cos, sin, o_NHP, lse_NH = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        native.call(
            "tree_backward", q.dtype, do_NHP.contiguous(), q, k, v, cos, sin, ctx.tree.first, ctx.tree.segments, o_NHP, lse_NH,
            dq, dk, dv, *ctx.sizes,
        )  # fmt: skip
        return dq, dk, dv, None, None, None, None, None, None


def attend_tree(q_NHP: Tensor, k_NGP: Tensor, v_NGP: Tensor, tree: TokenTree, scale: float, window: int = 0) -> Tensor:
    """The slow twin, over queries and keys that are rotated already: one segment after another."""
    shared, out = q_NHP.shape[1] // k_NGP.shape[1], torch.empty_like(q_NHP)
    parts = []
    for row, before in tree.rows:
        q, k, v = q_NHP[row[before:]], k_NGP[row].repeat_interleave(shared, 1), v_NGP[row].repeat_interleave(shared, 1)
        scores = torch.einsum("thp,shp->hts", q, k) * scale
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(before)
        if window:
            mask &= torch.ones_like(mask).triu(before - window + 1)
        p = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        parts.append((row[before:], torch.einsum("hts,shp->thp", p.to(v.dtype), v)))
    return out.index_copy(0, torch.cat([own for own, _ in parts]), torch.cat([o for _, o in parts]))
