"""How many parameters and cached numbers a DeepSeek-V4 has; used by ``ModelConfig``."""

import math
from typing import Any

from seekling.model.v4.config import CSA, SLIDING


def kind_of(config: Any, layer: int) -> str:
    """The attention of a layer; MTP layers slide."""
    return config.layer_types[layer] if layer < config.num_hidden_layers else SLIDING


def attention_parameters(config: Any, layer: int) -> int:
    """Weights of one attention block with its compressor and indexer."""
    v4, d, c, h, q = config.v4, config.hidden_size, config.head_dim, config.num_attention_heads, config.q_lora_rank
    n = d * q + q + q * h * c + d * c + c + h
    n += h * c * v4.o_lora_rank + v4.o_groups * v4.o_lora_rank * d
    kind = kind_of(config, layer)
    if kind == SLIDING:
        return n
    if kind == CSA:
        n += _compressor(d, v4.index_head_dim, 2, v4.rate(kind))
        n += q * v4.index_n_heads * v4.index_head_dim + d * v4.index_n_heads
    return n + _compressor(d, c, 2 if kind == CSA else 1, v4.rate(kind))


def _compressor(hidden: int, width: int, series: int, rate: int) -> int:
    return 2 * hidden * series * width + rate * series * width + width


def hyper_connections(config: Any) -> int:
    """Weights of the two stream mixers of a layer."""
    n = config.v4.hc_mult
    return 2 * ((2 + n) * n * (n * config.hidden_size + 1) + 3)


def hyper_head(config: Any) -> int:
    """Weights of the mixer that joins the streams before the final norm."""
    n = config.v4.hc_mult
    return n * (n * config.hidden_size + 1) + 1


def kv_elements_per_token(config: Any) -> int:
    """Cached numbers a token adds over all layers, rounded up: entries of the compressed layers (V4 §2.3).

    A row holds besides a fixed state: its window and the blocks that are not closed yet.
    """
    v4, total = config.v4, 0.0
    for layer in range(config.num_hidden_layers):
        kind = kind_of(config, layer)
        if kind != SLIDING:
            total += (config.head_dim + (v4.index_head_dim if kind == CSA else 0)) / v4.rate(kind)
    return max(1, math.ceil(total))
