"""Lightning attention: its blocks, its recurrence and the sum they both stand for; packed documents; states in the cache."""

import json

import pytest
import torch
from family_models import draw, hf_family_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_models import hf_load, one_thread  # noqa: F401
from train_tiny import records, tiny_loop

from seekling.errors import CheckpointError, ConfigError, SeeklingError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.formats.safetensors_io import ToWrite, write_safetensors
from seekling.formats.stores import open_folder
from seekling.model.cache import Cache
from seekling.model.config import ModelConfig, NormResidual
from seekling.model.decoder import Decoder
from seekling.model.lightning import decays, lightning_blocks, lightning_step
from seekling.train.log import RunLog

KEPT = 2e-6  # decays are float32 numbers: a product of them is not quite the decay of the sum


def sum_over_the_past(q, k, v, slope_H, doc_BT):
    """o_t = Σ_{s ≤ t, same document} e^(-slope·(t-s)) (q_t·k_s) v_s, term by term."""
    out = torch.zeros_like(v)
    for t in range(q.shape[2]):
        for s in range(t + 1):
            same = (doc_BT[:, t] == doc_BT[:, s]).double()[:, None, None]
            weight = torch.exp(-slope_H.double() * (t - s))[None, :, None]
            out[:, :, t] += same * weight * (q[:, :, t] * k[:, :, s]).sum(-1, keepdim=True) * v[:, :, s]
    return out


def drawn(seed, B, H, T, P):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, H, T, P, generator=g, dtype=torch.float64) for _ in range(3)]


@settings(max_examples=30)
@given(
    st.integers(0, 99), st.integers(1, 2), st.integers(1, 5), st.integers(1, 14), st.integers(1, 6), st.integers(0, 2),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
)  # fmt: skip
def test_blocks_recurrence_and_sum_agree_whatever_the_block_and_the_documents(seed, B, H, T, block, layer, lengths):
    q, k, v = drawn(seed, B, H, T, 3)
    table = decays(H, layer, 3, block)
    doc = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).repeat(3)[:T]
    doc = torch.cat([doc, doc.new_full((T - len(doc),), 9)]) if len(doc) < T else doc
    doc = (doc != torch.cat([doc[:1], doc[:-1]])).cumsum(0).expand(B, T)  # numbers that never come back
    want = sum_over_the_past(q, k, v, table.slope_H, doc)
    assert (lightning_blocks(q, k, v, table, None, doc)[0] - want).abs().max() < KEPT * 10

    alone = sum_over_the_past(q, k, v, table.slope_H, torch.zeros_like(doc))
    by_block, state = lightning_blocks(q, k, v, table)
    by_step, stepped = lightning_step(q, k, v, table, torch.zeros(B, H, 3, 3, dtype=torch.float64))
    assert (by_block - alone).abs().max() < KEPT * 10 and (by_step - alone).abs().max() < KEPT * 10
    assert (state - stepped).abs().max() < KEPT * 10


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_blocks_go_on_from_a_state(cut):
    q, k, v = drawn(5, 2, 3, 10, 4)
    table = decays(3, 1, 4, 4)
    whole, end = lightning_blocks(q, k, v, table)
    first, state = lightning_blocks(*(x[:, :, :cut] for x in (q, k, v)), table)
    second, again = lightning_blocks(*(x[:, :, cut:] for x in (q, k, v)), table, state)
    assert (torch.cat([first, second], 2) - whole).abs().max() < KEPT
    assert (again - end).abs().max() < KEPT


def test_gradients_of_the_blocks_are_those_of_the_recurrence():
    grads = []
    for run in (lightning_blocks, lightning_step):
        q, k, v = (x.requires_grad_() for x in drawn(7, 1, 2, 7, 3))
        out, _ = run(q, k, v, decays(2, 0, 2, 3), torch.zeros(1, 2, 3, 3, dtype=torch.float64))
        out.square().sum().backward()
        grads.append(torch.cat([q.grad, k.grad, v.grad]))
    assert (grads[0] - grads[1]).abs().max() < 1e-4 * grads[1].abs().max()


def config(**changes) -> ModelConfig:
    values = dict(
        vocab_size=40, hidden_size=16, intermediate_size=12, moe_intermediate_size=12, num_hidden_layers=3,
        num_attention_heads=4, attention="gqa", num_key_value_heads=2, head_dim=4, v_head_dim=4, rope_interleave=False,
        layer_types=("linear_attention", "full_attention", "linear_attention"), linear_block=4, n_routed_experts=4,
        num_experts_per_tok=2, scoring_func="softmax", topk_method="greedy", router_float32=False,
        norm_residual=NormResidual(linear_alpha=2.0, full_beta=0.5), max_position_embeddings=64, initializer_range=0.2,
        model_type="minimax",
    )  # fmt: skip
    return ModelConfig(**{**values, **changes})


