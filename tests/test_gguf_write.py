"""Models written as GGUF: read back equal, laid out as llama.cpp wants them, refused where llama.cpp has no counterpart."""

import dataclasses
import json
import warnings

import gguf
import numpy as np
import pytest
import torch
from gguf_tiny import GQA, MLA, QWEN_MOE, RAW, YARN, model_of

import seekling
from seekling.errors import CheckpointError, MachineError
from seekling.formats.families import read_config
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_model import ModelSource
from seekling.formats.gguf_out import OutTensor, write_file
from seekling.formats.gguf_types import BY_NAME
from seekling.formats.gguf_write import FILE_TYPES, write_gguf
from seekling.kernels import infer
from seekling.lm import LM

QUANTISED = ("q8_0", "q4_0", "q4_1")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


native = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")


def written(model, path, to="f32", **options):
    notes = write_gguf(LM(model), path, to, **options)
    return open_gguf(path), notes


# ---- round trips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAW)
def test_f32_gives_back_the_same_model(name, tmp_path):
    model = model_of(RAW[name])
    written(model, tmp_path / "x.gguf")
    again = seekling.load(tmp_path / "x.gguf").model
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    ids = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again(ids), model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in RAW if "dense" not in name])
def test_the_config_comes_back(name, tmp_path):
    config = read_config(dict(RAW[name]))
    file, _ = written(model_of(RAW[name]), tmp_path / "x.gguf")
    assert dataclasses.asdict(read_config(file.raw_config)) == dataclasses.asdict(config)


@pytest.mark.parametrize("to", ["f16", "bf16", *QUANTISED])
@pytest.mark.parametrize("name", ["deepseek_v3", "llama", "gpt_oss", "qwen2_moe"])
def test_other_formats_give_back_what_the_format_can_hold(name, to, tmp_path):
    model = model_of(RAW[name])
    source, (file, _) = ModelSource(model), written(model, tmp_path / "x.gguf", to)
    assert file.source.shapes.keys() == source.shapes.keys()
    for key in source.shapes:
        wanted, got = source.read(key), file.source.read(key)
        kinds = {kind.name for kind in file.source.kinds(key)}
        if kinds == {"F32"}:
            assert torch.equal(got, wanted)
        elif kinds <= {"F16", "BF16"}:
            assert got.dtype in (torch.float16, torch.bfloat16) and torch.equal(got, wanted.to(got.dtype))
        elif len(file.source.kinds(key)) == 1 and "gate_up" not in key and "down_proj" not in key:
            kind = gguf.GGMLQuantizationType[kinds.pop()]
            rows = gguf.quants.dequantize(gguf.quants.quantize(wanted.numpy(), kind), kind)
            np.testing.assert_array_equal(got.numpy(), rows)
        else:  # packed along the other axis than the disk's
            assert (got - wanted).abs().max() < 0.2 * wanted.abs().max()


def test_the_gguf_package_reads_what_is_written(tmp_path):
    model = model_of(RAW["llama"])
    written(model, tmp_path / "x.gguf", "q8_0", name="tiny", licence="mit")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert (reader.fields["general.name"].contents(), reader.fields["general.license"].contents()) == ("tiny", "mit")
    assert reader.fields["general.file_type"].contents() == int(gguf.LlamaFileType.MOSTLY_Q8_0)
    for stored in reader.tensors:
        if stored.name == "blk.1.ffn_up.weight":
            values = gguf.quants.dequantize(np.array(stored.data), stored.tensor_type)
            wanted = model.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
            assert stored.tensor_type.name == "Q8_0" and np.abs(values - wanted).max() < 0.01


def test_file_types_are_those_of_the_gguf_package():
    theirs = {kind.name.removeprefix("ALL_").removeprefix("MOSTLY_").lower(): int(kind) for kind in gguf.LlamaFileType}
    assert FILE_TYPES.items() <= (theirs | {"q4_k": theirs["q4_k_s"]}).items()


