"""Names of DeepSeek-V4's tensors: in memory as transformers' modules, on disk as DeepSeek publishes them.

transformers saves the same names with ``model.`` before some and ``attn.norm`` for ``attn.kv_norm``; ``published`` undoes both.
"""

import re

_RULES = (  # (in memory, on disk), in this order
    (r"\.self_attn\.compressor\.indexer\.scorer\.weights_proj\.", ".attn.indexer.weights_proj."),
    (r"\.self_attn\.compressor\.indexer\.q_b_proj\.", ".attn.indexer.wq_b."),
    (r"\.self_attn\.compressor\.indexer\.", ".attn.indexer.compressor."),
    (r"\.self_attn\.", ".attn."),
    (r"\.compressor\.position_bias$", ".compressor.ape"),
    (r"\.compressor\.kv_norm\.", ".compressor.norm."),
    (r"\.compressor\.kv_proj\.", ".compressor.wkv."),
    (r"\.compressor\.gate_proj\.", ".compressor.wgate."),
    (r"\.attn\.q_a_proj\.", ".attn.wq_a."),
    (r"\.attn\.q_b_proj\.", ".attn.wq_b."),
    (r"\.attn\.q_a_norm\.", ".attn.q_norm."),
    (r"\.attn\.kv_proj\.", ".attn.wkv."),
    (r"\.attn\.o_a_proj\.", ".attn.wo_a."),
    (r"\.attn\.o_b_proj\.", ".attn.wo_b."),
    (r"\.attn\.sinks$", ".attn.attn_sink"),
    (r"\.mlp\.gate\.e_score_correction_bias$", ".mlp.gate.bias"),
    (r"\.shared_experts\.gate_proj\.", ".shared_experts.w1."),
    (r"\.shared_experts\.down_proj\.", ".shared_experts.w2."),
    (r"\.shared_experts\.up_proj\.", ".shared_experts.w3."),
    (r"\.mlp\.", ".ffn."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"),
    (r"^(|.*\.)hc_head\.hc_(fn|base|scale)$", r"\1hc_head_\2"),
    (r"^embed_tokens\.", "embed."),
    (r"^lm_head\.", "head."),
)


def disk_name(target: str, layers: int) -> str:
    """The published name of an in-memory tensor; MTP layers stand behind the ``layers`` main ones."""
    name = target.removeprefix("model.")
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    match = re.match(r"layers\.(\d+)\.", name)
    if match and int(match[1]) >= layers:
        name = f"mtp.{int(match[1]) - layers}.{name[match.end() :]}"
    return name


def published(name: str) -> str:
    """The published spelling of a name on disk, whoever wrote it."""
    name = name.removeprefix("model.").replace(".attn.norm.", ".attn.kv_norm.")
    name = re.sub(r"^hc_head\.hc_", "hc_head_", name)
    return re.sub(r"^lm_head\.", "head.", re.sub(r"^embed_tokens\.", "embed.", name))
