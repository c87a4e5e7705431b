"""Every open family computes what transformers computes, on random small models over all options of its config."""

import contextlib
import json
import warnings

import pytest
import torch
from family_models import CONTEXT, FAMILIES, draw, hf_family_model, ids_of
from gguf_tiny import RAW
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_models import hf_load, one_thread  # noqa: F401
from transformers import AutoConfig

from seekling.errors import ConfigError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.formats.families.kinds import KINDS, ROPE_KINDS
from seekling.model.cache import Cache

SEEDS = range(24)
CASES = [(family, seed) for family in FAMILIES for seed in SEEDS]


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def saved(family: str, seed: int, folder, dtype=torch.float64):
    model = hf_family_model(family, seed, dtype)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("family", "seed"), CASES)
def test_logits_equal_transformers_in_float64(family, seed, tmp_path):
    theirs = saved(family, seed, tmp_path)
    ours = load_model(tmp_path, "float64")
    ids = ids_of(theirs.config, seed)
    want = theirs(ids).logits
    assert want.std() > 0.05
    assert worst(ours(ids), want) < 1e-8


@torch.no_grad()
@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in FAMILIES for s in range(6)])
def test_logits_equal_transformers_in_float32(family, seed, tmp_path):
    theirs = saved(family, seed, tmp_path, torch.float32)
    ids = ids_of(theirs.config, seed)
    assert worst(load_model(tmp_path)(ids), theirs(ids).logits) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in FAMILIES for s in range(8)])
def test_cached_decoding_equals_the_whole_row(family, seed, tmp_path):
    saved(family, seed, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, seed)[:, :8]  # where longrope changes its frequencies a cached row keeps its old keys
    cache = Cache(model.config, rows=2, capacity=CONTEXT, dtype=torch.float64)
    parts = [model.extend(ids[:, a:b], cache, [0, 1]) for a, b in [(0, 3), (3, 4), (4, 5), (5, ids.shape[1])] if a < b]
    assert worst(torch.cat(parts, 1), model.hidden(ids)) < 3e-6  # scores and norms pass through float32


@torch.no_grad()
@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in FAMILIES for s in range(8)])
def test_transformers_loads_what_was_saved(family, seed, tmp_path):
    theirs = saved(family, seed, tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs", "float64"), tmp_path / "ours")
    again, info = hf_load(tmp_path / "ours", torch.float64)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = ids_of(theirs.config, seed)
    assert worst(again.eval()(ids).logits, theirs(ids).logits) < 1e-8


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_config_survives_writing_and_reading(family, seed):
    config = read_config({"model_type": family, **draw(family, seed)})
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_counts_are_those_of_the_module(family, tmp_path):
    for seed in range(6):
        theirs = saved(family, seed, tmp_path / str(seed))
        config = load_model(tmp_path / str(seed)).config
        held = sum(p.numel() for n, p in theirs.named_parameters() if "e_score_correction_bias" not in n)
        assert config.parameters().total == held


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_key_is_named(family):
    with pytest.raises(ConfigError, match="'logit_twist'"):
        read_config({"model_type": family, **draw(family, 0), "logit_twist": 2})


@pytest.mark.parametrize("family", FAMILIES)
def test_another_activation_is_named(family):
    with pytest.raises(ConfigError, match="hidden_act = 'gelu'"):
        read_config({"model_type": family, **draw(family, 0), "hidden_act": "gelu"})


def test_an_unknown_family_lists_those_that_are_read():
    with pytest.raises(ConfigError, match="llama, qwen2"):
        read_config({"model_type": "rwkv"})


@torch.no_grad()
def test_documents_and_windows_hold_together(tmp_path):
    """A packed row equals its documents alone, also where layers slide."""
    saved("gpt_oss", 1, tmp_path)
    model = load_model(tmp_path, "float64")
    ids = ids_of(model.config, 1)
    doc = torch.zeros_like(ids, dtype=torch.int32)
    doc[:, 5:] = 1
    packed = model.hidden(ids, doc)
    # each document alone starts at position 0: rotation is relative, so only rounding differs
    assert worst(packed[:, :5], model.hidden(ids[:, :5])) < 1e-5
    assert worst(packed[:, 5:], model.hidden(ids[:, 5:])) < 1e-5


@pytest.mark.parametrize(("key", "value"), [("layernorm_mlp_alpha", 2.0), ("attn_type_list", [1, 0, 1])])
def test_minimax_m2_has_no_scaled_residuals_and_no_linear_layers(key, value):
    with pytest.raises(ConfigError, match=key):
        read_config({"model_type": "minimax_m2", **draw("minimax_m2", 0), key: value})


def test_the_published_minimax_m2_keys_are_read():
    kinds = dict.fromkeys((f"layernorm_{k}_{e}" for k in ("full_attention", "mlp") for e in ("alpha", "beta")), 1.0)
    raw = {
        "model_type": "minimax_m2",
        **draw("minimax_m2", 0),
        **kinds,
        "attn_type_list": [1, 1],
        "use_mtp": True,
        "num_mtp_modules": 3,
    }
    assert read_config(raw) == read_config({"model_type": "minimax_m2", **draw("minimax_m2", 0)})


# ---- what a config.json may not say --------------------------------------------------------------------------------------


EVERY = [*FAMILIES, "deepseek_v2", "deepseek_v3", "deepseek_v4"]


def config_of(family: str, **changes):
    """A readable config.json of the family, some keys changed."""
    if family not in FAMILIES:
        return {**RAW[family], **changes}
    return {"model_type": family, **draw(family, 0), **changes}


@pytest.mark.parametrize("family", ["qwen3", "gpt_oss", "deepseek_v32", "deepseek_v4"])
def test_two_rope_objects_must_say_the_same(family):
    """transformers takes rope_scaling where both are there, others rope_parameters."""
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 10000.0}
    with pytest.raises(ConfigError, match=r"rope_parameters .* and rope_scaling .* keep the one"):
        read_config(config_of(family, rope_parameters=plain, rope_scaling=yarn))
    same = read_config(config_of(family, rope_parameters=yarn, rope_scaling=dict(yarn)))
    assert same == read_config(config_of(family, rope_parameters=yarn, rope_scaling=None))
    with pytest.raises(ConfigError, match="rope_scaling is 4: give an object"):
        read_config(config_of(family, rope_parameters=yarn, rope_scaling=4))


