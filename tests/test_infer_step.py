"""The native runner: what it computes is the decoder's mathematics, and no bit of a row depends on what runs beside it."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from engine_tiny import config as mla_config
from family_models import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from seekling.engine.native_runner import NativeRunner, unsupported
from seekling.engine.runner import PAGE, Chunk
from seekling.errors import MachineError, SeeklingError
from seekling.formats.families import read_config
from seekling.kernels import infer, native
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

pytestmark = pytest.mark.skipif(not infer.available(), reason="no native library is built here")

GQA = ("llama", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "ernie4_5", "ernie4_5_moe", "minimax_m2", "gpt_oss")
MLA = {
    "v3": dict(n_routed_experts=8, n_group=4, topk_group=2, routed_scaling_factor=2.5),
    "v3 plain queries": dict(q_lora_rank=None, rope_interleave=False),
    "v2": dict(model_type="deepseek_v2", scoring_func="softmax", topk_method="greedy", norm_topk_prob=False, q_lora_rank=None),
    "v2 groups": dict(model_type="deepseek_v2", scoring_func="softmax", topk_method="group_limited_greedy", n_group=2),
    "dense, tied, biased": dict(first_k_dense_replace=3, tie_word_embeddings=True, attention_bias=True, num_attention_heads=5),
    "wide": dict(kv_lora_rank=40, qk_nope_head_dim=24, qk_rope_head_dim=10, v_head_dim=20, num_attention_heads=17),
}


def family_model(family: str, seed: int) -> Decoder:
    raw = AutoConfig.for_model(family, **draw(family, seed)).to_dict()
    return Decoder.build(dataclasses.replace(read_config(raw), initializer_range=0.3, max_position_embeddings=4096), seed=seed)


def mla_model(name: str, **changes) -> Decoder:
    return Decoder.build(mla_config(**(MLA[name] | dict(max_position_embeddings=4096) | changes)), seed=1)


def dense_mla() -> Decoder:
    return mla_model("dense, tied, biased")


def tokens(model: Decoder, length: int, seed: int = 0) -> list[int]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (length,), generator=g).tolist()


def runner_of(model: Decoder, quant: str = "f32", pages: int = 40, threads: int = 1) -> NativeRunner:
    runner = NativeRunner(model, quant, threads=threads)
    runner.allocate(pages)
    return runner


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The middle row's error: rounding may flip a near tie between two experts, and then that row is another one."""
    return float(((got.double() - want.double()).norm(dim=-1) / want.double().norm(dim=-1)).median())


CASES = [(family, seed) for family in GQA for seed in range(8)]


@torch.no_grad()
@pytest.mark.parametrize(("family", "seed"), CASES)
def test_every_gqa_family_computes_what_the_decoder_computes(family, seed):
    model = family_model(family, seed)
    if unsupported(model.config):
        pytest.skip(", ".join(unsupported(model.config)))
    ids = tokens(model, 20, seed)
    want = model(torch.tensor([ids]))[0]
    assert error(runner_of(model).step([Chunk(ids, 0, [3], "all")]), want) < 0.03


@torch.no_grad()
@pytest.mark.parametrize("name", MLA)
def test_mla_computes_what_the_decoder_computes(name):
    model = mla_model(name)
    ids = tokens(model, 45)
    want = model(torch.tensor([ids]))[0]
    assert error(runner_of(model).step([Chunk(ids, 0, [3, 1], "all")]), want) < 0.03


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: family_model("llama", 0), lambda: mla_model("dense, tied, biased")], ids=["gqa", "mla"]
)
@pytest.mark.parametrize(("quant", "most"), [("bf16", 0.05), ("int8", 0.08), ("int4", 0.45), ("int4-64", 0.45)])
def test_quantised_weights_stay_close(make, quant, most):
    model = make()
    ids = tokens(model, 30)
    want = model(torch.tensor([ids]))[0]
    assert error(runner_of(model, quant).step([Chunk(ids, 0, [0], "all")]), want) < most


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: family_model("qwen3", 3), lambda: dense_mla()], ids=["gqa", "mla"])
def test_contexts_of_several_attention_splits_are_right(make):
    model = make()
    ids = tokens(model, 600)
    want = model(torch.tensor([ids]))[0, -2:]
    runner, pages = runner_of(model), list(range(19))
    runner.step([Chunk(ids[:598], 0, pages, "none")])
    got = [runner.step([Chunk([ids[i]], i, pages)])[0] for i in (598, 599)]
    assert error(torch.stack(got), want) < 0.03


MODELS = {
    "llama": lambda: family_model("llama", 1),
    "windows and sinks": lambda: family_model("gpt_oss", 1),
    "mla": lambda: mla_model("v3", n_group=1, topk_group=1),
}
_alone: dict = {}


