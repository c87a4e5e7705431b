"""Contradictions between the fields of a model config, each as one line that names the field.

``problems(config)`` is called once, when a ``ModelConfig`` is made; nothing here imports it.
"""

from typing import Any

from seekling.model.v4 import checks as v4_checks

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
ROUTERS = {
    ("sigmoid", "noaux_tc"),
    ("softmax", "greedy"),
    ("softmax", "group_limited_greedy"),
    ("softmax", "bias"),
    ("softmax", "topk_first"),
}
# DeepSeek's two generations allow only their own.
FAMILY_ROUTERS = {
    "deepseek_v4": [("sqrtsoftplus", "noaux_tc"), ("sigmoid", "noaux_tc")],
    "deepseek_v3": [("sigmoid", "noaux_tc")],
    "deepseek_v32": [("sigmoid", "noaux_tc")],
    "deepseek_v2": [("softmax", "greedy"), ("softmax", "group_limited_greedy")],
}
ROPE_TYPES = ("yarn", "linear", "dynamic", "llama3", "longrope")


def problems(config: Any) -> list[str]:
    """Every contradiction between the fields, one line each; empty when the config can be built."""
    bad = _sizes(config)
    if bad:
        return bad
    if config.rope_dim % 2:
        name = "qk_rope_head_dim" if config.attention == "mla" else "the rotated part of head_dim"
        bad.append(f"{name} must be even (channels rotate in pairs), not {config.rope_dim}")
    if config.num_nextn_predict_layers < 0:
        bad.append(f"num_nextn_predict_layers must be 0 or more, not {config.num_nextn_predict_layers}")
    if config.attention == "gqa":
        bad += _gqa(config)
    if config.attention == "v4":
        bad += v4_checks.problems(config)
    if config.index_topk is not None or config.model_type == "deepseek_v32":
        bad += _indexer(config)
    bad += _layers(config)
    bad += _router(config)
    if any(config.is_moe(i) for i in range(config.num_hidden_layers)):
        bad += _experts(config)
    if not 0 < config.rms_norm_eps < 1:
        bad.append(f"rms_norm_eps must lie between 0 and 1, not {config.rms_norm_eps!r}")
    if config.rope_theta <= 1:
        bad.append(f"rope_theta must be larger than 1, not {config.rope_theta!r}")
    if config.rope_scaling is not None:
        bad += _rope(config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(config, name)
        for token in ids if isinstance(ids, tuple) else (ids,):
            if token is not None and not 0 <= token < config.vocab_size:
                bad.append(f"{name} {token} lies outside the vocabulary of {config.vocab_size}")
    return bad


def _sizes(config: Any) -> list[str]:
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings"
    if config.attention not in ("mla", "gqa", "v4"):
        return [f"attention {config.attention!r} is not one of mla, gqa, v4"]
    if config.attention == "mla":
        names += " kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim"
    elif config.attention == "gqa":
        names += " num_key_value_heads head_dim"
    bad = [
        f"{name} must be a positive whole number, not {getattr(config, name)!r}"
        for name in names.split()
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1
    ]
    if config.q_lora_rank is not None and config.q_lora_rank < 1:
        bad.append(f"q_lora_rank must be positive or null, not {config.q_lora_rank!r}")
    return bad


def _gqa(config: Any) -> list[str]:
    bad = []
    if config.num_attention_heads % config.num_key_value_heads:
        bad.append(
            f"num_key_value_heads {config.num_key_value_heads} must divide num_attention_heads {config.num_attention_heads}"
        )
    if config.qk_norm not in (None, "head", "full"):
        bad.append(f"qk_norm {config.qk_norm!r} is not one of null, head, full")
    if config.rotary_dim is not None and not 0 < config.rotary_dim <= config.head_dim:
        bad.append(f"{config.rotary_dim} rotated channels do not fit into head_dim {config.head_dim}")
    return bad


def _indexer(config: Any) -> list[str]:
    bad = []
    if config.attention != "mla" or config.q_lora_rank is None:
        bad.append("index_topk needs attention mla with a q_lora_rank, which the index queries are made from")
    for name in ("index_topk", "index_n_heads", "index_head_dim"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            bad.append(f"{name} must be a positive whole number, not {value!r}")
    if isinstance(config.index_head_dim, int) and config.index_head_dim < config.qk_rope_head_dim:
        bad.append(f"index_head_dim {config.index_head_dim} is less than the {config.qk_rope_head_dim} rotated channels")
    if not config.rope_interleave:
        bad.append("rope_interleave must be true beside an indexer")
    return bad


def _layers(config: Any) -> list[str]:
    if config.layer_types is None:
        return []
    bad = []
    if len(config.layer_types) != config.num_hidden_layers:
        bad.append(f"layer_types names {len(config.layer_types)} layers, num_hidden_layers says {config.num_hidden_layers}")
    known = v4_checks.LAYER_TYPES if config.attention == "v4" else LAYER_TYPES
    bad += [f"layer_types holds {t!r}; known are {', '.join(known)}" for t in set(config.layer_types) - set(known)]
    if "sliding_attention" in config.layer_types and (config.sliding_window is None or config.sliding_window < 1):
        bad.append(f"sliding_window must be positive where layers use sliding_attention, not {config.sliding_window!r}")
    if "linear_attention" in config.layer_types:
        if config.attention != "gqa":
            bad.append(f"layer_types holds linear_attention, which goes with attention gqa, not {config.attention}")
        if config.linear_block < 1:
            bad.append(f"linear_block must be positive, not {config.linear_block}")
    return bad


def _router(config: Any) -> list[str]:
    router = (config.scoring_func, config.topk_method)
    allowed = FAMILY_ROUTERS.get(config.model_type, sorted(ROUTERS))
    if router in allowed:
        return []
    return [
        f"scoring_func {router[0]!r} with topk_method {router[1]!r} does not exist in {config.model_type}; "
        f"it has {' or '.join('/'.join(r) for r in allowed)}"
    ]


def _experts(config: Any) -> list[str]:
    bad = []
    if config.moe_intermediate_size < 1:
        bad.append(f"moe_intermediate_size must be positive, not {config.moe_intermediate_size}")
    if not 1 <= config.num_experts_per_tok <= config.n_routed_experts:
        bad.append(
            f"num_experts_per_tok {config.num_experts_per_tok} must lie in 1..n_routed_experts={config.n_routed_experts}"
        )
    if config.n_shared_experts < 0:
        bad.append(f"n_shared_experts must be 0 or more, not {config.n_shared_experts}")
    if config.n_group < 1 or config.n_routed_experts % config.n_group:
        bad.append(f"n_group {config.n_group} must divide n_routed_experts {config.n_routed_experts}")
    elif not 1 <= config.topk_group <= config.n_group:
        bad.append(f"topk_group {config.topk_group} must lie in 1..n_group={config.n_group}")
    elif config.num_experts_per_tok > config.topk_group * (config.n_routed_experts // config.n_group):
        bad.append(
            f"num_experts_per_tok {config.num_experts_per_tok} is more than the {config.topk_group} chosen groups hold "
            f"({config.topk_group * (config.n_routed_experts // config.n_group)} experts)"
        )
    return bad


def _rope(config: Any) -> list[str]:
    scaling, bad = config.rope_scaling, []
    if scaling.rope_type not in ROPE_TYPES:
        return [f"rope_scaling type {scaling.rope_type!r} is not supported; use one of {', '.join(ROPE_TYPES)}"]
    if not scaling.factor >= 1:
        bad.append(f"rope_scaling factor must be at least 1, not {scaling.factor!r}")
    if scaling.rope_type in ("yarn", "llama3", "longrope") and not scaling.original_max_position_embeddings:
        bad.append(f"rope_scaling of type {scaling.rope_type} needs original_max_position_embeddings")
    if scaling.rope_type == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        if low is None or high is None or not 0 < low < high:
            bad.append(f"rope_scaling of type llama3 needs 0 < low_freq_factor < high_freq_factor, not {low!r} and {high!r}")
    if scaling.rope_type == "longrope":
        for name in ("short_factor", "long_factor"):
            factors = getattr(scaling, name)
            if factors is None or len(factors) != config.rope_dim // 2 or not all(f > 0 for f in factors):
                bad.append(f"rope_scaling of type longrope needs {config.rope_dim // 2} positive numbers in {name}")
    return bad
