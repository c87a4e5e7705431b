"""The tiny model of each generation: a ``config.json`` with every part that tells it from the others switched on."""

from typing import Any

from seekling.errors import ConfigError
from seekling.formats.families import read_config
from seekling.model.config import ModelConfig

ALIASES = {"v2": "deepseek_v2", "v3": "deepseek_v3", "v32": "deepseek_v32", "v4": "deepseek_v4"}
VOCAB = 384
POSITIONS = 512

# YaRN begins at position 64, so that a prompt of a hundred tokens already needs it right; MTP and grouped routing are on.
_ROPE = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}
_MLA: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 160, "moe_intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "max_position_embeddings": POSITIONS, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_V3: dict[str, Any] = {
    **_MLA, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "rope_scaling": {**_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0},
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        **_MLA, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "n_shared_experts": 2,
        "scoring_func": "softmax", "topk_method": "group_limited_greedy", "norm_topk_prob": False,
        "routed_scaling_factor": 4.0, "rope_scaling": {**_ROPE, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "deepseek_v3": {
        **_V3, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_nextn_predict_layers": 1,
    },
    "deepseek_v32": {
        # 64 index channels: llama.cpp rotates them by a Hadamard matrix of at least that size
        **_V3, "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "num_nextn_predict_layers": 1,
        "index_n_heads": 16, "index_head_dim": 64, "index_topk": 16,
    },
    # Compression rates are those of the release (4 and 128), hence a prompt of some hundred tokens; the rest is smaller.
    "deepseek_v4": {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "vocab_size": VOCAB, "hidden_size": 64,
        "moe_intermediate_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
        "qk_rope_head_dim": 8, "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 16, "n_routed_experts": 12,
        "num_experts_per_tok": 3, "n_shared_experts": 1, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
        "norm_topk_prob": True, "routed_scaling_factor": 1.5, "num_hash_layers": 2, "compress_ratios": [0, 4, 128, 4, 128, 0],
        "sliding_window": 32, "index_n_heads": 16, "index_head_dim": 64, "index_topk": 8, "hc_mult": 4, "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6, "swiglu_limit": 10.0, "max_position_embeddings": POSITIONS, "rope_theta": 10000.0,
        "compress_rope_theta": 160000.0, "rope_scaling": _ROPE, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "attention_bias": False, "tie_word_embeddings": False, "num_nextn_predict_layers": 1,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    },
}  # fmt: skip


def arch_named(name: str) -> str:
    """The model_type of a name as the user gives it.

    Raises:
        ConfigError: no such generation, or one that this version cannot compute yet.
    """
    arch = ALIASES.get(name.lower().replace(".", "").replace("-", "_"), name.lower().replace("-", "_"))
    if arch not in ALIASES.values():
        raise ConfigError(f"no reference model {name!r}: give one of {', '.join(ALIASES)} (or deepseek_v2, …)")
    if arch not in CONFIGS:
        raise ConfigError(f"{arch} cannot be computed by this version of Seekling yet; {', '.join(available())} can")
    return arch


def config_of(arch: str) -> ModelConfig:
    """The tiny model's config.

    Raises:
        ConfigError: this version reads no such model_type.
    """
    try:
        return read(CONFIGS[arch])
    except ConfigError as error:
        if "model_type" in str(error):
            raise ConfigError(
                f"{arch} cannot be computed by this version of Seekling yet; {', '.join(available())} can"
            ) from None
        raise


def available() -> list[str]:
    """The generations whose config this version reads."""
    out = []
    for arch, raw in CONFIGS.items():
        try:
            read(raw)
        except ConfigError:
            continue
        out.append(arch)
    return out


def read(raw: dict[str, Any]) -> ModelConfig:
    return read_config(dict(raw))
