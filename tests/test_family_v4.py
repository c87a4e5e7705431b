"""DeepSeek-V4 computes what transformers computes, whole rows and token by token, on random small models over all options."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from family_v4 import CONTEXT, CSA, HCA, SLIDING, draw, hf_v4, ids_of
from oracle_models import hf_load, one_thread  # noqa: F401

from seekling.errors import SeeklingError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.model.cache import Cache
from seekling.model.decoder import Decoder

SEEDS = range(32)


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def saved(seed: int, folder, dtype=torch.float64, **changes):
    model = hf_v4(seed, dtype, **changes)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_logits_equal_transformers_in_float64(seed, tmp_path):
    theirs = saved(seed, tmp_path)
    ours = load_model(tmp_path, "float64")
    ids = ids_of(theirs.config, seed)
    want = theirs(ids, use_cache=False).logits
    assert want.std() > 0.05
    assert worst(ours(ids), want) < 1e-8


@torch.no_grad()
@pytest.mark.parametrize("seed", range(12))
def test_logits_equal_transformers_in_float32(seed, tmp_path):
    theirs = saved(seed, tmp_path, torch.float32)
    ids = ids_of(theirs.config, seed)
    assert worst(load_model(tmp_path)(ids), theirs(ids, use_cache=False).logits) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("window", "cut"), [(8, 300), (150, 299)])
def test_rows_of_several_windows(window, cut, tmp_path):
    """Longer than the queries that meet their keys at once, in whole rows and in one chunk behind a cached beginning."""
    kinds = dict(
        layer_types=[SLIDING, CSA, HCA], num_hidden_layers=3, mlp_layer_types=None, num_hash_layers=1, hc_mult=2, index_topk=20,
        compress_rates={CSA: 4, HCA: 16}, max_position_embeddings=400, sliding_window=window,
    )  # fmt: skip
    theirs = saved(3, tmp_path, **kinds)
    ours = load_model(tmp_path, "float64")
    ids = ids_of(theirs.config, 3, length=300)
    want = theirs(ids, use_cache=False).logits
    assert worst(ours(ids), want) < 1e-8
    cache = Cache(ours.config, rows=2, capacity=400, dtype=torch.float64)
    parts = [ours.extend(ids[:, :5], cache, [0, 1]), ours.extend(ids[:, 5:cut], cache, [0, 1])]
    parts += [ours.extend(ids[:, cut:], cache, [0, 1])] if cut < 300 else []
    assert worst(ours.head(torch.cat(parts, 1)), want) < 1e-4


@pytest.fixture
def widened(monkeypatch):
    """Steps that are float32 by definition stay float64: another order of the sums then differs by nothing but rounding."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.double())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(24))
def test_cached_decoding_equals_the_whole_row(seed, tmp_path, widened):
    """Chunks of every size, and then token by token, across windows and blocks."""
    saved(seed, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, seed, length=CONTEXT)
    cuts = [0, 3, 4, 5, 17, 20, *range(21, CONTEXT + 1)]
    cache = Cache(model.config, rows=2, capacity=CONTEXT, dtype=torch.float64)
    parts = [model.extend(ids[:, a:b], cache, [0, 1]) for a, b in pairwise(cuts)]
    assert worst(torch.cat(parts, 1), model.hidden(ids)) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("seed", range(16))
