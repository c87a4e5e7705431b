"""Drawn answers as the trainer computes them: one stream without padding, each question once for all its answers.

Shapes: N tokens of the stream, A answers, T tokens of an answer (padded), K drawn tokens, D hidden.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from seekling.kernels.tree_attention import TokenTree
from seekling.model import Decoder, Trace
from seekling.train.rollout import Drawn

Pairs = Sequence[tuple[Drawn, float]]  # answers with their advantages


@dataclass
class Rows:
    """Some answers with what an objective needs of them."""

    ids_N: Tensor
    tree: TokenTree
    place_AT: Tensor  # where in the stream each token of the answer is predicted
    token_AT: Tensor
    mask_AT: Tensor
    sampler_AT: Tensor
    advantage_A: Tensor
    old_AT: Tensor | None = None
    ref_AT: Tensor | None = None
    teacher_AT: Tensor | None = None
    experts_NLK: Tensor | None = None  # the sampler's choices where it told them, else -1


def questions(pairs: Iterable[tuple[Drawn, float]]) -> list[Pairs]:
    """Answers to the same prompt together, in order."""
    ordered = sorted(pairs, key=lambda pair: (pair[0].group, pair[0].prompt_ids))
    return [list(same) for _, same in groupby(ordered, key=lambda pair: pair[0].prompt_ids)]


def rows_of(pairs: Pairs, device: Any) -> Rows:
    """Answers with their advantages as tensors."""
    ids: list[int] = []
    lengths: list[list[int]] = []
    ordered: list[tuple[Drawn, float]] = []
    places: list[list[int]] = []
    for same in questions(pairs):
        prompt = same[0][0].prompt_ids
        last = len(ids) + len(prompt) - 1
        ids += prompt
        lengths.append([len(prompt)])
        for answer, gain in same:
            first, n = len(ids), len(answer.token_ids) - 1  # the last token predicts nothing
            places.append([last, *range(first, first + n)])
            ids += answer.token_ids[:-1]
            if n:
                lengths[-1].append(n)
            ordered.append((answer, gain))
    A, T = len(ordered), max(map(len, places))
    place, token = torch.zeros(A, T, dtype=torch.int64), torch.zeros(A, T, dtype=torch.int64)
    mask, sampler = torch.zeros(A, T, dtype=torch.bool), torch.zeros(A, T)
    for i, (answer, _) in enumerate(ordered):
        n = len(answer.token_ids)
        place[i, :n], token[i, :n], mask[i, :n] = torch.tensor(places[i]), torch.tensor(answer.token_ids), True
        sampler[i, :n] = torch.tensor(answer.logprobs)
    gains = torch.tensor([gain for _, gain in ordered])
    stream, tree = torch.tensor(ids, dtype=torch.int64), TokenTree.of(lengths)
    out = Rows(stream.to(device), tree, *(t.to(device) for t in (place, token, mask, sampler, gains)))
    if ordered[0][0].experts is not None:
        experts = torch.full((len(ids), *ordered[0][0].experts.shape[1:]), -1, dtype=torch.int64)
        for at, (answer, _) in zip(places, ordered, strict=True):
            experts[at] = answer.experts.long()
        out.experts_NLK = experts.to(device)
    return out


def micro_batches(pairs: Pairs, tokens: int, device: Any) -> list[Rows]:
    """Answers in parts whose streams have at most ``tokens`` tokens (or one answer); a question's stay together if they fit."""
    parts: list[list[tuple[Drawn, float]]] = []
    left = 0
    for same in questions(pairs):
        prompt, whole = len(same[0][0].prompt_ids), sum(len(a.token_ids) for a, _ in same)
        fresh = prompt + whole > left
        for pair in same:
            need = len(pair[0].token_ids) + (prompt if fresh or pair is same[0] else 0)
            if fresh or need > left:
                parts.append([])
                left, need, fresh = tokens, prompt + len(pair[0].token_ids), False
            parts[-1].append(pair)
            left -= need
    return [rows_of(part, device) for part in parts]


def agreement(rows: Rows, trace: Trace) -> tuple[float, float]:
    """(Σ, count) over tokens and MoE layers of the share of the sampler's experts that the trainer would choose too."""
    assert rows.experts_NLK is not None
    known = rows.experts_NLK[:, 0, 0] >= 0
    total, count = 0.0, 0
    for layer, routing in enumerate(trace.routings):
        own = routing.indices_NK if routing.own_NK is None else routing.own_NK
        same = (own[known][:, :, None] == rows.experts_NLK[known, layer][:, None]).any(-1).float().mean(-1)
        total, count = total + float(same.sum()), count + len(same)
    return total, float(count)


def drawn_states(model: Decoder, rows: Rows, trace: Trace | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(K, D) final states that predict the drawn tokens, and the tokens' places (answer, number) in the rows."""
    h_ND = model.stream_hidden(rows.ids_N, rows.tree, trace)
    row_K, col_K = rows.mask_AT.nonzero(as_tuple=True)
    return h_ND[rows.place_AT[row_K, col_K]], (row_K, col_K)
