"""The DeepSeek decoder: embedding, blocks, final norm, head, and MTP layers behind them (DeepSeek-V3 §2).

>>> model = Decoder.build(config, seed=0)
>>> logits_BTV = model(ids_BT)                                   # whole rows
>>> cache = Cache(config, rows=1, capacity=256)
>>> h_BTD = model.extend(ids_BT, cache, rows=[0])                # prefill, then one token at a time

Shapes: B batch, T time, S cache slots, D hidden, V vocabulary, E experts.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seekling.errors import SeeklingError
from seekling.kernels.tree_attention import TokenTree
from seekling.model.block import Block
from seekling.model.cache import Cache
from seekling.model.config import ModelConfig
from seekling.model.init import init_weights
from seekling.model.layers import RMSNorm
from seekling.model.moe import MoE, Router, Trace
from seekling.model.mtp import MTPLayer
from seekling.model.rope import RopeTable
from seekling.model.sight import CachedRows, Stream, WholeRows


class Backbone(nn.Module):
    """What the checkpoint calls ``model``: main layers first, MTP layers after them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        L = config.num_hidden_layers
        # with its weight given, because nn.Embedding's own drawing of it, on "meta", would import torch's compiler: a second
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
        self.layers = nn.ModuleList(
            [Block(config, i) for i in range(L)] + [MTPLayer(config, L + k) for k in range(config.num_nextn_predict_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """The language model.  ``state_dict`` names are Hugging Face's, with each layer's experts stacked."""

    backbone: Any = Backbone

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = self.backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rope = RopeTable(config)

    @classmethod
    def empty(
        cls, config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "meta"
    ) -> "Decoder":
        """The module with uninitialised tensors; router biases are float32 whatever ``dtype`` says."""
        if cls is Decoder and config.v4 is not None:
            from seekling.model.v4.decoder import V4Decoder

            return V4Decoder.empty(config, dtype=dtype, device=device)
        with torch.device("meta"):
            model = cls(config)
        model.to(dtype=dtype)
        for router in model.routers():
            if hasattr(router, "e_score_correction_bias"):
                router.e_score_correction_bias = router.e_score_correction_bias.to(torch.float32)
        if str(device) != "meta":
            model.to_empty(device=device)
            if config.tie_word_embeddings:
                model.lm_head.weight = model.model.embed_tokens.weight
        return model

    @classmethod
    def build(cls, config: ModelConfig, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> "Decoder":
        """A freshly initialised model on the CPU; equal seeds give equal weights."""
        model = cls.empty(config, dtype=dtype, device="cpu")
        init_weights(model, seed, config.initializer_range)
        return model

    # ---- parts ---------------------------------------------------------------------------------------------------

    @property
    def main_layers(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.model.layers[: self.config.num_hidden_layers])

    @property
    def mtp_layers(self) -> Sequence[MTPLayer]:
        return cast(Sequence[MTPLayer], self.model.layers[self.config.num_hidden_layers :])

    def routers(self) -> list[Router]:
        """Every gate in layer order, those of MTP layers last; the order of ``Trace.routings``."""
        return [layer.mlp.gate for layer in self.model.layers if isinstance(layer.mlp, MoE)]

    def update_router_bias(self, loads_LE: Tensor, speed: float) -> None:
        """Move every router's selection bias by the loads (routers, E) of the global batch; speed 0 freezes them."""
        if speed == 0.0:
            return
        for router, load_E in zip(self.routers(), loads_LE, strict=True):
            if hasattr(router, "e_score_correction_bias"):
                router.update_bias(load_E, speed)

    # ---- whole rows ----------------------------------------------------------------------------------------------

    def forward(self, ids_BT: Tensor, doc_BT: Tensor | None = None) -> Tensor:
        """Logits (B, T, V)."""
        return self.head(self.hidden(ids_BT, doc_BT))

    def head(self, h: Tensor) -> Tensor:
        """Logits of final-normed states (..., D) -> (..., V)."""
        return self.lm_head(h)

    def hidden(self, ids_BT: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None) -> Tensor:
        """Final-normed states (B, T, D); ``doc_BT`` keeps attention inside each packed document."""
        return self.final(self.states(ids_BT, doc_BT, trace))

    def final(self, states: Tensor) -> Tensor:
        """What ``states`` returns, ready for the head (B, T, D)."""
        return self.model.norm(states)

    def states(self, ids_BT: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None) -> Tensor:
        """Output of the last main layer before the final norm (B, T, D)."""
        rows = self._whole_rows(ids_BT.shape, ids_BT.device, doc_BT)
        x_BTD = self.model.embed_tokens(ids_BT)
        for layer in self.main_layers:
            x_BTD = layer(x_BTD, rows, trace)
        return x_BTD

    def stream_hidden(self, ids_N: Tensor, tree: TokenTree, trace: Trace | None = None) -> Tensor:
        """Final-normed states (N, D) of a stream of tokens whose attention runs inside a tree of segments."""
        longest = int((tree.segments[:, 1] + tree.segments[:, 2]).max())
        if longest > self.config.max_row:
            raise SeeklingError(f"a row of {longest} tokens is longer than the model's {self.config.max_row} positions")
        cos, sin = self.rope.upto(longest, ids_N.device)
        rows = Stream(tree, cos, sin)
        x_1ND = self.model.embed_tokens(ids_N[None])
        for layer in self.main_layers:
            x_1ND = layer(x_1ND, rows, trace)
        return self.final(x_1ND)[0]

    def mtp_states(
        self, x_BTD: Tensor, next_ids_BTk: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None
    ) -> list[Tensor]:
        """Normed states of every MTP depth, ready for the head.

        Args:
            x_BTD: what ``states`` returned for the first T tokens.
            next_ids_BTk: (B, T, depth), at [.., k] the token k+1 places after each position.
        """
        h_BTD = self.model.norm(x_BTD) if self.config.mtp_after_norm else x_BTD
        rows = self._whole_rows(x_BTD.shape[:2], x_BTD.device, doc_BT)
        out = []
        for k, layer in enumerate(self.mtp_layers):
            embedding_BTD = self.model.embed_tokens(next_ids_BTk[..., k])
            h_BTD, normed = layer.predict(h_BTD, embedding_BTD, rows, trace)
            out.append(normed)
        return out

    def _whole_rows(self, shape: Sequence[int], device: torch.device, doc_BT: Tensor | None) -> WholeRows:
        """Rotation and masks of rows (B, T), shared by all layers; the tables are float32 (T, R/2)."""
        B, T = shape
        longest = self.config.max_row
        if longest < T:
            raise SeeklingError(f"a row of {T} tokens is longer than the model's {longest} positions")
        cos, sin = self.rope.upto(T, device)
        return WholeRows((B, T), cos[:T], sin[:T], doc_BT)

    # ---- cached rows ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def extend(self, ids_BT: Tensor, cache: Cache, rows: Sequence[int] | None = None, trace: Trace | None = None) -> Tensor:
        """Append T tokens to each of ``rows`` (each at its own length) and return their final-normed states (B, T, D).

        One token a row decodes in the absorbed form, more in the naive one; the two are equal up to rounding.

        Raises:
            SeeklingError: when a row would outgrow the cache.
        """
        return self.final(self.extend_states(ids_BT, cache, rows, trace))

    @torch.no_grad()
    def extend_states(
        self, ids_BT: Tensor, cache: Cache, rows: Sequence[int] | None = None, trace: Trace | None = None
    ) -> Tensor:
        """``extend`` before the final norm: what the MTP layers read (see ``states``)."""
        rows = list(range(ids_BT.shape[0])) if rows is None else list(rows)
        T, device = ids_BT.shape[1], ids_BT.device
        starts = torch.tensor([cache.lengths[row] for row in rows], device=device)
        end = int(starts.max()) + T
        if end > cache.capacity:
            raise SeeklingError(f"a row would hold {end} tokens, but the cache ends at {cache.capacity}")
        positions_BT = starts[:, None] + torch.arange(T, device=device)
        cos, sin = self.rope.at(positions_BT)
        cached = CachedRows(cache, rows, positions_BT, end, cos, sin)
        x_BTD = self.model.embed_tokens(ids_BT)
        for i, layer in enumerate(self.main_layers):
            x_BTD = layer.extend(x_BTD, cached, i, trace)
        for row in rows:
            cache.lengths[row] += T
        return x_BTD
