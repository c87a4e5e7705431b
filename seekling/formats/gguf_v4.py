"""DeepSeek-V4 as llama.cpp's ``deepseek4``: keys to config and config to keys.

llama.cpp leaves V4's MTP layers to a file of their own; they are not written.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seekling.formats.gguf_header import GGUFTensor
from seekling.formats.gguf_out import Key

if TYPE_CHECKING:
    from seekling.formats.gguf_config import Metadata
    from seekling.formats.gguf_keys import Plan

SQRT_SOFTPLUS = 4
_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def read(meta: "Metadata", tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    """The published ``config.json`` keys."""
    layers = raw["num_hidden_layers"]
    if meta.get("expert_gating_func", SQRT_SOFTPLUS) != SQRT_SOFTPLUS:
        meta.problems.append(f"{meta.arch}.expert_gating_func is not the root of softplus")
    if not meta.get("expert_weights_norm", True, bool):
        meta.problems.append(f"{meta.arch}.expert_weights_norm false is not supported")
    limits = {tuple(value) if isinstance(value, list) else (value,) for value in (
        meta.metadata.get(f"{meta.arch}.swiglu_clamp_exp"), meta.metadata.get(f"{meta.arch}.swiglu_clamp_shexp"))}  # fmt: skip
    if len(limits - {(None,)}) > 1:
        meta.problems.append(f"{meta.arch}.swiglu_clamp_exp differs from swiglu_clamp_shexp")
    meta.get("swiglu_clamp_shexp", 0.0, float)
    meta.asked |= {"embedding_length_out", "attention.value_length", "nextn_predict_layers", "expert_group_count"}
    meta.asked |= {"expert_group_used_count", "leading_dense_block_count"}
    ratios = meta.get("attention.compress_ratios", [], list)
    if len(ratios) < layers or not all(isinstance(ratio, int) for ratio in ratios):
        meta.problems.append(f"{meta.arch}.attention.compress_ratios does not name {layers} layers")
        ratios = [0] * layers
    raw.pop("intermediate_size")
    raw.update(
        num_key_value_heads=1,
        q_lora_rank=meta.need("attention.q_lora_rank"),
        qk_rope_head_dim=meta.need("rope.dimension_count"),
        sliding_window=meta.need("attention.sliding_window"),
        moe_intermediate_size=meta.need("expert_feed_forward_length"),
        n_routed_experts=meta.need("expert_count"),
        num_experts_per_tok=meta.need("expert_used_count"),
        n_shared_experts=meta.need("expert_shared_count"),
        routed_scaling_factor=meta.need("expert_weights_scale", float),
        scoring_func="sqrtsoftplus",
        swiglu_limit=meta.need("swiglu_clamp_exp", float),
        num_hash_layers=meta.get("hash_layer_count", 0),
        num_nextn_predict_layers=0,
        compress_ratios=ratios[:layers],
        compress_rope_theta=meta.need("attention.compress_rope_freq_base", float),
        hc_mult=meta.need("hyper_connection.count"),
        hc_sinkhorn_iters=meta.need("hyper_connection.sinkhorn_iterations"),
        hc_eps=meta.need("hyper_connection.epsilon", float),
        o_groups=meta.need("attention.output_group_count"),
        o_lora_rank=meta.need("attention.output_lora_rank"),
        index_n_heads=meta.need("attention.indexer.head_count"),
        index_head_dim=meta.need("attention.indexer.key_length"),
        index_topk=meta.need("attention.indexer.top_k"),
    )


def write(plan: "Plan", raw: Mapping[str, Any]) -> None:
    """llama.cpp's keys; what it has none for is noted in the plan."""
    layers = raw["num_hidden_layers"]
    kinds = raw["layer_types"]
    plan.count("attention.q_lora_rank", raw["q_lora_rank"])
    plan.count("attention.sliding_window", raw["sliding_window"])
    plan.count("expert_count", raw["n_routed_experts"])
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.count("expert_feed_forward_length", raw["moe_intermediate_size"])
    plan.count("expert_shared_count", raw["n_shared_experts"])
    plan.number("expert_weights_scale", raw["routed_scaling_factor"])
    plan.truth("expert_weights_norm", True)
    plan.count("expert_gating_func", SQRT_SOFTPLUS)
    for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        plan.keys[f"{plan.arch}.{key}"] = Key("f32", [float(raw["swiglu_limit"])] * layers, many=True)
    plan.count("attention.indexer.head_count", raw["index_n_heads"])
    plan.count("attention.indexer.key_length", raw["index_head_dim"])
    plan.count("attention.indexer.top_k", raw["index_topk"])
    plan.count("attention.output_group_count", raw["o_groups"])
    plan.count("attention.output_lora_rank", raw["o_lora_rank"])
    plan.number("attention.compress_rope_freq_base", raw["compress_rope_theta"])
    plan.keys[f"{plan.arch}.attention.compress_ratios"] = Key("u32", [_RATIOS.get(kind, 0) for kind in kinds], many=True)
    plan.count("hyper_connection.count", raw["hc_mult"])
    plan.count("hyper_connection.sinkhorn_iterations", raw["hc_sinkhorn_iters"])
    plan.number("hyper_connection.epsilon", raw["hc_eps"])
    plan.count("embedding_length_out", raw["hidden_size"] * raw["hc_mult"])
    hashed = [kind == "hash_moe" for kind in raw["mlp_layer_types"]]
    plan.count("hash_layer_count", sum(hashed))
    plan.refuse(hashed != sorted(hashed, reverse=True), "hash layers behind others")
    plan.refuse(set(kinds) - _RATIOS.keys(), f"layer types {sorted(set(kinds) - _RATIOS.keys())}")
    plan.refuse("compress_ratios" not in raw, "compression rates other than 4 and 128")
    plan.refuse(raw.get("scoring_func") != "sqrtsoftplus", "scoring_func other than sqrtsoftplus")
    plan.refuse(not raw.get("swiglu_limit"), "no swiglu_limit")
    plan.refuse(raw.get("tie_word_embeddings"), "tied embeddings")
