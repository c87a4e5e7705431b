"""Cached decoding against whole rows: the absorbed and the naive form of MLA are the same function.

The model rounds norms, scores and V2's rotation to float32 whatever its dtype (as the published code does), and torch's float32
sums depend on the tensor's shape in their last bit.  So that 1e-10 says something about the algebra, the float64 tests lift
that rounding; the float32 tests take the model as it is.
"""

import dataclasses

import pytest
import torch
from oracle_models import CLASSES, draw_config, draw_ids, fill, one_thread  # noqa: F401

from seekling.errors import SeeklingError
from seekling.model.cache import Cache
from seekling.model.decoder import Decoder

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
DRAWS = [(f, s, d) for f in CLASSES for s in range(12) for d in TOLERANCE]
EVERY_DRAW = pytest.mark.parametrize(("family", "seed", "dtype"), DRAWS)


@pytest.fixture(autouse=True)
def float64_throughout(request, monkeypatch):
    """Make ``Tensor.float()``, by which the model asks for float32 statistics, give float64 (not in float32 tests)."""
    if "dtype" not in request.fixturenames or request.getfixturevalue("dtype") == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def drawn(family: str, seed: int, dtype=torch.float64, **changes) -> Decoder:
    config = dataclasses.replace(draw_config(family, seed), **changes)
    model = Decoder.build(config, dtype=dtype)
    fill(model, seed)
    return model.eval()


@torch.no_grad()
def whole(model: Decoder, ids):
    return model.hidden(ids)


def cache_of(model: Decoder, rows: int = 1, capacity: int = 32) -> Cache:
    return Cache(model.config, rows, capacity, dtype=model.lm_head.weight.dtype)


def worst(a, b) -> float:
    return (a - b).abs().max().item()


@EVERY_DRAW
def test_one_absorbed_step_a_token_equals_the_naive_form_over_the_whole_row(family, seed, dtype):
    model = drawn(family, seed, dtype)
    ids = draw_ids(model.config, seed)
    cache = cache_of(model, rows=2)
    steps = torch.cat([model.extend(ids[:, t : t + 1], cache, [0, 1]) for t in range(ids.shape[1])], 1)
    assert worst(steps, whole(model, ids)) < TOLERANCE[dtype]


@EVERY_DRAW
def test_prefill_then_chunks_then_single_tokens_equals_the_whole_row(family, seed, dtype):
    model = drawn(family, seed, dtype)
    ids = torch.randint(0, model.config.vocab_size, (2, 13), generator=torch.Generator().manual_seed(seed))
    cache = cache_of(model, rows=2)
    parts = [(0, 6), (6, 10), (10, 11), (11, 12), (12, 13)]
    got = torch.cat([model.extend(ids[:, a:b], cache, [0, 1]) for a, b in parts], 1)
    assert worst(got, whole(model, ids)) < TOLERANCE[dtype]


@pytest.mark.parametrize("step", [1, 3])
def test_rows_of_different_lengths_decode_together_as_each_would_alone(step):
    model = drawn("deepseek_v3", 4)
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, model.config.vocab_size, (1, n + step), generator=g) for n in (2, 9, 5)]
    cache = cache_of(model, rows=4)
    for slot, ids in zip((3, 0, 2), rows, strict=True):
        model.extend(ids[:, :-step], cache, [slot])
    together = model.extend(torch.cat([ids[:, -step:] for ids in rows]), cache, [3, 0, 2])
    for b, ids in enumerate(rows):
        assert worst(together[b], whole(model, ids)[0, -step:]) < 1e-10
    assert cache.lengths == [9 + step, 0, 5 + step, 2 + step]


def test_rows_that_are_not_named_keep_what_they_hold():
    model = drawn("deepseek_v3", 5)
    cache = cache_of(model, rows=3)
    model.extend(torch.ones(3, 4, dtype=torch.long), cache)
    before = [t[1].clone() for t in (t for stores in cache.layers for t in stores)]
    model.extend(torch.full((2, 3), 2), cache, [0, 2])
    assert all(torch.equal(a, t[1]) for a, t in zip(before, (t for stores in cache.layers for t in stores), strict=True))
    assert cache.lengths == [7, 4, 7]


