"""The network against ``transformers``: equal logits on many random small models, both ways through a saved folder."""

import dataclasses
import functools
import logging
import tempfile
from pathlib import Path

import pytest
import torch
from oracle_models import CLASSES, draw_config, draw_ids, fill, hf_load, hf_model, one_thread, ties  # noqa: F401
from transformers import AutoModelForCausalLM

import seekling
from seekling.formats import save_model
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

DRAWS = 36
EVERY_DRAW = pytest.mark.parametrize(("family", "seed"), [(f, s) for f in CLASSES for s in range(DRAWS)])
_ROOT = tempfile.TemporaryDirectory()


@dataclasses.dataclass
class Case:
    ids: torch.Tensor
    logits: torch.Tensor
    theirs: Path
    ours: Path
    lm: seekling.LM


@functools.cache
def case(family: str, seed: int) -> Case:
    """A random transformers model, its logits, the folder it saved, and the folder Seekling saved after reading that one."""
    config = draw_config(family, seed)
    model = hf_model(config, seed)
    if seed % 6 == 3:
        ties(model)
    ids = draw_ids(config, seed)
    theirs, ours = (Path(_ROOT.name, f"{who}-{family}-{seed}") for who in ("theirs", "ours"))
    model.save_pretrained(theirs)
    lm = seekling.load(theirs, dtype="float64")
    lm.save(ours)
    return Case(ids, logits_of(model, ids), theirs, ours, lm)


@torch.no_grad()
def logits_of(model, ids):
    out = model(ids)
    return getattr(out, "logits", out)


def worst(a, b) -> float:
    return (a.double() - b.double()).abs().max().item()


@EVERY_DRAW
def test_float64_logits_equal_those_of_the_transformers_model_whose_folder_was_read(family, seed):
    c = case(family, seed)
    assert c.logits.std() > 0.3, "logits too flat to tell models apart"
    assert worst(logits_of(c.lm.model, c.ids), c.logits) < 1e-9


@EVERY_DRAW
def test_transformers_reads_the_folder_seekling_saved_with_equal_float64_logits_and_no_complaint(family, seed):
    c = case(family, seed)
    model, info = hf_load(c.ours, torch.float64)
    assert not any(info.values()), info
    assert worst(logits_of(model, c.ids), c.logits) < 1e-9


@EVERY_DRAW
def test_float32_logits_agree_within_1e_4(family, seed):
    c = case(family, seed)
    model, _ = hf_load(c.ours, torch.float32)
    assert worst(logits_of(seekling.load(c.theirs).model, c.ids), logits_of(model, c.ids)) < 1e-4


def test_the_draws_cover_every_branch():
    configs = {f: [draw_config(f, s) for s in range(DRAWS)] for f in CLASSES}
    for family, drawn in configs.items():
        for seen in (
            {c.q_lora_rank is None for c in drawn},
            {c.tie_word_embeddings for c in drawn},
            {c.attention_bias for c in drawn},
            {c.rope_scaling is None for c in drawn},
            {c.n_group > 1 for c in drawn},
            {c.first_k_dense_replace >= c.num_hidden_layers for c in drawn},
        ):
            assert seen == {True, False}, family
    assert {c.rope_interleave for c in configs["deepseek_v3"]} == {True, False}
    assert {c.norm_topk_prob for c in configs["deepseek_v3"]} == {True, False}
    assert {c.topk_method for c in configs["deepseek_v2"]} == {"greedy", "group_limited_greedy"}
    assert {c.mlp_bias for c in configs["deepseek_v2"]} == {True, False}
    scalings = [c.rope_scaling for f in CLASSES for c in configs[f] if c.rope_scaling]
    assert {s.mscale == s.mscale_all_dim for s in scalings} == {True, False}


# ---- the folder, opened the way a user does: no argument, transformers' own expert kernels ----------------------------


def aligned(**changes) -> ModelConfig:
    """A V3 shape whose sizes transformers' default grouped matrix product accepts."""
    base = ModelConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, n_group=4, topk_group=2,
        routed_scaling_factor=2.5, max_position_embeddings=64,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


