"""GGUF metadata of a model from its Hugging Face ``config.json``, and what llama.cpp would not compute as the model does.

A refusal names the field that llama.cpp has no counterpart for; a note names what it does differently and the file cannot say.
Source of the facts: llama.cpp's loaders and graphs (``src/models``), release of September 2026.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seekling.errors import CheckpointError, raise_all
from seekling.formats import gguf_v4
from seekling.formats.gguf_config import MODEL_TYPES, SIGMOID, SOFTMAX
from seekling.formats.gguf_out import Key
from seekling.formats.gguf_rope import TRUNCATE, llama3_factors

ARCHITECTURE = {model_type: arch for arch, model_type in MODEL_TYPES.items()} | {"deepseek_v2": "deepseek2"}
# llama.cpp takes a deepseek2 model of so many layers for one without query compression, whatever the file says.
NEXTN = ("deepseek32",)  # architectures whose MTP layers go into the file
_MLA = ("deepseek2", "deepseek32")
_LITE_LAYERS, _LITE_48_VOCABULARY = (26, 27), 128256


@dataclass
class Plan:
    """Keys below the architecture's name, and what there is to say about them."""

    arch: str
    keys: dict[str, Key] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, name: str, value: Any) -> None:
        self.keys[f"{self.arch}.{name}"] = Key("u32", int(value))

    def number(self, name: str, value: Any) -> None:
        self.keys[f"{self.arch}.{name}"] = Key("f32", float(value))

    def truth(self, name: str, value: Any) -> None:
        self.keys[f"{self.arch}.{name}"] = Key("bool", bool(value))

    def text(self, name: str, value: str) -> None:
        self.keys[f"{self.arch}.{name}"] = Key("str", value)

    def refuse(self, condition: Any, what: str) -> None:
        if condition:
            self.problems.append(what)


def plan_keys(raw: Mapping[str, Any], where: str) -> Plan:
    """The keys that describe this model to llama.cpp.

    Args:
        raw: ``config.json``.
        where: what is written, for messages.

    Raises:
        CheckpointError: every field that llama.cpp cannot express, at once.
    """
    model_type = str(raw.get("model_type"))
    if ARCHITECTURE.get(model_type) not in _WRITERS:
        raise CheckpointError(f"{where}: no GGUF can be written of model_type {model_type!r}; save a safetensors folder")
    plan = Plan(ARCHITECTURE[model_type])
    _common(plan, raw)
    _WRITERS[plan.arch](plan, raw)
    _rope(plan, raw)
    advice = "llama.cpp could not load it or would compute something else; save a safetensors folder"
    raise_all(CheckpointError, [f"{line} ({advice})" for line in plan.problems], f"{where}: GGUF")
    return plan


def head_dim(raw: Mapping[str, Any]) -> int:
    """Width of a head of a model without MLA."""
    return raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]


def _common(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.count("block_count", raw["num_hidden_layers"])
    plan.count("context_length", raw["max_position_embeddings"])
    plan.count("embedding_length", raw["hidden_size"])
    plan.count("feed_forward_length", raw.get("intermediate_size") or raw["moe_intermediate_size"])
    plan.count("attention.head_count", raw["num_attention_heads"])
    plan.count("vocab_size", raw["vocab_size"])
    plan.number("attention.layer_norm_rms_epsilon", raw["rms_norm_eps"])
    plan.refuse(raw.get("hidden_act", "silu") != "silu", f"hidden_act {raw.get('hidden_act')!r}")
    if plan.arch in _MLA:
        return
    width = head_dim(raw)
    plan.count("attention.head_count_kv", raw.get("num_key_value_heads") or raw["num_attention_heads"])
    plan.count("attention.key_length", width)
    plan.count("attention.value_length", width)
    plan.count("rope.dimension_count", _rotary(raw, width))
    plan.refuse(raw.get("use_sliding_window") and raw.get("sliding_window"), "use_sliding_window")
    if raw["model_type"] in ("qwen2", "qwen2_moe"):
        plan.refuse(width * raw["num_attention_heads"] != raw["hidden_size"], "heads that are not hidden_size wide together")


def _rotary(raw: Mapping[str, Any], width: int) -> int:
    rope = raw.get("rope_parameters") or {}
    partial = raw.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) or 1.0
    return raw.get("rotary_dim") or int(width * partial)


