"""A Hugging Face ``config.json`` from the metadata of a GGUF file.

Every key below the architecture's name is either understood or named in an error: it could change the mathematics.  Numbers
are stored as float32; ``1e-05`` comes back as 1e-05.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seekling.errors import CheckpointError, raise_all
from seekling.formats import gguf_v4
from seekling.formats.gguf_header import GGUFTensor

MODEL_TYPES = {
    "llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "ernie4_5": "ernie4_5", "ernie4_5-moe": "ernie4_5_moe", "deepseek2": "deepseek_v3", "deepseek32": "deepseek_v32",
    "deepseek4": "deepseek_v4",
    "minimax-01": "minimax", "minimax-m2": "minimax_m2", "gpt-oss": "gpt_oss",
}  # fmt: skip
# Keys that say nothing about the mathematics, or repeat what the tensors' shapes say.
_NO_MATHS = ("vocab_size", "rope.scaling.finetuned", "tensor_data_layout")
# Keys whose only supported values are those that change nothing.
_FIXED: dict[str, tuple] = {
    "attention.causal": (True,), "use_parallel_residual": (False,), "pooling_type": (0,), "attention.temperature_scale": (0.0,),
}  # fmt: skip
SOFTMAX, SIGMOID = 1, 2


class Metadata:
    """The keys below one architecture's name; remembers which were asked for."""

    def __init__(self, arch: str, metadata: Mapping[str, Any], where: str) -> None:
        self.arch, self.where, self.metadata = arch, where, metadata
        self.asked = set(_NO_MATHS)
        self.problems: list[str] = []

    def get(self, key: str, default: Any = None, kind: type = int) -> Any:
        """The value of ``{arch}.{key}``, one number where every layer has the same."""
        self.asked.add(key)
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if isinstance(value, list) and value and kind is not list:
            if any(v != value[0] for v in value):
                self.problems.append(f"{self.arch}.{key} differs between layers, which this architecture does not support")
            value = value[0]
        if value is None:
            return None
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return short(float(value))
        if kind is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if kind not in (int, float) and isinstance(value, kind):
            return value
        self.problems.append(f"{self.arch}.{key} is {str(value)[:40]!r} where {kind.__name__} is needed")
        return default

    def need(self, key: str, kind: type = int) -> Any:
        """`get` of a key that must be there (and, for a count, positive)."""
        value = self.get(key, None, kind)
        if value is None or (kind is int and value < 1):
            if f"{self.arch}.{key}" not in self.metadata or value is not None:
                self.problems.append(f"{self.arch}.{key} is {'missing' if value is None else value}")
            return 1 if kind is int else 1.0
        return value

    def check(self) -> None:
        """Raise one CheckpointError with every problem, unknown keys among them."""
        prefix = self.arch + "."
        for key, value in self.metadata.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or name in self.asked:
                continue
            if name not in _FIXED:
                self.problems.append(f"the key {key} is not understood (it could change the mathematics)")
            elif value not in _FIXED[name]:
                self.problems.append(f"{key} = {value!r} is not supported")
        advice = "use another conversion of the model, or its safetensors folder"
        raise_all(CheckpointError, [f"{line}; {advice}" for line in self.problems], self.where)


