"""The technical report on the model: its shape, attention, experts and further tokens."""

from typing import TYPE_CHECKING, Any

from seekling.release.escape import table

if TYPE_CHECKING:
    from seekling.release.material import Release


def model(release: "Release", figures: dict[str, str]) -> list[str]:
    c = release.config
    p = c.parameters()
    rows: list[list[object]] = [
        ["layers, width", f"{c.num_hidden_layers} × {c.hidden_size}"],
        ["attention", attention_text(c)],
        ["feed-forward", feed_forward_text(c)],
        [
            "vocabulary, context",
            f"{c.vocab_size:,} tokens, {c.max_position_embeddings:,} positions (RoPE, base {c.rope_theta:,.0f})",
        ],
        ["parameters", f"{p.total:,} in all, {p.active:,} active a token" + (f", {p.mtp:,} more of MTP" if p.mtp else "")],
    ]
    out = [table(["", ""], rows, right=2)]
    if c.kv_lora_rank:
        out += [
            "**Latent attention (MLA).** Keys and values of all heads are rebuilt from one small vector a token, which alone "
            "is cached "
            "beside a rotary key that the heads share [1]:",
            r"$$\mathbf{c}_t = W^{DKV}\mathbf{h}_t,\quad \mathbf{k}_{t,i} = [\,W^{UK}_i\mathbf{c}_t;\ "
            r"\mathrm{RoPE}(W^{KR}\mathbf{h}_t)\,],"
            r"\quad \mathbf{v}_{t,i} = W^{UV}_i\mathbf{c}_t$$",
            f"With a latent of {c.kv_lora_rank} and a rotary key of {c.qk_rope_head_dim} that is "
            f"{c.kv_elements_per_token():,} numbers a "
            f"token over all layers.",
        ]
    if c.n_routed_experts:
        out += [
            f"**Experts (MoE).** {_experts(c)} A token goes to the {c.num_experts_per_tok} with the highest biased affinity; "
            f"the bias, moved "
            "against overload and not by gradient, balances them without a loss that fights learning [2, 3]:",
            r"$$\mathbf{h}' = \mathbf{h} + \mathrm{FFN}_{shared}(\mathbf{h}) + \sum_{i \in \mathrm{TopK}(s_i + b_i)} g_i\,"
            r"\mathrm{FFN}_i(\mathbf{h}),\quad s_i = \sigma(\mathbf{h}^\top \mathbf{e}_i)$$"
            if c.scoring_func == "sigmoid"
            else "",
        ]
    if c.num_nextn_predict_layers:
        out.append(
            f"**Further tokens (MTP).** {c.num_nextn_predict_layers} more "
            f"layer{'s' if c.num_nextn_predict_layers > 1 else ''} learns to "
            "predict the token after the next, which trains the trunk and can draft when serving [2]. It is not needed to "
            "use the model."
        )
    return out


def attention_text(c: Any) -> str:
    if c.kv_lora_rank:
        q = f"query latent {c.q_lora_rank}, " if c.q_lora_rank else ""
        return (
            f"MLA, {c.num_attention_heads} heads, {q}key/value latent {c.kv_lora_rank}, head {c.qk_nope_head_dim} + "
            f"{c.qk_rope_head_dim} "
            f"rotary, values {c.v_head_dim}"
        )
    return f"{c.num_attention_heads} heads over {getattr(c, 'num_key_value_heads', c.num_attention_heads)} key/value heads"


def feed_forward_text(c: Any) -> str:
    if not c.n_routed_experts:
        return f"dense SwiGLU of {c.intermediate_size}"
    dense = f"first {c.first_k_dense_replace} dense ({c.intermediate_size}), then " if c.first_k_dense_replace else ""
    routed = f"{c.n_routed_experts} routed experts of {c.moe_intermediate_size}, {c.num_experts_per_tok} a token"
    return f"{dense}{routed}, {c.n_shared_experts} shared"


def _experts(c: Any) -> str:
    shared = f" and {c.n_shared_experts} that every token visits" if c.n_shared_experts else ""
    return f"Each such layer has {c.n_routed_experts} experts{shared}."
