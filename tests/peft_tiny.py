"""Tiny transformers models with random peft adapters on them, for the tests of adapters."""

import json

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DeepseekV3Config, GptOssConfig, LlamaConfig, Qwen2Config, Qwen2MoeConfig

PLAIN = dict(vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3)  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**PLAIN),
    "qwen2": Qwen2Config(**PLAIN),
    "deepseek_v3": DeepseekV3Config(**{**PLAIN, "num_key_value_heads": 4}, moe_intermediate_size=6, q_lora_rank=8,
        kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_routed_experts=4, num_experts_per_tok=2,
        n_group=1, topk_group=1, n_shared_experts=1, first_k_dense_replace=1),
    "qwen2_moe": Qwen2MoeConfig(**PLAIN, moe_intermediate_size=6, shared_expert_intermediate_size=7, num_experts=4,
        num_experts_per_tok=2),
    "gpt_oss": GptOssConfig(**{**PLAIN, "intermediate_size": 10}, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
}  # fmt: skip
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def base(family, folder=None, seed=0, dtype=torch.float32):
    """A transformers model with random weights, saved to a folder where one is given."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family], experts_implementation="eager").to(dtype).eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model


def opened(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval()


def adapted(model, folder, seed=1, **settings):
    """The model with a random adapter, which is saved to the folder."""
    torch.manual_seed(seed)
    peft = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 5, "init_lora_weights": False, **settings}))
    peft.save_pretrained(folder)
    return peft.eval()


def edit(folder, **changes):
    """Change fields of an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def logits(model):
    ids = torch.arange(12).view(2, 6) % 32
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits
