"""A base of a few thousand weights for the tests of teaching: SFT, DPO, GRPO, distillation."""

import json

from seekling.lm import LM
from seekling.model import Decoder, ModelConfig
from seekling.text.bpe import train_tokenizer

LAMPS = "what colour has the lamp? the lamp is red blue green gold. "
SUMS = "what is 1 + 2? give only the final answer between <answer> and </answer>. 3 4 5 6 7 "


def save_base(folder, text, *, seed=1, **changes):
    """A tiny DeepSeek-V3 whose tokenizer knows the words of ``text``, as a folder."""
    fields = dict(
        vocab_size=290, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_routed_experts=4,
        num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=128, pad_token_id=2,
    )  # fmt: skip
    LM(Decoder.build(ModelConfig(**(fields | changes)), seed=seed), train_tokenizer([text * 30], 290)).save(folder)
    return folder


def write_rows(path, rows):
    """One JSON object a line; the path as a recipe takes it."""
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return str(path)


def weights(folder):
    """Every weight file of a checkpoint, byte for byte."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".safetensors"}
