"""DeepSeek Sparse Attention against loops over its definition; dense where rows are short; ties, documents, cache, folders."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_models import fill, hf_load, one_thread  # noqa: F401
from train_tiny import records, tiny_loop

from seekling.errors import ConfigError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.formats.fp8 import FP8Format
from seekling.formats.stores import open_folder
from seekling.formats.stream import convert
from seekling.model import sparse
from seekling.model.cache import Cache
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.model.rope import RopeTable
from seekling.model.sight import WholeRows
from seekling.train.log import RunLog

CONFIG = ModelConfig(
    model_type="deepseek_v32", vocab_size=40, hidden_size=16, intermediate_size=20, moe_intermediate_size=7,
    num_hidden_layers=2, num_attention_heads=2, q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=3, qk_rope_head_dim=4,
    v_head_dim=5, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=2.5, index_topk=4, index_n_heads=16, index_head_dim=6, max_position_embeddings=64,
)  # fmt: skip
IDS = torch.randint(0, 40, (2, 15), generator=torch.Generator().manual_seed(4))


def changed(**changes) -> ModelConfig:
    return dataclasses.replace(CONFIG, **changes)


def model_of(config: ModelConfig = CONFIG, seed: int = 12) -> Decoder:
    model = Decoder.build(config, dtype=torch.float64)
    fill(model, seed)
    return model.eval()


def worst(a, b) -> float:
    return (a.double() - b.double()).abs().max().item()


# ---- the definition --------------------------------------------------------------------------------------------------


def turned(vector, place, config):
    """The first channels rotated in pairs (i, i + R/2), one number at a time."""
    cos, sin = RopeTable(config).upto(64, torch.device("cpu"))
    out, half = vector.clone(), config.qk_rope_head_dim // 2
    for i in range(half):
        a, b, c, s = vector[i], vector[i + half], cos[place, i].double(), sin[place, i].double()
        out[i], out[i + half] = a * c - b * s, b * c + a * s
    return out


def slow_choice(attention, x_TD):
    """For each token the set of keys with the highest index scores among those up to it."""
    indexer, config = attention.indexer, attention.config
    latent = attention.q_a_layernorm(attention.q_a_proj(x_TD))
    found = []
    keys = [turned(indexer.k_norm(indexer.wk(x_TD[s])), s, config) for s in range(len(x_TD))]
    for t in range(len(x_TD)):
        weights = indexer.weights_proj(x_TD[t]) * config.index_n_heads**-0.5
        heads = indexer.wq_b(latent[t]).view(config.index_n_heads, -1)
        queries = [turned(head, t, config) for head in heads]
        scores = []
        for s in range(t + 1):
            products = [max(0.0, (q @ keys[s]).item() * config.index_head_dim**-0.5) for q in queries]
            scores.append(sum(w.item() * p for w, p in zip(weights, products, strict=True)))
        found.append(set(sorted(range(t + 1), key=lambda s: -scores[s])[: config.index_topk]))
    return found


@torch.no_grad()
def test_the_chosen_keys_are_those_of_the_definition_and_attention_sees_no_others():
    attention = model_of().model.layers[0].self_attn
    x_TD = torch.randn(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cos, sin = RopeTable(CONFIG).upto(12, torch.device("cpu"))
    rows = WholeRows((1, 12), cos[:12], sin[:12])
    got = attention(x_TD[None], rows)[0]
    chosen = slow_choice(attention, x_TD)
    assert any(keys != set(range(t - 3, t + 1)) for t, keys in enumerate(chosen))  # not just the last four
    for t, keys in enumerate(chosen):
        # ordinary attention over a row that holds these keys and no others says the same
        dense = sparse.MLA.forward
        mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
        mask[..., list(keys)] = True
        only = WholeRows((1, 12), cos[:12], sin[:12], _masks={None: mask})
        attention.count = 99
        assert worst(dense(attention, x_TD[None], only)[0, t], got[t]) < 1e-9
        attention.count = CONFIG.index_topk


@settings(max_examples=100)
@given(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 3.5, float("-inf")]), min_size=1, max_size=12), st.data())
def test_best_takes_the_highest_and_of_equal_ones_the_first(scores, data):
    count = data.draw(st.integers(1, len(scores)))
    want = sorted(range(len(scores)), key=lambda i: -scores[i])[:count]  # Python's sort keeps the order of equal ones
    assert sparse.best(torch.tensor(scores), count).nonzero()[:, 0].tolist() == sorted(want)


@torch.no_grad()
@pytest.mark.parametrize("count", [15, 16, 99])
def test_a_row_of_no_more_keys_than_topk_is_dense(count):
    """Equal to V3 with the same weights, whole and cached."""
    model = model_of(changed(index_topk=count))
    v3 = Decoder.build(changed(model_type="deepseek_v3", index_topk=None), dtype=torch.float64)
    v3.load_state_dict({name: t for name, t in model.state_dict().items() if ".indexer." not in name})
    assert torch.equal(model(IDS), v3.eval()(IDS))
    cache = Cache(model.config, rows=2, capacity=20, dtype=torch.float64)
    parts = [model.extend(IDS[:, a:b], cache) for a, b in [(0, 6), (6, 7), (7, 15)]]
    assert worst(torch.cat(parts, 1), v3.hidden(IDS)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 5, 14])
def test_the_absorbed_form_over_chosen_latents_equals_the_whole_row(count):
    model = model_of(changed(index_topk=count))
    cache = Cache(model.config, rows=3, capacity=20, dtype=torch.float64)
    model.extend(IDS[1:, :3], cache, [0])
    model.extend(IDS[:1, :9], cache, [2])
    for t in range(6):  # rows of unequal length, one of them still shorter than topk at first
        got = model.extend(torch.stack([IDS[1, 3 + t : 4 + t], IDS[0, 9 + t : 10 + t]]), cache, [0, 2])
        assert worst(got[0, 0], model.hidden(IDS[1:, : 4 + t])[0, -1]) < 1e-5
        assert worst(got[1, 0], model.hidden(IDS[:1, : 10 + t])[0, -1]) < 1e-5


@torch.no_grad()
def test_equal_scores_choose_the_same_keys_whole_cached_and_in_parts(monkeypatch):
    """All scores are 0: the first keys win, however the row is computed."""
    model = model_of()
    for layer in model.model.layers:
        layer.self_attn.indexer.weights_proj.weight.zero_()
    whole = model.hidden(IDS)
    cache = Cache(model.config, rows=2, capacity=20, dtype=torch.float64)
    parts = [model.extend(IDS[:, a:b], cache) for a, b in [(0, 2), (2, 3), (3, 9), *[(t, t + 1) for t in range(9, 15)]]]
    assert worst(torch.cat(parts, 1), whole) < 1e-5
    other = IDS.clone()
    other[:, 4:14] = (IDS[:, 4:14] + 1) % 40  # keys that are never among the first four
    assert worst(model.hidden(other)[:, -1], whole[:, -1]) < 1e-12


@torch.no_grad()
def test_scoring_in_parts_changes_nothing(monkeypatch):
    model = model_of()
    whole = model.hidden(IDS)
    monkeypatch.setattr(sparse, "_SCORES", 1)  # one query at a time
    assert worst(model.hidden(IDS), whole) < 1e-12


@torch.no_grad()
def test_a_packed_row_equals_its_documents_alone():
    model = model_of()
    doc = torch.tensor([[0] * 3 + [1] * 12, [0] * 6 + [1] * 9])
    packed = model.hidden(IDS, doc)
    for row, first, last in [(0, 0, 3), (0, 3, 15), (1, 0, 6), (1, 6, 15)]:
        assert worst(packed[row, first:last], model.hidden(IDS[row : row + 1, first:last])[0]) < 1e-5


def test_training_moves_everything_but_the_indexer():
    """Which keys are chosen has no gradient; the paper trains the indexer by a loss of its own."""
    model = Decoder.build(CONFIG, seed=1)
    model(IDS).square().mean().backward()
    without = {name.split(".indexer.")[0] for name, p in model.named_parameters() if p.grad is None and ".indexer." in name}
    assert without == {"model.layers.0.self_attn", "model.layers.1.self_attn"}
    unused = [n for n, p in model.named_parameters() if p.grad is None and ".indexer." not in n]
    assert not unused


@pytest.mark.parametrize(("optimizer", "dtype"), [("adamw", torch.float32), ("muon", torch.bfloat16)])
def test_a_training_run_learns_and_leaves_the_indexer_as_it_was(optimizer, dtype, tmp_path):
    config = changed(vocab_size=48, num_nextn_predict_layers=1)
    loop = tiny_loop(15, dtype, optimizer, config=config, log=RunLog(tmp_path / "log.jsonl"))
    before = {n: t.clone() for n, t in loop.model.state_dict().items() if ".indexer." in n}
    loop.run()
    losses = [r["loss"] for r in records(tmp_path) if r["kind"] == "step"]
    assert losses[-1] < 0.75 * losses[0]
    after = loop.model.state_dict()
    assert len(before) == 3 * 5 and all(torch.equal(t, after[n]) for n, t in before.items())


def test_bfloat16_rows_decode_as_they_are_read():
    model = Decoder.build(CONFIG, dtype=torch.bfloat16, seed=3).eval()
    cache = Cache(CONFIG, rows=2, capacity=20, dtype=torch.bfloat16)
    with torch.no_grad():
        model.extend(IDS[:, :14], cache)
        last = model.extend(IDS[:, 14:], cache)
        assert last.dtype == torch.bfloat16 and torch.isfinite(last).all()
        assert worst(last[:, 0], model.hidden(IDS)[:, -1]) < 0.1


def test_the_cache_holds_latent_key_and_index_key():
    cache = Cache(CONFIG, rows=1, capacity=3)
    assert [[tuple(t.shape) for t in stores] for stores in cache.layers] == [[(1, 3, 5), (1, 3, 4), (1, 3, 6)]] * 2
    assert cache.elements_per_token() == CONFIG.kv_elements_per_token() == 2 * (5 + 4 + 6)


# ---- multi-token prediction, folders, config -------------------------------------------------------------------------


@torch.no_grad()
def test_the_mtp_layer_has_an_indexer_too_and_is_a_layer_of_transformers(tmp_path):
    """transformers drops V3.2's MTP layer; made the only layer of a model, it computes the same on what ``join`` made."""
    model = model_of(changed(num_nextn_predict_layers=1))
    save_model(model, tmp_path / "ours")
    again = load_model(tmp_path / "ours", "float64")
    layer = again.mtp_layers[0]
    alone = Decoder.build(changed(num_hidden_layers=1, first_k_dense_replace=0), dtype=torch.float64)
    alone.model.layers[0].load_state_dict(
        {n: t for n, t in layer.state_dict().items() if not n.startswith(("enorm", "hnorm", "eh_proj", "shared_head"))}
    )
    alone.model.norm.load_state_dict(layer.shared_head.norm.state_dict())
    save_model(alone, tmp_path / "alone")
    theirs, _ = hf_load(tmp_path / "alone", torch.float64)
    x, following = model.states(IDS[:, :-1]), IDS[:, 1:]
    joined = layer.join(x, again.model.embed_tokens(following))
    want = theirs.model(inputs_embeds=joined, use_cache=False).last_hidden_state
    assert worst(again.mtp_states(x, following[..., None])[0], want) < 1e-8
    assert worst(model.mtp_states(x, following[..., None])[0], want) < 1e-8


