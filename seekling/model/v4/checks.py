"""Contradictions of a DeepSeek-V4 config, one line each; called by ``seekling.model.checks``."""

from typing import Any

from seekling.model.v4.config import LAYER_TYPES

_POSITIVE = (
    "compress_rate_csa compress_rate_hca hc_mult hc_sinkhorn_iters o_groups o_lora_rank index_n_heads index_head_dim index_topk"
)


def problems(config: Any) -> list[str]:
    """Every contradiction between the V4 fields; empty when the model can be built."""
    v4 = config.v4
    if v4 is None:
        return ["attention 'v4' needs the v4 part of the config"]
    bad = [
        f"{name} must be a positive whole number, not {getattr(v4, name)!r}"
        for name in _POSITIVE.split()
        if not isinstance(getattr(v4, name), int) or getattr(v4, name) < 1
    ]
    for name in ("head_dim", "q_lora_rank", "sliding_window", "n_routed_experts"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            bad.append(f"{name} must be a positive whole number, not {value!r}")
    if bad:
        return bad
    if not 0 < config.qk_rope_head_dim <= min(config.head_dim, v4.index_head_dim):
        bad.append(
            f"{config.qk_rope_head_dim} rotated channels do not fit into head_dim {config.head_dim} "
            f"and index_head_dim {v4.index_head_dim}"
        )
    if config.num_attention_heads % v4.o_groups:
        bad.append(f"o_groups {v4.o_groups} must divide num_attention_heads {config.num_attention_heads}")
    if config.layer_types is None:
        bad.append(f"layer_types must name each layer's attention: {', '.join(LAYER_TYPES)}")
    if any(not 0 <= layer < config.num_hidden_layers for layer in v4.hash_layers):
        bad.append(f"hash_layers {list(v4.hash_layers)} names layers beyond the {config.num_hidden_layers} of the model")
    if config.n_shared_experts != 1:
        bad.append(f"n_shared_experts must be 1 in deepseek_v4, not {config.n_shared_experts}")
    if config.swiglu_limit is None or config.swiglu_limit <= 0:
        bad.append(f"swiglu_limit must be positive in deepseek_v4, not {config.swiglu_limit!r}")
    if not 0 < v4.hc_eps < 1:
        bad.append(f"hc_eps must lie between 0 and 1, not {v4.hc_eps!r}")
    if v4.compress_rope_theta <= 1:
        bad.append(f"compress_rope_theta must be larger than 1, not {v4.compress_rope_theta!r}")
    if config.rope_scaling is not None and config.rope_scaling.rope_type in ("dynamic", "longrope"):
        bad.append(
            f"rope_scaling of type {config.rope_scaling.rope_type} changes with the row's length, "
            "which compressed entries cannot follow; use yarn, linear or llama3"
        )
    return bad
