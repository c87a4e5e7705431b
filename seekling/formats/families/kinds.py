"""What kind of value each key of a ``config.json`` holds: readers see no other, so that ``"false"`` is never taken for true."""

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a value must be, in the words of the remedy, and the test of it."""

    remedy: str
    fits: Callable[[Any], bool]


def _whole(least: int, most: int) -> Kind:
    return Kind(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def _number(value: Any) -> bool:  # NaN is smaller than nothing
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _each(kind: Kind, many: str) -> Kind:
    return Kind(f"a list of {many}", lambda value: isinstance(value, list | tuple) and all(map(kind.fits, value)))


_MOST = 2**31 - 1
COUNT, STEP, INDEX = _whole(0, _MOST), _whole(1, _MOST), _whole(-1, _MOST)
MANY = _whole(0, 10_000)  # nobody waits for a loop over more layers or experts
WIDTH = _whole(0, 2**19)  # three of them multiplied can still be counted in bytes
NUMBER = Kind("a finite number", _number)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
TOKENS = Kind("a token id or a list of them", lambda value: INDEX.fits(value) or _each(INDEX, "").fits(value))
RATES = Kind("an object of whole numbers", lambda value: isinstance(value, Mapping) and all(map(STEP.fits, value.values())))

_BY_KIND: list[tuple[Kind, str]] = [
    (MANY, "num_hidden_layers num_nextn_predict_layers num_mtp_layers n_routed_experts num_experts num_local_experts "
           "moe_num_experts n_shared_experts moe_num_shared_experts num_experts_per_tok moe_k num_hash_layers"),
    (WIDTH, "hidden_size intermediate_size moe_intermediate_size shared_expert_intermediate_size num_attention_heads "
            "num_key_value_heads v_head_dim q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim qk_head_dim rotary_dim "
            "index_n_heads index_head_dim o_groups o_lora_rank hc_mult"),
    (COUNT, "vocab_size max_position_embeddings original_max_position_embeddings sliding_window max_window_layers "
            "first_k_dense_replace n_group topk_group index_topk hc_sinkhorn_iters moe_layer_start_index block_size"),
    (_whole(1, 2**19), "head_dim"),
    (STEP, "decoder_sparse_step moe_layer_interval compress_rate_csa compress_rate_hca"),
    (INDEX, "moe_layer_end_index"),
    (TOKENS, "bos_token_id eos_token_id pad_token_id"),
    (NUMBER, "rms_norm_eps initializer_range rope_theta compress_rope_theta partial_rotary_factor routed_scaling_factor "
             "swiglu_alpha swiglu_limit moe_norm_min hc_eps "
             "full_attn_alpha_factor full_attn_beta_factor linear_attn_alpha_factor linear_attn_beta_factor "
             "mlp_alpha_factor mlp_beta_factor layernorm_full_attention_alpha layernorm_full_attention_beta "
             "layernorm_linear_attention_alpha layernorm_linear_attention_beta layernorm_mlp_alpha layernorm_mlp_beta"),
    (TRUTH, "tie_word_embeddings attention_bias mlp_bias qkv_bias use_bias use_sliding_window norm_topk_prob rope_interleave "
            "mtp_hidden_first mtp_hidden_states_first mtp_after_norm"),
    (TEXT, "scoring_func topk_method"),
    (_each(TEXT, "texts"), "layer_types mlp_layer_types"),
    (_each(COUNT, "whole numbers"), "mlp_only_layers attn_type_list compress_ratios"),
    (RATES, "compress_rates"),
    (OBJECT, "rope_parameters rope_scaling"),
]  # fmt: skip
KINDS = {key: kind for kind, keys in _BY_KIND for key in keys.split()}
ROPE_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("rope_type", "type"), TEXT),
    **dict.fromkeys(("short_factor", "long_factor"), _each(NUMBER, "finite numbers")),
    **dict.fromkeys(("main", "compress"), OBJECT),
    **dict.fromkeys(
        "rope_theta partial_rotary_factor factor beta_fast beta_slow mscale mscale_all_dim attention_factor low_freq_factor "
        "high_freq_factor".split(),
        NUMBER,
    ),
    "original_max_position_embeddings": COUNT,
    "truncate": TRUTH,
}


def misfits(raw: Mapping[str, Any], kinds: Mapping[str, Kind] = KINDS, inside: str = "") -> list[str]:
    """One line for each value of another kind than its key's; null is a matter of the reader."""
    bad = []
    for key, value in raw.items():
        kind = kinds.get(key)
        if kind is None or value is None:
            continue
        if not kind.fits(value):
            bad.append(f"{inside}{key} is {reprlib.repr(value)}: give {kind.remedy}")
        elif kind is OBJECT:
            bad += misfits(value, ROPE_KINDS, f"{inside}{key}.")
    return bad
