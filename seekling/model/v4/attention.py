"""Attention of DeepSeek-V4: one shared key that is the value too, a window of raw tokens, compressed entries (V4 §2.3).

Shapes: B batch, T time, K raw keys, E compressed entries, S all keys, D hidden, H heads, P head dim, L query latent, G groups.
"""

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.v4.cache import Blocks, look_back, write
from seekling.model.v4.compressor import Compressor, visible
from seekling.model.v4.config import CSA, SLIDING
from seekling.model.v4.counts import kind_of
from seekling.model.v4.hyper_connections import unweighted_rms_norm
from seekling.model.v4.indexer import Indexer
from seekling.model.v4.rope import turn
from seekling.model.v4.sight import Sight

_QUERIES = 128  # at least so many queries of a whole row meet their keys at once


class GroupedLinear(nn.Module):
    """A block-diagonal matrix: group g of the inputs gives group g of the outputs."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups * outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., groups · inputs) -> (..., groups · outputs)."""
        weight_GOI = self.weight.unflatten(0, (self.groups, -1))
        return torch.einsum("...gi,goi->...go", x.unflatten(-1, (self.groups, -1)), weight_GOI).flatten(-2)


class CSACompressor(Compressor):
    """The compressor of a sparse layer, with the indexer that chooses among its entries."""

    def __init__(self, config: ModelConfig, rate: int):
        super().__init__(config, config.head_dim, rate, overlap=True)
        self.indexer = Indexer(config, rate)


