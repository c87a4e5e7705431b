"""Calibrated quantisation: scaling keeps what a model computes, helps where channels are uneven, and the folder opens."""

import json

import gguf
import pytest
import torch
from engine_tiny import config, one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling
from seekling.cli import main
from seekling.engine.calibrate import observe, rounded, scale
from seekling.engine.gguf_packer import STEMS, four_bit_packer
from seekling.engine.native_runner import NativeRunner
from seekling.engine.score import Difference, token_losses
from seekling.engine.torch_runner import TorchRunner
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_out import OutTensor
from seekling.formats.gguf_types import BY_NAME
from seekling.formats.gguf_write import write_gguf
from seekling.kernels import infer
from seekling.lm import LM
from seekling.verbs.quantize import own_documents

native = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
GQA = dict(
    attention="gqa", num_key_value_heads=1, head_dim=8, kv_lora_rank=0, q_lora_rank=None, qk_nope_head_dim=0,
    qk_rope_head_dim=0, v_head_dim=0,
)  # fmt: skip
SHAPES = {
    "mla and experts": {},
    "mla without a query latent": {"q_lora_rank": None},
    "dense with biases": {**GQA, "n_routed_experts": 0, "num_experts_per_tok": 0, "model_type": "qwen2", "qkv_bias": True},
    "a tied head": {"tie_word_embeddings": True},
}