def model_and_ids(**changes):
    g = torch.Generator().manual_seed(3)
    model = Decoder.build(config(**changes), dtype=torch.float64, seed=4).eval()
    return model, torch.randint(0, 40, (2, 13), generator=g)


@torch.no_grad()
def test_a_packed_row_equals_its_documents_alone():
    model, ids = model_and_ids()
    doc = torch.tensor([[0] * 3 + [1] * 6 + [2] * 4, [5] * 13])
    packed = model.hidden(ids, doc)
    for row, first, last in [(0, 0, 3), (0, 3, 9), (0, 9, 13), (1, 0, 13)]:
        assert (packed[row, first:last] - model.hidden(ids[row : row + 1, first:last])[0]).abs().max() < 1e-5


@pytest.mark.parametrize(("optimizer", "dtype"), [("adamw", torch.float32), ("muon", torch.bfloat16)])
def test_a_training_run_over_packed_documents_learns(optimizer, dtype, tmp_path):
    loop = tiny_loop(
        15, dtype, optimizer, config=config(vocab_size=48, initializer_range=0.02), log=RunLog(tmp_path / "log.jsonl")
    )
    loop.run()
    losses = [r["loss"] for r in records(tmp_path) if r["kind"] == "step"]
    assert losses[-1] < 0.75 * losses[0]


@torch.no_grad()
def test_rows_of_unequal_length_keep_their_own_state():
    model, ids = model_and_ids()
    cache = Cache(model.config, rows=3, capacity=20, dtype=torch.float64)
    model.extend(ids[:1, :5], cache, [2])
    model.extend(ids[1:, :2], cache, [0])
    both = model.extend(torch.stack([ids[1, 2:6], ids[0, 5:9]]), cache, [0, 2])
    whole = model.hidden(ids[:, :9])
    assert (both[0] - whole[1, 2:6]).abs().max() < 1e-5
    assert (both[1] - whole[0, 5:9]).abs().max() < 1e-5


@torch.no_grad()
def test_an_emptied_row_begins_with_no_state():
    model, ids = model_and_ids()
    cache = Cache(model.config, rows=1, capacity=20, dtype=torch.float64)
    model.extend(ids[:1], cache)
    cache.truncate(0, 0)
    assert torch.equal(model.extend(ids[1:], cache), model.extend(ids[1:], Cache(model.config, 1, 20, dtype=torch.float64)))


@torch.no_grad()
def test_a_row_with_a_state_cannot_be_cut_back():
    model, ids = model_and_ids()
    cache = Cache(model.config, rows=1, capacity=20)
    model.float().extend(ids[:1, :6], cache)
    cache.truncate(0, 6)
    with pytest.raises(SeeklingError, match="over 6 tokens, which cannot go back to 4"):
        cache.truncate(0, 4)
    assert cache.lengths == [6]


def test_only_layers_with_keys_count_per_token_and_the_state_is_wide():
    cache = Cache(config(), rows=2, capacity=8, dtype=torch.bfloat16)
    assert cache.elements_per_token() == config().kv_elements_per_token() == 2 * 2 * 4
    assert [[tuple(t.shape) for t in stores] for stores in cache.states] == [[(2, 4, 4, 4)], [], [(2, 4, 4, 4)]]
    assert cache.states[0][0].dtype == torch.float32


# ---- the folder ----------------------------------------------------------------------------------------------------


