"""Random small models of every open family, drawn over all the options its config has, as transformers builds them."""

import random
from typing import Any

import torch
from oracle_models import fill
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES = (
    "deepseek_v32", "llama", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "ernie4_5", "ernie4_5_moe",
    "minimax", "minimax_m2", "gpt_oss",
)  # fmt: skip
CONTEXT = 24  # positions of the drawn models; some rope scalings change at 8


def draw_rope(r: random.Random, rotated: int, theta: float) -> dict[str, Any]:
    """Every scaling that transformers knows for these families."""
    kind = r.choice(["default", "default", "linear", "dynamic", "yarn", "llama3", "longrope"])
    if kind == "dynamic" and rotated <= 2:
        kind = "linear"
    out: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        out["factor"] = r.choice([1.0, 2.0, 4.0])
    if kind == "yarn":
        out |= {"original_max_position_embeddings": 8, "beta_fast": r.choice([32.0, 2.0]), "beta_slow": r.choice([1.0, 0.25])}
        out |= r.choice([{}, {"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 1.1}, {"truncate": False}])
    if kind == "llama3":
        out |= {"original_max_position_embeddings": 8, "low_freq_factor": 1.0, "high_freq_factor": r.choice([2.0, 4.0])}
    if kind == "longrope":
        out |= {"original_max_position_embeddings": 8}
        out |= {name: [r.uniform(1, 4) for _ in range(rotated // 2)] for name in ("short_factor", "long_factor")}
        out |= r.choice([{}, {"attention_factor": 1.2}])
    return out


def draw(family: str, seed: int) -> dict[str, Any]:
    """Keyword arguments of the family's configuration class."""
    r = random.Random(f"{family}/{seed}")
    if family == "deepseek_v32":
        return draw_v32(r)
    layers, groups = r.randint(1, 4), r.randint(1, 3)
    heads, head = groups * r.randint(1, 3), 2 * r.randint(1, 4)
    hidden = head * heads if family in ("ernie4_5_moe", "qwen2", "qwen2_moe") else heads * r.randint(3, 8)
    share = r.choice([1.0, 0.5]) if family == "minimax_m2" and head % 4 == 0 else 1.0
    rope = draw_rope(r, int(head * share), r.choice([10000.0, 500.0]))
    if share != 1.0:
        rope["partial_rotary_factor"] = share
    config: dict[str, Any] = dict(
        vocab_size=r.randint(20, 50), hidden_size=hidden, intermediate_size=r.randint(5, 24), num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=CONTEXT,
        rms_norm_eps=r.choice([1e-6, 1e-3]),
        tie_word_embeddings=r.random() < 0.4, rope_parameters=rope, bos_token_id=1, eos_token_id=r.choice([2, [2, 3]]),
        pad_token_id=None,
    )  # fmt: skip
    if family not in ("ernie4_5_moe", "qwen2", "qwen2_moe"):
        config["head_dim"] = head
    if family in ("llama", "qwen3", "qwen3_moe", "gpt_oss"):
        config["attention_bias"] = r.random() < 0.5
    if family == "llama":
        config["mlp_bias"] = r.random() < 0.5
    if family in ("qwen2", "qwen3", "qwen2_moe"):
        config |= dict(
            use_sliding_window=r.random() < 0.6, sliding_window=r.randint(1, 9), max_window_layers=r.randint(0, layers)
        )
        if r.random() < 0.3:
            config["use_sliding_window"] = True
            config["layer_types"] = [r.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    if family == "qwen3_moe":
        config |= dict(use_sliding_window=r.random() < 0.5, sliding_window=r.randint(1, 9))
    experts = r.randint(2, 6)
    chosen = r.randint(1, experts)
    if family in ("qwen2_moe", "qwen3_moe"):
        config |= dict(
            num_experts=experts, num_experts_per_tok=chosen, moe_intermediate_size=r.randint(3, 12),
            norm_topk_prob=r.random() < 0.5,
            decoder_sparse_step=r.choice([1, 1, 2]), mlp_only_layers=r.choice([[], [0], [layers - 1]]),
        )  # fmt: skip
    if family == "qwen2_moe":
        config |= dict(shared_expert_intermediate_size=r.randint(3, 12), qkv_bias=r.random() < 0.7)
    if family in ("ernie4_5", "ernie4_5_moe"):
        config["use_bias"] = r.random() < 0.4
    if family == "ernie4_5_moe":
        config |= dict(
            moe_num_experts=experts, moe_k=chosen, moe_intermediate_size=r.randint(3, 12),
            moe_num_shared_experts=r.randint(0, 2),
            moe_layer_start_index=r.choice([0, 1]), moe_layer_end_index=r.choice([-1, layers - 1, 1]),
            moe_layer_interval=r.choice([1, 1, 2]), moe_norm_min=r.choice([1e-12, 0.5]),
        )  # fmt: skip
    if family in ("minimax", "minimax_m2", "gpt_oss"):
        config |= dict(num_local_experts=experts, num_experts_per_tok=chosen)
    if family == "gpt_oss":
        config |= dict(sliding_window=r.randint(1, 9), swiglu_alpha=r.choice([1.702, 1.0]), swiglu_limit=r.choice([7.0, 0.6]))
        if r.random() < 0.5:
            config["layer_types"] = [r.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    if family == "minimax":
        parts = [f"{part}_{end}_factor" for part in ("full_attn", "linear_attn", "mlp") for end in ("alpha", "beta")]
        config |= {part: r.choice([1, 3.5565588200778455, 0.7]) for part in parts}
        config |= dict(block_size=r.choice([1, 3, 4, 256]), sliding_window=r.choice([None, None, r.randint(1, 9)]))
        if r.random() < 0.7:
            config["layer_types"] = [r.choice(["full_attention", "linear_attention"]) for _ in range(layers)]
    return config


def draw_v32(r: random.Random) -> dict[str, Any]:
    """DeepSeek-V3.2.  Many index heads: with few of them ReLU makes scores of exactly 0, and transformers breaks such ties
    in the order in which topk happens to meet them (test_sparse.py has the ties)."""
    layers, heads, groups = r.randint(1, 3), r.randint(1, 4), r.choice([1, 1, 2, 3])
    per_group, chosen, rotated = r.randint(2, 4), r.randint(1, groups), 2 * r.randint(1, 3)
    rope = draw_rope(r, rotated, r.choice([10000.0, 500.0]))
    while rope["rope_type"] == "longrope":
        rope = draw_rope(r, rotated, 500.0)
    config: dict[str, Any] = dict(
        vocab_size=r.randint(20, 50), hidden_size=heads * r.randint(4, 9), intermediate_size=r.randint(5, 24),
        moe_intermediate_size=r.randint(3, 12), num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, n_shared_experts=r.randint(0, 2), n_routed_experts=groups * per_group, n_group=groups,
        topk_group=chosen, num_experts_per_tok=r.randint(1, chosen * per_group), norm_topk_prob=r.random() < 0.6,
        routed_scaling_factor=r.choice([1.0, 2.5]), kv_lora_rank=r.randint(3, 9), q_lora_rank=r.randint(3, 13),
        qk_rope_head_dim=rotated, v_head_dim=r.randint(1, 9), qk_nope_head_dim=r.randint(1, 5),
        rms_norm_eps=r.choice([1e-6, 1e-3]), tie_word_embeddings=r.random() < 0.3, attention_bias=r.random() < 0.4,
        max_position_embeddings=CONTEXT, rope_parameters=rope, bos_token_id=1, eos_token_id=r.choice([2, [2, 3]]),
        first_k_dense_replace=r.choice([0, 0, 1, layers]), index_topk=r.choice([1, 2, 5, 11, 64]),
        index_head_dim=rotated + r.choice([0, 1, 4]), index_n_heads=r.choice([16, 17, 24]),
    )  # fmt: skip
    if config["index_topk"] >= CONTEXT:
        config["index_n_heads"] = r.randint(1, 3)
    if r.random() < 0.3:
        config["mlp_layer_types"] = [r.choice(["dense", "sparse"]) for _ in range(layers)]
    return config


def hf_family_model(family: str, seed: int, dtype: torch.dtype = torch.float64):
    """The transformers model of that draw, its weights visible in the logits."""
    config = AutoConfig.for_model(family, **draw(family, seed))
    attention = "eager" if family == "gpt_oss" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager", attn_implementation=attention).to(dtype)
    fill(model, seed)
    return model.eval()


def ids_of(config: Any, seed: int, rows: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + 77)
    length = [5, 12, CONTEXT][seed % 3]
    return torch.randint(0, config.vocab_size, (rows, length), generator=g)
