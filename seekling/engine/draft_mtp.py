"""The model's own draft: its multi-token-prediction layer (DeepSeek-V3 §2.2 and §5.4.3) over pages of its own.

At position i the layer joins the main model's state of token i with the embedding of token i + 1 and foretells token i + 2.
Entries of true tokens are computed once their state is known; further drafts go on from the layer's own state, and what they
leave in the cache is overwritten by the true entries later. A model with several MTP layers drafts with the first, repeated.

Tensor suffixes: T tokens, D hidden, B rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seekling.engine.native_burst import Drafts, Outcome
from seekling.engine.native_draft import InNative
from seekling.engine.native_runner import NativeRunner
from seekling.engine.request import Request
from seekling.engine.runner import Chunk
from seekling.engine.speculate import Gated
from seekling.engine.torch_runner import TorchRunner
from seekling.errors import SeeklingError
from seekling.model.sight import CachedRows

CATCH_UP = 32  # entries that may be behind before they are made without a draft


class Frequent:
    """How many of the first tokens hold nine in ten of those written here.

    Tokenizers number their merges from the most frequent on, so a draft that chooses among those reads less of the head, a
    large part of what it costs: a quarter or a third of a vocabulary of 50,000 holds so much of English. What it loses is
    drafts of rare tokens, which are seldom right.
    """

    COVER, AT_ONCE, ENOUGH, FADE = 0.9, 64, 512, 8192

    def __init__(self, vocabulary: int):
        self._counts = np.zeros(-(-vocabulary // self.AT_ONCE), np.int64)
        self._vocabulary = vocabulary

    def add(self, ids: Sequence[int]) -> None:
        self._counts += np.bincount(np.asarray(ids, np.int64) // self.AT_ONCE, minlength=len(self._counts))
        if self._counts.sum() > self.FADE:
            self._counts //= 2

    def count(self) -> int:
        """0: all, as too few were seen."""
        seen = self._counts.cumsum()
        if seen[-1] < self.ENOUGH:
            return 0
        covered = int(np.searchsorted(seen, self.COVER * seen[-1])) + 1
        return min(covered * self.AT_ONCE, self._vocabulary)


class MTP(Protocol):
    """The MTP layer over a runner, whose pool holds its pages beside the main layers', under the same numbers.

    Attributes:
        raw_states: before the final norm, of the last step, one (T, …) a chunk.
    """

    @property
    def raw_states(self) -> Sequence[Any]: ...

    def choose_among(self, tokens: int) -> None:
        """Drafts shall be of so many first tokens; 0 = of all."""

    def draft(self, chunks: Sequence[Chunk], states: Sequence[Any], tokens: int, least: float = 0.0) -> list[list[int]]:
        """See `seekling.engine.native_draft.InNative.draft`."""


@dataclass
class _Known:
    """States of a request's tokens ``first`` … ``end`` that the MTP layer has not read yet, in ``pieces`` one after another."""

    first: int
    end: int
    pieces: list[Any] = field(default_factory=list)

    def add(self, start: int, new: Any) -> None:
        """States of tokens ``start`` …; what was known from there on were drafts that turned out wrong."""
        while self.end > start:
            last = self.pieces.pop()
            self.end -= len(last)
            if self.end < start:
                self.pieces.append(last[: start - self.end])
                self.end = start
        self.pieces.append(new)
        self.end += len(new)

    def take(self, end: int) -> Any:
        """Those before ``end``, which go."""
        out = []
        while self.first < end:
            piece = self.pieces.pop(0)
            if len(piece) > end - self.first:
                self.pieces.insert(0, piece[end - self.first :])
                piece = piece[: end - self.first]
            out.append(piece)
            self.first += len(piece)
        if len(out) == 1:
            return out[0]
        return torch.cat(out) if isinstance(out[0], Tensor) else np.concatenate(out)