def rows(vocab, count=6, length=24, seed=0):
    return torch.randint(0, vocab, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()


def uneven(lm, factor=30.0):
    """A model with a few large channels in its norms, and weights that answer for them."""
    with torch.no_grad():
        for layer in lm.model.main_layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[::7] *= factor
    return lm


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_a_scaled_model_computes_what_it_did(changes):
    lm = tiny_lm(dtype=torch.float64, **changes)
    text = torch.tensor(rows(lm.config.vocab_size))
    before = lm.model(text)
    scale(lm.model, observe(lm.model, text.tolist()), 8)
    assert torch.allclose(lm.model(text), before, rtol=1e-5, atol=1e-5)


def test_experts_whose_activation_is_not_linear_in_up_keep_their_down_projection():
    lm = tiny_lm(dtype=torch.float64, swiglu_limit=7.0, swiglu_alpha=1.7, **GQA, model_type="gpt_oss")
    text = torch.tensor(rows(lm.config.vocab_size))
    down, before = lm.model.model.layers[1].mlp.experts.down_proj.clone(), lm.model(text)
    scale(lm.model, observe(lm.model, text.tolist()), 8)
    assert torch.equal(lm.model.model.layers[1].mlp.experts.down_proj, down)
    assert torch.allclose(lm.model(text), before, rtol=1e-5, atol=1e-5)


@native
@pytest.mark.parametrize("quant, bits, share", [("q8_0", 8, 0.5), ("int4", 4, 0.8)])
def test_scaling_brings_an_uneven_model_nearer_to_itself(quant, bits, share):
    lm = uneven(tiny_lm(dtype=torch.float32, hidden_size=64, moe_intermediate_size=32))
    text = rows(lm.config.vocab_size, 8, 64)
    exact = token_losses(TorchRunner(lm.model, lm.config), text)
    plain = token_losses(NativeRunner(lm.model, quant), text)
    scale(lm.model, observe(lm.model, rows(lm.config.vocab_size, 8, 64, seed=1)), bits)
    scaled = token_losses(NativeRunner(lm.model, quant), text)
    assert (scaled - exact).square().mean() < share * (plain - exact).square().mean()


def test_importance_is_the_mean_square_of_the_scaled_inputs():
    lm = tiny_lm(dtype=torch.float32)
    text = rows(lm.config.vocab_size)
    seen = observe(lm.model, text)
    scale(lm.model, seen, 8)
    again = observe(lm.model, text)
    for name in ("self_attn.o_proj", "mlp.shared_experts.down_proj"):
        found = again.inputs[f"model.layers.1.{name}"]
        expected = found.square_I / found.count
        assert torch.allclose(seen.importance(f"model.layers.1.{name}.weight"), expected, rtol=1e-3, atol=1e-6)
    assert seen.importance("model.layers.1.mlp.experts.down_proj").shape == (4, 16)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_off_by_at_most_half_a_step_of_its_group(bits):
    x = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    groups = torch.nn.functional.pad(x, (0, 26)).unflatten(-1, (-1, 32))
    step = groups.abs().amax(-1) / 127 if bits == 8 else (groups.amax(-1) - groups.amin(-1)) / 15
    error = torch.nn.functional.pad(rounded(x, bits) - x, (0, 26)).unflatten(-1, (-1, 32)).abs().amax(-1)
    assert (error <= 0.5001 * step).all()


@native
@pytest.mark.parametrize("format", ["q4_1", "q4_k", "q6_k"])
@pytest.mark.parametrize("shape", [(1, 256), (45, 512)])
def test_rows_of_a_file_are_those_that_would_be_packed(format, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    blocks = infer.encode(weight, format)
    expected = infer.dequantise(infer.pack(weight, format))
    assert torch.equal(infer.dequantise(infer.repack(blocks, format, shape)), expected)
    library = gguf.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[format.upper()])
    torch.testing.assert_close(torch.from_numpy(library), expected, rtol=1e-6, atol=1e-6)


@native
def test_every_quantised_weight_of_a_file_is_rounded_by_its_own_importance(tmp_path):
    lm = tiny_lm(dtype=torch.float32, hidden_size=64, moe_intermediate_size=32, intermediate_size=64, q_lora_rank=32)
    seen = observe(lm.model, rows(lm.config.vocab_size))
    scale(lm.model, seen, 4)
    packer, packed = four_bit_packer(seen.importance, 3), {}

    def pack(tensor, first, some):
        out = packer(tensor, first, some)
        packed[tensor.name] = out is not None
        return out

    write_gguf(LM(lm.model, lm.tokenizer), tmp_path / "m.gguf", "q4_1", pack=pack)
    stems = {name.split(".")[2] for name, done in packed.items() if done}
    assert stems <= {stem for some in STEMS.values() for stem in some}
    file = open_gguf(tmp_path / "m.gguf")
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    importance = seen.importance("model.layers.1.mlp.experts.down_proj")[2]
    expected = infer.dequantise(infer.pack(lm.model.model.layers[1].mlp.experts.down_proj[2], "q4_1", importance=importance))
    assert torch.equal(file.source.read(name), expected)


def test_losses_are_those_of_the_whole_row():
    lm = tiny_lm(dtype=torch.float64)
    text = rows(lm.config.vocab_size, 2, 40)
    found = token_losses(TorchRunner(lm.model, lm.config), text)
    logits = lm.model(torch.tensor(text))[:, :-1].log_softmax(-1)
    expected = -logits.gather(-1, torch.tensor(text)[:, 1:, None]).flatten()
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_difference_is_the_change_of_perplexity():
    before = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    change = Difference.of(before, before + torch.tensor(1.01, dtype=torch.float64).log())
    assert change.percent == pytest.approx(1.0) and change.error == pytest.approx(0.0, abs=1e-9)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    lm = tiny_lm(dtype=torch.float32, hidden_size=64, moe_intermediate_size=32, intermediate_size=64, q_lora_rank=32)
    LM(lm.model, lm.tokenizer).save(folder / "model")
    talks = [
        {"messages": [{"role": "user", "content": f"{i} and more?"}, {"role": "assistant", "content": "yes " * 60}]}
        for i in range(8)
    ]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    return folder


@native
@pytest.mark.parametrize("to", ["int8", "int4"])
def test_the_verb_writes_a_folder_that_the_engine_opens(model_folder, to, capsys, tmp_path):
    command = ["quantize", str(model_folder / "model"), "--to", to, "--out", str(tmp_path / "out"), "--threads", "1", "--json"]
    assert (
        main([*command, "--calibrate", str(model_folder / "talks.jsonl"), "--tokens", "200", "--calibration-tokens", "200"])
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "quantize.json").read_text()) == facts
    assert facts["bytes"] < facts["bf16_bytes"] * (0.8 if to == "int8" else 0.7)
    assert abs(facts["written"]["perplexity_percent"]) < 25  # of a random model, whose routers stand on edges
    with Engine(tmp_path / "out") as engine:
        assert "native" in engine.stats()["runner"]
        assert engine.generate("a b", Sampling(max_tokens=3, temperature=0))[0].token_ids


