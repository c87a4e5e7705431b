"""DeepSeek-V4's parts against loops over their definitions, its config keys, its stores, its MTP layer."""

import json
import math

import pytest
import torch
from family_v4 import CSA, HCA, SLIDING, draw, hf_v4, ids_of
from oracle_models import hf_load, one_thread  # noqa: F401
from train_tiny import records, tiny_loop
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4DecoderLayer, DeepseekV4HyperHead

from seekling.errors import CheckpointError, ConfigError, SeeklingError
from seekling.formats import load_model, save_model
from seekling.formats.families import read_config, write_config
from seekling.formats.folder import CONFIG
from seekling.formats.fp8 import FP8Format
from seekling.formats.mxfp4 import quantize as to_fp4
from seekling.formats.safetensors_io import ToWrite, write_safetensors
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.formats.stores import open_folder
from seekling.formats.stream import convert
from seekling.model.decoder import Decoder
from seekling.model.v4.attention import GroupedLinear, attend
from seekling.model.v4.compressor import Compressor, visible
from seekling.model.v4.hyper_connections import HyperConnection, mix, sinkhorn
from seekling.model.v4.indexer import best
from seekling.model.v4.rope import turn
from seekling.model.v4.sight import Sight
from seekling.train.log import RunLog

FLASH = dict(  # deepseek-ai/DeepSeek-V4-Flash, config.json without its quantization_config
    architectures=["DeepseekV4ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=0, eos_token_id=1,
    hc_eps=1e-06, hc_mult=4, hc_sinkhorn_iters=20, head_dim=512, hidden_act="silu", hidden_size=4096, index_head_dim=128,
    index_n_heads=64, index_topk=512, initializer_range=0.02, max_position_embeddings=1048576, model_type="deepseek_v4",
    moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=64,
    num_experts_per_tok=6, num_hidden_layers=43, num_hash_layers=3, num_key_value_heads=1, num_nextn_predict_layers=1,
    o_groups=8, o_lora_rank=1024, q_lora_rank=1024, qk_rope_head_dim=64, rms_norm_eps=1e-06,
    rope_scaling=dict(beta_fast=32, beta_slow=1, factor=16, original_max_position_embeddings=65536, type="yarn"),
    rope_theta=10000, routed_scaling_factor=1.5, scoring_func="sqrtsoftplus", sliding_window=128, swiglu_limit=10.0,
    tie_word_embeddings=False, topk_method="noaux_tc", torch_dtype="bfloat16", transformers_version="4.57.1", use_cache=True,
    vocab_size=129280, compress_rope_theta=160000, compress_ratios=[0, 0, *[4, 128] * 20, 4, 0],
)  # fmt: skip
KINDS = dict(
    layer_types=[SLIDING, CSA, HCA], num_hidden_layers=3, compress_rates={CSA: 2, HCA: 3}, mlp_layer_types=None,
    num_hash_layers=1, compress_ratios=None,
)  # fmt: skip


def config_of(seed=3, **changes):
    return read_config({"model_type": "deepseek_v4", **draw(seed, **KINDS | changes)})


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def worst(a, b):
    return (a.double() - b.double()).abs().max().item()


# ---- parts against loops -------------------------------------------------------------------------------------------------


def test_sinkhorn_makes_rows_and_columns_sum_to_one():
    weights = noise(5, 4, 4).exp()
    made = sinkhorn(weights, 60, 1e-9)
    assert worst(made.sum(-1), torch.ones(5, 4)) < 1e-6 and worst(made.sum(-2), torch.ones(5, 4)) < 1e-6
    slow = weights[0].tolist()
    for step in range(7):  # columns first, and last
        if step % 2 == 0:
            sums = [sum(row[j] for row in slow) + 0.1 for j in range(4)]
            slow = [[row[j] / sums[j] for j in range(4)] for row in slow]
        else:
            slow = [[x / (sum(row) + 0.1) for x in row] for row in slow]
    assert worst(sinkhorn(weights, 4, 0.1)[0], torch.tensor(slow, dtype=torch.float64)) < 1e-12


@torch.no_grad()
def test_a_hyper_connection_is_its_formula_stream_by_stream():
    config = config_of(hc_mult=3, hc_sinkhorn_iters=5, hc_eps=1e-3)
    hc = HyperConnection(config).double()
    for i, p in enumerate(hc.parameters()):
        p.copy_(noise(*p.shape, seed=i))
    streams = noise(1, 1, 3, config.hidden_size, seed=9)
    x, post, comb = hc(streams)
    flat = streams.flatten()
    u = hc.fn @ (flat / (flat.square().mean() + config.rms_norm_eps).sqrt())
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    pre = [sigmoid(u[n] * hc.scale[0] + hc.base[n]) + 1e-3 for n in range(3)]
    assert worst(x[0, 0], sum(pre[n] * streams[0, 0, n] for n in range(3))) < 1e-5  # the network itself is float32
    assert worst(post[0, 0], torch.tensor([2 * sigmoid(u[3 + n] * hc.scale[1] + hc.base[3 + n]) for n in range(3)])) < 1e-5
    table = (u[6:] * hc.scale[2] + hc.base[6:]).view(3, 3).softmax(1) + 1e-3
    assert worst(comb[0, 0], sinkhorn(table, 5, 1e-3)) < 1e-5
    out = noise(1, 1, config.hidden_size, seed=11)
    want = [post[0, 0, k] * out[0, 0] + sum(comb[0, 0, j, k] * streams[0, 0, j] for j in range(3)) for k in range(3)]
    assert worst(mix(streams, out, post, comb)[0, 0], torch.stack(want)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize(("overlap", "rate", "T"), [(False, 3, 11), (True, 2, 9), (True, 4, 12), (False, 1, 4), (True, 5, 4)])
def test_an_entry_is_the_gated_mean_of_its_block(overlap, rate, T):
    config = config_of()
    compressor = Compressor(config, config.head_dim, rate, overlap).double()
    for i, p in enumerate(compressor.parameters()):
        p.copy_(noise(*p.shape, seed=i))
    x = noise(1, T, config.hidden_size, seed=7)
    ropes = Decoder.empty(config).ropes
    got = compressor.compress(x, Sight(ropes, torch.arange(T)[None]), None)
    C, Z, B, c = compressor.kv_proj(x)[0], compressor.gate_proj(x)[0], compressor.position_bias, config.head_dim
    assert got.shape == (1, T // rate, c)
    for w in range(T // rate):
        entry = torch.zeros(c, dtype=torch.float64)
        for channel in range(c):
            pairs = []  # (gate, content)
            for j in range(rate):
                t, second = w * rate + j, channel + (c if overlap else 0)
                pairs.append((Z[t, second] + B[j, second], C[t, second]))
                if overlap and w > 0:
                    pairs.append((Z[t - rate, channel] + B[j, channel], C[t - rate, channel]))
            total = sum(math.exp(gate) for gate, _ in pairs)
            entry[channel] = sum(math.exp(gate) * content for gate, content in pairs) / total
        normed = entry / (entry.square().mean() + config.rms_norm_eps).sqrt() * compressor.kv_norm.weight
        cos, sin = ropes["compress"].at(torch.tensor([[w * rate]]))
        assert worst(got[0, w], turn(normed[None, None], cos, sin)[0, 0]) < 1e-5


def test_a_query_sees_the_blocks_that_are_closed():
    seen = visible(torch.arange(9)[None], 3, 3)[0]
    assert [[w for w in range(3) if seen[t, w]] for t in range(9)] == [[], [], [0], [0], [0], [0, 1], [0, 1], [0, 1], [0, 1, 2]]


def test_of_equal_scores_the_earlier_entry_wins():
    scores = torch.tensor([[[0.0, 2.0, 0.0, 0.0, 1.0]]])
    seen = torch.tensor([[[True, True, True, True, True]]])
    assert best(scores, seen, 3).tolist() == [[[True, True, False, False, True]]]
    assert best(scores, torch.tensor([[[False, False, True, True, False]]]), 3).tolist() == [
        [[False, False, True, True, False]]
    ]


def test_values_come_out_turned_by_their_distance_alone():
    """Turning keys, averaging them as values and turning back: the same at every place of the row."""
    config = config_of()
    rope = Decoder.empty(config).ropes["main"]
    q, kv = noise(1, 1, 2, config.head_dim), noise(1, 3, config.head_dim, seed=1)
    mask, sinks = torch.ones(1, 1, 3, dtype=torch.bool), noise(2, seed=2)

    def at(first):
        cos, sin = rope.at(first + torch.arange(4)[None])
        keys = turn(kv, cos[:, :3], sin[:, :3])
        cos, sin = cos[:, 3:, None], sin[:, 3:, None]
        return turn(attend(turn(q, cos, sin), keys, mask, 0.3, sinks), cos, -sin)

    assert worst(at(0), at(20)) < 1e-5
    assert worst(at(0), attend(q, kv, mask, 0.3, sinks)) > 1e-3


def test_a_sink_takes_weight_and_gives_nothing():
    q, kv, mask = noise(1, 1, 1, 4), noise(1, 3, 4, seed=1), torch.tensor([[[True, False, True]]])
    weights = torch.stack([(q[0, 0, 0] @ kv[0, s] * 0.5).exp() for s in (0, 2)])
    want = (weights[0] * kv[0, 0] + weights[1] * kv[0, 2]) / (weights.sum() + math.exp(0.7))
    assert worst(attend(q, kv, mask, 0.5, torch.tensor([0.7]))[0, 0, 0], want) < 1e-7


def test_a_grouped_matrix_is_block_diagonal():
    grouped = GroupedLinear(3, 2, 4).double()
    torch.nn.init.normal_(grouped.weight)
    x = noise(5, 12)
    want = x @ torch.block_diag(*grouped.weight.view(4, 2, 3)).T
    assert worst(grouped(x), want) < 1e-12


def test_a_hash_table_is_drawn_without_repetition():
    table = Decoder.build(config_of(n_routed_experts=5, num_experts_per_tok=4)).model.layers[0].mlp.gate.tid2eid
    assert all(len(set(row)) == 4 and max(row) < 5 for row in table.tolist())
    assert len(set(table.flatten().tolist())) == 5


# ---- MTP -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_mtp_is_a_sliding_layer_over_projected_streams_and_embedding(depth, tmp_path):
    """transformers drops these layers, so its decoder layer is put together here as DeepSeek's ``MTPBlock`` does."""
    config = config_of(num_nextn_predict_layers=depth, sliding_window=4)
    ours = Decoder.build(config, dtype=torch.float64, seed=5)
    for i, p in enumerate(ours.parameters()):
        p.copy_(noise(*p.shape, seed=i) * 0.3 + (1 if p.dim() == 1 else 0))
    ids = ids_of(config, 0, length=20)
    T = 20 - depth
    streams = ours.states(ids[:, :T])
    following = torch.stack([ids[:, 1 + k : 1 + k + T] for k in range(depth)], -1)
    got = ours.mtp_states(streams, following)

    save_model(ours, tmp_path)
    theirs, info = hf_load(tmp_path, torch.float64)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    x = streams
    for k in range(depth):
        hf = theirs.config
        hf.layer_types, hf.mlp_layer_types = [SLIDING], ["moe"]
        layer, head = DeepseekV4DecoderLayer(hf, 0).double().eval(), DeepseekV4HyperHead(hf).double()
        prefix = f"model.layers.{3 + k}."
        mine = {n.removeprefix(prefix): t for n, t in ours.state_dict().items() if n.startswith(prefix)}
        head.load_state_dict({n.removeprefix("hc_head."): mine.pop(n) for n in list(mine) if n.startswith("hc_head.")})
        joint = {n: mine.pop(f"{n}.weight") for n in ("enorm", "hnorm", "norm", "e_proj", "h_proj")}
        layer.load_state_dict(mine)
        norm = lambda v, w: w * (v.float() * torch.rsqrt(v.float().square().mean(-1, keepdim=True) + config.rms_norm_eps))  # noqa: E731
        e = norm(ours.model.embed_tokens(following[..., k]), joint["enorm"]) @ joint["e_proj"].T
        x = e[:, :, None] + norm(x, joint["hnorm"]) @ joint["h_proj"].T
        places = torch.arange(T)[None]
        table = theirs.model.rotary_emb(x, position_ids=places, layer_type="main")
        far = (places[0][:, None] < places[0]) | (places[0][:, None] - places[0] >= 4)
        mask = torch.zeros(1, 1, T, T, dtype=torch.float64).masked_fill(far, float("-inf"))
        x = layer(x, position_embeddings={"main": table}, position_ids=places, attention_mask=mask, input_ids=following[..., k])
        assert worst(got[k], norm(head(x), joint["norm"])) < 1e-8


@torch.no_grad()
def test_mtp_layers_survive_a_save_and_are_dropped_with_a_word_where_they_are_missing(tmp_path):
    config = config_of(num_nextn_predict_layers=1)
    model = Decoder.build(config, seed=2)
    save_model(model, tmp_path / "a")
    names = set(SafetensorsSource.of_folder(tmp_path / "a").shapes)
    assert {f"mtp.0.{n}" for n in ("e_proj.weight", "hc_head_fn", "attn.attn_sink", "ffn.gate.bias", "norm.weight")} <= names
    again = load_model(tmp_path / "a")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
    hf_v4(1, num_nextn_predict_layers=1).save_pretrained(tmp_path / "b")
    with pytest.warns(UserWarning, match="announces 1 MTP layer"):
        assert load_model(tmp_path / "b").config.num_nextn_predict_layers == 0


# ---- training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "dtype"), [("adamw", torch.float32), ("muon", torch.bfloat16)])
def test_a_training_run_over_packed_documents_learns(optimizer, dtype, tmp_path):
    """Everything moves but what only chooses: the indexer and the table of experts by token id."""
    config = config_of(vocab_size=48, num_nextn_predict_layers=1, hidden_size=16, max_position_embeddings=64)
    loop = tiny_loop(15, dtype, optimizer, config=config, log=RunLog(tmp_path / "log.jsonl"))
    before = {n: t.clone() for n, t in loop.model.state_dict().items()}
    loop.run()
    losses = [r["loss"] for r in records(tmp_path) if r["kind"] == "step"]
    assert losses[-1] < 0.75 * losses[0]
    still = {n for n, t in loop.model.state_dict().items() if torch.equal(t, before[n])}
    assert {n for n in before if ".indexer." in n or n.endswith("tid2eid")} <= still
    assert not [n for n in still if ".indexer." not in n and not n.endswith(("tid2eid", "e_score_correction_bias"))]


# ---- config.json ---------------------------------------------------------------------------------------------------------


def test_the_published_flash_config():
    config = read_config(FLASH)
    assert [round(n / 1e9, 2) for n in (config.parameters().total, config.parameters().active)] == [284.33, 13.8]
    assert config.layer_types[:4] == (SLIDING, SLIDING, CSA, HCA) and config.layer_types[-1] == CSA
    assert config.v4.hash_layers == (0, 1, 2) and config.rope_dim == 64 and config.rope_scaling.attention_factor == 1.0
    written = write_config(config)
    same = set(FLASH) - {"rope_scaling", "torch_dtype", "transformers_version", "use_cache"}
    assert {k: written[k] for k in same} == {k: FLASH[k] for k in same}
    assert read_config(json.loads(json.dumps(written))) == config


def test_defaults_are_those_of_transformers():
    from transformers import DeepseekV4Config

    given = json.loads(DeepseekV4Config().to_json_string(use_diff=False))
    assert read_config({"model_type": "deepseek_v4"}) == read_config(given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logit_twist": 2}, "'logit_twist'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ({"norm_topk_prob": False}, "norm_topk_prob = False"),
        ({"n_shared_experts": 2}, "n_shared_experts must be 1"),
        ({"num_key_value_heads": 4}, "num_key_value_heads = 4"),
        ({"compress_ratios": [0] * 40 + [7] * 3}, "holds 7; only 0, 4 and 128"),
        ({"compress_ratios": [4] * 3}, "names 3 layers"),
        ({"layer_types": ["full_attention"] * 43}, "'full_attention'"),
        ({"mlp_layer_types": ["dense"] * 43}, "'dense'"),
        ({"o_groups": 7}, "o_groups 7 must divide"),
        ({"qk_rope_head_dim": 256}, "index_head_dim 128"),
        ({"swiglu_limit": 0.0}, "swiglu_limit"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type dynamic changes with the row's length"),
        ({"expert_dtype": "int4"}, "expert_dtype = 'int4'"),
        ({"intermediate_size": 7}, "intermediate_size = 7"),
    ],
)
def test_what_is_not_understood_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        read_config(FLASH | changes)


# ---- stores --------------------------------------------------------------------------------------------------------------


def tiny_model(tmp_path, **changes):
    model = Decoder.build(config_of(hidden_size=64, moe_intermediate_size=32, **changes), seed=4)
    save_model(model, tmp_path)
    return model


@torch.no_grad()
def test_half_precision_keeps_what_decides_in_float32(tmp_path):
    tiny_model(tmp_path / "a")
    model = load_model(tmp_path / "a", "bfloat16")
    kept = {n.rsplit(".", 1)[-1] for n, t in model.state_dict().items() if t.dtype == torch.float32}
    assert kept == set("fn base scale hc_fn hc_base hc_scale sinks position_bias e_score_correction_bias".split())
    ids = ids_of(model.config, 1)
    assert (model(ids).float() - load_model(tmp_path / "a")(ids)).abs().max() < 0.05
    save_model(model, tmp_path / "b")
    stored = SafetensorsSource.of_folder(tmp_path / "b").dtypes
    assert stored["layers.0.hc_attn_fn"] == "F32" and stored["layers.0.attn.wq_a.weight"] == "BF16"
    assert stored["layers.0.ffn.gate.tid2eid"] == "I64"
    again = load_model(tmp_path / "b", "bfloat16")
    assert torch.equal(again(ids), model(ids))


@torch.no_grad()
def test_fp8_blocks_are_read_under_either_name_of_their_scales(tmp_path):
    model = tiny_model(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format(power_of_two=True))
    eight = SafetensorsSource.of_folder(tmp_path / "b")
    assert eight.dtypes["layers.1.ffn.experts.0.w1.weight"] == eight.dtypes["layers.0.attn.wo_b.weight"] == "F8_E4M3"
    assert eight.dtypes["layers.1.attn.indexer.weights_proj.weight"] == "F32"
    got = load_model(tmp_path / "b")
    ids = ids_of(model.config, 1)
    assert 1e-6 < (got(ids) - model(ids)).abs().max() < 0.1
    rename(tmp_path / "b", tmp_path / "c", lambda name: name.replace(".weight_scale_inv", ".scale"))
    assert torch.equal(load_model(tmp_path / "c")(ids), got(ids))


def rename(source, out, how):
    """The folder again with other tensor names."""
    out.mkdir()
    store = SafetensorsSource.of_folder(source)
    tensors = {name: store.stored(name) for name in store.shapes}
    writes = [ToWrite(how(n), t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]
    write_safetensors(out / "model.safetensors", writes)
    (out / CONFIG).write_text((source / CONFIG).read_text())


@torch.no_grad()
def test_published_experts_in_four_bits(tmp_path):
    """As the release: experts two numbers a byte with a power of two for 32 of them, the rest in FP8 blocks."""
    tiny_model(tmp_path / "a")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    plain, tensors = SafetensorsSource.of_folder(tmp_path / "a"), {}
    memory = {name: plain.read(name) for name in plain.shapes}
    for name, tensor in memory.items():
        if ".ffn.experts." not in name:
            tensors[name] = tensor
            continue
        codes, scales = to_fp4(tensor)
        tensors[name] = codes.flatten(1).view(torch.int8)
        tensors[name.replace(".weight", ".scale")] = scales.view(torch.float8_e8m0fnu)
    quantised = FP8Format(power_of_two=True).to_config()
    folder = tmp_path / "b"
    folder.mkdir()
    writes = [ToWrite(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]
    write_safetensors(folder / "model.safetensors", writes)
    (folder / CONFIG).write_text(json.dumps(config | {"expert_dtype": "fp4", "quantization_config": quantised}))
    got = load_model(folder)
    expert = got.model.layers[1].mlp.experts.down_proj[0]
    assert expert.unique().numel() > 8 and worst(expert, memory["layers.1.ffn.experts.0.w2.weight"]) < 0.02
    assert torch.equal(got.model.layers[1].self_attn.q_a_proj.weight, memory["layers.1.attn.wq_a.weight"])
    codes, scales = tensors["layers.1.ffn.experts.0.w2.weight"].view(torch.uint8), tensors["layers.1.ffn.experts.0.w2.scale"]
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    for row, column in ((0, 0), (1, 1), (5, 30), (9, 31)):
        byte = int(codes[row, column // 2])
        code = byte & 15 if column % 2 == 0 else byte >> 4
        assert expert[row, column] == table[code] * float(scales[row, column // 32].float())
    convert(folder, tmp_path / "c", dtype="bfloat16")
    assert "expert_dtype" not in json.loads((tmp_path / "c" / CONFIG).read_text())
    assert torch.equal(load_model(tmp_path / "c").model.layers[1].mlp.experts.down_proj[0], expert)
    assert SafetensorsSource.of_folder(tmp_path / "c").dtypes["layers.1.hc_ffn_scale"] == "F32"


def test_scales_that_do_not_fit_four_bits_are_named(tmp_path):
    tensors = {"layers.0.ffn.experts.0.w1.weight": torch.zeros(4, 32, dtype=torch.int8),
               "layers.0.ffn.experts.0.w1.scale": torch.ones(4, 3).to(torch.float8_e8m0fnu)}  # fmt: skip
    writes = [ToWrite(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]
    write_safetensors(tmp_path / "model.safetensors", writes)
    config = {"expert_dtype": "fp4", "quantization_config": FP8Format().to_config()}
    with pytest.raises(CheckpointError, match=r"does not fit .*w1.weight .4, 32., which needs one F8_E8M0"):
        open_folder(tmp_path, config)


def test_four_bits_without_a_word_in_the_config_are_refused(tmp_path):
    tiny_model(tmp_path / "a")
    rename(tmp_path / "a", tmp_path / "b", lambda name: name)
    config = json.loads((tmp_path / "b" / CONFIG).read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (tmp_path / "b" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'awq' is not supported"):
        load_model(tmp_path / "b")


def test_a_cache_of_another_family_is_refused():
    from seekling.model.cache import Cache

    config = config_of()
    foreign = read_config({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1})
    with pytest.raises(SeeklingError, match="a state a row"):
        Decoder.build(config).extend(torch.zeros(1, 2, dtype=torch.int64), Cache(foreign, 1, 8))
