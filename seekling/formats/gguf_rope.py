"""The rotary embedding's keys of a ``config.json`` from a GGUF file, and llama3's per-frequency factors in both directions.

llama.cpp stores llama3's context extension as finished factors, one a frequency (``rope_freqs.weight``).  The three numbers
behind them are found again from the factors; where the factors have another form they are kept as they are, as longrope.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from seekling.formats.gguf_header import GGUFTensor

if TYPE_CHECKING:
    from seekling.formats.gguf_config import Metadata

TRUNCATE = "seekling.rope.truncate"  # whether YaRN's limits are rounded to whole frequencies


def rope_keys(
    meta: "Metadata", tensors: Mapping[str, GGUFTensor], floats: Callable[[str], np.ndarray], raw: Mapping[str, Any]
) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` as Hugging Face writes them; problems are noted in ``meta``."""
    theta = meta.get("rope.freq_base", 10000.0, float)
    if not 1 <= theta <= 1e12:
        meta.problems.append(f"{meta.arch}.rope.freq_base {theta} is no base of rotary frequencies")
        theta = 10000.0
    width = raw.get("qk_rope_head_dim") or raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    if meta.get("rope.dimension_count", width) != width and raw["model_type"] not in ("minimax", "minimax_m2"):
        meta.problems.append(f"{meta.arch}.rope.dimension_count is not the width of a head ({width})")
    keys: dict[str, Any] = {"rope_theta": theta}
    factor = meta.get("rope.scaling.factor", meta.get("rope.scale_linear", None, float), float)
    kind = meta.get("rope.scaling.type", "linear" if factor else "none", str)
    original = meta.get("rope.scaling.original_context_length", None)
    alone = meta.get("rope.scaling.attn_factor", 1.0, float)
    if kind == "none" or (kind == "linear" and factor in (None, 0.0, 1.0)):
        scaling = None
    elif kind == "linear":
        scaling = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        scaling = _yarn(meta, factor, original, raw)
    elif kind == "longrope":
        scaling = _longrope(meta, tensors, floats, original, alone, raw)
        alone = 1.0
    else:
        meta.problems.append(f"{meta.arch}.rope.scaling.type {kind!r} is not supported")
        scaling = None
    if alone != 1.0:
        meta.problems.append(f"{meta.arch}.rope.scaling.attn_factor {alone} is not supported")
    if "rope_freqs.weight" in tensors and kind != "longrope":
        factors = floats("rope_freqs.weight").reshape(-1).astype(np.float64)
        if len(factors) != width // 2 or not np.isfinite(factors).all() or (factors <= 0).any():
            meta.problems.append(f"rope_freqs.weight is no list of {width // 2} positive factors")
        elif (factors != 1).any():
            if scaling is not None:
                meta.problems.append(f"rope_freqs.weight beside {meta.arch}.rope.scaling.type {kind!r} is not supported")
            scaling = _from_factors(factors, theta, raw["max_position_embeddings"])
    if scaling is not None:
        keys["rope_scaling"] = scaling
    elif raw["model_type"] == "gpt_oss":  # absent would mean YaRN in its config.json
        keys["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    return keys


def _yarn(meta: "Metadata", factor: float | None, original: int | None, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    if not factor or not original:
        meta.problems.append(f"{meta.arch}.rope.scaling of type yarn needs factor and original_context_length")
        return None
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    for key, name in (("beta_fast", "beta_fast"), ("beta_slow", "beta_slow"), ("attn_factor", "attention_factor")):
        value = meta.get(f"rope.scaling.yarn_{key}", None, float)
        if value is not None:
            scaling[name] = value
    if meta.get("rope.scaling.yarn_ext_factor", 1.0, float) not in (1.0, -1.0):
        meta.problems.append(f"{meta.arch}.rope.scaling.yarn_ext_factor other than 1 is not supported")
    multiplier = meta.get("rope.scaling.yarn_log_multiplier", None, float)
    if multiplier:
        if raw["model_type"].startswith("deepseek"):  # stored as a tenth of mscale_all_dim; mscale is taken to be the same
            scaling["mscale"] = scaling["mscale_all_dim"] = round(multiplier * 10, 6)
        else:
            meta.problems.append(f"{meta.arch}.rope.scaling.yarn_log_multiplier is not supported for this architecture")
    # llama.cpp has no key for it; without our own, what was published with every gpt-oss
    if not meta.metadata.get(TRUNCATE, raw["model_type"] != "gpt_oss"):
        scaling["truncate"] = False
    return scaling


def _longrope(
    meta: "Metadata",
    tensors: Mapping[str, GGUFTensor],
    floats: Callable[[str], np.ndarray],
    original: int | None,
    attention_factor: float,
    raw: Mapping[str, Any],
) -> dict[str, Any] | None:
    names = ("rope_factors_long.weight", "rope_factors_short.weight")
    if any(name not in tensors for name in names):
        meta.problems.append(f"{meta.arch}.rope.scaling.type is longrope but {' or '.join(names)} is missing")
        return None
    long, short = ([float(f) for f in floats(name).reshape(-1)] for name in names)
    return {
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": original or raw["max_position_embeddings"],
        "attention_factor": attention_factor,
    }


def llama3_factors(width: int, theta: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """What each of the width/2 frequencies is divided by (Llama 3.1, ``rope_type`` llama3): float64."""
    wave = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    low, high, factor = (float(scaling[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    context = float(scaling["original_max_position_embeddings"])
    smooth = np.clip((context / wave - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _from_factors(factors: np.ndarray, theta: float, context: int) -> dict[str, Any]:
    """The llama3 numbers that give these factors, else the factors themselves."""
    width, factor = 2 * len(factors), float(factors.max())
    wave = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    guesses = [(1.0, 4.0, 8192.0)]
    between = (factors > 1 + 1e-5) & (factors < factor * (1 - 1e-5))
    if between.sum() >= 2:  # smooth is linear in 1/wave: slope context/(high-low), intercept -low/(high-low)
        smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
        slope, intercept = np.polyfit(1 / wave[between], smooth, 1)
        if slope > 0 and intercept < 0:
            # only context/low and context/high matter: fix low at 1, as published, and round what float32 blurred
            high, original = 1 - 1 / intercept, -slope / intercept
            guesses.append((1.0, round(high, 3), float(round(original))))
            guesses.append((1.0, float(high), float(original)))
    for low, high, original in guesses:
        scaling = {
            "rope_type": "llama3",
            "factor": float(np.float32(factor)),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": int(original) if original == int(original) else original,
        }
        if np.allclose(llama3_factors(width, theta, scaling), factors, rtol=2e-6, atol=0):
            return scaling
    values = [float(f) for f in factors]
    return {
        "rope_type": "longrope",
        "long_factor": values,
        "short_factor": values,
        "original_max_position_embeddings": context,
        "attention_factor": 1.0,
    }
