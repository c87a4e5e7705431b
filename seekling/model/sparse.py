"""DeepSeek Sparse Attention (DeepSeek-V3.2-Exp §2): MLA over the keys that a lightning indexer picks for each query.

The indexer gives every visible key a score, I_ts = Σ_j w_tj · ReLU(q_tj · k_s / √P), from small queries of its own, one small
key a token and a weight for each of its heads; the ``index_topk`` best keys take part in ordinary MLA, all heads alike.  A
row of no more keys than that is dense, and the indexer is not asked.

As in transformers the scores are float32, and the Hadamard transform and FP8 rounding of DeepSeek's kernels are left out: the
transform is orthogonal and changes no product.  Rotation turns the first channels of index queries and keys in half-split
pairs (DeepSeek's first demo interleaved them, by mistake).  Of equal scores the earlier key wins, here and whatever the row's
length; transformers leaves that to the order in which ``topk`` meets them.

Nothing here has a gradient: the choice is not differentiable, and the paper trains the indexer by a loss of its own.

Shapes: B batch, T time, S keys, K chosen keys, D hidden, Q q latent, J index heads, P index head dim, R rotated channels.
"""

import torch
from torch import Tensor, nn

from seekling.model.attention import MLA, attend
from seekling.model.config import ModelConfig
from seekling.model.rope import rotate
from seekling.model.sight import CachedRows, WholeRows

_SCORES = 1 << 24  # products of queries and keys held at once: rows are scored in parts of no more