def test_transformers_loads_what_was_saved(seed, tmp_path):
    theirs = saved(seed, tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs", "float64"), tmp_path / "ours")
    again, info = hf_load(tmp_path / "ours", torch.float64)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = ids_of(theirs.config, seed)
    assert worst(again.eval()(ids).logits, theirs(ids).logits) < 1e-8


def test_names_in_memory_are_those_of_transformers(tmp_path):
    kinds = dict(layer_types=[SLIDING, CSA, HCA], num_hidden_layers=3, mlp_layer_types=["hash_moe", "moe", "moe"])
    theirs = saved(1, tmp_path, **kinds)
    ours = load_model(tmp_path)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


@pytest.mark.parametrize("seed", range(48))
def test_a_config_survives_writing_and_reading(seed):
    config = read_config({"model_type": "deepseek_v4", **draw(seed)})
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


def test_parameter_counts_are_those_of_the_module(tmp_path):
    for seed in range(12):
        theirs = saved(seed, tmp_path / str(seed))
        config = load_model(tmp_path / str(seed)).config
        assert config.parameters().total == sum(p.numel() for p in theirs.parameters())


# ---- rows in the cache ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_rows_of_different_lengths_run_together(seed, tmp_path, widened):
    """Each row at its own place of its window and blocks, in any order of rows."""
    saved(seed, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, seed, rows=3, length=30)
    cache = Cache(model.config, rows=3, capacity=CONTEXT, dtype=torch.float64)
    starts = [0, 7, 13]
    for row in (1, 2):
        model.extend(ids[row : row + 1, : starts[row]], cache, [row])
    order, got = [2, 0, 1], []
    for a in (0, 1, 5, 12):
        b = {0: 1, 1: 5, 5: 12, 12: 15}[a]
        got.append(model.extend(torch.stack([ids[r, starts[r] + a : starts[r] + b] for r in order]), cache, order))
    whole = model.hidden(ids)
    want = torch.stack([whole[r, starts[r] : starts[r] + 15] for r in order])
    assert worst(torch.cat(got, 1), want) < 1e-9
    assert cache.lengths == [15, 22, 28]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_a_row_can_go_back_over_wrong_guesses(seed, tmp_path, widened):
    saved(seed, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, seed, rows=1, length=CONTEXT)
    cache = Cache(model.config, rows=1, capacity=CONTEXT, dtype=torch.float64)
    whole, at = model.hidden(ids), 0
    for step in (9, 1, 6, 4, 11, 2, 7):
        guess = torch.cat([ids[:, at : at + step], (ids[:, at : at + 5] + 1) % model.config.vocab_size], 1)[:, : CONTEXT - at]
        got = model.extend(guess, cache, [0])
        assert worst(got[:, :step], whole[:, at : at + step]) < 1e-9
        at += step
        cache.truncate(0, at)


def test_a_row_cannot_go_back_beyond_its_rings(tmp_path):
    saved(0, tmp_path, max_position_embeddings=200)
    model = load_model(tmp_path)
    cache = Cache(model.config, rows=1, capacity=100)
    model.extend(torch.zeros(1, 90, dtype=torch.int64), cache, [0])
    with pytest.raises(SeeklingError, match="reach 32 tokens back"):
        cache.truncate(0, 20)
    cache.reset(0)
    assert cache.lengths == [0]


def test_what_a_row_keeps_grows_by_the_compressed_entries_alone(tmp_path):
    saved(3, tmp_path, layer_types=[SLIDING, CSA, HCA], num_hidden_layers=3, compress_rates={CSA: 2, HCA: 5}, num_hash_layers=1,
          mlp_layer_types=None, max_position_embeddings=400)  # fmt: skip
    config = load_model(tmp_path).config
    short, long = (Cache(config, rows=1, capacity=n) for n in (100, 200))
    entries = 50 * (config.head_dim + config.v4.index_head_dim) + 20 * config.head_dim
    assert short.state_elements() == long.state_elements()
    assert (long.bytes() - short.bytes()) // 4 == entries
    assert long.elements_per_token() == config.kv_elements_per_token() == -(-entries // 100)


# ---- packed documents ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_a_packed_row_equals_its_documents_alone(seed, tmp_path, widened):
    """Blocks begin anew with every document."""
    saved(seed, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, seed, length=30)
    doc = torch.zeros_like(ids, dtype=torch.int32)
    doc[0, 5:], doc[0, 18:], doc[1, 13:] = 1, 2, 7
    packed = model.hidden(ids, doc)
    for row, cuts in ((0, [0, 5, 18, 30]), (1, [0, 13, 30])):
        for a, b in pairwise(cuts):
            assert worst(packed[row, a:b], model.hidden(ids[row : row + 1, a:b])[0]) < 1e-9


def test_gradients_reach_every_weight_but_those_that_only_choose(tmp_path):
    """A packed row through the training loss. The indexer decides which entries are seen, and no loss can feel a choice."""
    from seekling.train.loss import compute_loss

    config = read_config({"model_type": "deepseek_v4", **draw(
        3, layer_types=[SLIDING, CSA, HCA], num_hidden_layers=3, compress_rates={CSA: 2, HCA: 3}, mlp_layer_types=None,
        num_hash_layers=1, n_routed_experts=2, num_experts_per_tok=2, num_nextn_predict_layers=1, tie_word_embeddings=False,
    )})  # fmt: skip
    model = Decoder.build(config, seed=1)
    tokens = ids_of(config, 1, length=26)
    doc = torch.zeros_like(tokens, dtype=torch.int32)
    doc[:, 11:] = 1
    batch = SimpleNamespace(tokens_BS=tokens, doc_BS=doc, mask_BS=None)
    compute_loss(model, batch, mtp_weight=0.3).loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert all(".indexer." in name for name in without), without
