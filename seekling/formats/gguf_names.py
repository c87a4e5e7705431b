"""Names: how the tensors of a GGUF file are called in a Hugging Face checkpoint of the same family, and what was done to them.

llama.cpp stacks experts, splits MLA's ``kv_b_proj`` into its two halves, reorders query and key rows of the ``llama``
architecture (its rotation pairs neighbours, Hugging Face's pairs halves) and takes gpt-oss' interleaved experts apart.  A
`Part` says which rows of which stored tensor a Hugging Face tensor is; a `Made` one has to be computed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seekling.formats.gguf_header import GGUFTensor

# Shape suffixes: H heads, N nope width, V value width, L latent width, E experts, M expert width, D model width.


@dataclass(frozen=True)
class Part:
    """A Hugging Face tensor that is stored as it is, up to the order of its rows.

    Attributes:
        tensor: its name in the file.
        shape: as Hugging Face has it.
        expert: index into a stacked tensor.
        rows: (first, last) rows of the stored tensor or of that expert's matrix.
        heads: undo llama.cpp's reordering of query and key rows for so many heads; 0 leaves them.
    """

    tensor: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    heads: int = 0

    def order(self) -> np.ndarray | None:
        """For each row of the Hugging Face tensor, its row in the part; None where they are the same."""
        if not self.heads:
            return None
        return np.arange(self.shape[0]).reshape(self.heads, -1, 2).swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class Made:
    """A Hugging Face tensor that is computed from stored ones, head by head or expert by expert.

    ``make`` gets one item of the first dimension of each of ``tensors`` and returns that item of the result, seen as
    ``(count, *item)``.
    """

    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    item: tuple[int, ...]
    make: Callable[..., Tensor]


Entry = Part | Made

OUTER = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}  # fmt: skip
BIAS = "exp_probs_b.bias"  # the router's correction (V3 §2.1.2)
_GQA = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_MLA = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa", "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "indexer.k_norm": "self_attn.indexer.k_norm", "indexer.proj": "self_attn.indexer.weights_proj",
    "indexer.attn_k": "self_attn.indexer.wk", "indexer.attn_q_b": "self_attn.indexer.wq_b",
    "nextn.eh_proj": "eh_proj", "nextn.enorm": "enorm", "nextn.hnorm": "hnorm", "nextn.embed_tokens": "embed_tokens",
    "nextn.shared_head_head": "shared_head.head", "nextn.shared_head_norm": "shared_head.norm",
}  # fmt: skip
_DENSE = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_ROUTER = {"ffn_gate_inp": "mlp.gate"}
_SHARED = {f"ffn_{kind}_shexp": f"mlp.shared_experts.{kind}_proj" for kind in ("gate", "up", "down")}
_QWEN_SHARED = {
    **{f"ffn_{kind}_shexp": f"mlp.shared_expert.{kind}_proj" for kind in ("gate", "up", "down")},
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}


@dataclass(frozen=True)
class Names:
    """One architecture.

    Attributes:
        layer: name stems below ``blk.N.`` to stems below ``prefix``; both end in ``.weight`` or ``.bias``.
        experts: pattern of an expert's names below ``prefix``, with ``kinds`` for gate, up and down.
        exact: whole names below ``blk.N.`` to whole names below ``prefix``.
        linear: what ``layer`` is in layers with linear attention.
        outer: names outside the layers.
        prefix: what Hugging Face's names of layers begin with.
    """

    layer: Mapping[str, str]
    experts: str = "mlp.experts.{expert}.{kind}_proj.weight"
    kinds: Mapping[str, str] = field(default_factory=lambda: {"gate": "gate", "up": "up", "down": "down"})
    exact: Mapping[str, str] = field(default_factory=lambda: {BIAS: "mlp.gate.e_score_correction_bias"})
    linear: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=lambda: OUTER)
    prefix: str = "model.layers."


_W = {"gate": "w1", "up": "w3", "down": "w2"}
_LIGHTNING = {
    "attn_qkv": "self_attn.qkv_proj", "attn_gate": "self_attn.output_gate", "attn_norm_2": "self_attn.norm",
    "attn_output": "self_attn.out_proj",
}  # fmt: skip
ARCHITECTURES: dict[str, Names] = {
    "llama": Names({**_GQA, **_DENSE}),
    "qwen2": Names({**_GQA, **_DENSE}),
    "qwen3": Names({**_GQA, **_DENSE}),
    "qwen2moe": Names({**_GQA, **_DENSE, **_ROUTER, **_QWEN_SHARED}),
    "qwen3moe": Names({**_GQA, **_DENSE, **_ROUTER}),
    "ernie4_5": Names({**_GQA, **_DENSE}),
    "ernie4_5-moe": Names(
        {**_GQA, **_DENSE, **_ROUTER, **_SHARED}, exact={BIAS: "mlp.moe_statics.e_score_correction_bias"}
    ),
    "deepseek2": Names({**_MLA, **_DENSE, **_ROUTER, **_SHARED}),
    "deepseek32": Names({**_MLA, **_DENSE, **_ROUTER, **_SHARED}),
    "deepseek4": Names(  # under the names DeepSeek publishes
        layer={
            "attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "attn_q_a": "attn.wq_a", "attn_q_a_norm": "attn.q_norm",
            "attn_q_b": "attn.wq_b", "attn_kv": "attn.wkv", "attn_kv_a_norm": "attn.kv_norm", "attn_output_a": "attn.wo_a",
            "attn_output_b": "attn.wo_b", "attn_compressor_kv": "attn.compressor.wkv",
            "attn_compressor_gate": "attn.compressor.wgate", "attn_compressor_norm": "attn.compressor.norm",
            "indexer.attn_q_b": "attn.indexer.wq_b", "indexer.proj": "attn.indexer.weights_proj",
            "indexer_compressor_kv": "attn.indexer.compressor.wkv", "indexer_compressor_gate": "attn.indexer.compressor.wgate",
            "indexer_compressor_norm": "attn.indexer.compressor.norm", "ffn_gate_inp": "ffn.gate",
            "ffn_gate_shexp": "ffn.shared_experts.w1", "ffn_down_shexp": "ffn.shared_experts.w2",
            "ffn_up_shexp": "ffn.shared_experts.w3",
        },
        experts="ffn.experts.{expert}.{kind}.weight",
        kinds={"gate": "w1", "up": "w3", "down": "w2"},
        exact={
            BIAS: "ffn.gate.bias", "attn_sinks.weight": "attn.attn_sink", "attn_compressor_ape.weight": "attn.compressor.ape",
            "indexer_compressor_ape.weight": "attn.indexer.compressor.ape", "ffn_gate_tid2eid.weight": "ffn.gate.tid2eid",
            **{f"hc_{part}_{kind}.weight": f"hc_{part}_{kind}" for part in ("attn", "ffn") for kind in ("fn", "base", "scale")},
        },
        outer={
            "token_embd.weight": "embed.weight", "output_norm.weight": "norm.weight", "output.weight": "head.weight",
            **{f"output_hc_{kind}.weight": f"hc_head_{kind}" for kind in ("fn", "base", "scale")},
        },
        prefix="layers.",
    ),
    "minimax-01": Names(
        {**_GQA, "ffn_gate_inp": "block_sparse_moe.gate"},
        experts="block_sparse_moe.experts.{expert}.{kind}.weight",
        kinds=_W,
        linear=_LIGHTNING,
    ),
    "minimax-m2": Names(
        {**_GQA, "ffn_gate_inp": "block_sparse_moe.gate"},
        experts="block_sparse_moe.experts.{expert}.{kind}.weight",
        kinds=_W,
        exact={BIAS: "block_sparse_moe.e_score_correction_bias"},
    ),
    "gpt-oss": Names(
        {**{k: v for k, v in _GQA.items() if k != "ffn_norm"}, "post_attention_norm": "post_attention_layernorm",
         "ffn_gate_inp": "mlp.router"},
        exact={"attn_sinks.weight": "self_attn.sinks"},
    ),
}  # fmt: skip
# Tensors whose content is in the config (RoPE factors), never weights.
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def entries(arch: str, tensors: Mapping[str, GGUFTensor], raw: Mapping[str, Any]) -> dict[str, Entry]:
    """Every tensor of the file under its Hugging Face name.

    A tensor that is not understood keeps its name, so that whoever fills a model from it reports it as unexpected.

    Args:
        arch: one of ``ARCHITECTURES``.
        tensors: of the file.
        raw: the config from ``gguf_config.raw_config``.
    """
    out: dict[str, Entry] = {}
    outer = ARCHITECTURES[arch].outer
    for name, tensor in tensors.items():
        if name in ROPE_TENSORS:
            continue
        found: dict[str, Entry] | None = None
        layer = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)", name)
        if name in outer:
            found = {outer[name]: Part(name, tensor.shape)}
        elif layer:
            found = _layer(arch, int(layer[1]), layer[2], tensors, raw)
        if found is None or found.keys() & out.keys():  # unknown, or another tensor is that one already
            found = {name: Part(name, tensor.shape)}
        out.update(found)
    return out


def _layer(
    arch: str, layer: int, rest: str, tensors: Mapping[str, GGUFTensor], raw: Mapping[str, Any]
) -> dict[str, Entry] | None:
    """The Hugging Face tensors that come from ``blk.{layer}.{rest}``; None for an unknown one."""
    names = ARCHITECTURES[arch]
    stored, to = f"blk.{layer}.{rest}", f"{names.prefix}{layer}."
    stem, _, end = rest.rpartition(".")
    shape = tensors[stored].shape
    if rest in names.exact:
        return {to + names.exact[rest]: Part(stored, (1, *shape) if rest == BIAS and arch == "ernie4_5-moe" else shape)}
    if end not in ("weight", "bias"):
        return None
    types = raw.get("layer_types") or []
    if stem in names.linear and layer < len(types) and types[layer] == "linear_attention":
        return {f"{to}{names.linear[stem]}.{end}": Part(stored, shape)}
    if stem in ("attn_q", "attn_k") and arch == "llama":
        heads = raw["num_attention_heads" if stem == "attn_q" else "num_key_value_heads"]
        heads = heads if heads > 0 and shape[0] % (2 * heads) == 0 else 0  # a misfit is reported by its shape
        return {f"{to}{names.layer[stem]}.{end}": Part(stored, shape, heads=heads)}
    if stem == "attn_qkv" and "attn_q" in names.layer and arch not in ("deepseek2", "deepseek32"):
        return _fused(to, stored, end, shape, raw, arch)
    if stem == "ffn_gate_inp_shexp" and end == "weight" and stem in names.layer:
        return {f"{to}{names.layer[stem]}.weight": Part(stored, (1, shape[-1]))}
    if stem in ("attn_k_b", "attn_v_b") and "attn_kv_b" in names.layer:
        return _kv_b(to, layer, tensors) if stem == "attn_k_b" else {}
    if stem in names.layer:
        return {f"{to}{names.layer[stem]}.{end}": Part(stored, shape)}
    if arch == "gpt-oss" and stem in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        return _gpt_oss_experts(to, layer, stem, end, tensors)
    if end == "weight" and len(shape) == 3 and "ffn_gate_inp" in names.layer:
        return _experts(to, stored, stem, shape, names)
    return None


def _experts(to: str, stored: str, stem: str, shape: tuple[int, ...], names: Names) -> dict[str, Entry] | None:
    count, width = shape[0], shape[1]

    def name(expert: int, kind: str) -> str:
        return to + names.experts.format(expert=expert, kind=names.kinds[kind])

    if stem == "ffn_gate_up_exps" and width % 2 == 0:
        halves = {"gate": (0, width // 2), "up": (width // 2, width)}
        half = (width // 2, shape[2])
        return {name(e, kind): Part(stored, half, e, rows) for kind, rows in halves.items() for e in range(count)}
    kind = {"ffn_gate_exps": "gate", "ffn_up_exps": "up", "ffn_down_exps": "down"}.get(stem)
    return None if kind is None else {name(e, kind): Part(stored, shape[1:], e) for e in range(count)}


def _fused(
    to: str, stored: str, end: str, shape: tuple[int, ...], raw: Mapping[str, Any], arch: str
) -> dict[str, Entry] | None:
    """Query, key and value rows that were put into one tensor."""
    heads = (raw["num_attention_heads"], raw["num_key_value_heads"], raw["num_key_value_heads"])
    widths = [count * raw["head_dim"] for count in heads]
    if shape[0] != sum(widths):
        return None
    out: dict[str, Entry] = {}
    first = 0
    for kind, count, width in zip("qkv", heads, widths, strict=True):
        undo = count if arch == "llama" and kind != "v" else 0
        out[f"{to}self_attn.{kind}_proj.{end}"] = Part(stored, (width, *shape[1:]), rows=(first, first + width), heads=undo)
        first += width
    return out


def _kv_b(to: str, layer: int, tensors: Mapping[str, GGUFTensor]) -> dict[str, Entry] | None:
    """MLA's key and value halves (H, L, N) and (H, V, L) back into one ``kv_b_proj`` (H·(N+V), L)."""
    keys, values = f"blk.{layer}.attn_k_b.weight", f"blk.{layer}.attn_v_b.weight"
    k, v = tensors[keys].shape, tensors[values].shape if values in tensors else ()
    if len(k) != 3 or len(v) != 3 or (k[0], k[1]) != (v[0], v[2]):
        return {keys: Part(keys, k)}
    item = (k[2] + v[1], k[1])

    def make(k_LN: Tensor, v_VL: Tensor) -> Tensor:
        return torch.cat((k_LN.T, v_VL))

    return {f"{to}self_attn.kv_b_proj.weight": Made((keys, values), (k[0] * item[0], item[1]), item, make)}


