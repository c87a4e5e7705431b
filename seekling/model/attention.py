"""Multi-head Latent Attention (DeepSeek-V2 §2.1, V3 §2.1.1), in its two equal forms.

The naive form expands keys and values per head: training and prefill.  The absorbed form folds ``kv_b_proj`` into the query
and the output, and attends to the cached latents themselves: decoding (V2 §2.1.2, last paragraph).

Shapes: B batch, T time, S keys, D hidden, H heads, N nope dim, R rope dim, P = N+R, V value dim, L kv latent, Q q latent.
"""

import torch
from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.config import ModelConfig
from seekling.model.layers import RMSNorm, weight_of
from seekling.model.rope import rotate
from seekling.model.sight import CachedRows, WholeRows


class MLA(nn.Module):
    """One attention block; parameter names are Hugging Face's."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.interleave = config.rope_interleave or config.rope_arithmetic == "complex"
        d, h = config.hidden_size, config.num_attention_heads
        bias = config.attention_bias
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(d, h * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(d, config.q_lora_rank, bias=bias)
            # transformers gives the latent norms the default eps 1e-6 whatever rms_norm_eps says; so did the V3 code
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, 1e-6)
            self.q_b_proj = nn.Linear(config.q_lora_rank, h * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d, config.kv_lora_rank + config.qk_rope_head_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, 1e-6)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, h * (config.qk_nope_head_dim + config.v_head_dim), bias=False)
        self.o_proj = nn.Linear(h * config.v_head_dim, d, bias=bias)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x, cos, sin, interleave=self.interleave, arithmetic=self.config.rope_arithmetic)

    def project_q(self, x_BTD: Tensor) -> Tensor:
        """Queries (B, T, H, P) before rotation: nope channels first."""
        config = self.config
        q = self.q_proj(x_BTD) if config.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        return q.view(*x_BTD.shape[:-1], config.num_attention_heads, config.qk_head_dim)

    def project_latent(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Normed latent (B, T, L) and the unrotated shared key (B, T, R)."""
        c_BTL, kr_BTR = self.kv_a_proj_with_mqa(x_BTD).split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], -1)
        return self.kv_a_layernorm(c_BTL), kr_BTR

    def forward(self, x_BTD: Tensor, rows: WholeRows) -> Tensor:
        """Naive form over whole rows: causal, and inside the document where documents are given."""
        config = self.config
        B, T, _ = x_BTD.shape
        q_BTHP = self.project_q(x_BTD)
        c_BTL, kr_BTR = self.project_latent(x_BTD)
        kv_BTHE = self.kv_b_proj(c_BTL).view(B, T, config.num_attention_heads, -1)
        if ops.mla_attention_available(q_BTHP):
            o_BTHV = ops.mla_attention(
                q_BTHP, kv_BTHE, kr_BTR, rows.cos, rows.sin, rows.first_BT, config.softmax_scale, self.interleave
            )
        else:
            n = config.qk_nope_head_dim
            q_nope, q_rope = q_BTHP.split([n, config.qk_rope_head_dim], -1)
            cos, sin = rows.cos[:, None], rows.sin[:, None]  # broadcast over heads
            q_BTHP = torch.cat([q_nope, self._rotate(q_rope, cos, sin)], -1)
            kr_BTR = self._rotate(kr_BTR, rows.cos, rows.sin)
            o_BTHV = attend(q_BTHP, kv_BTHE, kr_BTR, rows.mask(), config.softmax_scale, n)
        return self.o_proj(o_BTHV.reshape(B, T, -1))

    def extend(self, x_BTD: Tensor, rows: CachedRows, layer: int) -> Tensor:
        """Append T tokens to each cached row and attend to all that the row then holds.

        One token a row takes the absorbed form, more take the naive one.
        """
        config = self.config
        B, T, _ = x_BTD.shape
        S, n = rows.end, config.qk_nope_head_dim
        q_nope, q_rope = self.project_q(x_BTD).split([n, config.qk_rope_head_dim], -1)
        q_rope = self._rotate(q_rope, rows.cos[:, :, None], rows.sin[:, :, None])
        c_new, kr_new = self.project_latent(x_BTD)
        rows.cache.append(layer, rows.rows, (c_new, self._rotate(kr_new, rows.cos, rows.sin)))
        c_BSL, kr_BSR = rows.cache.view(layer, rows.rows, S)
        mask = rows.mask()
        if T == 1:
            o_BTHV = self._absorbed(q_nope, q_rope, c_BSL, kr_BSR, mask)
        else:
            kv_BSHE = self.kv_b_proj(c_BSL).view(B, S, config.num_attention_heads, -1)
            o_BTHV = attend(torch.cat([q_nope, q_rope], -1), kv_BSHE, kr_BSR, mask[:, None], config.softmax_scale, n)
        return self.o_proj(o_BTHV.reshape(B, T, -1))

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, c_BSL: Tensor, kr_BSR: Tensor, mask: Tensor) -> Tensor:
        """Multi-query attention over the latents: q̃ = W_UKᵀ q, u = Σ p c, o = W_UV u."""
        config = self.config
        w = weight_of(self.kv_b_proj).view(config.num_attention_heads, -1, config.kv_lora_rank)
        w_uk_HNL, w_uv_HVL = w.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        q_BTHL = torch.einsum("bthn,hnl->bthl", q_nope, w_uk_HNL)
        scores = torch.einsum("bthl,bsl->bths", q_BTHL, c_BSL) + torch.einsum("bthr,bsr->bths", q_rope, kr_BSR)
        scores = (scores * config.softmax_scale).masked_fill(~mask[:, :, None], float("-inf"))
        p_BTHS = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(c_BSL.dtype)
        u_BTHL = torch.einsum("bths,bsl->bthl", p_BTHS, c_BSL)
        return torch.einsum("bthl,hvl->bthv", u_BTHL, w_uv_HVL)


def attend(q_BTHP: Tensor, kv_BSHE: Tensor, kr_BSR: Tensor, mask: Tensor | None, scale: float, nope: int) -> Tensor:
    """Oracle of the naive form: expand the shared key over the heads, then ordinary attention -> (B, T, H, V).

    ``kv_BSHE`` holds k_nope (``nope`` channels) and then v; ``mask`` broadcasts to (B, H, T, S), None = causal.
    """
    k_nope, v_BSHV = kv_BSHE.split([nope, kv_BSHE.shape[-1] - nope], -1)
    k_BSHP = torch.cat([k_nope, kr_BSR[:, :, None].expand(*k_nope.shape[:-1], -1)], -1)
    q, k, v = (t.transpose(1, 2) for t in (q_BTHP, k_BSHP, v_BSHV))
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2)