class MTPDrafter(Gated):
    """Drafts with the first MTP layer.

    Args:
        runner: a `NativeRunner` with ``drafts``, or a `TorchRunner` with ``keep_states``.
        tokens: most tokens proposed.

    Raises:
        SeeklingError: the model has no MTP layer.
    """

    def __init__(self, runner: NativeRunner | TorchRunner, tokens: int = 2):
        super().__init__(tokens)
        if not runner.config.num_nextn_predict_layers:
            raise SeeklingError("this model has no MTP layer to draft with: use speculate='ngram' or a second model")
        self._mtp: MTP = InTorch(runner) if isinstance(runner, TorchRunner) else InNative(runner)
        self._known: dict[Request, _Known] = {}
        self._frequent = Frequent(runner.config.vocab_size)

    def observe(self, chunks: Sequence[Chunk], requests: Sequence[Request]) -> None:
        behind = []
        for chunk, request, new in zip(chunks, requests, self._mtp.raw_states, strict=True):
            if self.gate(request).wait > CATCH_UP:  # long switched off: what it does not read by then is missing
                self._known.pop(request, None)
                continue
            known = self._known.get(request)
            if known is None or not known.first <= chunk.start <= known.end:
                known = self._known[request] = _Known(chunk.start, chunk.start)  # new, or computed again
            known.add(chunk.start, new)
            self._frequent.add(chunk.ids)
            if min(known.end, len(request.ids) - 1) - known.first > CATCH_UP:
                behind.append(request)
        self._read(behind, 0)

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        able: list[Request] = []
        if self.settled(len(requests)):
            for request in requests:
                known = self._known.get(request)
                if known is not None and self.gate(request).open() and known.first < request.computed <= known.end:
                    able.append(request)
        self.tried = bool(able)
        self.late = any(r.computed - self._known[r].first > 1 + self.tokens for r in able)
        drafts = self._read(able, self.tokens)
        for request, draft in drafts.items():
            if not draft:  # in vain
                self.learn(request, 0, 0)
        return [drafts.get(request, []) for request in requests]

    def burst(self, request: Request) -> Drafts | None:
        if not isinstance(self._mtp, InNative):
            return None
        drafting, known = self.drafts_now(request), self._known.pop(request, None)
        if self.gate(request).wait > CATCH_UP:
            return Drafts()
        if known is None or not known.first <= request.computed <= known.end:
            return Drafts(states=self._mtp.no_states())
        states = known.take(request.computed) if known.first < request.computed else self._mtp.no_states()
        if not drafting:
            return Drafts(states=states)
        tokens = self.length(request)
        self._mtp.choose_among(self._frequent.count())
        row = (self.burst_cost.of(tokens) - 1) / (2 * tokens)  # about half of what a draft costs is the row that checks it
        return Drafts(tokens, least=row, states=states)

    def heard(self, request: Request, outcome: Outcome) -> None:
        super().heard(request, outcome)
        self._frequent.add(outcome.tokens)
        if outcome.states is None or request.finish_reason is not None:
            return
        first = request.computed - len(outcome.states)
        self._known[request] = _Known(first, request.computed, [outcome.states] if len(outcome.states) else [])
        if len(outcome.states) > CATCH_UP:
            self._read([request], 0)

    def _read(self, requests: Sequence[Request], tokens: int) -> dict[Request, list[int]]:
        """Make the entries whose next tokens are known, and drafts of so many tokens after them."""
        if not requests:
            return {}
        chunks, states = [], []
        for request in requests:
            known = self._known[request]
            start, end = known.first, min(known.end, len(request.ids) - 1)
            states.append(known.take(end))
            chunks.append(Chunk(request.ids[start + 1 : end + 1], start, request.pages, adapter=request.adapter))
        self._mtp.choose_among(self._frequent.count())
        found = self._mtp.draft(chunks, states, tokens, self.least)
        return dict(zip(requests, found, strict=True))

    def forget(self, request: Request) -> None:
        super().forget(request)
        self._known.pop(request, None)


class InTorch:
    """The MTP layer over a `TorchRunner`: the oracle, sequence by sequence."""

    def __init__(self, runner: TorchRunner):
        self._runner, self.config = runner, runner.config
        self._among: int | None = None

    @property
    def raw_states(self) -> list[Tensor]:
        return self._runner.raw_states

    def choose_among(self, tokens: int) -> None:
        """Drafts shall be of so many first tokens; 0 = of all."""
        self._among = tokens or None

    @torch.no_grad()
    def draft(self, chunks: Sequence[Chunk], states: Sequence[Tensor], tokens: int, least: float = 0.0) -> list[list[int]]:
        """See `seekling.engine.native_draft.InNative.draft`."""
        with self._runner.evaluating():
            return [self._draft(chunk, h_TD[None], tokens, least) for chunk, h_TD in zip(chunks, states, strict=True)]

    def _draft(self, chunk: Chunk, h_BTD: Tensor, tokens: int, least: float) -> list[int]:
        model, worth = self._runner.model, 1.0
        out: list[int] = []
        if self.config.mtp_after_norm:
            h_BTD = model.model.norm(h_BTD)
        ids, start, room = chunk.ids, chunk.start, len(chunk.pages) * self._runner.page_tokens
        while True:
            x_BTD = self._run(Chunk(ids, start, chunk.pages), h_BTD)
            if not tokens:
                return []
            logits_V = model.head(model.mtp_layers[0].shared_head.norm(x_BTD[0, -1]))
            chance, token = logits_V[: self._among].softmax(-1).max(-1)
            worth *= chance.item()
            if worth < least:
                return out
            out.append(int(token))
            ids, start, h_BTD = out[-1:], start + len(ids), x_BTD[:, -1:]
            if len(out) == tokens or start >= room:
                return out

    def _run(self, chunk: Chunk, h_BTD: Tensor) -> Tensor:
        """The layer's states (1, T, D) over new entries."""
        model, cache = self._runner.model, self._runner.rows([chunk])
        ids_BT = torch.tensor([chunk.ids], device=h_BTD.device)
        positions_BT = chunk.start + torch.arange(ids_BT.shape[1], device=h_BTD.device)[None]
        cos, sin = model.rope.at(positions_BT)
        rows = CachedRows(cache, [0], positions_BT, cache.capacity, cos, sin)
        layer = model.mtp_layers[0]
        return layer.extend(layer.join(h_BTD, model.model.embed_tokens(ids_BT)), rows, self.config.num_hidden_layers)