@native
def test_one_text_is_enough_to_calibrate_with_and_to_measure_on(model_folder, capsys, tmp_path):
    (tmp_path / "one.txt").write_text(" ".join(f"word {i}" for i in range(300)))
    command = ["quantize", str(model_folder / "model"), "--to", "int8", "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--calibrate", str(tmp_path / "one.txt"), "--tokens", "100", "--calibration-tokens", "100"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["calibration_tokens"] >= 64 and facts["held_out_tokens"] >= 64


def test_a_text_is_cut_near_three_quarters_where_a_blank_is_and_few_short_ones_suffice(tmp_path):
    (tmp_path / "a.txt").write_text("标题 " + "字" * 4000)
    (tmp_path / "b.txt").write_text("short " * 20)
    (tmp_path / "c.txt").write_text("also short " * 20)
    parts = list(own_documents(str(tmp_path)))
    assert [(len(text), held_out) for text, held_out in parts[:2]] == [(3002, False), (1001, True)]
    assert [held_out for _, held_out in parts[2:]] == [False, True]
    (tmp_path / "d.txt").write_text("word " * 1000)
    assert all(text.split() == ["word"] * (len(text) // 5) for text, _ in list(own_documents(str(tmp_path)))[4:])


@native
def test_a_wide_model_is_written_as_q4_k_and_its_head_by_its_own_importance(tmp_path, capsys, model_folder):
    lm = tiny_lm(dtype=torch.float32, hidden_size=256)
    LM(lm.model, lm.tokenizer).save(tmp_path / "model")
    command = ["quantize", str(tmp_path / "model"), "--to", "int4", "--out", str(tmp_path / "out"), "--threads", "1", "--json"]
    assert (
        main([*command, "--calibrate", str(model_folder / "talks.jsonl"), "--tokens", "200", "--calibration-tokens", "200"])
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "out-Q4_K.gguf" and "embedding and head are Q6_K in a q4_k file" in facts["notes"]
    file = open_gguf(tmp_path / "out" / facts["file"])
    assert file.tensors["output.weight"].kind.name == "Q6_K"
    assert {file.tensors[f"blk.0.{name}.weight"].kind.name for name in ("ffn_up", "attn_q_a")} == {"Q4_K"}
    assert file.tensors["blk.0.ffn_down.weight"].kind.name != "Q4_K"  # rows of 48


@native
def test_a_head_s_importance_weighs_its_rounding():
    head = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    weights = torch.full((256,), 0.01).index_fill(0, torch.arange(0, 256, 3), 100.0)
    tensor = OutTensor("output.weight", BY_NAME["Q6_K"], (64, 256), lambda: iter([head.numpy()]))
    packed = four_bit_packer({"lm_head.weight": weights}.get, 0)(tensor, 0, head.numpy())
    assert torch.equal(torch.from_numpy(packed), infer.encode(head, "q6_k", weights))
    assert not torch.equal(torch.from_numpy(packed), infer.encode(head, "q6_k"))


@native
def test_a_model_that_gguf_cannot_hold_is_refused_before_anything_is_measured(model_folder, capsys, tmp_path):
    lm = tiny_lm(dtype=torch.float32, **{**SHAPES["dense with biases"], "head_dim": 24})
    LM(lm.model, lm.tokenizer).save(tmp_path / "model")
    text = str(model_folder / "talks.jsonl")
    assert main(["quantize", str(tmp_path / "model"), "--to", "int8", "--out", str(tmp_path / "out"), "--calibrate", text]) == 2
    error = capsys.readouterr().err
    assert "GGUF" in error and "measuring" not in error
    assert not (tmp_path / "out").exists()


@native
def test_the_verb_says_what_it_needs(model_folder, capsys, tmp_path):
    path, out = str(model_folder / "model"), tmp_path / "out"
    (tmp_path / "short.txt").write_text("too short")
    assert main(["quantize", path, "--to", "int8", "--out", str(out), "--calibrate", str(tmp_path / "short.txt")]) == 2
    assert "too little text" in capsys.readouterr().err
    assert main(["quantize", path, "--to", "int8", "--out", str(model_folder), "--tokens", "3"]) == 2
    error = capsys.readouterr().err
    assert "not an empty folder" in error and "--tokens must be at least" in error
    assert not out.exists()