def short(value: float) -> float:
    """The shortest decimal that gives the same float32: 9.999999747378752e-06 -> 1e-05."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def raw_config(
    arch: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, GGUFTensor],
    floats: Callable[[str], np.ndarray],
    where: str,
) -> dict[str, Any]:
    """The ``config.json`` of the same model on Hugging Face.

    Args:
        arch: ``general.architecture``.
        metadata, tensors: of the file.
        floats: reads a (small) tensor by its name in the file; used for RoPE factors.
        where: the file, for messages.

    Raises:
        CheckpointError: unknown architecture, keys missing or not understood.
    """
    if arch not in MODEL_TYPES:
        raise CheckpointError(f"{where}: architecture {arch!r} cannot be read; Seekling reads {', '.join(MODEL_TYPES)} files")
    meta = Metadata(arch, metadata, where)
    raw = _common(meta, tensors)
    _FAMILY.get(arch, _plain)(meta, tensors, raw)
    raw.update(_rope(meta, tensors, floats, raw))
    _plausible(meta, tensors, raw)
    meta.check()
    return raw


def _plausible(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: Mapping[str, Any]) -> None:
    """Counts that would make a model of absurd size; the tensors' shapes are compared one by one when a model is filled."""
    layers = {int(match[1]) for name in tensors if (match := re.match(r"blk\.([0-9]{1,6})\.", name))}
    total = raw["num_hidden_layers"] + raw.get("num_nextn_predict_layers", 0)
    if layers != set(range(total)):
        meta.problems.append(f"{meta.arch}.block_count is {total}, but there are tensors of {len(layers)} layers")
    widest = 4 * max(max(tensor.shape) for tensor in tensors.values())
    for key, value in raw.items():
        if isinstance(value, int) and key != "max_position_embeddings" and not key.endswith("_token_id") and value > widest:
            meta.problems.append(f"{key} {value} is larger than anything in the tensors")
    if raw["rms_norm_eps"] < 0:
        meta.problems.append(f"{meta.arch}.attention.layer_norm_rms_epsilon is negative")
    if raw["max_position_embeddings"] > 2**31:
        meta.problems.append(f"{meta.arch}.context_length {raw['max_position_embeddings']} is absurd")