class Indexer(nn.Module):
    """Scores keys; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.q_lora_rank is not None  # model/checks.py has seen to it
        self.heads, self.rotated = config.index_n_heads, config.qk_rope_head_dim
        self.wq_b = nn.Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim, bias=False)
        self.wk = nn.Linear(config.hidden_size, config.index_head_dim, bias=False)
        self.k_norm = nn.LayerNorm(config.index_head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(config.hidden_size, config.index_n_heads, bias=False)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.cat([rotate(x[..., : self.rotated], cos, sin, interleave=False), x[..., self.rotated :]], -1)

    @torch.no_grad()
    def keys(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """One key a token (B, T, P)."""
        return self._rotate(self.k_norm(self.wk(x_BTD)), cos, sin)

    @torch.no_grad()
    def queries(self, x_BTD: Tensor, q_BTQ: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, T, J, P) and the weights of their heads (B, T, J), float32; cos and sin broadcast over the heads."""
        q_BTJP = self._rotate(self.wq_b(q_BTQ).unflatten(-1, (self.heads, -1)), cos, sin)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        w_BTJ = nn.functional.linear(x_BTD.to(wide), self.weights_proj.weight.to(wide))
        return q_BTJP.float(), w_BTJ.float() * self.heads**-0.5

    @torch.no_grad()
    def choose(self, q_BTJP: Tensor, w_BTJ: Tensor, k_BSP: Tensor, visible_BTS: Tensor, count: int) -> Tensor:
        """(B, T, S), True at ``count`` keys of each query: the best it may see, then, where they are too few, any others."""
        B, T, J, P = q_BTJP.shape
        k_BPS = k_BSP.float().transpose(-1, -2)
        part = max(1, _SCORES // (B * J * k_BPS.shape[-1]))
        chosen = []
        for t in range(0, T, part):
            scores = (q_BTJP[:, t : t + part].flatten(1, 2) @ k_BPS).unflatten(1, (-1, J)) * P**-0.5  # (B, t, J, S)
            scores_BTS = (w_BTJ[:, t : t + part, None] @ scores.relu()).squeeze(-2)
            chosen.append(best(scores_BTS.masked_fill(~visible_BTS[:, t : t + part], float("-inf")), count))
        return torch.cat(chosen, 1)


def best(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` highest scores of the last dimension, the first of equal ones."""
    least = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    return above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


class SparseMLA(MLA):
    """MLA behind an indexer."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        assert config.index_topk is not None
        self.count = config.index_topk
        self.indexer = Indexer(config)

    def _queries(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The normed latent of the queries (B, T, Q), and the queries before rotation (B, T, H, P)."""
        q_BTQ = self.q_a_layernorm(self.q_a_proj(x_BTD))
        return q_BTQ, self.q_b_proj(q_BTQ).unflatten(-1, (self.config.num_attention_heads, -1))

    def forward(self, x_BTD: Tensor, rows: WholeRows) -> Tensor:
        """Naive form over whole rows: the chosen keys of what the row's mask shows."""
        B, T, _ = x_BTD.shape
        if self.count >= T:
            return super().forward(x_BTD, rows)
        cos, sin = rows.cos[:, None], rows.sin[:, None]  # broadcast over heads
        q_BTQ, q_BTHP = self._queries(x_BTD)
        mask = rows.mask()
        visible = torch.ones(1, T, T, dtype=torch.bool, device=x_BTD.device).tril() if mask is None else mask[:, 0]
        visible = visible.expand(B, T, T)
        k_BTP = self.indexer.keys(x_BTD, rows.cos, rows.sin)
        seen = visible & self.indexer.choose(*self.indexer.queries(x_BTD, q_BTQ, cos, sin), k_BTP, visible, self.count)
        c_BTL, kr_BTR = self.project_latent(x_BTD)
        o_BTHV = self._naive(q_BTHP, cos, sin, c_BTL, self._rotate(kr_BTR, rows.cos, rows.sin), seen)
        return self.o_proj(o_BTHV.reshape(B, T, -1))

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int) -> Tensor:
        """Append T tokens to each cached row; one token a row takes the absorbed form over the chosen latents only."""
        B, T, _ = x_BTD.shape
        cos, sin = rows.cos[:, :, None], rows.sin[:, :, None]
        q_BTQ, q_BTHP = self._queries(x_BTD)
        c_new, kr_new = self.project_latent(x_BTD)
        kr_new, k_new = self._rotate(kr_new, rows.cos, rows.sin), self.indexer.keys(x_BTD, rows.cos, rows.sin)
        rows.cache.append(layer, rows.rows, (c_new, kr_new, k_new))
        c_BSL, kr_BSR, k_BSP = rows.cache.view(layer, rows.rows, rows.end)
        seen = rows.mask()
        if rows.end > self.count:
            queries = self.indexer.queries(x_BTD, q_BTQ, cos, sin)
            chosen = self.indexer.choose(*queries, k_BSP, seen, self.count)
            if T == 1:
                place_BK = chosen.nonzero()[:, -1].view(B, self.count)
                c_BSL, kr_BSR = (t.gather(1, place_BK[..., None].expand(-1, -1, t.shape[-1])) for t in (c_BSL, kr_BSR))
                seen = seen.gather(-1, place_BK[:, None])
            else:
                seen = seen & chosen
        if T == 1:
            q_nope, q_rope = q_BTHP.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], -1)
            o_BTHV = self._absorbed(q_nope, self._rotate(q_rope, cos, sin), c_BSL, kr_BSR, seen)
        else:
            o_BTHV = self._naive(q_BTHP, cos, sin, c_BSL, kr_BSR, seen)
        return self.o_proj(o_BTHV.reshape(B, T, -1))

    def _naive(self, q_BTHP: Tensor, cos: Tensor, sin: Tensor, c_BSL: Tensor, kr_BSR: Tensor, seen_BTS: Tensor) -> Tensor:
        """Keys and values expanded for every head -> (B, T, H, V)."""
        n = self.config.qk_nope_head_dim
        q_nope, q_rope = q_BTHP.split([n, self.config.qk_rope_head_dim], -1)
        q_BTHP = torch.cat([q_nope, self._rotate(q_rope, cos, sin)], -1)
        kv_BSHE = self.kv_b_proj(c_BSL).unflatten(-1, (self.config.num_attention_heads, -1))
        return attend(q_BTHP, kv_BSHE, kr_BSR, seen_BTS[:, None], self.config.softmax_scale, n)