def test_a_truncated_row_continues_as_if_the_rest_had_never_been():
    model = drawn("deepseek_v2", 3)
    ids = torch.arange(10)[None] % model.config.vocab_size
    cache = cache_of(model)
    model.extend(ids, cache, [0])
    cache.truncate(0, 4)
    other = torch.cat([ids[:, :4], ids[:, :5].flip(1)], 1)
    assert worst(model.extend(other[:, 4:], cache, [0]), whole(model, other)[:, 4:]) < 1e-10


def test_a_reset_row_starts_anew():
    model = drawn("deepseek_v3", 6)
    cache = cache_of(model)
    model.extend(torch.full((1, 8), 3), cache, [0])
    cache.reset(0)
    ids = torch.tensor([[5, 6, 7]])
    assert worst(model.extend(ids, cache, [0]), whole(model, ids)) < 1e-10


@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in CLASSES for s in range(6)])
def test_the_cache_holds_latent_and_rotated_key_of_every_layer_and_nothing_else(family, seed):
    config = draw_config(family, seed)
    cache = Cache(config, rows=3, capacity=10)
    tensors = [t for stores in (*cache.layers, *cache.states) for t in stores]
    assert not any(torch.is_tensor(v) for v in vars(cache).values())
    per_token = config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    assert sum(t.numel() for t in tensors) == 3 * 10 * per_token
    assert cache.elements_per_token() == config.kv_elements_per_token() == per_token


def test_a_row_that_outgrows_the_cache_is_refused_and_nothing_is_changed():
    model = drawn("deepseek_v3", 1)
    cache = cache_of(model, capacity=5)
    model.extend(torch.ones(1, 4, dtype=torch.long), cache, [0])
    with pytest.raises(SeeklingError, match="6 tokens"):
        model.extend(torch.ones(1, 2, dtype=torch.long), cache, [0])
    assert cache.lengths == [4]


# ---- what must not be equal ---------------------------------------------------------------------------------------------


def rope_model(interleave: bool) -> Decoder:
    model = drawn("deepseek_v3", 2, qk_rope_head_dim=6, rope_interleave=interleave)
    return model


def permute_rope_rows(model: Decoder, order: list[int]) -> None:
    """Reorder the rotary output channels of every query and key projection."""
    c = model.config
    with torch.no_grad():
        for layer in model.model.layers:
            attn = layer.self_attn
            q = attn.q_proj if c.q_lora_rank is None else attn.q_b_proj
            heads = q.weight.view(c.num_attention_heads, c.qk_head_dim, -1)
            heads[:, c.qk_nope_head_dim :] = heads[:, c.qk_nope_head_dim :][:, order].clone()
            for tensor in (attn.kv_a_proj_with_mqa.weight, attn.kv_a_proj_with_mqa.bias):
                if tensor is not None:
                    tensor[c.kv_lora_rank :] = tensor[c.kv_lora_rank :][order].clone()


def test_interleaved_and_half_split_rotation_differ_on_the_same_weights():
    a, b = rope_model(True), rope_model(False)
    ids = draw_ids(a.config, 12)
    assert worst(whole(a, ids), whole(b, ids)) > 1e-3


def test_half_split_rotation_on_channels_sorted_evens_first_is_the_interleaved_one():
    a, b = rope_model(True), rope_model(False)
    permute_rope_rows(b, [0, 2, 4, 1, 3, 5])
    ids = draw_ids(a.config, 12)
    assert worst(whole(a, ids), whole(b, ids)) < 1e-10


def test_permuting_the_rotary_pairs_breaks_equality():
    a, b = rope_model(True), rope_model(True)
    permute_rope_rows(b, [0, 2, 1, 3, 4, 5])
    ids = draw_ids(a.config, 12)
    assert worst(whole(a, ids), whole(b, ids)) > 1e-3


def test_attention_stays_inside_the_document():
    model = drawn("deepseek_v3", 2)
    a, b = (torch.randint(0, 20, (1, n), generator=torch.Generator().manual_seed(n)) for n in (5, 7))
    docs = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        packed = model.hidden(torch.cat([a, b], 1), docs)
    # positions go on counting in the packed row; rotation sees differences only
    assert worst(packed[:, :5], whole(model, a)) < 1e-10
    assert worst(packed[:, 5:], whole(model, b)) < 1e-4  # tables of cos and sin are float32
    assert worst(whole(model, torch.cat([a, b], 1))[:, 5:], whole(model, b)) > 1e-3
