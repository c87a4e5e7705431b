"""MiniMax-Text-01 and MiniMax-M1: lightning attention in most layers, grouped-query attention in the rest, experts in all.

Keys and defaults: transformers' ``MiniMaxConfig`` (``minimax``).  The folders that MiniMax published itself say the same with
other keys (``minimax_text_01``, ``minimax_m1``); they are read too and written back as ``minimax``.
"""

import warnings
from typing import Any

from seekling.errors import ConfigError, raise_all
from seekling.formats.families import gqa
from seekling.formats.families.reader import Reader
from seekling.model.config import ModelConfig, NormResidual

Values = dict[str, Any]

PUBLISHED = ("minimax_text_01", "minimax_m1")
DEFAULTS: Values = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=4096 * 32, rms_norm_eps=1e-5, num_experts_per_tok=2, num_local_experts=8,
    block_size=256, bos_token_id=1, eos_token_id=2, rope_theta=1000000.0,
)  # fmt: skip
# transformers' key, MiniMax's own key, our field of NormResidual
FACTORS = [
    (f"{ours}_{end}_factor", f"layernorm_{theirs}_{end}", f"{field}_{end}")
    for ours, theirs, field in (
        ("full_attn", "full_attention", "full"),
        ("linear_attn", "linear_attention", "linear"),
        ("mlp", "mlp", "mlp"),
    )
    for end in ("alpha", "beta")
]


def read(raw: Values) -> ModelConfig:
    """Raises ConfigError with every unknown key, unsupported value and contradiction."""
    r = Reader(raw, DEFAULTS)
    values = gqa.common(r)
    raise_all(ConfigError, r.bad, "config.json")  # nobody has asked for the other keys yet: all would be unknown
    values |= _layers(r, values["num_hidden_layers"]) | _rotated(r, values)
    scales = {field: _either(r, ours, theirs, 1.0) for ours, theirs, field in FACTORS}
    values |= gqa.local_experts(r, values) | dict(
        model_type="minimax",
        attention="gqa",
        norm_residual=NormResidual(**{field: float(value) for field, value in scales.items()}),
        scoring_func="softmax",
        topk_method="greedy",
        norm_topk_prob=True,
    )
    r.fixed("postnorm", True)  # the norm's output is the residual; there is no model of the other form
    r.fixed("shared_intermediate_size", 0, None)
    r.used.add("shared_moe_mode")  # how shared experts would join in, of which there are none
    heads = values["num_attention_heads"]
    if raw["model_type"] in PUBLISHED and isinstance(heads, int) and heads & (heads - 1):
        r.bad.append(f"num_attention_heads {heads} is no power of two: MiniMax's code spaces such heads' decays differently")
    r.finish()
    try:
        return ModelConfig(**values)
    except TypeError as error:
        raise ConfigError(f"config.json: {error}") from None


def _either(r: Reader, key: str, published: str, default: Any) -> Any:
    """A value under transformers' key or MiniMax's own, which must agree."""
    ours, theirs = r.take(key), r.take(published)
    if ours is not None and theirs is not None and ours != theirs:
        r.bad.append(f"{key} is {ours!r} and {published} is {theirs!r}: they name the same thing")
    return next((value for value in (ours, theirs) if value is not None), default)


def _layers(r: Reader, layers: int) -> Values:
    """Which layers are linear, and whether the others slide."""
    published = r.take("attn_type_list")
    if published is not None:
        kinds = {0: "linear_attention", 1: "full_attention"}
        r.raw["attn_type_list"] = [kinds.get(kind, kind) for kind in published]
    every_other = ["linear_attention" if i % 2 else "full_attention" for i in range(layers)]
    types = _either(r, "layer_types", "attn_type_list", every_other)
    r.bad += [f"layer_types holds {t!r}; minimax knows full_attention and linear_attention"
              for t in dict.fromkeys(types) if t not in ("full_attention", "linear_attention")]  # fmt: skip
    window = r.take("sliding_window")
    if window is not None:  # all layers that are not linear have it
        types = ["sliding_attention" if t == "full_attention" else t for t in types]
    return dict(
        layer_types=tuple(types), sliding_window=window if "sliding_attention" in types else None,
        linear_block=r.take("block_size"),
    )  # fmt: skip


def _rotated(r: Reader, values: Values) -> Values:
    """MiniMax rotates the first ``rotary_dim`` channels of a head.  transformers knows no such key in this family and rotates
    them all; the weights were trained with the key, so it decides."""
    share = values.pop("partial_rotary_factor")
    rotary = r.take("rotary_dim", int(values["head_dim"] * share))
    if rotary == values["head_dim"]:
        return {}
    warnings.warn(
        f"rotary_dim is {rotary} of {values['head_dim']} channels: rotated so, as the published models were trained, "
        "while transformers' MiniMaxForCausalLM passes over the key and rotates all of them",
        stacklevel=5,
    )
    return {"rotary_dim": rotary}


def write(config: ModelConfig) -> Values:
    """``config.json`` as transformers reads it."""
    types, residual = config.layer_types or ("full_attention",) * config.num_hidden_layers, config.norm_residual
    if residual is None:
        raise ConfigError("minimax adds to the output of its norms: norm_residual must be set")
    out = gqa.write_common(config) | dict(
        block_size=config.linear_block, sliding_window=config.sliding_window, num_local_experts=config.n_routed_experts,
        layer_types=["full_attention" if t == "sliding_attention" else t for t in types],
        num_experts_per_tok=config.num_experts_per_tok,
    )  # fmt: skip
    out |= {ours: getattr(residual, field) for ours, _, field in FACTORS}
    return out if config.rotary_dim is None else dict(out, rotary_dim=config.rotary_dim)