def alone(name: str, quant: str) -> tuple[NativeRunner, list[list[int]], list[torch.Tensor]]:
    """Three sequences and all their logits, each computed in one chunk by itself."""
    if (name, quant) not in _alone:
        model = MODELS[name]()
        runner = runner_of(model, quant, pages=64)
        sequences = [tokens(model, length, length) for length in (5, 70, 300)]
        wholes = [runner.step([Chunk(ids, 0, list(range(40, 40 + len(ids) // PAGE + 1)), "all")]) for ids in sequences]
        _alone[name, quant] = runner, sequences, wholes
    return _alone[name, quant]


@given(st.sampled_from(list(MODELS)), st.sampled_from(["int8", "int4", "int4-64", "bf16"]), st.integers(0, 10**6))
@settings(max_examples=25)
def test_logits_are_bit_identical_alone_in_any_batch_chunking_and_thread_count(name, quant, seed):
    random = Random(seed)
    runner, sequences, wholes = alone(name, quant)
    pages = list(range(64))
    random.shuffle(pages)
    tables = [[pages.pop() for _ in range(len(ids) // PAGE + 1)] for ids in sequences]
    done = [0] * len(sequences)
    while any(d < len(ids) for d, ids in zip(done, sequences, strict=True)):
        runner.threads = random.randint(1, 3)
        chunks, who = [], []
        for i, ids in enumerate(sequences):
            count = min(random.choice([0, 1, 1, 3, 9, 33, 130]), len(ids) - done[i])
            if count:
                chunks.append(Chunk(ids[done[i] : done[i] + count], done[i], tables[i], "all"))
                who.append(i)
        if not chunks:
            continue
        got = runner.step(chunks).split([chunk.rows for chunk in chunks])
        for i, chunk, logits in zip(who, chunks, got, strict=True):
            assert torch.equal(logits, wholes[i][chunk.start : chunk.end])
            done[i] = chunk.end


@pytest.mark.parametrize("level", [level for level, needs in native._LEVELS.items() if needs <= native.cpu_flags()])
def test_every_instruction_level_computes_the_same(level, tmp_path):
    code = (
        "import sys, torch\nsys.path.insert(0, sys.argv[1])\nfrom test_infer_step import *\n"
        "out = []\nfor model in (family_model('gpt_oss', 0), family_model('qwen3', 3), dense_mla()):\n"
        "    for quant in ('f32', 'bf16', 'int4'):\n"
        "        out.append(runner_of(model, quant).step([Chunk(tokens(model, 45), 0, [1, 2], 'all')]))\n"
        "torch.save(out, sys.argv[2])\n"
    )
    path = tmp_path / "logits.pt"
    env = dict(os.environ, SEEKLING_NATIVE=level)
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=True, env=env)
    got = iter(torch.load(path))
    for model in (family_model("gpt_oss", 0), family_model("qwen3", 3), dense_mla()):
        for quant in ("f32", "bf16", "int4"):
            want = runner_of(model, quant).step([Chunk(tokens(model, 45), 0, [1, 2], "all")])
            assert error(next(got), want) < 0.01


def test_only_the_wanted_rows_come_in_the_order_of_the_chunks():
    runner, sequences, wholes = alone("llama", "int8")
    a, b, _ = sequences
    got = runner.step([Chunk(a, 0, [0], "last"), Chunk(b[:40], 0, [1, 2], "none"), Chunk(a, 0, [3], "all")])
    assert torch.equal(got, torch.cat([wholes[0][-1:], wholes[0]]))


def test_a_steps_logits_stay_while_anything_shows_them_and_then_lend_their_memory():
    runner, (a, b, _), wholes = alone("llama", "int8")
    part = runner.step([Chunk(a, 0, [0], "all")])[1:3].numpy()
    other = runner.step([Chunk(b[:5], 0, [1], "all")])
    assert torch.equal(torch.from_numpy(part), wholes[0][1:3]) and torch.equal(other, wholes[1][:5])
    place = other.data_ptr()
    del other
    assert runner.step([Chunk(a, 0, [0], "last")]).data_ptr() == place


def test_a_copied_page_holds_the_same_tokens():
    runner, sequences, wholes = alone("mla", "int8")
    ids = sequences[1]
    runner.step([Chunk(ids[:40], 0, [0, 1], "none")])
    runner.copy_page(1, 9)
    assert torch.equal(runner.step([Chunk(ids[40:], 40, [0, 9, 5], "all")]), wholes[1][40:])


def test_wrong_calls_are_refused_by_name():
    runner, _, _ = alone("llama", "int8")
    with pytest.raises(SeeklingError, match="page 64"):
        runner.step([Chunk([1], 0, [64])])
    with pytest.raises(SeeklingError, match="came with 1 pages"):
        runner.step([Chunk([1], PAGE, [0])])
    with pytest.raises(SeeklingError, match="token ids"):
        runner.step([Chunk([10**6], 0, [0])])


def test_a_model_it_cannot_compute_is_refused_by_what_is_missing():
    config = dataclasses.replace(
        family_model("llama", 1).config,
        rope_scaling=dataclasses.replace(_dynamic(), rope_type="dynamic"),
    )
    with pytest.raises(MachineError, match="rope scaling of type dynamic"):
        NativeRunner(Decoder.build(config))


COMPUTED = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads moe_intermediate_size attention "
    "kv_lora_rank "
    "qk_nope_head_dim qk_rope_head_dim v_head_dim q_lora_rank attention_bias num_key_value_heads head_dim rotary_dim qkv_bias "
    "o_bias qk_norm attention_sinks sliding_window n_routed_experts num_experts_per_tok n_shared_experts "
    "shared_expert_intermediate_size shared_expert_gate first_k_dense_replace moe_layers n_group topk_group scoring_func "
    "topk_method norm_topk_prob router_norm_min router_float32 router_bias routed_scaling_factor expert_bias swiglu_alpha "
    "swiglu_limit rope_theta rope_interleave rms_norm_eps tie_word_embeddings mlp_bias head_bias model_type "
    "num_nextn_predict_layers mtp_hidden_first mtp_after_norm".split()
)
REFUSED = frozenset("layer_types index_topk norm_residual rope_scaling v4".split())  # as far as they are not computed
BESIDE = frozenset(  # of refused parts, of training, of the engine
    "index_n_heads index_head_dim linear_block initializer_range "
    "max_position_embeddings bos_token_id eos_token_id pad_token_id".split()
)


def test_every_field_of_a_config_is_computed_or_refused():
    """Whoever adds one has to decide."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert fields == COMPUTED | REFUSED | BESIDE


def _dynamic():
    from seekling.model.config import RopeScaling

    return RopeScaling("linear", 2.0)
