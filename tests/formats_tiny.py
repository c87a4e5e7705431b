"""A tiny V3 model and edits of checkpoint folders, for the tests of formats."""

import dataclasses
import json
import struct

import safetensors.torch
import torch

from seekling.formats import save_model
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

TINY = ModelConfig(
    vocab_size=11, hidden_size=6, intermediate_size=7, moe_intermediate_size=3, num_hidden_layers=2, num_attention_heads=2,
    q_lora_rank=4, kv_lora_rank=3, qk_nope_head_dim=2, qk_rope_head_dim=2, v_head_dim=2, n_routed_experts=4,
    num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=16, initializer_range=0.5,
)  # fmt: skip


def tiny(seed=0, dtype=torch.float32, **changes) -> Decoder:
    model = Decoder.build(dataclasses.replace(TINY, **changes), dtype=dtype, seed=seed)
    with torch.no_grad():
        for router in model.routers():
            router.e_score_correction_bias.copy_(torch.linspace(-0.1234567, 0.3, 4))
    return model


def saved(folder, seed=0, **changes):
    save_model(tiny(seed, **changes), folder)
    return folder


def edit(folder, change, file="model.safetensors"):
    """Let ``change`` alter the dict of tensors in a file."""
    tensors = safetensors.torch.load_file(folder / file)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / file, metadata={"format": "pt"})


def edit_config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    raw.update(changes)
    (folder / "config.json").write_text(json.dumps(raw))


def raw_file(header, data=b"") -> bytes:
    """A safetensors file with exactly this header (an object or bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def equal(a: Decoder, b: Decoder) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[n], y[n]) and x[n].dtype == y[n].dtype for n in x)
