"""DeepSeek-V2 (V2, V2-Lite, Coder-V2), V3 (V3, R1, V3.1) and V3.2 (with the lightning indexer): MLA and DeepSeekMoE.

Keys and defaults: transformers' ``DeepseekV2Config``, ``DeepseekV3Config`` and ``DeepseekV32Config``.
"""

import warnings
from typing import Any

from seekling.errors import ConfigError, raise_all
from seekling.formats.families.reader import Reader, write_rope
from seekling.model.config import ModelConfig

# Fields that are keys of the same name.
SAME = (
    "moe_intermediate_size q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim "
    "n_routed_experts num_experts_per_tok n_shared_experts first_k_dense_replace n_group topk_group scoring_func topk_method "
    "norm_topk_prob routed_scaling_factor num_nextn_predict_layers max_position_embeddings rope_interleave rms_norm_eps "
    "tie_word_embeddings attention_bias mlp_bias initializer_range mtp_after_norm"
).split()
INDEXER = ("index_topk", "index_n_heads", "index_head_dim")  # V3.2
NEEDED = (
    "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads kv_lora_rank "
    "qk_nope_head_dim qk_rope_head_dim v_head_dim"
).split()
DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v3": dict(
        q_lora_rank=1536, n_routed_experts=256, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3, n_group=8,
        topk_group=4, routed_scaling_factor=2.5, num_nextn_predict_layers=1, moe_intermediate_size=2048,
        bos_token_id=0, eos_token_id=1,
    ),
    "deepseek_v32": dict(
        q_lora_rank=1536, n_routed_experts=256, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3, n_group=8,
        topk_group=4, routed_scaling_factor=2.5, moe_intermediate_size=2048, index_topk=2048, index_n_heads=64,
        index_head_dim=128, bos_token_id=0, eos_token_id=1,
    ),
    "deepseek_v2": dict(
        q_lora_rank=1536, n_routed_experts=64, n_shared_experts=2, moe_intermediate_size=1407, scoring_func="softmax",
        topk_method="greedy", norm_topk_prob=False, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip
NULLABLE = ("q_lora_rank", "bos_token_id", "eos_token_id", "pad_token_id")
NO_WHEN_NULL = ("norm_topk_prob", "rope_interleave")  # in V3's code; V3.2's configuration refuses null


def read(raw: dict[str, Any]) -> ModelConfig:
    """Raises ConfigError with every unknown key, unsupported value and contradiction."""
    family = raw["model_type"]
    raw = dict(raw)
    for new, old in (("mtp_hidden_first", "mtp_hidden_states_first"), ("n_routed_experts", "num_local_experts"),
                     ("num_nextn_predict_layers", "num_mtp_layers")):  # fmt: skip
        if old in raw and new not in raw:
            raw[new] = raw.pop(old)
    r = Reader(raw, DEFAULTS[family])
    r.fixed("moe_layer_freq", 1)
    values: dict[str, Any] = {"model_type": family, "attention": "mla", **r.rope()}
    for name in NEEDED:
        values[name] = r.need(name)
    for name in (*SAME, "mtp_hidden_first"):
        value = r.take(name)
        if name in NULLABLE and name in raw:
            value = raw[name]  # null says something here
        if name in NO_WHEN_NULL and family == "deepseek_v3" and name in raw:
            value = bool(raw[name])
        if value is not None or name in NULLABLE:
            values[name] = value
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        values[name] = r.ids(name)
    if family == "deepseek_v32":
        values |= _v32(r, values)
    r.used |= {"num_key_value_heads", "qk_head_dim", "head_dim"}
    r.finish()
    try:
        config = ModelConfig(**values)
    except TypeError as error:
        raise ConfigError(f"config.json: {error}") from None
    raise_all(ConfigError, _repeated(config, raw), "config.json")
    if family == "deepseek_v2" and config.norm_topk_prob:
        warnings.warn(
            "norm_topk_prob is true in a deepseek_v2 config: transformers ignores it there and so does Seekling, "
            "while DeepSeek's own V2 code renormalises",
            stacklevel=2,
        )
    return config


def _v32(r: Reader, values: dict[str, Any]) -> dict[str, Any]:
    """The indexer's fields, and expert layers that may be named one by one."""
    r.fixed("rope_interleave", True)  # transformers has no such key here
    if r.raw.get("norm_topk_prob", True) is None:
        r.bad.append("norm_topk_prob is null: give true or false")
    r.fixed("mlp_bias", False)  # and passes over this one
    layers, first = values["num_hidden_layers"], values["first_k_dense_replace"]
    types = r.take("layer_types")
    if types is not None and set(types) != {"indexed_attention"}:
        r.bad.append(f"layer_types holds {sorted(map(str, set(types)))}; deepseek_v32 knows indexed_attention only")
    out: dict[str, Any] = {name: r.take(name) for name in INDEXER}
    mlps = r.take("mlp_layer_types")
    if mlps is None or not isinstance(layers, int) or not isinstance(first, int):
        return out
    if len(mlps) != layers or set(mlps) - {"dense", "sparse"}:
        r.bad.append(f"mlp_layer_types must say dense or sparse for each of the {layers} layers, not {mlps!r}")
    elif [kind == "sparse" for kind in mlps] != [i >= first for i in range(layers)]:
        out |= {"moe_layers": tuple(i for i, kind in enumerate(mlps) if kind == "sparse"), "first_k_dense_replace": 0}
    return out


def _repeated(config: ModelConfig, raw: dict[str, Any]) -> list[str]:
    """Keys that repeat what other keys already say must say the same.

    MLA has no key-value heads; transformers writes its own default of 128 into a V3 config that never named them.
    """
    unset = {"num_key_value_heads": None if config.model_type == "deepseek_v2" else 128}
    expected = {
        "num_key_value_heads": config.num_attention_heads,
        "qk_head_dim": config.qk_head_dim,
        "head_dim": config.qk_rope_head_dim,
    }
    return [
        f"{key} is {raw[key]} but the other fields make it {value}"
        for key, value in expected.items()
        if raw.get(key) not in (None, value, unset.get(key))
    ]


def write(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` as DeepSeek writes it and transformers reads it."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", *SAME)
    out = {name: getattr(config, name) for name in names}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        out[name] = list(value) if isinstance(value, tuple) else value
    out |= write_rope(config)
    out["mtp_hidden_states_first"] = config.mtp_hidden_first
    out["num_key_value_heads"] = config.num_attention_heads
    out["hidden_act"] = "silu"
    out["attention_dropout"] = 0.0
    if config.model_type == "deepseek_v32":
        out |= {name: getattr(config, name) for name in INDEXER}
        if config.moe_layers is not None:
            out["mlp_layer_types"] = ["sparse" if config.is_moe(i) else "dense" for i in range(config.num_hidden_layers)]
    for name in {"deepseek_v2": ["rope_interleave"], "deepseek_v3": ["mlp_bias"]}.get(
        config.model_type, ["mlp_bias", "rope_interleave"]
    ):
        out.pop(name)
    return out
