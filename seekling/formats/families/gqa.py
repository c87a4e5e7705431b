"""The families with grouped-query attention: Llama (2, 3, SmolLM2, Yi, R1-Distill-Llama), Qwen2 (R1-Distill-Qwen) and Qwen3,
both with and without experts, ERNIE 4.5 likewise, MiniMax-M2, gpt-oss.  Keys and defaults: transformers' configuration classes.
"""

from collections.abc import Callable
from typing import Any

from seekling.errors import ConfigError, raise_all
from seekling.formats.families.reader import Reader, write_rope
from seekling.model.config import ModelConfig

Values = dict[str, Any]

_QWEN = dict(
    vocab_size=151936, num_attention_heads=32, max_position_embeddings=32768, hidden_act="silu", num_hidden_layers=32,
    hidden_size=4096, intermediate_size=22016, sliding_window=4096,
)  # fmt: skip
_QWEN_MOE = dict(
    vocab_size=151936, hidden_size=2048, num_hidden_layers=24, max_position_embeddings=32768, sliding_window=4096,
    decoder_sparse_step=1, norm_topk_prob=False,
)  # fmt: skip
DEFAULTS: dict[str, Values] = {
    "llama": dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    ),
    "qwen2": dict(_QWEN, max_window_layers=28),
    "qwen3": dict(_QWEN, max_window_layers=28, head_dim=128),
    "qwen2_moe": dict(
        _QWEN_MOE, num_attention_heads=16, intermediate_size=5632, moe_intermediate_size=1408, num_experts=60,
        num_experts_per_tok=4, shared_expert_intermediate_size=5632, max_window_layers=28, qkv_bias=True,
    ),
    "qwen3_moe": dict(
        _QWEN_MOE, num_attention_heads=32, num_key_value_heads=4, intermediate_size=6144, moe_intermediate_size=768,
        num_experts=128, num_experts_per_tok=8,
    ),
    "ernie4_5": dict(
        vocab_size=103424, hidden_size=1024, intermediate_size=3072, num_hidden_layers=18, num_attention_heads=16,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, rope_theta=500000.0,
    ),
    "ernie4_5_moe": dict(
        vocab_size=103424, hidden_size=2560, intermediate_size=12288, num_hidden_layers=28, num_attention_heads=20,
        num_key_value_heads=4, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, moe_intermediate_size=1536, moe_k=6, moe_num_experts=64, moe_num_shared_experts=2,
        moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1, moe_norm_min=1e-12, rope_theta=500000.0,
    ),
    "minimax_m2": dict(
        vocab_size=200064, hidden_size=3072, intermediate_size=1536, num_hidden_layers=62, num_attention_heads=48,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=196608, num_experts_per_tok=8, num_local_experts=256,
        bos_token_id=200034, eos_token_id=200020, rope_theta=5000000.0,
    ),
    "gpt_oss": dict(
        vocab_size=201088, hidden_size=2880, intermediate_size=2880, num_hidden_layers=36, num_attention_heads=64, head_dim=64,
        num_key_value_heads=8, max_position_embeddings=131072, num_experts_per_tok=4, num_local_experts=128, rms_norm_eps=1e-5,
        sliding_window=128, swiglu_alpha=1.702, swiglu_limit=7.0, attention_bias=True, rope_theta=150000.0,
        rope_parameters=dict(
            rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=4096,
        ),
    ),
}  # fmt: skip


def read(raw: Values) -> ModelConfig:
    """Raises ConfigError with every unknown key, unsupported value and contradiction."""
    family = raw["model_type"]
    r = Reader(raw, DEFAULTS[family])
    values = common(r)
    raise_all(ConfigError, r.bad, "config.json")  # nobody has asked for the other keys yet: all would be unknown
    values |= {"model_type": family, "attention": "gqa", **_READERS[family](r, values)}
    partial = values.pop("partial_rotary_factor", 1.0)
    if partial != 1.0:
        values["rotary_dim"] = int(values["head_dim"] * partial)
    r.finish()
    try:
        return ModelConfig(**values)
    except TypeError as error:
        raise ConfigError(f"config.json: {error}") from None