@torch.no_grad()
def test_an_fp8_folder_loads_with_the_indexer_quantised_as_published(tmp_path):
    model = model_of().float()
    save_model(model, tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "fp8", fp8=FP8Format((4, 4)))
    source = open_folder(tmp_path / "fp8")
    prefix = "model.layers.1.self_attn.indexer."
    assert {n.removeprefix(prefix) for n in source.scales if n.startswith(prefix)} == {"wq_b.weight", "wk.weight"}
    again = load_model(tmp_path / "fp8")
    indexer, old = again.model.layers[1].self_attn.indexer, model.model.layers[1].self_attn.indexer
    assert torch.equal(indexer.weights_proj.weight, old.weights_proj.weight)
    assert 0 < worst(indexer.wk.weight, old.wk.weight) < 0.1
    theirs, info = hf_load(tmp_path / "plain", torch.float32)
    assert not any(info.values())
    assert worst(theirs.eval()(IDS).logits, load_model(tmp_path / "plain")(IDS)) < 1e-4


# config.json of DeepSeek-V3.2
PUBLISHED = {
    "architectures": ["DeepseekV32ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "initializer_range": 0.02, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v32", "moe_intermediate_size": 2048,
    "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06, "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc", "use_cache": True, "v_head_dim": 128,
    "vocab_size": 129280,
}  # fmt: skip


def test_the_published_config_is_read_counted_and_written():
    config = read_config(PUBLISHED)
    assert (config.index_topk, config.index_n_heads, config.index_head_dim) == (2048, 64, 128)
    v3 = read_config({**{k: v for k, v in PUBLISHED.items() if "index_" not in k}, "model_type": "deepseek_v3"})
    indexer = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert config.parameters().total - v3.parameters().total == 61 * indexer
    assert config.kv_elements_per_token() == 61 * (512 + 64 + 128)
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_lora_rank": None}, "index_topk needs attention mla with a q_lora_rank"),
        ({"index_topk": 0}, "index_topk must be a positive whole number, not 0"),
        ({"index_head_dim": 32}, "index_head_dim 32 is less than the 64 rotated channels"),
        ({"rope_interleave": False}, "rope_interleave = False is not supported"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported"),
        ({"layer_types": ["full_attention"] * 61}, r"layer_types holds \['full_attention'\]; deepseek_v32 knows indexed"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types must say dense or sparse for each of the 61 layers"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax' with topk_method 'noaux_tc' does not exist in deepseek_v32"),
    ],
)
def test_what_is_not_that_model_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        read_config({**PUBLISHED, **change})
