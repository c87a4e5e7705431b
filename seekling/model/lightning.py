"""Lightning attention (MiniMax-01 §2.2; Lightning Attention-2, arXiv 2401.04658): attention without a softmax, each step back
in time worth e^-s, with a slope s of each head and layer.

Token t sees S_t = e^-s·S_{t-1} + k_tᵀ v_t, and its output is q_t S_t: a state of one matrix a head, however long the row.
Whole rows go block by block: inside a block as masked products of queries and keys, before it through the state.

The decays are rounded to float32, as transformers keeps them, whatever dtype the weights have; the state is float32 or wider.

Shapes: B batch, T time, N tokens of a block, D hidden, H heads, P head dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm
from seekling.model.sight import CachedRows, WholeRows


@dataclass(frozen=True)
class Decays:
    """What is left of a contribution after some steps, for the H heads of a layer and blocks of N tokens.

    Attributes:
        slope_H: s, per step.
        left_HS: e^(-s·j) after j = 0 … N steps.
    """

    slope_H: Tensor
    left_HS: Tensor

    @property
    def block(self) -> int:
        """N."""
        return self.left_HS.shape[1] - 1

    def query(self, n: int) -> Tensor:
        """(H, n, 1): from the end of the block before to each of the first n tokens."""
        return self.left_HS[:, 1 : n + 1, None]

    def key(self, n: int) -> Tensor:
        """(H, n, 1): from each of n tokens to the last of them."""
        return self.left_HS[:, :n, None].flip(1)

    def diagonal(self, n: int) -> Tensor:
        """(H, n, n): from token j to token i, 0 where j comes later."""
        place_N = torch.arange(n, device=self.left_HS.device)
        return self.left_HS[:, (place_N[:, None] - place_N).clamp(min=0)].tril()


def decays(heads: int, layer: int, layers: int, block: int) -> Decays:
    """The tables of a layer, float32 on the CPU.

    s = 2^(-8h/H) for the heads h = 1 … H, from as steep as that in the first layer to almost none in the last.
    """
    rate = (1 / 2 ** (8 / heads)) ** torch.arange(1, heads + 1, dtype=torch.float32, device="cpu")
    slope_H = rate * (1 - layer / (layers - 1 + 1e-5) + 1e-5)
    return Decays(slope_H, torch.exp(-slope_H[:, None] * torch.arange(block + 1, device="cpu")))


class LightningAttention(nn.Module):
    """One linear-attention block with its norm and gate; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.heads, self.layer, self.layers, self.block = (
            config.num_attention_heads,
            layer,
            config.num_hidden_layers,
            config.linear_block,
        )
        d, width = config.hidden_size, config.num_attention_heads * config.head_dim
        self.qkv_proj = nn.Linear(d, 3 * width, bias=False)  # rows: head by head its q, k and v
        self.output_gate = nn.Linear(d, width, bias=False)
        self.out_proj = nn.Linear(width, d, bias=False)
        self.norm = RMSNorm(width, 1e-6)  # whatever rms_norm_eps says, in the published code and in transformers
        self._held: tuple[tuple[torch.dtype, torch.device], Decays] | None = None

    def forward(self, x_BTD: Tensor, rows: WholeRows) -> Tensor:
        """Whole rows; the state begins anew at each document's first token."""
        q, k, v = self.project(x_BTD)
        return self._output(x_BTD, lightning_blocks(q, k, v, self.decays(q), None, rows.doc_BT)[0])

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int) -> Tensor:
        """Append T tokens to each cached row: one by the recurrence, more in blocks that begin with the row's state."""
        q, k, v = self.project(x_BTD)
        (state,) = rows.cache.state(layer, rows.rows)
        step = lightning_step if x_BTD.shape[1] == 1 else lightning_blocks
        o_BHTP, state = step(q, k, v, self.decays(q), state.to(q))
        rows.cache.set_state(layer, rows.rows, (state,))
        return self._output(x_BTD, o_BHTP)

    def project(self, x_BTD: Tensor) -> list[Tensor]:
        """Queries, keys and values (B, H, T, P), float32 or wider."""
        qkv = nn.functional.silu(self.qkv_proj(x_BTD))
        qkv = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        return list(qkv.unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0))

    def decays(self, like: Tensor) -> Decays:
        """The layer's tables in the dtype and on the device of ``like``."""
        kind = (like.dtype, like.device)
        if self._held is None or self._held[0] != kind:
            made = decays(self.heads, self.layer, self.layers, self.block)
            self._held = kind, Decays(made.slope_H.to(like), made.left_HS.to(like))
        return self._held[1]

    def _output(self, x_BTD: Tensor, o_BHTP: Tensor) -> Tensor:
        o = self.norm(o_BHTP.transpose(1, 2).flatten(2).to(x_BTD.dtype))
        return self.out_proj(self.output_gate(x_BTD).sigmoid() * o)


def lightning_blocks(
    q_BHTP: Tensor, k_BHTP: Tensor, v_BHTP: Tensor, d: Decays, state_BHPP: Tensor | None = None, doc_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, P) and the state after the last token (B, H, P, P).

    Args:
        state_BHPP: before the first token; None = nothing seen.
        doc_BT: numbers of the documents packed one after another in a row; a token sees only its own.
    """
    block, T = d.block, q_BHTP.shape[2]
    state = q_BHTP.new_zeros(*q_BHTP.shape[:2], *q_BHTP.shape[-1:] * 2) if state_BHPP is None else state_BHPP
    before = None if doc_BT is None else doc_BT[:, :1]  # the document that the state belongs to
    out = []
    for start in range(0, T, block):
        q, k, v = (t[:, :, start : start + block] for t in (q_BHTP, k_BHTP, v_BHTP))
        n = q.shape[2]
        weights = q @ k.transpose(-1, -2) * d.diagonal(n)
        q_seen, k_kept = q * d.query(n), k * d.key(n)
        left = torch.exp(-d.slope_H * n)[:, None, None]
        if doc_BT is not None and before is not None:
            doc = doc_BT[:, start : start + block]
            weights = weights.where((doc[:, :, None] == doc[:, None])[:, None], 0.0)
            q_seen = q_seen.where((doc == before)[:, None, :, None], 0.0)
            k_kept = k_kept.where((doc == doc[:, -1:])[:, None, :, None], 0.0)
            left = left * (doc[:, -1:] == before).to(left.dtype)[:, :, None, None]
            before = doc[:, -1:]
        out.append(q_seen @ state + weights @ v)
        state = state * left + k_kept.transpose(-1, -2) @ v
    return torch.cat(out, 2), state


def lightning_step(q_BHTP: Tensor, k_BHTP: Tensor, v_BHTP: Tensor, d: Decays, state_BHPP: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence, token by token: the oracle of the blocks, and one token's way through the cache."""
    left, out = torch.exp(-d.slope_H)[:, None, None], []
    for t in range(q_BHTP.shape[2]):
        q, k, v = (x[:, :, t : t + 1] for x in (q_BHTP, k_BHTP, v_BHTP))
        state_BHPP = left * state_BHPP + k.transpose(-1, -2) @ v
        out.append(q @ state_BHPP)
    return torch.cat(out, 2), state_BHPP
