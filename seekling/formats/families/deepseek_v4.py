"""DeepSeek-V4 (Flash, Pro): keys of the published ``config.json`` and of transformers' ``DeepseekV4Config``, and its defaults.

Published files say ``compress_ratios``, ``num_hash_layers``, ``qk_rope_head_dim`` and a flat ``rope_scaling``; transformers
writes ``layer_types``, ``mlp_layer_types``, ``partial_rotary_factor`` and two objects inside ``rope_parameters``.  Both are
read, and both are written where the published form can say it.
"""

import math
from collections.abc import Mapping
from typing import Any

from seekling.errors import ConfigError
from seekling.formats.families.reader import Reader, read_rope_scaling, write_rope
from seekling.model.config import ModelConfig, RopeScaling
from seekling.model.v4.config import CSA, HCA, SLIDING, V4Config

Values = dict[str, Any]

DEFAULTS: Values = dict(
    vocab_size=129280, hidden_size=4096, moe_intermediate_size=2048, num_hidden_layers=43, num_attention_heads=64, head_dim=512,
    q_lora_rank=1024, num_experts_per_tok=6, n_routed_experts=256, n_shared_experts=1, scoring_func="sqrtsoftplus",
    routed_scaling_factor=1.5, max_position_embeddings=1048576, rope_theta=10000.0, compress_rope_theta=160000.0, hc_mult=4,
    hc_sinkhorn_iters=20, hc_eps=1e-6, swiglu_limit=10.0, sliding_window=128, o_groups=8, o_lora_rank=1024, index_n_heads=64,
    index_head_dim=128, index_topk=512, num_nextn_predict_layers=1, initializer_range=0.02, rms_norm_eps=1e-6,
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
_SAME = (
    "vocab_size hidden_size moe_intermediate_size num_hidden_layers num_attention_heads head_dim q_lora_rank sliding_window "
    "num_experts_per_tok n_routed_experts n_shared_experts scoring_func routed_scaling_factor max_position_embeddings "
    "swiglu_limit num_nextn_predict_layers initializer_range rms_norm_eps tie_word_embeddings"
).split()
_SAME_V4 = "hc_mult hc_sinkhorn_iters hc_eps o_groups o_lora_rank index_n_heads index_head_dim index_topk".split()
_KINDS = {0: SLIDING, 4: CSA, 128: HCA}
_HASH, _SCORED = "hash_moe", "moe"
_ROTATED = 64 / 512  # of head_dim, where no key says it


def read(raw: Values) -> ModelConfig:
    """Raises ConfigError with every unknown key, unsupported value and contradiction."""
    raw = dict(raw)
    for key, old in (("n_routed_experts", "num_local_experts"), ("moe_intermediate_size", "intermediate_size")):
        if key not in raw and old in raw:
            raw[key] = raw.pop(old)
    r = Reader(raw, DEFAULTS)
    r.fixed("intermediate_size", raw.get("moe_intermediate_size"))
    r.fixed("num_local_experts", raw.get("n_routed_experts"))
    for key, *allowed in (
        ("num_key_value_heads", 1), ("attention_bias", False), ("mlp_bias", False), ("norm_topk_prob", True),
        ("hidden_act", "silu"), ("topk_method", "noaux_tc"), ("attention_dropout", 0.0, 0, None),
        ("expert_dtype", None, "bf16", "fp8", "fp4"),
    ):  # fmt: skip
        r.fixed(str(key), *allowed)
    values: Values = {name: r.take(name) for name in _SAME}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        values[name] = r.ids(name)
    values |= dict(
        model_type="deepseek_v4", attention="v4", intermediate_size=values["moe_intermediate_size"], num_key_value_heads=1,
        v_head_dim=values["head_dim"], attention_sinks=True, topk_method="noaux_tc", norm_topk_prob=True, router_float32=False,
    )  # fmt: skip
    inner: Values = {name: r.take(name) for name in _SAME_V4}
    rates = r.take("compress_rates") or {}
    inner["compress_rate_csa"] = r.take("compress_rate_csa", rates.get(CSA, 4))
    inner["compress_rate_hca"] = r.take("compress_rate_hca", rates.get(HCA, 128))
    r.bad += [f"compress_rates names {key!r}; only {CSA} and {HCA} compress" for key in rates if key not in (CSA, HCA)]
    values["layer_types"] = _layer_types(r, values["num_hidden_layers"])
    inner["hash_layers"] = _hash_layers(r, values["num_hidden_layers"])
    _rope(r, values, inner)
    r.finish()
    try:
        return ModelConfig(**values, v4=V4Config(**inner))
    except TypeError as error:
        raise ConfigError(f"config.json: {error}") from None


def _layer_types(r: Reader, layers: int) -> tuple[str, ...] | None:
    """Named one by one, or by their ratios (MTP layers behind), or V4-Pro's pattern."""
    types, ratios = r.take("layer_types"), r.take("compress_ratios")
    if types is None and ratios is not None:
        odd = sorted({ratio for ratio in ratios if ratio not in _KINDS}, key=str)
        r.bad += [f"compress_ratios holds {ratio!r}; only 0, 4 and 128 have a meaning" for ratio in odd]
        if len(ratios) < layers:
            r.bad.append(f"compress_ratios names {len(ratios)} layers, num_hidden_layers says {layers}")
        types = [_KINDS.get(ratio, SLIDING) for ratio in ratios[:layers]]
    if types is None:
        types = [HCA] * min(layers, 2) + [CSA if i % 2 else HCA for i in range(max(layers - 2, 0))]
    return tuple(types)


def _hash_layers(r: Reader, layers: int) -> tuple[int, ...]:
    types, count = r.take("mlp_layer_types"), r.take("num_hash_layers", 3)
    if types is None:
        return tuple(range(min(layers, count)))
    r.bad += [f"mlp_layer_types holds {t!r}; known are {_HASH}, {_SCORED}" for t in sorted(set(types) - {_HASH, _SCORED})]
    if len(types) != layers:
        r.bad.append(f"mlp_layer_types names {len(types)} layers, num_hidden_layers says {layers}")
    return tuple(i for i, t in enumerate(types) if t == _HASH)


def _rope(r: Reader, values: Values, inner: Values) -> None:
    """Bases, scaling and rotated channels; the reference code multiplies no cos or sin, hence the attention factor of 1."""
    theta, compress_theta = r.take("rope_theta"), r.take("compress_rope_theta")
    head, rotated, share = values["head_dim"], r.take("qk_rope_head_dim"), r.take("partial_rotary_factor")
    if share is None:
        share = _ROTATED if rotated is None or not head else rotated / head
    flat = theta, compress_theta, share

    def meaning(raw: Mapping[str, Any]) -> tuple[float, float, int, RopeScaling | None, list[str]]:
        (theta, compress_theta, share), bad = flat, []
        main, compress = raw.get("main"), raw.get("compress")
        if isinstance(main, dict) and isinstance(compress, dict):
            theta, compress_theta = main.get("rope_theta", theta), compress.get("rope_theta", compress_theta)
            share = main.get("partial_rotary_factor", 1.0)
            if compress.get("partial_rotary_factor", 1.0) != share:
                bad.append("rope_parameters: main and compress must rotate the same channels (partial_rotary_factor)")
            if read_rope_scaling(main)[0] is not None:
                bad.append("rope_parameters: scaling of main is not supported, only of compress")
        else:
            compress = {k: v for k, v in raw.items() if k not in ("main", "compress")}
            if compress.get("rope_type", compress.get("type")) == "yarn":
                compress.setdefault("attention_factor", 1.0)
        scaling, more = read_rope_scaling(compress, values["max_position_embeddings"])
        return float(theta), float(compress_theta), int(head * share), scaling, bad + more

    values["rope_theta"], inner["compress_rope_theta"], rotated, values["rope_scaling"], bad = r.one_rope(meaning)
    r.bad += bad
    values["qk_rope_head_dim"], values["qk_nope_head_dim"] = rotated, max(1, head - rotated)


def write(config: ModelConfig) -> Values:
    """``config.json`` with transformers' keys and, where they can say the same, the published ones."""
    v4 = config.v4
    if v4 is None or config.layer_types is None:
        raise ConfigError("a deepseek_v4 config needs its v4 part and layer_types")
    out: Values = {name: getattr(config, name) for name in _SAME} | {name: getattr(v4, name) for name in _SAME_V4}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        out[name] = list(value) if isinstance(value, tuple) else value
    layers = range(config.num_hidden_layers)
    out |= dict(
        num_key_value_heads=1, topk_method="noaux_tc", norm_topk_prob=True, hidden_act="silu", attention_bias=False,
        attention_dropout=0.0, compress_rates={CSA: v4.compress_rate_csa, HCA: v4.compress_rate_hca},
        layer_types=list(config.layer_types), mlp_layer_types=[_HASH if i in v4.hash_layers else _SCORED for i in layers],
        rope_theta=config.rope_theta, compress_rope_theta=v4.compress_rope_theta, qk_rope_head_dim=config.qk_rope_head_dim,
        partial_rotary_factor=_share(config.qk_rope_head_dim, config.head_dim),
    )  # fmt: skip
    if (v4.compress_rate_csa, v4.compress_rate_hca) == (4, 128):
        ratios = {kind: ratio for ratio, kind in _KINDS.items()}
        out["compress_ratios"] = [ratios[kind] for kind in config.layer_types] + [0] * config.num_nextn_predict_layers
    if v4.hash_layers == tuple(range(len(v4.hash_layers))):
        out["num_hash_layers"] = len(v4.hash_layers)
    return out | _write_rope(config, v4)


def _share(part: int, whole: int) -> float:
    """The fraction whose product with ``whole`` is cut down to ``part`` again."""
    share = part / whole
    return share if int(whole * share) == part else math.nextafter(share, 2.0)


def _write_rope(config: ModelConfig, v4: V4Config) -> Values:
    scaling: RopeScaling | None = config.rope_scaling
    flat = write_rope(config)["rope_scaling"]
    if scaling is None or scaling.rope_type != "yarn" or scaling.attention_factor == 1.0:
        return {"rope_scaling": flat}
    share = {"partial_rotary_factor": _share(config.qk_rope_head_dim, config.head_dim)}
    flat.pop("type")
    return {
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": config.rope_theta, **share},
            "compress": {**flat, "rope_theta": v4.compress_rope_theta, **share},
        }
    }