def _gpt_oss_experts(to: str, layer: int, stem: str, end: str, tensors: Mapping[str, GGUFTensor]) -> dict[str, Entry] | None:
    """gpt-oss keeps its experts stacked, transposed, and gate and up rows interleaved."""
    suffix = "" if end == "weight" else "_bias"
    stored = f"blk.{layer}.{stem}.{end}"
    shape = tensors[stored].shape
    if stem == "ffn_down_exps":
        if end == "bias" or len(shape) != 3:
            return {f"{to}mlp.experts.down_proj{suffix}": Part(stored, shape)}
        item = (shape[2], shape[1])
        return {f"{to}mlp.experts.down_proj": Made((stored,), (shape[0], *item), item, lambda down_DM: down_DM.T)}
    gate, up = (f"blk.{layer}.ffn_{kind}_exps.{end}" for kind in ("gate", "up"))
    if gate not in tensors or up not in tensors or tensors[gate].shape != tensors[up].shape:
        return None
    if len(shape) != (2 if end == "bias" else 3):
        return None
    if stem == "ffn_up_exps":
        return {}
    both: tuple[int, ...] = (2 * shape[1],) if end == "bias" else (shape[2], 2 * shape[1])

    def make(gate_MD: Tensor, up_MD: Tensor) -> Tensor:
        turns = torch.stack((gate_MD, up_MD), 1).flatten(0, 1)
        return turns.T if turns.dim() == 2 else turns

    return {f"{to}mlp.experts.gate_up_proj{suffix}": Made((gate, up), (shape[0], *both), both, make)}
