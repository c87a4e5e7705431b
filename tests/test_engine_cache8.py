"""The cache in 8 bits: near the bfloat16 one, half its memory, and as exact about company, chunks and reuse."""

import itertools

import pytest
import torch
from engine_tiny import one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import Chunk
from seekling.kernels import infer

pytestmark = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
GQA = dict(
    model_type="qwen2", attention="gqa", num_attention_heads=4, num_key_value_heads=2, head_dim=24, qkv_bias=True,
    kv_lora_rank=0, q_lora_rank=None, qk_nope_head_dim=0, qk_rope_head_dim=0, v_head_dim=0,
    n_routed_experts=0, num_experts_per_tok=0,
)  # fmt: skip
LONG = dict(max_position_embeddings=1024)
SHAPES = {"mla": LONG, "gqa": {**GQA, **LONG}}


def runner(lm, cache, threads=1):
    out = NativeRunner(lm.model, "f32", threads=threads, cache=cache)
    out.allocate(24)
    return out


def ids(lm, count):
    return torch.randint(0, lm.config.vocab_size, (count,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_near_those_of_the_bfloat16_cache(changes):
    lm = tiny_lm(dtype=torch.float32, **changes)
    text, pages = ids(lm, 600), list(range(19))
    plain, small = (runner(lm, cache).step([Chunk(text, 0, pages, "all")]) for cache in ("bf16", "int8"))
    spread = plain.std()
    assert (small - plain).abs().mean() < 0.05 * spread
    assert not torch.equal(small, plain)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_do_not_depend_on_chunks_threads_or_what_pages_held_before(changes):
    lm = tiny_lm(dtype=torch.float32, **changes)
    text, pages = ids(lm, 300), list(range(10))
    whole = runner(lm, "int8").step([Chunk(text, 0, pages, "all")])
    other = runner(lm, "int8", threads=2)
    other.step([Chunk(ids(lm, 320)[::-1], 0, pages[::-1], "none")])
    cuts = [0, 1, 37, 290, 299, 300]
    parts = [other.step([Chunk(text[a:b], a, pages, "all")]) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_a_page_takes_little_more_than_half(changes):
    lm = tiny_lm(dtype=torch.float32, **changes)
    assert runner(lm, "int8").page_bytes < 0.7 * runner(lm, "bf16").page_bytes


def test_an_engine_answers_with_it_and_reuses_prefixes_bit_for_bit():
    lm = tiny_lm(dtype=torch.float32, **LONG)
    settings = Sampling(max_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
    prompt = ids(lm, 90)
    alone = Engine(lm, "int8", cache_dtype="int8", prefix_cache=False).generate(prompt, settings)[0]
    engine = Engine(lm, "int8", cache_dtype="int8", step_tokens=40)
    assert engine.stats()["runner"].endswith("int8 cache")
    engine.generate(prompt[:70], settings)
    found = engine.generate(prompt, settings)[0]
    assert found == alone and found.cached_tokens == 70


def test_torch_has_no_such_cache():
    with pytest.raises(SeeklingError, match="needs the native runner"):
        Engine(tiny_lm(dtype=torch.float32), cache_dtype="int8")
    with pytest.raises(SeeklingError, match="'bf16' or 'int8'"):
        Engine(tiny_lm(dtype=torch.float32), cache_dtype="fp8")


def test_embeddings_come_from_the_packed_weights():
    lm = tiny_lm(dtype=torch.float32, **LONG)
    texts = [ids(lm, 700), ids(lm, 5)]
    exact = Engine(lm, runner="torch")
    native = Engine(lm, "int8")
    answer = native.generate(texts[1], Sampling(max_tokens=4, temperature=0))[0]
    for pooling in ("mean", "last"):
        near = (exact.embed(texts, pooling) * native.embed(texts, pooling)).sum(-1)
        assert (near > 0.98).all()
    assert native.model is None
    assert native.generate(texts[1], Sampling(max_tokens=4, temperature=0))[0] == answer  # its own pages are untouched
