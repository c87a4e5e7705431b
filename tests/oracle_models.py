"""Random small DeepSeek models of ``transformers`` with weights that make every part of the network visible in the logits."""

import dataclasses
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config

from seekling.model.config import ModelConfig, RopeScaling

CLASSES = {"deepseek_v2": DeepseekV2Config, "deepseek_v3": DeepseekV3Config}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on two threads; import it into a test file to use it there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_rope_scaling(r: random.Random) -> RopeScaling | None:
    """YaRN with equal, unequal or absent mscale pairs, in half of the draws."""
    if r.random() < 0.5:
        return None
    mscale, all_dim = r.choice([(None, None), (1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.4, 1.3), (None, 1.0), (0.7, None)])
    return RopeScaling(
        "yarn",
        factor=r.choice([1.0, 2.5, 40.0]),
        original_max_position_embeddings=r.choice([8, 16, 64]),
        beta_fast=r.choice([32.0, 4.0]),
        beta_slow=r.choice([1.0, 0.25]),
        mscale=mscale,
        mscale_all_dim=all_dim,
    )


def draw_config(family: str, seed: int) -> ModelConfig:
    """A random shape: odd sizes, both query forms, dense layers before routed ones, groups, ties of the tables."""
    r = random.Random(f"{family}/{seed}")
    layers, heads, v3 = r.randint(1, 3), r.randint(1, 4), family == "deepseek_v3"
    groups = r.choice([1, 1, 2, 3, 4])
    per_group = r.randint(2, 4)
    chosen = r.randint(1, groups)
    step = 1 if v3 else 2  # transformers' V2 rotation views pairs as complex numbers and cannot start at an odd place
    router = ("sigmoid", "noaux_tc") if v3 else ("softmax", "greedy" if groups == 1 else "group_limited_greedy")
    return ModelConfig(
        model_type=family,
        vocab_size=r.randint(20, 60),
        hidden_size=heads * r.randint(4, 9),
        intermediate_size=r.randint(5, 33),
        moe_intermediate_size=r.randint(3, 17),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        q_lora_rank=r.choice([None, r.randint(3, 13)]),
        kv_lora_rank=step * r.randint(3, 9),
        qk_nope_head_dim=step * r.randint(1, 5),
        qk_rope_head_dim=2 * r.randint(1, 4),
        v_head_dim=r.randint(1, 9),
        n_routed_experts=groups * per_group,
        num_experts_per_tok=r.randint(1, chosen * per_group),
        n_shared_experts=r.randint(1, 3),
        first_k_dense_replace=r.choice([0, 0, 1, layers]),
        n_group=groups,
        topk_group=chosen,
        scoring_func=router[0],
        topk_method=router[1],
        norm_topk_prob=v3 and r.random() < 0.6,
        routed_scaling_factor=r.choice([1.0, 2.5, 16.0]),
        max_position_embeddings=64,
        rope_theta=r.choice([10000.0, 100.0, 500000.0]),
        rope_scaling=draw_rope_scaling(r),
        rope_interleave=not v3 or r.random() < 0.7,
        rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
        tie_word_embeddings=r.random() < 0.3,
        attention_bias=r.random() < 0.4,
        mlp_bias=not v3 and r.random() < 0.3,
    )


# Fields of DeepSeek's own configs; the rest belong to other families.
OTHERS = set(
    "attention num_key_value_heads head_dim rotary_dim qkv_bias o_bias qk_norm attention_sinks sliding_window layer_types "
    "moe_layers shared_expert_intermediate_size shared_expert_gate router_norm_min router_float32 router_bias expert_bias "
    "head_bias swiglu_alpha swiglu_limit linear_block norm_residual index_topk index_n_heads index_head_dim v4".split()
)


def hf_config(config: ModelConfig):
    """The same shape for transformers, made without ``families.write_config``: an error there cannot hide itself."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in OTHERS}
    scaling = values.pop("rope_scaling")
    rope = {"rope_type": "default"} if scaling is None else {k: v for k, v in scaling.items() if v is not None}
    values["rope_parameters"] = {**rope, "rope_theta": values.pop("rope_theta")}
    for ours in ("model_type", "mtp_hidden_first", "mtp_after_norm", "num_nextn_predict_layers"):
        values.pop(ours)
    values["mtp_hidden_states_first"] = config.mtp_hidden_first
    if config.model_type == "deepseek_v3":
        values.pop("mlp_bias")
        values["num_mtp_layers"] = config.num_nextn_predict_layers
    else:
        values.pop("rope_interleave")
    return CLASSES[config.model_type](**values)


@torch.no_grad()
def fill(module: torch.nn.Module, seed: int) -> None:
    """Norm gains away from 1, biases away from 0, matrices of unit gain, router biases from mild to prohibitive.

    Every number is exact in float32, so that one set of weights serves tests in both precisions.
    """
    g = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if "inv_freq" in name or name.endswith(("_decay", "slope_rate")) or not tensor.numel():
            continue
        noise = torch.randn(tensor.shape, generator=g)
        if name.endswith("e_score_correction_bias"):
            spread = [0.1, 0.6, 3.0][seed % 3]
            values = noise * spread
            if seed % 4 == 1:
                values -= 5.0  # every biased score negative: a masked expert must still not be chosen
            if seed % 5 == 2:
                values[::2] -= 1e4
        elif "norm" in name:
            values = 1 + 0.4 * noise
        elif tensor.dim() == 1:
            values = 0.4 * noise
        elif "embed_tokens" in name:
            values = noise
        else:
            values = noise * tensor.shape[-1] ** -0.5 * 1.5
        tensor.copy_(values)


def ties(module: torch.nn.Module) -> None:
    """Give all experts of every router but the first the same score, exactly: it is one channel of the token, unrounded."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("mlp.gate.weight"):
                tensor[1:] = 0
                tensor[1:, 0] = 1
            elif name.endswith("e_score_correction_bias"):
                tensor[1:] = 0.25


def hf_model(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float64):
    """A transformers model with random weights; grouped_mm knows no float64 and no odd sizes, hence eager experts."""
    model = AutoModelForCausalLM.from_config(hf_config(config), experts_implementation="eager").to(dtype)
    fill(model, seed)
    return model.eval()


def hf_load(folder, dtype: torch.dtype):
    """(model, loading info) as any user of transformers gets them."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager", output_loading_info=True)


def draw_ids(config: ModelConfig, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + 1000)
    return torch.randint(0, config.vocab_size, (2, 3 + seed % 15), generator=g)