class V4Attention(nn.Module):
    """One attention block; parameter names are those of transformers."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        v4, d, h, p = config.v4, config.hidden_size, config.num_attention_heads, config.head_dim
        assert v4 is not None and config.q_lora_rank is not None and config.sliding_window is not None
        self.layer, self.kind = layer, kind_of(config, layer)
        self.rope = "main" if self.kind == SLIDING else "compress"
        self.eps, self.scale, self.window = config.rms_norm_eps, p**-0.5, config.sliding_window
        self.q_a_proj = nn.Linear(d, config.q_lora_rank, bias=False)
        self.q_a_norm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.q_b_proj = nn.Linear(config.q_lora_rank, h * p, bias=False)
        self.kv_proj = nn.Linear(d, p, bias=False)
        self.kv_norm = RMSNorm(p, config.rms_norm_eps)
        self.o_a_proj = GroupedLinear(h * p // v4.o_groups, v4.o_lora_rank, v4.o_groups)
        self.o_b_proj = nn.Linear(v4.o_groups * v4.o_lora_rank, d, bias=False)
        self.sinks = nn.Parameter(torch.empty(h))
        self.compressor: Compressor | None = None
        if self.kind == CSA:
            self.compressor = CSACompressor(config, v4.rate(CSA))
        elif self.kind != SLIDING:
            self.compressor = Compressor(config, p, v4.rate(self.kind), overlap=False)
        self.head_dim = p

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Whole rows or new tokens of cached ones; documents of packed rows each by itself."""
        if sight.documents is None:
            return self._rows(x_BTD, sight)
        out_BTD = torch.zeros_like(x_BTD)
        for length, (rows, firsts) in sight.documents.items():
            at = rows[:, None], firsts[:, None] + torch.arange(length, device=x_BTD.device)
            out_BTD = out_BTD.index_put(at, self._rows(x_BTD[at], sight.alone(length)))
        return out_BTD

    def _rows(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        cos, sin = sight.turns(self.rope)
        head_cos, head_sin = cos[:, :, None], sin[:, :, None]
        latent_BTL = self.q_a_norm(self.q_a_proj(x_BTD))
        q_BTHP = self.q_b_proj(latent_BTL).unflatten(-1, (-1, self.head_dim))
        q_BTHP = turn(unweighted_rms_norm(q_BTHP, self.eps), head_cos, head_sin)
        kv_BKP = turn(self.kv_norm(self.kv_proj(x_BTD)), cos, sin)
        before, state = 0, None
        if sight.cache is not None:
            assert sight.rows_B is not None and sight.starts_B is not None
            state, before = sight.cache.held[self.layer], self.window - 1
            new_BTP = kv_BKP
            kv_BKP = torch.cat([look_back(state.window, sight.rows_B, sight.starts_B, before), new_BTP], 1)
            write(state.window, sight.rows_B, sight.starts_B, new_BTP)
        entries_BEP, seen_BTE = self._entries(
            x_BTD, latent_BTL, sight, state.blocks if state else None, state.index if state else None
        )
        out_BTHP = self._attend(q_BTHP, kv_BKP, entries_BEP, seen_BTE, before, sight.starts_B)
        return self.o_b_proj(self.o_a_proj(turn(out_BTHP, head_cos, -head_sin).flatten(2)))

    def _entries(
        self, x_BTD: Tensor, latent_BTL: Tensor, sight: Sight, blocks: Blocks | None, index: Blocks | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Compressed entries (B, E, P) and which of them each query attends to (B or 1, T, E)."""
        if self.compressor is None:
            return None, None
        entries_BEP = self.compressor.compress(x_BTD, sight, blocks)
        if isinstance(self.compressor, CSACompressor):
            indexer = self.compressor.indexer
            keys_BEC = indexer.compress(x_BTD, sight, index)
            return entries_BEP, indexer.choose(x_BTD, latent_BTL, keys_BEC, sight)
        return entries_BEP, visible(sight.positions_BT, entries_BEP.shape[1], self.compressor.rate)

    def _attend(
        self,
        q_BTHP: Tensor,
        kv_BKP: Tensor,
        entries_BEP: Tensor | None,
        seen_BTE: Tensor | None,
        before: int,
        starts_B: Tensor | None,
    ) -> Tensor:
        """Some queries at a time against the raw keys of their windows and the entries they see -> (B, T, H, P).

        Query t's own key is number ``before`` + t; cached rows have nothing before their first token.
        """
        T, device = q_BTHP.shape[1], q_BTHP.device
        size = max(self.window, _QUERIES)
        parts = []
        for a in range(0, T, size):
            b = min(a + size, T)
            first = max(0, before + a - self.window + 1)
            key_K = torch.arange(first, before + b, device=device)
            own_T1 = before + torch.arange(a, b, device=device)[:, None]
            mask_BTS = ((key_K <= own_T1) & (key_K > own_T1 - self.window))[None]
            if starts_B is not None:
                mask_BTS = mask_BTS & (key_K >= before - starts_B[:, None])[:, None]
            keys_BSP = kv_BKP[:, first : before + b]
            if entries_BEP is not None and seen_BTE is not None and entries_BEP.shape[1]:
                rows = max(mask_BTS.shape[0], seen_BTE.shape[0])
                mask_BTS = torch.cat([mask_BTS.expand(rows, -1, -1), seen_BTE[:, a:b].expand(rows, -1, -1)], -1)
                keys_BSP = torch.cat([keys_BSP, entries_BEP], 1)
            parts.append(attend(q_BTHP[:, a:b], keys_BSP, mask_BTS, self.scale, self.sinks))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def attend(q_BTHP: Tensor, kv_BSP: Tensor, mask_BTS: Tensor, scale: float, sinks_H: Tensor) -> Tensor:
    """Softmax attention of all heads over the same keys, which are the values -> (B, T, H, P).

    A sink adds exp(its logit) to its head's denominator and nothing to the sum (V4 §2.3.3).
    """
    B, T, H, _ = q_BTHP.shape
    wide = torch.promote_types(q_BTHP.dtype, torch.float32)
    scores = (q_BTHP.flatten(1, 2) @ kv_BSP.transpose(1, 2)).unflatten(1, (T, H)).to(wide) * scale
    scores = scores.masked_fill(~mask_BTS[:, :, None], float("-inf"))
    sinks = sinks_H.to(wide)[:, None].expand(B, T, H, 1)
    p_BTHS = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1].to(kv_BSP.dtype)
    return (p_BTHS.flatten(1, 2) @ kv_BSP).unflatten(1, (T, H))