def _dense(plan: Plan, raw: Mapping[str, Any]) -> None:
    if plan.arch == "qwen3":
        plan.refuse(raw.get("attention_bias"), "attention_bias (the output projection's bias)")
    if plan.arch == "ernie4_5":
        plan.refuse(raw.get("use_bias"), "use_bias (biases of the feed-forward layers)")
    plan.refuse(_rotary(raw, head_dim(raw)) != head_dim(raw), "a rotation of a part of each head")


def _qwen_moe(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.count("expert_count", raw["num_experts"])
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.count("expert_feed_forward_length", raw["moe_intermediate_size"])
    plan.refuse(raw.get("decoder_sparse_step", 1) != 1, "decoder_sparse_step other than 1")
    plan.refuse(raw.get("mlp_only_layers"), "mlp_only_layers (dense layers among the others)")
    if plan.arch == "qwen2moe":
        plan.count("expert_shared_feed_forward_length", raw["shared_expert_intermediate_size"])
        plan.refuse(raw.get("norm_topk_prob"), "norm_topk_prob true (llama.cpp never normalises qwen2moe's weights)")
    else:
        plan.refuse(not raw.get("norm_topk_prob"), "norm_topk_prob false (llama.cpp always normalises qwen3moe's weights)")
        plan.refuse(raw.get("attention_bias"), "attention_bias (the output projection's bias)")


def _ernie_moe(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.count("expert_count", raw["moe_num_experts"])
    plan.count("expert_used_count", raw["moe_k"])
    plan.count("expert_feed_forward_length", raw["moe_intermediate_size"])
    plan.count("interleave_moe_layer_step", 1)
    layers, every, last = raw["num_hidden_layers"], raw["moe_layer_interval"], raw["moe_layer_end_index"]
    last = layers - 1 if last == -1 else last
    mixed = [i for i in range(layers) if (i + 1) % every == 0 and raw["moe_layer_start_index"] <= i <= last]
    dense = mixed[0] if mixed else layers
    plan.count("leading_dense_block_count", dense)
    plan.refuse(mixed != list(range(dense, layers)), "dense layers behind the first mixed one")
    shared = raw.get("moe_num_shared_experts") or 0
    plan.count("expert_shared_count", shared)
    if shared:
        plan.count("expert_shared_feed_forward_length", shared * raw["moe_intermediate_size"])
    plan.refuse(raw.get("use_bias"), "use_bias (biases of the feed-forward layers)")


def _minimax_m2(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.count("expert_count", raw["num_local_experts"])
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.count("expert_feed_forward_length", raw["intermediate_size"])
    plan.count("expert_gating_func", SIGMOID)
    plan.refuse(raw.get("scoring_func", "sigmoid") != "sigmoid", "scoring_func other than sigmoid")
    plan.refuse(raw.get("use_qk_norm") is False, "use_qk_norm false")


def _minimax_01(plan: Plan, raw: Mapping[str, Any]) -> None:
    scales = {raw[f"{part}_alpha_factor"] for part in ("full_attn", "linear_attn", "mlp")}
    ones = {raw[f"{part}_beta_factor"] for part in ("full_attn", "linear_attn", "mlp")}
    plan.refuse(len(scales) > 1 or ones != {1.0}, "alpha factors that differ, or beta factors other than 1")
    plan.number("residual_scale", max(scales))
    linear = [kind == "linear_attention" for kind in raw["layer_types"]]
    plan.keys[f"{plan.arch}.attention.recurrent_layers"] = Key("bool", linear, many=True)
    plan.count("expert_count", raw["num_local_experts"])
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.refuse(raw.get("sliding_window"), "sliding_window")
    heads = raw["num_attention_heads"]
    plan.refuse(heads & (heads - 1), f"{heads} heads (llama.cpp spaces decays for powers of two only)")


def _gpt_oss(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.count("expert_count", raw["num_local_experts"])
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.count("expert_feed_forward_length", raw["intermediate_size"])
    plan.count("attention.sliding_window", raw["sliding_window"])
    kinds = raw.get("layer_types")
    usual = ["full_attention" if i % 2 else "sliding_attention" for i in range(raw["num_hidden_layers"])]
    plan.refuse(kinds not in (None, usual), "layer_types other than sliding and full in turn")
    plan.refuse(raw.get("swiglu_limit", 7.0) != 7.0, "swiglu_limit other than 7")
    plan.refuse(raw.get("swiglu_alpha", 1.702) != 1.702, "swiglu_alpha other than 1.702")
    plan.refuse(raw.get("attention_bias", True) is not True, "attention_bias false")
    scaling = _scaling(raw)
    if scaling and scaling.get("truncate") is False:
        plan.notes.append("llama.cpp rounds YaRN's limits (truncate), gpt-oss does not: long texts will differ a little")


def _deepseek(plan: Plan, raw: Mapping[str, Any]) -> None:
    layers, latent, rope = raw["num_hidden_layers"], raw["kv_lora_rank"], raw["qk_rope_head_dim"]
    experts, dense = raw.get("n_routed_experts") or 0, min(raw.get("first_k_dense_replace") or 0, layers)
    kinds = raw.get("mlp_layer_types")
    if kinds:
        dense = kinds.index("sparse") if "sparse" in kinds else layers
        plan.refuse("dense" in kinds[dense:], "dense layers behind the first mixed one")
    plan.count("attention.head_count_kv", 1)  # MLA as one shared head as wide as the latent
    plan.count("attention.key_length", latent + rope)
    plan.count("attention.value_length", latent)
    plan.count("attention.key_length_mla", raw["qk_nope_head_dim"] + rope)
    plan.count("attention.value_length_mla", raw["v_head_dim"])
    plan.count("attention.kv_lora_rank", latent)
    plan.count("attention.q_lora_rank", raw.get("q_lora_rank") or 0)  # 0: llama.cpp insists on the key
    plan.count("rope.dimension_count", rope)
    plan.count("leading_dense_block_count", layers if not experts else dense)
    plan.count("expert_feed_forward_length", raw["moe_intermediate_size"])
    plan.count("expert_shared_count", raw.get("n_shared_experts") or 0)
    if plan.arch in NEXTN and raw.get("num_nextn_predict_layers"):
        plan.count("block_count", layers + raw["num_nextn_predict_layers"])
        plan.count("nextn_predict_layers", raw["num_nextn_predict_layers"])
        # llama.cpp puts the embedding first and takes the hidden state before the final norm
        plan.refuse(raw.get("mtp_hidden_states_first") or raw.get("mtp_after_norm"), "MTP layers of another order")
    if plan.arch == "deepseek32":
        plan.count("attention.indexer.head_count", raw["index_n_heads"])
        plan.count("attention.indexer.key_length", raw["index_head_dim"])
        plan.count("attention.indexer.top_k", raw["index_topk"])
        plan.refuse(not raw.get("q_lora_rank"), "no q_lora_rank")
    as_lite = layers in _LITE_LAYERS or (layers == 48 and raw["vocab_size"] == _LITE_48_VOCABULARY)
    as_lite = as_lite and plan.arch == "deepseek2"
    plan.refuse(as_lite and raw.get("q_lora_rank"), f"q_lora_rank with {layers} layers (llama.cpp takes it for a Lite model)")
    plan.refuse(raw.get("attention_bias"), "attention_bias")
    plan.refuse(raw.get("mlp_bias"), "mlp_bias")
    plan.refuse(raw.get("rope_interleave", True) is False, "rope_interleave false")
    sigmoid = raw.get("scoring_func", "sigmoid" if raw["model_type"] == "deepseek_v3" else "softmax") == "sigmoid"
    dense_v3 = raw["model_type"] == "deepseek_v3" and not experts
    plan.count("expert_gating_func", SIGMOID if sigmoid or dense_v3 else SOFTMAX)  # also tells V3 from V2
    if experts and dense < layers:
        _deepseek_experts(plan, raw, experts)


def _deepseek_experts(plan: Plan, raw: Mapping[str, Any], experts: int) -> None:
    plan.count("expert_count", experts)
    plan.count("expert_used_count", raw["num_experts_per_tok"])
    plan.number("expert_weights_scale", raw.get("routed_scaling_factor", 1.0))
    # transformers' DeepSeek-V2 never normalises, whatever its config says
    plan.truth("expert_weights_norm", raw.get("norm_topk_prob", True) and raw["model_type"] != "deepseek_v2")
    groups, kept = raw.get("n_group") or 1, raw.get("topk_group") or 1
    if raw.get("topk_method") == "greedy" or kept >= groups:
        groups = kept = 1
    if experts > 1:
        plan.count("expert_group_count", groups)
        plan.count("expert_group_used_count", kept)
    plan.refuse(groups > 1 and experts // groups < 2, "groups of one expert")
    plan.refuse(groups >= experts > 1, f"{groups} groups of {experts} experts")
    plan.refuse(not raw.get("n_shared_experts"), "n_shared_experts 0 (llama.cpp's deepseek2 insists on a shared expert)")
    if groups > 1 and raw.get("topk_method") == "group_limited_greedy":
        plan.notes.append(
            "llama.cpp chooses expert groups by their two best experts, DeepSeek-V2 by the best one: "
            "some tokens will take other experts"
        )


def _scaling(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The RoPE scaling under its one name; None where there is none."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return None if kind == "default" else {**rope, "rope_type": kind}


def rope_theta(raw: Mapping[str, Any]) -> float:
    """The base of the rotary frequencies."""
    return float((raw.get("rope_parameters") or {}).get("rope_theta") or raw.get("rope_theta") or 10000.0)


def _rope(plan: Plan, raw: Mapping[str, Any]) -> None:
    plan.number("rope.freq_base", rope_theta(raw))
    scaling = _scaling(raw)
    if scaling is None:
        return
    kind, mla = scaling["rope_type"], plan.arch in _MLA
    if kind == "linear":
        plan.refuse(mla, "linear RoPE scaling (llama.cpp's deepseek2 also changes the softmax scale)")
        plan.text("rope.scaling.type", "linear")
        plan.number("rope.scaling.factor", scaling["factor"])
    elif kind == "yarn":
        _yarn(plan, scaling, mla)
    elif kind == "llama3":
        plan.refuse(plan.arch not in ("llama", "qwen2", "qwen3"), f"llama3 RoPE scaling of {plan.arch}")
    elif kind != "longrope" or rope_factors(raw) is None:
        plan.problems.append(f"RoPE scaling {kind!r}")


def _yarn(plan: Plan, scaling: Mapping[str, Any], mla: bool) -> None:
    factor = float(scaling["factor"])
    plan.text("rope.scaling.type", "yarn")
    plan.number("rope.scaling.factor", factor)
    plan.count("rope.scaling.original_context_length", scaling["original_max_position_embeddings"])
    for key in ("beta_fast", "beta_slow"):
        if scaling.get(key) is not None:
            plan.number(f"rope.scaling.yarn_{key}", scaling[key])
    every = scaling.get("mscale_all_dim")
    if mla:
        plan.refuse(not every, "yarn without mscale_all_dim (llama.cpp scales the softmax nevertheless)")
        plan.refuse(every and scaling.get("mscale") != every, "yarn whose mscale is not mscale_all_dim")
        plan.refuse(scaling.get("attention_factor") not in (None, 1.0), "attention_factor")
        plan.number("rope.scaling.yarn_log_multiplier", 0.1 * (every or 0))
    else:
        plan.refuse(every or scaling.get("mscale"), "mscale of a model without MLA")
        usual = 1.0 if plan.arch == "deepseek4" else None
        plan.refuse(scaling.get("attention_factor") not in (None, usual), "attention_factor (llama.cpp has its own)")
    plan.keys[TRUNCATE] = Key("bool", scaling.get("truncate") is not False)
    if scaling.get("truncate") is False and plan.arch != "gpt-oss":
        plan.notes.append(
            "llama.cpp rounds YaRN's limits (truncate), this model does not: a small difference at long distances"
        )


def rope_factors(raw: Mapping[str, Any]) -> list[float] | None:
    """What llama.cpp's ``rope_freqs.weight`` holds, None where the model has no such factors (or they depend on the length)."""
    scaling = _scaling(raw)
    if scaling is None:
        return None
    if scaling["rope_type"] == "llama3":
        return [float(f) for f in llama3_factors(head_dim(raw), rope_theta(raw), scaling)]
    same = scaling["rope_type"] == "longrope" and scaling["long_factor"] == scaling["short_factor"]
    return list(scaling["long_factor"]) if same and scaling.get("attention_factor") == 1.0 else None


_WRITERS: dict[str, Callable[[Plan, Mapping[str, Any]], None]] = {
    "llama": _dense, "qwen2": _dense, "qwen3": _dense, "ernie4_5": _dense, "qwen2moe": _qwen_moe, "qwen3moe": _qwen_moe,
    "ernie4_5-moe": _ernie_moe, "minimax-01": _minimax_01, "minimax-m2": _minimax_m2, "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek, "deepseek32": _deepseek, "deepseek4": gguf_v4.write,
}  # fmt: skip
