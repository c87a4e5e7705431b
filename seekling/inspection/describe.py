"""A ModelConfig in the words of an inspection."""

from collections import Counter
from typing import Any

from seekling.model.config import ModelConfig, RopeScaling


def describe(config: ModelConfig, raw: dict[str, Any]) -> dict[str, Any]:
    """Counts and sentences; sizes in numbers of weights, tokens and bytes."""
    p = config.parameters()
    layers = range(config.num_hidden_layers)
    architectures = raw.get("architectures")
    return {
        "model_type": config.model_type,
        "architecture": architectures[0] if isinstance(architectures, list) and architectures else None,
        "parameters": p.total,
        "parameters_active": p.active,
        "parameters_mtp": p.mtp,
        "layers": config.num_hidden_layers,
        "moe_layers": sum(config.is_moe(i) for i in layers),
        "mtp_layers": config.num_nextn_predict_layers,
        "layer_types": dict(Counter(config.layer_type(i) for i in layers)),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "attention": attention(config),
        "experts": experts(config),
        "context": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling(config.rope_scaling),
        "kv_bytes_per_token": 2 * config.kv_elements_per_token(),
    }


def attention(c: ModelConfig) -> str:
    """Heads and what of them is cached."""
    if c.attention == "mla":
        q = f"query latent {c.q_lora_rank}, " if c.q_lora_rank else ""
        return (
            f"MLA, {c.num_attention_heads} heads of {c.qk_nope_head_dim} + {c.qk_rope_head_dim} rotated "
            f"(values {c.v_head_dim}), {q}key-value latent {c.kv_lora_rank}{_index(c)}"
        )
    if c.attention == "v4":
        return _v4(c)
    kind = "MHA" if c.num_key_value_heads == c.num_attention_heads else "MQA" if c.num_key_value_heads == 1 else "GQA"
    extras = []
    if c.rotary_dim and c.rotary_dim != c.head_dim:
        extras.append(f"{c.rotary_dim} of {c.head_dim} channels rotated")
    if c.qkv_bias:
        extras.append("biases on queries, keys and values")
    if c.qk_norm:
        extras.append("queries and keys normed")
    if c.sliding_window:
        extras.append(f"window {c.sliding_window:,}")
    if c.attention_sinks:
        extras.append("sinks")
    heads = f"{kind}, {c.num_attention_heads} heads of {c.head_dim}, {c.num_key_value_heads} for keys and values"
    return ", ".join([heads, *extras])


def _index(c: Any) -> str:
    """What a lightning indexer leaves to attend to (V3.2)."""
    topk = getattr(c, "index_topk", None)
    return f"; each token sees the {topk:,} keys that {c.index_n_heads} index heads choose" if topk else ""


def _v4(c: Any) -> str:
    """One vector a token is key and value of all heads; compressed entries beside a window (V4)."""
    v4 = c.v4
    return (
        f"{c.num_attention_heads} heads of {c.head_dim} ({c.qk_rope_head_dim} rotated) on one key that is also the value, "
        f"window {c.sliding_window:,}, sinks, entries for {v4.compress_rate_csa} tokens ({v4.index_topk:,} chosen) or "
        f"{v4.compress_rate_hca}; {v4.hc_mult} residual streams"
    )


def experts(c: ModelConfig) -> str:
    """The routed and shared experts; empty for a dense model."""
    if not any(c.is_moe(i) for i in range(c.num_hidden_layers)):
        return ""
    groups = f", from {c.topk_group} of {c.n_group} groups" if c.n_group > 1 else ""
    shared = f", and {c.n_shared_experts or 1} shared" if c.shared_width else ""
    return (
        f"{c.num_experts_per_tok} of {c.n_routed_experts} a token, width {c.moe_intermediate_size:,}{shared}; "
        f"{c.scoring_func} router{groups}"
    )


def scaling(s: RopeScaling | None) -> str | None:
    """How the context is extended."""
    if s is None:
        return None
    over = f" over {s.original_max_position_embeddings:,}" if s.original_max_position_embeddings else ""
    return f"{s.rope_type} × {s.factor:g}{over}"