def common(r: Reader) -> Values:
    """What all these families have, under the same keys."""
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings"
    values = {name: r.need(name) for name in names.split()}
    values["num_key_value_heads"] = r.take("num_key_value_heads", values["num_attention_heads"])
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    whole = hidden // heads if isinstance(heads, int) and heads > 0 and isinstance(hidden, int) else 0
    if r.raw["model_type"] == "ernie4_5" and r.raw.get("head_dim", whole) is None:
        r.raw["head_dim"] = whole  # null says so there, absent means 128
    values["head_dim"] = values["v_head_dim"] = r.take("head_dim", whole)
    values |= dict(
        rms_norm_eps=r.take("rms_norm_eps", 1e-6),
        tie_word_embeddings=r.take("tie_word_embeddings", False),
        initializer_range=r.take("initializer_range", 0.02),
        rope_interleave=False,
        first_k_dense_replace=0,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        values[name] = r.ids(name)
    return values | r.rope(partial=r.raw["model_type"].startswith("minimax"))


# ---- one reader a family: what differs -----------------------------------------------------------------------------------


def _llama(r: Reader, values: Values) -> Values:
    bias = r.take("attention_bias", False)
    return dict(qkv_bias=bias, o_bias=bias, mlp_bias=r.take("mlp_bias", False))


def _qwen2(r: Reader, values: Values) -> Values:
    return dict(qkv_bias=True, **_windows(r, values, lambda i, first: i >= first))


def _qwen3(r: Reader, values: Values) -> Values:
    bias = r.take("attention_bias", False)
    return dict(qkv_bias=bias, o_bias=bias, qk_norm="head", **_windows(r, values, lambda i, first: i >= first))


def _qwen2_moe(r: Reader, values: Values) -> Values:
    shared = r.take("shared_expert_intermediate_size")
    windows = _windows(r, values, lambda i, first: bool((i + 1) % 2) and i < first)
    return dict(
        qkv_bias=r.take("qkv_bias"), shared_expert_intermediate_size=shared, shared_expert_gate=True, **windows, **_qwen_moe(r)
    )


def _qwen3_moe(r: Reader, values: Values) -> Values:
    bias, layers = r.take("attention_bias", False), values["num_hidden_layers"]
    r.used.add("max_window_layers")  # transformers has no such key here, published files carry it
    use, window = r.take("use_sliding_window", False), r.take("sliding_window")
    windows = {} if not use else dict(sliding_window=window, layer_types=("sliding_attention",) * layers)
    return dict(qkv_bias=bias, o_bias=bias, qk_norm="head", **windows, **_qwen_moe(r))


def _windows(r: Reader, values: Values, slides: Callable[[int, int], bool]) -> Values:
    """Sliding layers of Qwen: named one by one, or those that ``slides`` picks among them where the window is switched on."""
    use, window, first = r.take("use_sliding_window", False), r.take("sliding_window"), r.take("max_window_layers")
    types = r.take("layer_types")
    if types is None:
        types = [
            "sliding_attention" if use and slides(i, first) else "full_attention" for i in range(values["num_hidden_layers"])
        ]
    if not use or "sliding_attention" not in types:
        if "sliding_attention" in types:
            r.bad.append("layer_types has sliding_attention but use_sliding_window is false")
        return {}
    return dict(sliding_window=window, layer_types=tuple(types))


def _qwen_moe(r: Reader) -> Values:
    step, dense = r.take("decoder_sparse_step"), set(r.take("mlp_only_layers", []))
    experts, layers = r.take("num_local_experts", r.take("num_experts")), r.need("num_hidden_layers")
    moe = tuple(i for i in range(layers) if i not in dense and experts > 0 and (i + 1) % step == 0)
    return dict(
        moe_intermediate_size=r.need("moe_intermediate_size"),
        n_routed_experts=experts,
        num_experts_per_tok=r.take("num_experts_per_tok"),
        norm_topk_prob=r.take("norm_topk_prob"),
        moe_layers=None if len(moe) == layers else moe,
        scoring_func="softmax",
        topk_method="greedy",
        router_float32=False,
    )


def _ernie(r: Reader, values: Values) -> Values:
    bias = r.take("use_bias", False)
    return dict(qkv_bias=bias, o_bias=bias, mlp_bias=bias, rope_interleave=True)


def _ernie_moe(r: Reader, values: Values) -> Values:
    start, end, every = (r.take(f"moe_layer_{name}") for name in ("start_index", "end_index", "interval"))
    layers = values["num_hidden_layers"]
    end = layers - 1 if end == -1 else end
    moe = tuple(i for i in range(layers) if (i + 1) % every == 0 and start <= i <= end)
    return dict(
        _ernie(r, values),
        head_bias=r.take("use_bias", False),
        moe_intermediate_size=r.take("moe_intermediate_size"),
        n_routed_experts=r.take("num_experts", r.take("moe_num_experts")),
        num_experts_per_tok=r.take("num_experts_per_tok", r.take("moe_k")),
        n_shared_experts=r.take("moe_num_shared_experts"),
        moe_layers=None if len(moe) == layers else moe,
        scoring_func="softmax",
        topk_method="bias",
        norm_topk_prob=True,
        router_norm_min=r.take("moe_norm_min"),
    )


def _minimax_m2(r: Reader, values: Values) -> Values:
    rotary = r.take("rotary_dim")
    if rotary is not None:
        values["partial_rotary_factor"] = rotary / values["head_dim"]
    r.fixed("scoring_func", "sigmoid")
    r.fixed("use_qk_norm", True)
    r.fixed("qk_norm_type", "per_layer")
    r.fixed("use_routing_bias", True)
    r.fixed("shared_intermediate_size", 0, None)
    r.used |= {"use_mtp", "num_mtp_modules", "mtp_transformer_layers"}  # transformers drops these layers, and so do we
    for kind in ("full_attention", "linear_attention", "mlp"):  # MiniMax-Text-01 scaled its residuals; M2 does not
        for end in ("alpha", "beta"):
            r.fixed(f"layernorm_{kind}_{end}", 1, None)
    if any(kind != 1 for kind in r.take("attn_type_list", [])):
        r.bad.append("attn_type_list holds layers other than 1 (full attention), which this family does not have")
    return local_experts(r, values) | dict(qk_norm="full", scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True)


def local_experts(r: Reader, values: Values) -> Values:
    """Experts as wide as ``intermediate_size`` in every layer, routed in the model's own dtype."""
    return dict(
        moe_intermediate_size=values["intermediate_size"],
        n_routed_experts=r.take("num_experts", r.take("num_local_experts")),
        num_experts_per_tok=r.take("num_experts_per_tok"),
        router_float32=False,
    )


def _gpt_oss(r: Reader, values: Values) -> Values:
    layers, bias = values["num_hidden_layers"], r.take("attention_bias")
    types = r.take("layer_types") or ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    r.fixed("experts_per_token", r.raw.get("num_experts_per_tok"), None)
    r.fixed("initial_context_length", 4096, None)
    return local_experts(r, values) | dict(
        qkv_bias=bias,
        o_bias=bias,
        attention_sinks=True,
        sliding_window=r.take("sliding_window"),
        layer_types=tuple(types),
        scoring_func="softmax",
        topk_method="topk_first",
        router_bias=True,
        expert_bias=True,
        swiglu_alpha=r.take("swiglu_alpha"),
        swiglu_limit=r.take("swiglu_limit"),
    )


_READERS: dict[str, Callable[[Reader, Values], Values]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "qwen2_moe": _qwen2_moe, "qwen3_moe": _qwen3_moe, "ernie4_5": _ernie,
    "ernie4_5_moe": _ernie_moe, "minimax_m2": _minimax_m2, "gpt_oss": _gpt_oss,
}  # fmt: skip


# ---- the way back --------------------------------------------------------------------------------------------------------


def write(config: ModelConfig) -> Values:
    """``config.json`` of the config's family."""
    return write_common(config) | _WRITERS[config.model_type](config)


def write_common(config: ModelConfig) -> Values:
    """What all these families write."""
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings rms_norm_eps tie_word_embeddings initializer_range"
    )
    out = {name: getattr(config, name) for name in names.split()}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        out[name] = list(value) if isinstance(value, tuple) else value
    out |= write_rope(config)
    if config.rotary_dim is not None and config.rotary_dim != config.head_dim:
        share = config.rotary_dim / config.head_dim
        out["rope_parameters"] = {
            "rope_type": "default", **(out.pop("rope_scaling") or {}), "rope_theta": config.rope_theta,
            "partial_rotary_factor": share,
        }  # fmt: skip
        out["partial_rotary_factor"] = share
        out["rope_parameters"].pop("type", None)
    out |= {"hidden_act": "silu", "attention_dropout": 0.0}
    return out


