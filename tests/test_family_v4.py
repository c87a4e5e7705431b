"""DeepSeek-V4 computes what transformers computes, whole rows and token by token, on random small models over all options."""

import json
from itertools import pairwise

import pytest
import torch
from family_v4 import CONTEXT, CSA, HCA, SLIDING, draw, hf_v4, ids_of
from oracle_models import hf_load, one_thread  # noqa: F401

from seekling.errors import CheckpointError, ConfigError, SeeklingError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.model.cache import Cache

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
