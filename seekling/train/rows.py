"""Drawn answers side by side, as the trainer computes them.

Shapes: A answers, T tokens of an answer (padded), S tokens of a row, N drawn tokens, D hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seekling.model import Decoder
from seekling.train.rollout import Drawn


@dataclass
class Rows:
    """Some answers, right-padded, with what an objective needs of them."""

    ids_AS: Tensor
    place_AT: Tensor  # row position that predicts each token of the answer
    token_AT: Tensor
    mask_AT: Tensor
    sampler_AT: Tensor
    advantage_A: Tensor
    old_AT: Tensor | None = None
    ref_AT: Tensor | None = None


def rows_of(pairs: Sequence[tuple[Drawn, float]], device: Any) -> Rows:
    """Answers with their advantages as padded tensors."""
    A = len(pairs)
    S = max(len(a.prompt_ids) + len(a.token_ids) for a, _ in pairs)
    T = max(len(a.token_ids) for a, _ in pairs)
    ids, place, token = (torch.zeros(A, n, dtype=torch.int64) for n in (S, T, T))
    mask, sampler = torch.zeros(A, T, dtype=torch.bool), torch.zeros(A, T)
    for i, (answer, _) in enumerate(pairs):
        begin, n = len(answer.prompt_ids), len(answer.token_ids)
        ids[i, : begin + n] = torch.tensor([*answer.prompt_ids, *answer.token_ids])
        place[i, :n] = torch.arange(begin - 1, begin + n - 1)
        token[i, :n] = torch.tensor(answer.token_ids)
        mask[i, :n] = True
        sampler[i, :n] = torch.tensor(answer.logprobs)
    gains = torch.tensor([gain for _, gain in pairs])
    return Rows(*(t.to(device) for t in (ids, place, token, mask, sampler, gains)))


def micro_batches(pairs: Sequence[tuple[Drawn, float]], tokens: int, device: Any) -> list[Rows]:
    """Answers by length, so that little is padded, cut into parts of at most ``tokens`` places (or one answer)."""
    out: list[Rows] = []
    part: list[tuple[Drawn, float]] = []
    for pair in sorted(pairs, key=lambda pair: len(pair[0].prompt_ids) + len(pair[0].token_ids)):
        width = len(pair[0].prompt_ids) + len(pair[0].token_ids)
        if part and (len(part) + 1) * width > tokens:
            out.append(rows_of(part, device))
            part = []
        part.append(pair)
    return [*out, rows_of(part, device)] if part else out


def drawn_states(model: Decoder, rows: Rows) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(N, D) final states that predict the drawn tokens, and the tokens' places (answer, number) in the rows."""
    h_ASD = model.hidden(rows.ids_AS)
    row_N, col_N = rows.mask_AT.nonzero(as_tuple=True)
    return h_ASD[row_N, rows.place_AT[row_N, col_N]], (row_N, col_N)
