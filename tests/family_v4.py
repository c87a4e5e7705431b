"""Random small DeepSeek-V4 models, drawn over every option of the config, as transformers builds them."""

import random
from typing import Any

import torch
from oracle_models import fill
from transformers import AutoConfig, AutoModelForCausalLM

CONTEXT = 40
SLIDING, CSA, HCA = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"


def draw_rope(r: random.Random, head: int) -> dict[str, Any]:
    """Flat as published, or in two objects as transformers writes it; scaling for the compressed layers only."""
    kind = r.choice(["default", "yarn", "yarn", "linear", "llama3"])
    scaling: dict[str, Any] = {"rope_type": kind}
    if kind != "default":
        scaling["factor"] = r.choice([2.0, 16.0])
    if kind == "yarn":
        scaling |= {"original_max_position_embeddings": 8, "beta_fast": r.choice([32, 2]), "beta_slow": 1}
        scaling |= r.choice([{}, {"attention_factor": 1.2}])
    if kind == "llama3":
        scaling |= {"original_max_position_embeddings": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rotated = 2 * r.randint(1, head // 2)
    if r.random() < 0.5:
        return {
            "rope_scaling": scaling, "rope_theta": r.choice([10000.0, 50.0]), "compress_rope_theta": r.choice([160000.0, 90.0]),
            "qk_rope_head_dim": rotated,
        }  # fmt: skip
    share = {"partial_rotary_factor": rotated / head} if int(head * (rotated / head)) == rotated else {}
    return {
        "partial_rotary_factor": share.get("partial_rotary_factor", 1.0),
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": 700.0, **share},
            "compress": {**scaling, "rope_theta": 3000.0, **share},
        },
    }


def draw(seed: int, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of ``DeepseekV4Config``."""
    r = random.Random(f"deepseek_v4/{seed}")
    layers, groups, head = r.randint(1, 4), r.randint(1, 3), 2 * r.randint(2, 5)
    experts = r.randint(2, 6)
    config: dict[str, Any] = dict(
        vocab_size=r.randint(20, 50), hidden_size=r.randint(8, 20), moe_intermediate_size=r.randint(3, 12),
        num_hidden_layers=layers, num_attention_heads=groups * r.randint(1, 3), head_dim=head, q_lora_rank=r.randint(3, 9),
        o_groups=groups, o_lora_rank=r.randint(2, 6), n_routed_experts=experts, num_experts_per_tok=r.randint(1, experts),
        scoring_func=r.choice(["sqrtsoftplus", "sqrtsoftplus", "sigmoid"]), routed_scaling_factor=r.choice([1.0, 1.5, 2.5]),
        max_position_embeddings=CONTEXT, hc_mult=r.choice([1, 2, 4, 4]), hc_sinkhorn_iters=r.choice([1, 3, 20]),
        hc_eps=r.choice([1e-6, 1e-3]), swiglu_limit=r.choice([10.0, 0.5]), sliding_window=r.choice([1, 3, 8, 100]),
        # many index heads: with few of them whole scores are often exactly 0, and which of equal ones wins is nobody's promise
        index_n_heads=r.choice([12, 16]), index_head_dim=head + 2 * r.randint(0, 2), index_topk=r.choice([1, 2, 4, 100]),
        num_nextn_predict_layers=0, rms_norm_eps=r.choice([1e-6, 1e-3]), tie_word_embeddings=r.random() < 0.3,
        bos_token_id=1, eos_token_id=r.choice([2, [2, 3]]), pad_token_id=None,
    )  # fmt: skip
    config |= draw_rope(r, head)
    if r.random() < 0.8:
        config["layer_types"] = [r.choice([SLIDING, CSA, CSA, HCA]) for _ in range(layers)]
        config["compress_rates"] = {CSA: r.choice([1, 2, 3, 4]), HCA: r.choice([1, 2, 5, 8])}
    elif r.random() < 0.5:
        config["compress_ratios"] = [r.choice([0, 4, 128]) for _ in range(layers)] + [0]
    if r.random() < 0.5:
        config["mlp_layer_types"] = [r.choice(["hash_moe", "moe"]) for _ in range(layers)]
    else:
        config["num_hash_layers"] = r.randint(0, layers)
    return config | changes


@torch.no_grad()
def hf_v4(seed: int, dtype: torch.dtype = torch.float64, **changes: Any):
    """The transformers model of that draw, its weights visible in the logits, its hash tables without repetition."""
    config = AutoConfig.for_model("deepseek_v4", **draw(seed, **changes))
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").to(dtype)
    fill(model, seed)
    g = torch.Generator().manual_seed(seed)
    for name, table in model.named_buffers():
        if name.endswith("tid2eid"):
            table.copy_(torch.rand(len(table), config.n_routed_experts, generator=g).argsort(-1)[:, : table.shape[1]])
    return model.eval()


def ids_of(config: Any, seed: int, rows: int = 2, length: int | None = None) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + 77)
    length = [7, 23, CONTEXT][seed % 3] if length is None else length
    return torch.randint(0, config.vocab_size, (rows, length), generator=g)