@pytest.mark.parametrize("family", EVERY)
def test_without_a_base_the_rotation_is_transformers(family):
    raw = {k: v for k, v in config_of(family).items() if k not in ("rope_parameters", "rope_theta", "rope_scaling")}
    theirs = AutoConfig.for_model(**raw).rope_parameters
    assert read_config(raw).rope_theta == theirs.get("main", theirs)["rope_theta"]


@pytest.mark.parametrize("family", EVERY)
def test_one_bad_value_makes_no_other_key_unknown(family):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "twist": 1, "rope_theta": 10000.0}
    with pytest.raises(ConfigError, match="twist") as caught:
        read_config(config_of(family, rope_parameters=None, rope_scaling=scaling))
    assert "unknown key" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("norm_topk_prob", "false", "true or false"),
        ("tie_word_embeddings", "false", "true or false"),
        ("routed_scaling_factor", float("nan"), "a finite number"),
        ("routed_scaling_factor", "2.5", "a finite number"),
        ("rope_theta", float("inf"), "a finite number"),
        ("first_k_dense_replace", 1.5, "a whole number"),
        ("n_shared_experts", 1.5, "a whole number"),
        ("num_hidden_layers", 10**30, "a whole number from 0 to 10000"),
        ("hidden_size", True, "a whole number"),
        ("eos_token_id", "</s>", "a token id or a list of them"),
        ("rope_scaling", "yarn", "an object"),
    ],
)
def test_a_value_of_another_kind_is_one_line_with_the_remedy(key, value, remedy):
    with pytest.raises(ConfigError, match=rf"^config\.json: {key} is .*: give {remedy}.*$") as caught:
        read_config(config_of("deepseek_v3", **{key: value}))
    assert "\n" not in str(caught.value)


def test_values_inside_a_rope_object_have_kinds_too():
    with pytest.raises(ConfigError, match=r"rope_scaling\.factor is '4': give a finite number"):
        read_config(config_of("llama", rope_parameters=None, rope_scaling={"rope_type": "linear", "factor": "4"}))


SIMPLE = st.none() | st.booleans() | st.floats() | st.sampled_from([0, 1, -1, 2, 7, 10**30, 10**400, "", "x", "1", "yarn"])
JUNK = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(ROPE_KINDS)), inner),
    max_leaves=4,
)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(EVERY), st.dictionaries(st.sampled_from(sorted({*KINDS, "model_type"})), JUNK, min_size=1, max_size=3))
def test_any_config_is_read_or_refused(family, changes):
    with warnings.catch_warnings(), contextlib.suppress(ConfigError):
        warnings.simplefilter("ignore")
        json.dumps(write_config(read_config(config_of(family, **changes))))


@pytest.mark.parametrize("key", ["norm_topk_prob", "rope_interleave"])
def test_null_is_no_where_transformers_takes_it_so(key):
    raw = config_of("deepseek_v3", **{key: None})
    assert getattr(AutoConfig.for_model(**raw), key) is None  # its code asks for truth
    assert getattr(read_config(raw), key) is False
    with pytest.raises(ConfigError, match=key):
        read_config(config_of("deepseek_v32", **{key: None}))


@pytest.mark.parametrize("family", ["llama", "ernie4_5", "ernie4_5_moe", "qwen3_moe", "minimax"])
def test_a_head_dim_of_null_is_the_share_of_a_head(family):
    raw = config_of(family, hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=None)
    raw |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    assert read_config(raw).head_dim == 12
