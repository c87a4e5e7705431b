"""Blocks of tokens pooled into one entry each: m' = 128 tokens side by side (HCA), or 2m = 8 overlapping ones (CSA; V4 §2.3).

Every token gives content and a gate, both by one matrix; the gates of a block, each with a learned bias for its place, are
softmaxed channel by channel, and the entry is the content they average, normed and turned by the block's first position.  With
overlap each token gives two series: entry w pools the first series of block w − 1 and the second of block w.

Shapes: B batch, T time, D hidden, J blocks, S tokens pooled, C channels of an entry, W channels of a projection (C or 2C).
"""

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.v4.cache import Blocks, look_back, write
from seekling.model.v4.rope import turn
from seekling.model.v4.sight import Sight


class Compressor(nn.Module):
    """One compressor; parameter names are those of transformers."""

    def __init__(self, config: ModelConfig, channels: int, rate: int, overlap: bool):
        super().__init__()
        self.channels, self.rate, self.overlap = channels, rate, overlap
        width = (2 if overlap else 1) * channels
        self.kv_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.position_bias = nn.Parameter(torch.empty(rate, width))
        self.kv_norm = RMSNorm(channels, config.rms_norm_eps)

    @property
    def pooled(self) -> int:
        """Tokens that one entry pools."""
        return 2 * self.rate if self.overlap else self.rate

    def compress(self, x_BTD: Tensor, sight: Sight, state: Blocks | None) -> Tensor:
        """Every entry the rows then have, (B, J, C); of cached rows some have fewer, and anything behind theirs."""
        content_BTW, gate_BTW = self.kv_proj(x_BTD), self.gate_proj(x_BTD)
        if state is not None:
            return self._extend(content_BTW, gate_BTW, sight, state)
        m, T = self.rate, x_BTD.shape[1]
        blocks = T // m
        places_JS = torch.arange(blocks, device=x_BTD.device)[:, None] * m + self._steps(x_BTD.device)
        inside = places_JS.clamp(min=0)
        pooled = self.pool(content_BTW[:, inside], gate_BTW[:, inside], places_JS < 0)
        return turn(pooled, *sight.ropes["compress"].at(torch.arange(blocks, device=x_BTD.device)[None] * m))

    def pool(self, content_BJSW: Tensor, gate_BJSW: Tensor, absent_JS: Tensor) -> Tensor:
        """Normed entries (B, J, C) of the tokens of each block; ``absent_JS`` marks places before the row's first token."""
        gate = gate_BJSW + self.position_bias.repeat(self.pooled // self.rate, 1)
        content = content_BJSW
        if self.overlap:
            m, c = self.rate, self.channels
            content, gate = (torch.cat([t[..., :m, :c], t[..., m:, c:]], -2) for t in (content, gate))
        weights = gate.masked_fill(absent_JS[..., None], float("-inf")).softmax(-2, dtype=torch.float32)
        wide = torch.promote_types(content.dtype, torch.float32)
        return self.kv_norm((content.to(wide) * weights.to(wide)).sum(-2).to(content.dtype))

    def _steps(self, device: torch.device) -> Tensor:
        """Places of the pooled tokens, counted from the block's first."""
        return torch.arange(self.rate - self.pooled, self.rate, device=device)

    def _extend(self, content_BTW: Tensor, gate_BTW: Tensor, sight: Sight, state: Blocks) -> Tensor:
        """Close the blocks that the new tokens fill and keep the others' projections for later."""
        rows_B, starts_B = sight.rows_B, sight.starts_B
        assert rows_B is not None and starts_B is not None
        m, T, before = self.rate, content_BTW.shape[1], self.pooled - 1
        series = []
        for ring, new in ((state.content, content_BTW), (state.gate, gate_BTW)):
            series.append(torch.cat([look_back(ring, rows_B, starts_B, before), new], 1))
            write(ring, rows_B, starts_B, new)
        first_B, end_B = starts_B // m, (starts_B + T) // m
        closing = int((end_B - first_B).max())
        if closing:
            block_BJ = first_B[:, None] + torch.arange(closing, device=starts_B.device)
            places_BJS = block_BJ[..., None] * m + self._steps(starts_B.device)
            index = (places_BJS - starts_B[:, None, None] + before).clamp(0, before + T - 1)
            batch = torch.arange(len(rows_B), device=starts_B.device)[:, None, None]
            entries = self.pool(series[0][batch, index], series[1][batch, index], places_BJS < 0)
            entries = turn(entries, *sight.ropes["compress"].at(block_BJ * m))
            closed = block_BJ < end_B[:, None]
            state.entries[rows_B[:, None].expand_as(block_BJ)[closed], block_BJ[closed]] = entries[closed]
        return state.entries[rows_B, : int(end_B.max())]


def visible(positions_BT: Tensor, entries: int, rate: int) -> Tensor:
    """(B, T, entries): entries whose block a token's position closes or lies behind."""
    return torch.arange(entries, device=positions_BT.device) < ((positions_BT + 1) // rate)[..., None]
