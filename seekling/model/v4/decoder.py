"""The DeepSeek-V4 decoder under the interface of ``seekling.model.Decoder``, which makes it where the config has a ``v4`` part.

Its states between layers are the residual streams, not one vector: ``states`` returns (B, T, N, D), ``final`` joins and norms.

Shapes: B batch, T time, N streams, D hidden, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seekling.errors import SeeklingError
from seekling.kernels.tree_attention import TokenTree
from seekling.model.cache import Cache
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.model.layers import RMSNorm
from seekling.model.moe import Trace
from seekling.model.rope import RopeTable
from seekling.model.v4.block import V4Block, V4MTPLayer
from seekling.model.v4.cache import V4Cache
from seekling.model.v4.hyper_connections import HyperHead
from seekling.model.v4.sight import Sight

# Small, and decisive: float32 in memory and on disk whatever the rest is, as in DeepSeek's release.
FLOAT32 = ("fn", "base", "scale", "hc_fn", "hc_base", "hc_scale", "sinks", "position_bias", "e_score_correction_bias")


class V4Backbone(nn.Module):
    """Embedding, main layers, MTP layers after them, the streams' head and the final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        L = config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [V4Block(config, i) for i in range(L)] + [V4MTPLayer(config, L + k) for k in range(config.num_nextn_predict_layers)]
        )
        self.hc_head = HyperHead(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class V4Decoder(Decoder):
    """The language model; see ``Decoder`` for what each method promises."""

    backbone: Any = V4Backbone

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        assert config.v4 is not None
        self.ropes = {
            "main": RopeTable(dataclasses.replace(config, rope_scaling=None)),
            "compress": RopeTable(dataclasses.replace(config, rope_theta=config.v4.compress_rope_theta)),
        }

    @classmethod
    def empty(
        cls, config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "meta"
    ) -> "Decoder":
        model = super().empty(config, dtype=dtype, device=device)
        wide = torch.promote_types(dtype, torch.float32)
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1] in FLOAT32:
                parameter.data = parameter.data.to(wide)
        return model

    # ---- whole rows ----------------------------------------------------------------------------------------------

    def final(self, states_BTND: Tensor) -> Tensor:
        return self.model.norm(self.model.hc_head(states_BTND))

    def states(self, ids_BT: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None) -> Tensor:
        """Residual streams after the last main layer (B, T, N, D)."""
        sight = self._sight(ids_BT.shape[1], ids_BT.device, doc_BT)
        streams = self._streams(ids_BT)
        for layer in self._main:
            streams = layer(streams, sight, ids_BT, trace)
        return streams

    def stream_hidden(self, ids_N: Tensor, tree: TokenTree, trace: Trace | None = None) -> Tensor:
        index_AT, home_N = tree.padded  # this attention knows only rows
        return self.hidden(ids_N[index_AT.to(ids_N.device)], trace=trace).flatten(0, 1)[home_N.to(ids_N.device)]

    def mtp_states(
        self, x_BTD: Tensor, next_ids_BTk: Tensor, doc_BT: Tensor | None = None, trace: Trace | None = None
    ) -> list[Tensor]:
        """Normed states of every MTP depth; ``x_BTD`` are the streams that ``states`` returned."""
        sight, out, streams = self._sight(x_BTD.shape[1], x_BTD.device, doc_BT), [], x_BTD
        for k, layer in enumerate(cast(Sequence[V4MTPLayer], self.mtp_layers)):
            ids_BT = next_ids_BTk[..., k]
            streams, normed = layer.predict(streams, self.model.embed_tokens(ids_BT), sight, ids_BT, trace)
            out.append(normed)
        return out

    @property
    def _main(self) -> Sequence[V4Block]:
        return cast(Sequence[V4Block], self.main_layers)

    def _streams(self, ids_BT: Tensor) -> Tensor:
        """The embedding, once for every stream."""
        assert self.config.v4 is not None
        return self.model.embed_tokens(ids_BT)[:, :, None].expand(-1, -1, self.config.v4.hc_mult, -1).contiguous()

    def _sight(self, T: int, device: torch.device, doc_BT: Tensor | None) -> Sight:
        if self.config.max_row < T:
            raise SeeklingError(f"a row of {T} tokens is longer than the model's {self.config.max_row} positions")
        return Sight(self.ropes, torch.arange(T, device=device)[None], doc_BT)

    # ---- cached rows ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def extend_states(
        self, ids_BT: Tensor, cache: Cache, rows: Sequence[int] | None = None, trace: Trace | None = None
    ) -> Tensor:
        rows = list(range(ids_BT.shape[0])) if rows is None else list(rows)
        T, device = ids_BT.shape[1], ids_BT.device
        if not isinstance(cache, V4Cache):
            raise SeeklingError("DeepSeek-V4 keeps a state a row; give it the cache that Cache(config, rows, capacity) makes")
        starts_B = torch.tensor([cache.lengths[row] for row in rows], device=device)
        end = int(starts_B.max()) + T
        if end > cache.capacity:
            raise SeeklingError(f"a row would hold {end} tokens, but the cache ends at {cache.capacity}")
        positions_BT = starts_B[:, None] + torch.arange(T, device=device)
        sight = Sight(self.ropes, positions_BT, cache=cache, rows_B=torch.tensor(rows, device=device), starts_B=starts_B)
        streams = self._streams(ids_BT)
        for layer in self._main:
            streams = layer(streams, sight, ids_BT, trace)
        cache.advance(rows, T)
        return streams
