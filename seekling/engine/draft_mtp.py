"""The model's own draft: its multi-token-prediction layer (DeepSeek-V3 §2.2 and §5.4.3) over pages of its own.

At position i the layer joins the main model's state of token i with the embedding of token i + 1 and foretells token i + 2.
Entries of true tokens are computed once their state is known; further drafts go on from the layer's own state, and what they
leave in the cache is overwritten by the true entries later.

Tensor suffixes: T tokens, D hidden, B rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seekling.engine.request import Request
from seekling.engine.runner import Chunk
from seekling.engine.speculate import Gated
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import SeeklingError
from seekling.model.sight import CachedRows


@dataclass
class _Known:
    """States of a request's tokens ``first`` … that the MTP layer has not read yet."""

    first: int
    states_TD: Tensor


class MTPDrafter(Gated):
    """Drafts with the first MTP layer.

    Args:
        runner: with ``keep_states``; its pool holds the layer's pages beside the main layers', under the same numbers.
        tokens: most tokens proposed.

    Raises:
        SeeklingError: the model has no MTP layer.
    """

    def __init__(self, runner: TorchRunner, tokens: int = 2):
        super().__init__(tokens)
        if not runner.config.num_nextn_predict_layers:
            raise SeeklingError("this model has no MTP layer to draft with: use speculate='ngram' or a second model")
        self._runner, self._layer = runner, runner.config.num_hidden_layers
        self._known: dict[Request, _Known] = {}

    def observe(self, chunks: Sequence[Chunk], requests: Sequence[Request]) -> None:
        for chunk, request, new_TD in zip(chunks, requests, self._runner.states, strict=True):
            known = self._known.get(request)
            if known is None or not known.first <= chunk.start <= known.first + len(known.states_TD):
                self._known[request] = _Known(chunk.start, new_TD)  # a new request, or one that is computed again
            else:  # behind its start may lie drafts that turned out wrong
                known.states_TD = torch.cat([known.states_TD[: chunk.start - known.first], new_TD])

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        drafts: dict[Request, list[int]] = {request: [] for request in requests}
        ready = [r for r in requests if r in self._known and self.gate(r).open()]
        groups: dict[int, list[Request]] = {}
        for request in ready:
            groups.setdefault(request.computed - self._known[request].first, []).append(request)
        with self._runner.evaluating():
            for count, group in groups.items():
                if count > 0:
                    self._draft(group, count, drafts)
        return [drafts[request] for request in requests]

    def _draft(self, group: list[Request], count: int, drafts: dict[Request, list[int]]) -> None:
        """Read the ``count`` new true tokens of each request, then go on from the last."""
        h_BTD = torch.stack([self._known[r].states_TD[:count] for r in group])
        model = self._runner.model
        if self._runner.config.mtp_after_norm:
            h_BTD = model.model.norm(h_BTD)
        starts = [self._known[r].first for r in group]
        tokens = [r.ids[start + 1 : start + 1 + count] for r, start in zip(group, starts, strict=True)]
        for request in group:
            known = self._known[request]
            known.first, known.states_TD = known.first + count, known.states_TD[count:]
        size, room = self._runner.page_tokens, self.tokens
        while room:
            x_BTD, best_B = self._run(group, starts, tokens, h_BTD)
            for request, token in zip(group, best_B, strict=True):
                drafts[request].append(token)
            starts = [start + len(ids) for start, ids in zip(starts, tokens, strict=True)]
            keep = [i for i, (r, start) in enumerate(zip(group, starts, strict=True)) if start < len(r.pages) * size]
            group, starts = [group[i] for i in keep], [starts[i] for i in keep]
            tokens, h_BTD = [[best_B[i]] for i in keep], x_BTD[keep, -1:]
            room = room - 1 if keep else 0

    def _run(self, group: list[Request], starts: list[int], tokens: list[list[int]], h_BTD: Tensor) -> tuple[Tensor, list[int]]:
        """The layer's states (B, T, D) over new entries, and the token each last one foretells."""
        model = self._runner.model
        chunks = [Chunk(ids, start, r.pages) for r, start, ids in zip(group, starts, tokens, strict=True)]
        cache = self._runner.rows(chunks)
        ids_BT = torch.tensor(tokens, device=h_BTD.device)
        positions_BT = torch.tensor(starts, device=h_BTD.device)[:, None] + torch.arange(ids_BT.shape[1], device=h_BTD.device)
        cos, sin = model.rope.at(positions_BT)
        rows = CachedRows(cache, list(range(len(group))), positions_BT, cache.capacity, cos, sin)
        layer = model.mtp_layers[0]
        x_BTD = layer.extend(layer.join(h_BTD, model.model.embed_tokens(ids_BT)), rows, self._layer)
        return x_BTD, model.head(layer.shared_head.norm(x_BTD[:, -1])).argmax(-1).tolist()

    def forget(self, request: Request) -> None:
        super().forget(request)
        self._known.pop(request, None)