V2 = dict(model_type="deepseek_v2", scoring_func="softmax", norm_topk_prob=False)
SHAPES = {
    "v3": {},
    "v3 with MTP": dict(num_nextn_predict_layers=1),
    "v3 with two MTP layers and tied tables": dict(num_nextn_predict_layers=2, tie_word_embeddings=True),
    "v3 dense only": dict(first_k_dense_replace=2),
    "v3 dense only, no experts named": dict(
        first_k_dense_replace=2, n_routed_experts=0, num_experts_per_tok=0, n_shared_experts=0, n_group=1, topk_group=1
    ),
    "v3 without shared experts": dict(n_shared_experts=0),
    "v3 tied": dict(tie_word_embeddings=True),
    "v2 greedy": dict(V2, topk_method="greedy", n_group=1, topk_group=1),
    "v2 group-limited, no query compression": dict(V2, topk_method="group_limited_greedy", q_lora_rank=None),
    "v2 with MTP": dict(V2, topk_method="greedy", n_group=1, topk_group=1, num_nextn_predict_layers=1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_folder_opens_in_automodel_without_arguments_or_warnings(shape, tmp_path, caplog):
    model = Decoder.build(aligned(**SHAPES[shape]))
    fill(model, 7)
    save_model(model, tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        logger.removeHandler(caplog.handler)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert (any(info.values()), warnings) == (False, [])
    assert theirs.dtype == torch.float32
    ids = draw_ids(model.config, 9)
    assert worst(logits_of(theirs, ids), logits_of(model, ids)) < 1e-4


@pytest.mark.parametrize("shape", ["v3", "v2 greedy"])
def test_long_rows_of_a_wider_model_agree_so_that_native_kernels_are_compared_too(shape, tmp_path):
    wide = dict(SHAPES[shape], hidden_size=128, moe_intermediate_size=64, kv_lora_rank=32, qk_nope_head_dim=16, v_head_dim=16)
    model = Decoder.build(aligned(**wide, max_position_embeddings=256))
    fill(model, 7)
    save_model(model, tmp_path)
    theirs, _ = hf_load(tmp_path, torch.float32)
    ids = torch.randint(0, 64, (2, 201), generator=torch.Generator().manual_seed(0))
    assert worst(logits_of(theirs, ids), logits_of(model, ids)) < 1e-4


def test_a_sharded_bfloat16_folder_opens_in_transformers(tmp_path):
    model = Decoder.build(aligned(num_nextn_predict_layers=1))
    fill(model, 8)
    save_model(model, tmp_path, dtype="bfloat16", max_shard_bytes=9000)
    assert len(list(tmp_path.glob("model-0*"))) > 2
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert theirs.dtype == torch.bfloat16
    ids = draw_ids(model.config, 9)
    assert worst(logits_of(theirs.float(), ids), logits_of(seekling.load(tmp_path).model, ids)) < 1e-4


def test_greedy_generation_in_transformers_starts_from_the_saved_generation_config(tmp_path):
    model = Decoder.build(aligned(eos_token_id=3))
    fill(model, 5)
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (theirs.generation_config.eos_token_id, theirs.generation_config.bos_token_id) == (3, 0)


def test_a_folder_saved_by_transformers_announces_mtp_it_dropped_and_is_read_without_it(tmp_path):
    config = aligned(num_nextn_predict_layers=1)
    model = hf_model(config, 3)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="holds no weights of them"):
        lm = seekling.load(tmp_path, dtype="float64")
    assert lm.config.num_nextn_predict_layers == 0
    ids = draw_ids(config, 2)
    assert worst(logits_of(lm.model, ids), logits_of(model, ids)) < 1e-9


def test_a_v3_config_that_never_named_key_value_heads_is_read(tmp_path):
    model = hf_model(aligned(), 3)
    model.config.num_key_value_heads = 128  # transformers' default
    model.save_pretrained(tmp_path)
    assert seekling.load(tmp_path).config.num_attention_heads == 4