def test_transformers_reads_a_llama_file_to_the_same_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    from seekling.text.bpe import train_tokenizer

    model = model_of(dict(RAW["llama"], vocab_size=300))
    write_gguf(LM(model, train_tokenizer(["a few words, and a few more words. " * 20] * 2, 285)), tmp_path / "x.gguf", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf").eval()
    ids = torch.randint(300, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)


def test_a_folder_is_written_without_being_loaded_and_what_follows_from_its_config_stays_behind(tmp_path):
    from safetensors.torch import load_file, save_file

    from seekling.formats.gguf_write import write_gguf_source
    from seekling.formats.stores import open_folder

    model = model_of(RAW["llama tied, llama3 rope, biases"])
    LM(model).save(tmp_path / "m")
    held = load_file(tmp_path / "m" / "model.safetensors")
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    save_file(held, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    write_gguf_source(open_folder(tmp_path / "m"), raw, None, tmp_path / "x.gguf", "f32")
    again = seekling.load(tmp_path / "x.gguf").model
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_store_that_does_not_fit_its_config_is_not_written(tmp_path):
    from seekling.formats.gguf_write import write_gguf_source

    source = ModelSource(model_of(RAW["llama"]))
    source.shapes = {name: shape for name, shape in source.shapes.items() if "layers.1.mlp.up" not in name}
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        write_gguf_source(source, RAW["llama"], None, tmp_path / "x.gguf")


# ---- what llama.cpp wants ------------------------------------------------------------------------------------------------


def test_llama_rows_are_reordered_and_packed_blocks_come_back_in_our_order(tmp_path):
    model = model_of(RAW["llama"])
    file, _ = written(model, tmp_path / "x.gguf", "q8_0")
    name = "model.layers.0.self_attn.q_proj.weight"
    wanted = gguf.quants.quantize(model.state_dict()[name].numpy(), gguf.GGMLQuantizationType.Q8_0)
    kind, rows, shape = file.source.blocks(name)
    assert (kind.name, shape) == ("Q8_0", (64, 64))
    np.testing.assert_array_equal(rows, wanted)
    stored = gguf.GGUFReader(tmp_path / "x.gguf").get_tensor(0)
    assert stored.name == "token_embd.weight"
    raw = next(t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors if t.name == "blk.0.attn_q.weight").data
    # four heads of 16: llama.cpp has rows 0, 8, 1, 9, … of each head
    np.testing.assert_array_equal(raw[:4], wanted[[0, 8, 1, 9]])


def test_blocks_of_an_expert_and_of_a_computed_tensor(tmp_path):
    file, _ = written(model_of(RAW["deepseek_v3"]), tmp_path / "x.gguf", "q8_0")
    kind, rows, shape = file.source.blocks("model.layers.1.mlp.experts.2.up_proj.weight")
    assert (kind.name, rows.shape, shape) == ("Q8_0", (32, 68), (32, 64))
    assert file.source.blocks("model.layers.0.self_attn.kv_b_proj.weight") is None
    assert file.source.stacks("model.layers.1.mlp.experts.2.up_proj.weight") is None


@pytest.mark.parametrize(("to", "stored"), [("q8_0", "Q8_0"), ("q4_1", "Q8_0"), ("q4_0", "Q4_0")])  # Q4_0: as llama-quantize
def test_the_halves_of_kv_b_come_as_they_are_packed(to, stored, tmp_path):
    raw = dict(RAW["deepseek_v3"], qk_nope_head_dim=32)
    model = model_of(raw)
    file, _ = written(model, tmp_path / "x.gguf", to)
    name, heads, latent = "model.layers.0.self_attn.kv_b_proj.weight", raw["num_attention_heads"], raw["kv_lora_rank"]
    keys, values = model.state_dict()[name].view(heads, -1, latent).split([32, raw["v_head_dim"]], 1)
    for (kind, rows, shape), want in zip(file.source.stacks(name), (keys.transpose(1, 2), values), strict=True):
        assert (kind.name, shape) == (stored, tuple(want.shape))
        packed = gguf.quants.quantize(want.contiguous().numpy(), gguf.GGMLQuantizationType[stored])
        np.testing.assert_array_equal(rows.reshape(packed.shape), packed)


def test_norms_routers_and_biases_stay_f32_and_a_4_bit_file_has_an_8_bit_embedding(tmp_path):
    file, notes = written(model_of(RAW["deepseek_v3"]), tmp_path / "x.gguf", "q4_0")
    kinds = {name: tensor.kind.name for name, tensor in file.tensors.items()}
    small = ("blk.0.attn_norm.weight", "blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias", "output_norm.weight")
    assert {kinds[name] for name in small} == {"F32"}
    assert (kinds["token_embd.weight"], kinds["blk.0.ffn_up.weight"]) == ("Q8_0", "Q4_0")
    assert any("embedding and head are Q8_0" in note for note in notes)


@pytest.mark.parametrize("to", ["q8_0", "q4_1"])
def test_weights_that_are_no_numbers_are_not_rounded_to_some(to, tmp_path):
    model = model_of(RAW["llama"])
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[2, 1] = float("nan")
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_up\.weight is damaged"):
        written(model, tmp_path / "x.gguf", to)
    assert not list(tmp_path.iterdir())


@native
def test_a_q4_k_file_has_6_bit_tables_and_q4_1_where_256_do_not_fit(tmp_path):
    model = model_of(dict(RAW["llama"], hidden_size=256, intermediate_size=288, vocab_size=96, tie_word_embeddings=False))
    file, notes = written(model, tmp_path / "x.gguf", "q4_k")
    kinds = {name.rpartition("blk.1.")[2]: tensor.kind.name for name, tensor in file.tensors.items()}
    assert {kinds[f"{name}.weight"] for name in ("token_embd", "output")} == {"Q6_K"}
    assert (kinds["ffn_up.weight"], kinds["ffn_down.weight"], kinds["ffn_norm.weight"]) == ("Q4_K", "Q4_1", "F32")
    assert "embedding and head are Q6_K in a q4_k file" in notes
    assert any("are Q4_1, their rows are no whole number of blocks of 256" in note for note in notes)
    for name in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        (kind,), wanted = file.source.kinds(name), ModelSource(model).read(name)
        torch.testing.assert_close(file.source.read(name), infer.dequantise(infer.pack(wanted, kind.name.lower())))


def test_q4_k_without_native_kernels_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(infer, "available", lambda: False)
    with pytest.raises(MachineError, match="take q4_1 or q4_0"):
        written(model_of(RAW["llama"]), tmp_path / "x.gguf", "q4_k")
    assert not list(tmp_path.iterdir())


def test_rows_that_are_no_whole_number_of_blocks_fall_back_to_f16_and_it_is_said(tmp_path):
    file, notes = written(model_of(RAW["deepseek_v3"]), tmp_path / "x.gguf", "q8_0")  # attn_k_b has rows of 16
    assert file.tensors["blk.0.attn_k_b.weight"].kind.name == "F16"
    assert any("stay F16" in note and "attn_k_b" in note for note in notes)


def test_mtp_layers_are_left_out_and_it_is_said(tmp_path):
    raw = dict(RAW["deepseek_v3"], num_nextn_predict_layers=1)
    file, notes = written(model_of(raw), tmp_path / "x.gguf")
    assert file.raw_config["num_nextn_predict_layers"] == 0
    assert any("1 MTP layer" in note for note in notes)


def test_notes_are_warnings(tmp_path):
    with pytest.warns(UserWarning, match="without a tokenizer"):
        write_gguf(LM(model_of(RAW["llama"])), tmp_path / "x.gguf")


_FOR_LITE = dict(MLA, model_type="deepseek_v3", n_group=1, topk_group=1, q_lora_rank=48)
REFUSED = {
    "q_lora with the layers of a Lite model": (dict(_FOR_LITE, num_hidden_layers=27), "27 layers"),
    "no shared expert": (dict(_FOR_LITE, n_shared_experts=0), "n_shared_experts 0"),
    "biases of MLA": (dict(_FOR_LITE, attention_bias=True), "attention_bias"),
    "linear rope with MLA": (dict(_FOR_LITE, rope_scaling=dict(rope_type="linear", factor=2.0)), "linear RoPE"),
    "mscale": (dict(_FOR_LITE, rope_scaling=dict(YARN, mscale=1.0)), "mscale"),
    "no mscale": (dict(_FOR_LITE, rope_scaling={k: v for k, v in YARN.items() if "mscale" not in k}), "mscale_all_dim"),
    "rope of halves": (dict(_FOR_LITE, rope_interleave=False), "rope_interleave"),
    "normalised qwen2_moe": (
        dict(GQA, **QWEN_MOE, model_type="qwen2_moe", shared_expert_intermediate_size=64, norm_topk_prob=True),
        "norm_topk_prob",
    ),
    "plain qwen3_moe": (dict(GQA, **QWEN_MOE, model_type="qwen3_moe", head_dim=16, norm_topk_prob=False), "norm_topk_prob"),
    "dense layers among experts": (
        dict(GQA, **QWEN_MOE, model_type="qwen3_moe", head_dim=16, norm_topk_prob=True, mlp_only_layers=[0]), "mlp_only_layers",
    ),
    "dense layers behind experts": (
        {k: v for k, v in dict(RAW["deepseek_v32"], num_nextn_predict_layers=0).items() if k != "first_k_dense_replace"}
        | {"mlp_layer_types": ["sparse", "dense"]},
        "dense layers behind",
    ),
    "qwen3 bias": (dict(GQA, model_type="qwen3", head_dim=16, attention_bias=True), "attention_bias"),
    "ernie bias": (dict(GQA, model_type="ernie4_5", head_dim=16, use_bias=True), "use_bias"),
    "dynamic rope": (dict(GQA, model_type="llama", rope_scaling=dict(rope_type="dynamic", factor=2.0)), "dynamic"),
    "windows": (
        dict(GQA, model_type="qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1), "use_sliding_window",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_differently_is_refused_by_name(case, tmp_path):
    raw, wanted = REFUSED[case]
    with pytest.raises(CheckpointError, match=wanted):
        write_gguf(LM(model_of(raw)), tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


# ---- the file itself -----------------------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="q5_k"):
        write_gguf(LM(model_of(RAW["llama"])), tmp_path / "x.gguf", "q5_k")


def test_values_beyond_f16_are_refused_and_the_old_file_stays(tmp_path):
    model, path = model_of(RAW["llama"]), tmp_path / "x.gguf"
    path.write_text("old")
    with torch.no_grad():
        model.state_dict()["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight holds values beyond the range of F16"):
        write_gguf(LM(model), path, "f16")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path):
    def rows():
        yield np.zeros((1, 4), np.float32)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_file(tmp_path / "x.gguf", {}, [OutTensor("w", BY_NAME["F32"], (2, 4), rows)])
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        write_gguf(LM(model_of(RAW["llama"])), tmp_path)