def _write_llama(config: ModelConfig) -> Values:
    return dict(attention_bias=config.qkv_bias, mlp_bias=config.mlp_bias)


def _write_windows(config: ModelConfig) -> Values:
    out: Values = {"use_sliding_window": config.sliding_window is not None, "sliding_window": config.sliding_window}
    if config.layer_types is not None:
        out["layer_types"] = list(config.layer_types)
    return out


def _write_qwen3(config: ModelConfig) -> Values:
    return dict(_write_windows(config), attention_bias=config.qkv_bias)


def _write_qwen_moe(config: ModelConfig) -> Values:
    out = dict(
        _write_windows(config), moe_intermediate_size=config.moe_intermediate_size, num_experts=config.n_routed_experts,
        num_experts_per_tok=config.num_experts_per_tok, norm_topk_prob=config.norm_topk_prob, decoder_sparse_step=1,
        mlp_only_layers=[i for i in range(config.num_hidden_layers) if not config.is_moe(i)],
    )  # fmt: skip
    if config.model_type == "qwen3_moe":
        out.pop("layer_types", None)
        return dict(out, attention_bias=config.qkv_bias)
    return dict(out, qkv_bias=config.qkv_bias, shared_expert_intermediate_size=config.shared_expert_intermediate_size)


def _write_ernie(config: ModelConfig) -> Values:
    return dict(use_bias=config.mlp_bias)


