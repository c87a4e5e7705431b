"""Small GGUF files for the tests: made by the gguf package, or byte by byte."""

import struct
from pathlib import Path

import gguf
import numpy as np
import torch

from seekling.formats.families import ARCHITECTURES, read_config
from seekling.model.decoder import Decoder

GQA = dict(
    vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    bos_token_id=0, eos_token_id=1,
)  # fmt: skip
QWEN_MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
MLA = dict(
    vocab_size=96, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2,
    n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=128, num_nextn_predict_layers=0,
)  # fmt: skip
YARN = dict(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=32.0, beta_slow=1.0, mscale=0.707,
    mscale_all_dim=0.707,
)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
RAW = {
    "deepseek_v3": dict(MLA, model_type="deepseek_v3", q_lora_rank=48, n_group=2, topk_group=1, routed_scaling_factor=2.5),
    "deepseek_v3 without q_lora": dict(MLA, model_type="deepseek_v3", q_lora_rank=None, n_group=1, topk_group=1),
    "deepseek_v3 dense": dict(MLA, model_type="deepseek_v3", q_lora_rank=48, n_group=1, topk_group=1, first_k_dense_replace=2),
    "deepseek_v2": dict(
        MLA, model_type="deepseek_v2", q_lora_rank=None, topk_method="greedy", scoring_func="softmax", norm_topk_prob=False,
        rope_scaling=YARN,
    ),
    "deepseek_v32": dict(
        MLA, model_type="deepseek_v32", q_lora_rank=48, n_group=1, topk_group=1, index_n_heads=4, index_head_dim=16,
        index_topk=8,
        num_nextn_predict_layers=1,
    ),
    "deepseek_v4": dict(
        model_type="deepseek_v4", vocab_size=96, hidden_size=64, moe_intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, head_dim=32, q_lora_rank=32, o_groups=2, o_lora_rank=16, n_routed_experts=4,
        num_experts_per_tok=2, n_shared_experts=1, scoring_func="sqrtsoftplus", routed_scaling_factor=1.5,
        max_position_embeddings=256, hc_mult=2, hc_sinkhorn_iters=5, hc_eps=1e-6, swiglu_limit=10.0, sliding_window=16,
        index_n_heads=4, index_head_dim=32, index_topk=8, num_nextn_predict_layers=0, rms_norm_eps=1e-6, qk_rope_head_dim=16,
        compress_ratios=[0, 128, 4], num_hash_layers=1, rope_theta=10000.0, compress_rope_theta=160000.0, bos_token_id=0,
        eos_token_id=1,
    ),
    "llama": dict(GQA, model_type="llama"),
    "llama tied, llama3 rope, biases": dict(
        GQA, model_type="llama", tie_word_embeddings=True, rope_scaling=LLAMA3, attention_bias=True, mlp_bias=True, head_dim=32
    ),
    "llama linear rope": dict(GQA, model_type="llama", rope_scaling=dict(rope_type="linear", factor=2.0)),
    "qwen2 yarn": dict(
        GQA, model_type="qwen2", rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
    ),
    "qwen3": dict(GQA, model_type="qwen3", head_dim=32),
    "qwen2_moe": dict(GQA, **QWEN_MOE, model_type="qwen2_moe", shared_expert_intermediate_size=64, norm_topk_prob=False),
    "qwen3_moe": dict(GQA, **QWEN_MOE, model_type="qwen3_moe", head_dim=16, norm_topk_prob=True),
    "ernie4_5": dict(GQA, model_type="ernie4_5", head_dim=16, use_bias=False, pad_token_id=0),
    "ernie4_5_moe": dict(
        GQA, model_type="ernie4_5_moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=32, use_bias=False, pad_token_id=0,
        moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=1, moe_layer_interval=1,
    ),
    "minimax": dict(
        GQA, model_type="minimax", head_dim=16, num_local_experts=4, num_experts_per_tok=2, rotary_dim=8,
        layer_types=["linear_attention", "full_attention"], intermediate_size=32,
        **{f"{part}_alpha_factor": 3.5 for part in ("full_attn", "linear_attn", "mlp")},
    ),
    "minimax_m2": dict(
        GQA, model_type="minimax_m2", head_dim=16, num_local_experts=4, num_experts_per_tok=2, rotary_dim=8,
        intermediate_size=32,
    ),
    "gpt_oss": dict(
        GQA, model_type="gpt_oss", head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16,
        intermediate_size=32,
    ),
}  # fmt: skip
RAW = {name: raw for name, raw in RAW.items() if raw["model_type"] in ARCHITECTURES}


def model_of(raw: dict, seed: int = 0) -> Decoder:
    """A model whose every tensor, norms and biases too, holds random numbers."""
    model = Decoder.build(read_config(dict(raw))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.2 * noise if "norm" in name else noise / tensor.shape[-1] ** 0.5)
    return model


def write_with_library(path: Path, arch: str, keys: dict, tensors: dict[str, np.ndarray | tuple[np.ndarray, str]]) -> None:
    """A file by the gguf package's own writer; a tensor given as (float32 array, type) is packed by its quantiser."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        (writer.add_array if isinstance(value, list) else kinds[type(value)])(key, value)
    for name, given in tensors.items():
        if isinstance(given, tuple):
            kind = gguf.GGMLQuantizationType[given[1]]
            writer.add_tensor(name, gguf.quants.quantize(given[0], kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, given)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: str, rows: int, per_row: int, largest: float = 1.0) -> np.ndarray:
    """uint8 (rows, per_row, bytes) of a GGUF block type, all bytes random but its half-precision scales: 0 to ``largest``."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (rows, per_row, size), dtype=np.uint8)
    count = 2 if kind in ("Q4_1", "Q4_K", "Q5_K") else 1
    first = size - 2 if kind == "Q6_K" else 0
    scales = (largest * random.random((rows, per_row, count))).astype(np.float16)
    blocks[..., first : first + 2 * count] = scales.view(np.uint8)
    return blocks


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """A tensor's description; ``shape`` has the slowest dimension first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


def file_bytes(keys=(), tensors=(), data=b"", *, magic=b"GGUF", version=3, counts=None) -> bytes:
    """A file from packed keys and tensor descriptions; ``counts`` replaces the true (tensors, keys)."""
    head = magic + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys)))) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data