def _common(meta: Metadata, tensors: Mapping[str, GGUFTensor]) -> dict[str, Any]:
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{meta.where}: there is no token_embd.weight (V, D); is this a part of a model only?")
    heads, hidden = meta.need("attention.head_count"), meta.need("embedding_length")
    layers = meta.need("block_count")
    head_dim = meta.get("attention.key_length", hidden // heads)
    layers = min(layers, len(tensors))  # a lie is noted later
    raw: dict[str, Any] = {
        "model_type": MODEL_TYPES[meta.arch],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": meta.get("feed_forward_length", 0),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": meta.need("context_length"),
        "rms_norm_eps": meta.need("attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    for key in ("bos", "eos", "padding"):
        value = meta.metadata.get(f"tokenizer.ggml.{key}_token_id")
        known = isinstance(value, int) and 0 <= value < embedding.shape[0]
        raw[f"{'pad' if key == 'padding' else key}_token_id"] = value if known else None
    return raw


def _plain(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    """llama, qwen2, qwen3, ernie4_5."""
    _same_value_width(meta, raw)
    if meta.get("expert_count", 0):
        meta.problems.append(f"{meta.arch}.expert_count says that this is a mixture (Mixtral), which is not supported")
    meta.get("expert_used_count", 0)
    biased = f"blk.0.attn_{'output' if meta.arch == 'llama' else 'q'}.bias" in tensors
    if meta.arch == "llama":
        raw.update(attention_bias=biased, mlp_bias="blk.0.ffn_up.bias" in tensors)
    elif meta.arch == "qwen3":
        raw["attention_bias"] = biased
    elif meta.arch == "ernie4_5":
        raw["use_bias"] = biased
    else:
        raw.pop("head_dim")
        if meta.get("attention.key_length", raw["hidden_size"] // raw["num_attention_heads"]) != (
            raw["hidden_size"] // raw["num_attention_heads"]
        ):
            meta.problems.append(f"{meta.arch}.attention.key_length is not embedding_length / head_count")


def _same_value_width(meta: Metadata, raw: dict[str, Any]) -> None:
    if meta.get("attention.value_length", raw["head_dim"]) != raw["head_dim"]:
        meta.problems.append(f"{meta.arch}.attention.value_length differs from key_length")


def _experts(meta: Metadata, default_width: int) -> tuple[int, int, int]:
    """(experts, experts a token uses, their width)."""
    return meta.need("expert_count"), meta.need("expert_used_count"), meta.get("expert_feed_forward_length", default_width)


def _qwen_moe(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    _same_value_width(meta, raw)
    used = meta.need("expert_used_count")
    count, used, width = _experts(meta, raw["intermediate_size"] // used)
    raw.update(
        num_experts=count, num_experts_per_tok=used, moe_intermediate_size=width, decoder_sparse_step=1, mlp_only_layers=[]
    )
    if meta.arch == "qwen3moe":
        raw.update(norm_topk_prob=True, attention_bias="blk.0.attn_q.bias" in tensors)
    else:
        raw["shared_expert_intermediate_size"] = meta.get("expert_shared_feed_forward_length", raw["intermediate_size"])
        raw.update(norm_topk_prob=False, qkv_bias="blk.0.attn_q.bias" in tensors)
        raw.pop("head_dim")
    _weights_scale_is_one(meta)


def _weights_scale_is_one(meta: Metadata) -> None:
    if meta.get("expert_weights_scale", 1.0, float) not in (0.0, 1.0):
        meta.problems.append(f"{meta.arch}.expert_weights_scale other than 1 is not supported")


def _ernie_moe(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    _same_value_width(meta, raw)
    count, used, width = _experts(meta, 0)
    shared = tensors.get(f"blk.{raw['num_hidden_layers'] - 1}.ffn_up_shexp.weight")
    meta.get("expert_shared_feed_forward_length", 0)  # converters write a wrong one; the tensors say it
    raw.update(
        moe_num_experts=count,
        moe_k=used,
        moe_intermediate_size=width,
        moe_num_shared_experts=meta.get("expert_shared_count", shared.shape[0] // max(width, 1) if shared else 0),
        moe_layer_start_index=meta.get("leading_dense_block_count", 0),
        moe_layer_end_index=raw["num_hidden_layers"] - 1,
        moe_layer_interval=meta.need("interleave_moe_layer_step"),
        use_bias="blk.0.attn_q.bias" in tensors,
    )
    if raw["head_dim"] != raw["hidden_size"] // raw["num_attention_heads"]:
        meta.problems.append(f"{meta.arch}.attention.key_length is not embedding_length / head_count")
    raw.pop("head_dim")
    _weights_scale_is_one(meta)


def _minimax_m2(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    _same_value_width(meta, raw)
    count, used, width = _experts(meta, raw["intermediate_size"])
    if meta.get("expert_gating_func", SIGMOID) != SIGMOID:
        meta.problems.append(f"{meta.arch}.expert_gating_func is not the sigmoid")
    raw.update(
        num_local_experts=count,
        num_experts_per_tok=used,
        intermediate_size=width,
        rotary_dim=meta.get("rope.dimension_count", raw["head_dim"]),
        use_qk_norm=True,
        scoring_func="sigmoid",
        use_routing_bias=True,
    )
    _weights_scale_is_one(meta)


def _minimax_01(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    _same_value_width(meta, raw)
    layers = raw["num_hidden_layers"]
    interval = meta.get("full_attention_interval", 8) or 8
    linear = meta.get("attention.recurrent_layers", None, list) or [(i + 1) % interval != 0 for i in range(layers)]
    if len(linear) < layers:
        meta.problems.append(f"{meta.arch}.attention.recurrent_layers has {len(linear)} values for {layers} layers")
    scale = meta.need("residual_scale", float)
    raw.update(
        num_local_experts=meta.need("expert_count"),
        num_experts_per_tok=meta.need("expert_used_count"),
        rotary_dim=meta.get("rope.dimension_count", raw["head_dim"]),
        layer_types=["linear_attention" if kind else "full_attention" for kind in linear[:layers]],
        **{f"{part}_alpha_factor": scale for part in ("full_attn", "linear_attn", "mlp")},
        **{f"{part}_beta_factor": 1.0 for part in ("full_attn", "linear_attn", "mlp")},
    )
    if meta.get("expert_feed_forward_length", raw["intermediate_size"]) != raw["intermediate_size"]:
        meta.problems.append(f"{meta.arch}.expert_feed_forward_length differs from feed_forward_length")
    _weights_scale_is_one(meta)


def _gpt_oss(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    _same_value_width(meta, raw)
    count, used, width = _experts(meta, raw["intermediate_size"])
    if meta.get("attention.sliding_window_pattern", 2) not in (2, True):
        meta.problems.append(f"{meta.arch}.attention.sliding_window_pattern is not 2 (every second layer full)")
    layers = raw["num_hidden_layers"]
    raw.update(
        num_local_experts=count,
        num_experts_per_tok=used,
        intermediate_size=width,
        sliding_window=meta.need("attention.sliding_window"),
        layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(min(layers, 4096))],
        attention_bias=True,
        swiglu_limit=7.0,
    )
    if meta.get("rope.freq_base_swa", None, float) not in (None, meta.get("rope.freq_base", 10000.0, float)):
        meta.problems.append(f"{meta.arch}.rope.freq_base_swa differs from rope.freq_base")
    _weights_scale_is_one(meta)


def _deepseek(meta: Metadata, tensors: Mapping[str, GGUFTensor], raw: dict[str, Any]) -> None:
    """MLA.  Files since 2025 describe it as one shared key-value head as wide as the latent, older ones as plain heads."""
    latent, rope = meta.need("attention.kv_lora_rank"), meta.need("rope.dimension_count")
    key, value = meta.need("attention.key_length"), meta.need("attention.value_length")
    key, value = meta.get("attention.key_length_mla", key), meta.get("attention.value_length_mla", value)
    nextn = meta.get("nextn_predict_layers", 0)
    raw["num_hidden_layers"] = layers = raw["num_hidden_layers"] - nextn
    gate = meta.get("expert_gating_func", SIGMOID if meta.arch == "deepseek32" else SOFTMAX)
    sigmoid = gate == SIGMOID
    if gate not in (SOFTMAX, SIGMOID):
        meta.problems.append(f"{meta.arch}.expert_gating_func {gate} is neither softmax nor sigmoid")
    if meta.arch == "deepseek2" and not sigmoid:
        raw["model_type"] = "deepseek_v2"
    experts, dense = meta.get("expert_count", 0), meta.get("leading_dense_block_count", 0)
    used = meta.get("expert_used_count", 0)
    # Files of V3 and R1 made before llama.cpp knew about groups do not name them.
    published = (8, 4) if sigmoid and experts == 256 and layers == 61 else (1, 1)
    groups, kept = meta.get("expert_group_count", published[0]) or 1, meta.get("expert_group_used_count", published[1]) or 1
    lite = "blk.0.attn_q_a.weight" not in tensors
    wide = tensors.get("blk.0.attn_q_a.weight")
    meta.get("attention.q_lora_rank", 0)
    raw.update(
        num_key_value_heads=raw["num_attention_heads"],
        num_nextn_predict_layers=nextn,
        q_lora_rank=None if lite or wide is None else wide.shape[0],
        kv_lora_rank=latent,
        qk_nope_head_dim=key - rope,
        qk_rope_head_dim=rope,
        v_head_dim=value,
        first_k_dense_replace=min(dense, layers),
        moe_intermediate_size=meta.get("expert_feed_forward_length", 0) or raw["intermediate_size"],
        n_routed_experts=experts,
        num_experts_per_tok=used,
        n_shared_experts=meta.get("expert_shared_count", 0),
        n_group=groups,
        topk_group=kept if groups > 1 else 1,
        scoring_func="sigmoid" if sigmoid else "softmax",
        topk_method="noaux_tc" if sigmoid else "group_limited_greedy" if groups > 1 else "greedy",
        norm_topk_prob=meta.get("expert_weights_norm", False, bool),
        routed_scaling_factor=meta.get("expert_weights_scale", 1.0, float) or 1.0,
        attention_bias="blk.0.attn_q_a.bias" in tensors or "blk.0.attn_kv_a_mqa.bias" in tensors,
    )
    raw.pop("head_dim")
    if key <= rope:
        meta.problems.append(f"{meta.arch}: heads of {key} values cannot hold a rotary part of {rope}")
    if meta.arch == "deepseek32":
        raw.update(
            index_n_heads=meta.need("attention.indexer.head_count"),
            index_head_dim=meta.need("attention.indexer.key_length"),
            index_topk=meta.need("attention.indexer.top_k"),
        )


def _rope(
    meta: Metadata, tensors: Mapping[str, GGUFTensor], floats: Callable[[str], np.ndarray], raw: dict[str, Any]
) -> dict[str, Any]:
    from seekling.formats.gguf_rope import rope_keys

    return rope_keys(meta, tensors, floats, raw)


_FAMILY: dict[str, Callable[[Metadata, Mapping[str, GGUFTensor], dict[str, Any]], None]] = {
    "qwen2moe": _qwen_moe, "qwen3moe": _qwen_moe, "ernie4_5-moe": _ernie_moe, "minimax-m2": _minimax_m2, "gpt-oss": _gpt_oss,
    "minimax-01": _minimax_01,
    "deepseek2": _deepseek, "deepseek32": _deepseek, "deepseek4": gguf_v4.read,
}  # fmt: skip