def _write_ernie_moe(config: ModelConfig) -> Values:
    moe = [i for i in range(config.num_hidden_layers) if config.is_moe(i)]
    every = 1 if len(moe) < 2 else moe[1] - moe[0]
    if len(moe) == 1:  # one layer alone: an interval that hits it
        every = moe[0] + 1
    regular = [i for i in range(config.num_hidden_layers) if moe and (i + 1) % every == 0 and moe[0] <= i <= moe[-1]]
    if moe != regular:
        raise ConfigError(f"ernie4_5_moe spaces its expert layers evenly; layers {moe} cannot be written in its config.json")
    return dict(
        use_bias=config.mlp_bias, moe_intermediate_size=config.moe_intermediate_size, moe_k=config.num_experts_per_tok,
        moe_num_experts=config.n_routed_experts, moe_num_shared_experts=config.n_shared_experts, moe_layer_interval=every,
        moe_layer_start_index=moe[0] if moe else config.num_hidden_layers, moe_layer_end_index=moe[-1] if moe else 0,
        moe_norm_min=config.router_norm_min,
    )  # fmt: skip


def _write_minimax_m2(config: ModelConfig) -> Values:
    out: Values = dict(num_local_experts=config.n_routed_experts, num_experts_per_tok=config.num_experts_per_tok)
    return out if config.rotary_dim is None else dict(out, rotary_dim=config.rotary_dim)


def _write_gpt_oss(config: ModelConfig) -> Values:
    types = ["full_attention"] * config.num_hidden_layers if config.layer_types is None else list(config.layer_types)
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}}  # absent would mean YaRN here
    return dict(
        plain if config.rope_scaling is None else {},
        attention_bias=config.qkv_bias, sliding_window=config.sliding_window, layer_types=types,
        num_local_experts=config.n_routed_experts, num_experts_per_tok=config.num_experts_per_tok,
        swiglu_alpha=config.swiglu_alpha, swiglu_limit=config.swiglu_limit,
    )  # fmt: skip


_WRITERS: dict[str, Callable[[ModelConfig], Values]] = {
    "llama": _write_llama, "qwen2": _write_windows, "qwen3": _write_qwen3, "qwen2_moe": _write_qwen_moe,
    "qwen3_moe": _write_qwen_moe, "ernie4_5": _write_ernie, "ernie4_5_moe": _write_ernie_moe, "minimax_m2": _write_minimax_m2,
    "gpt_oss": _write_gpt_oss,
}  # fmt: skip