def rewritten(folder, change):
    """The folder's tensors with some dropped or replaced."""
    source = open_folder(folder)
    tensors = {name: source.read(name).clone() for name in source.shapes}
    change(tensors)
    files = [ToWrite(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", files)


def test_decay_tables_are_written_as_transformers_computes_them(tmp_path):
    save_model(Decoder.build(config(), seed=1), tmp_path)
    theirs, info = hf_load(tmp_path, torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    layer = theirs.model.layers[2].self_attn
    slope = layer.get_slope_rate()
    assert torch.equal(layer.slope_rate, slope)
    for name, table in zip(("query_decay", "key_decay", "diagonal_decay"), layer.decay_factors(slope), strict=True):
        assert torch.equal(getattr(layer, name), table)


def test_a_folder_without_decay_tables_is_complete(tmp_path):
    model = Decoder.build(config(), seed=1)
    save_model(model, tmp_path)
    rewritten(tmp_path, lambda tensors: [tensors.pop(n) for n in list(tensors) if n.endswith(("decay", "slope_rate"))])
    ids = torch.arange(10)[None]
    assert torch.equal(load_model(tmp_path)(ids), model(ids))


def test_decay_tables_of_another_model_are_refused(tmp_path):
    save_model(Decoder.build(config(), seed=1), tmp_path)
    rewritten(tmp_path, lambda tensors: tensors["model.layers.2.self_attn.slope_rate"].mul_(1.1).add_(0.1))
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn\.slope_rate differs from what config\.json makes it"):
        load_model(tmp_path)


@torch.no_grad()
def test_tables_stored_in_16_bits_are_taken_for_what_they_round(tmp_path):
    theirs = hf_family_model("minimax", 1, torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    assert "linear_attention" in theirs.config.layer_types
    load_model(tmp_path)


# ---- the config ----------------------------------------------------------------------------------------------------

# What MiniMax published for Text-01, shortened to four layers.
PUBLISHED = {
    "architectures": ["MiniMaxText01ForCausalLM"], "attention_dropout": 0.0, "attn_type_list": [0, 0, 0, 1],
    "auto_map": {"AutoConfig": "configuration_minimax_text_01.MiniMaxText01Config"}, "bos_token_id": None,
    "eos_token_id": None, "head_dim": 128, "hidden_act": "silu", "hidden_size": 6144, "initializer_range": 0.02,
    "intermediate_size": 9216, "layernorm_full_attention_alpha": 3.5565588200778455, "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": 3.5565588200778455, "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": 3.5565588200778455, "layernorm_mlp_beta": 1.0, "max_position_embeddings": 10240000,
    "model_type": "minimax_text_01", "num_attention_heads": 64, "num_experts_per_tok": 2, "num_hidden_layers": 4,
    "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": False, "postnorm": True,
    "rms_norm_eps": 1e-05, "rope_theta": 10000000, "rotary_dim": 64, "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0, "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": None,
    "tie_word_embeddings": False, "transformers_version": "4.45.2", "use_cache": True, "vocab_size": 200064,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:rotary_dim is 64")
def test_the_published_keys_say_the_same_as_those_of_transformers():
    found = read_config(PUBLISHED)
    assert found.layer_types == ("linear_attention",) * 3 + ("full_attention",)
    assert found.norm_residual == NormResidual(
        full_alpha=3.5565588200778455, linear_alpha=3.5565588200778455, mlp_alpha=3.5565588200778455
    )
    assert (found.rope_theta, found.rope_dim, found.eos_token_ids) == (1e7, 64, ())
    assert read_config({**PUBLISHED, "model_type": "minimax_m1"}) == found
    written = json.loads(json.dumps(write_config(found)))
    assert written["model_type"] == "minimax" and read_config(written) == found


@pytest.mark.filterwarnings("ignore:rotary_dim is 64")
def test_text_01_has_the_published_number_of_parameters():
    config = read_config({**PUBLISHED, "num_hidden_layers": 80, "attn_type_list": ([0] * 7 + [1]) * 10})
    count = config.parameters()
    assert round(count.total / 1e9) == 456
    assert round((count.active - count.embedding - count.head) / 1e9, 1) == 45.9  # MiniMax-01, abstract: without tables


def test_partial_rotation_is_announced_because_transformers_has_none():
    with pytest.warns(UserWarning, match="rotary_dim is 64 of 128 channels"):
        read_config(PUBLISHED)


@pytest.mark.filterwarnings("ignore:rotary_dim is 64")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"postnorm": False}, "postnorm = False is not supported"),
        ({"shared_intermediate_size": 512}, "shared_intermediate_size = 512 is not supported"),
        ({"mlp_alpha_factor": 2.0}, "mlp_alpha_factor is 2.0 and layernorm_mlp_alpha is 3.55"),
        ({"num_attention_heads": 48}, "num_attention_heads 48 is no power of two"),
        ({"attn_type_list": [0, 0, 0, 2]}, "layer_types holds 2"),
        ({"attn_type_list": [0, 1]}, "layer_types names 2 layers, num_hidden_layers says 4"),
        ({"block_size": 0}, "linear_block must be positive, not 0"),
    ],
)
def test_what_is_not_that_model_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        read_config({**PUBLISHED, **change})


def test_linear_layers_need_grouped_query_heads_beside_them():
    values = dict(
        attention="mla", kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=4, layer_types=("linear_attention",) * 3
    )
    with pytest.raises(ConfigError, match="linear_attention, which goes with attention gqa, not mla"):
        config(**values)


def test_rotary_dim_rotates_the_first_channels_only():
    with pytest.warns(UserWarning, match="rotary_dim is 2"):
        partial = read_config({"model_type": "minimax", **draw("minimax", 0), "head_dim": 4, "rotary_dim": 2})
    assert (partial.rope_dim, partial.head_dim) == (2, 4)
