"""Disk to disk: formats and shards change, numbers do not, memory holds one tensor, and a failure leaves nothing behind."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from formats_tiny import TINY, saved
from transformers import AutoModelForCausalLM

from seekling.errors import CheckpointError
from seekling.formats import hf, load_model
from seekling.formats.families import write_config
from seekling.formats.fp8 import FP8Format, dequantize, quantize, scales_shape
from seekling.formats.mxfp4 import MXFP4Source, quantize_experts
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.formats.stores import open_folder
from seekling.formats.stream import convert
from seekling.model.decoder import Decoder

V3 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
WIDE = dict(hidden_size=130, intermediate_size=140, moe_intermediate_size=20, num_nextn_predict_layers=1)


def tensors_of(folder):
    source = SafetensorsSource.of_folder(folder)
    return {name: source.stored(name) for name in source.shapes}


def same(a, b):
    return a.keys() == b.keys() and all(
        x.dtype == b[n].dtype and torch.equal(x.contiguous().view(torch.uint8), b[n].contiguous().view(torch.uint8))
        for n, x in a.items()
    )


def folder_with(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", **config}))
    return folder


def test_other_shards_hold_the_same_bits(tmp_path):
    saved(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", max_shard_bytes=500)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 5
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors_of(tmp_path / "a").values())
    convert(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()


def test_a_dtype_change_rounds_every_tensor_but_the_routers_bias(tmp_path):
    saved(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", dtype="bfloat16")
    before, after = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor if name.endswith("e_score_correction_bias") else tensor.bfloat16())
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"


def test_numbers_beyond_float16_are_refused_by_name(tmp_path):
    folder_with(tmp_path / "a", {"fits": torch.ones(2), "big": torch.tensor([1.0, 1e6])})
    with pytest.raises(CheckpointError, match="big holds numbers beyond float16"):
        convert(tmp_path / "a", tmp_path / "b", dtype="float16")


def test_linear_layers_become_fp8_and_the_rest_keeps_its_bits(tmp_path):
    saved(tmp_path / "a", **WIDE)
    done = convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format())
    before, after = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    fp8 = [name for name, tensor in after.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(fp8) == done.quantised
    assert all(name.split(".")[-2].endswith(("_proj", "_proj_with_mqa")) for name in fp8)
    assert after.keys() - before.keys() == {f"{name}_scale_inv" for name in fp8}
    for name, tensor in before.items():
        if name in fp8:
            codes, scales = quantize(tensor)
            assert torch.equal(after[name].view(torch.uint8), codes.view(torch.uint8))
            assert torch.equal(after[f"{name}_scale_inv"], scales)
        else:
            assert torch.equal(after[name], tensor)
    plain = {name.split(".")[-2] for name in before if before[name].ndim == 2 and name not in fp8}
    assert plain == {"embed_tokens", "lm_head", "gate", "eh_proj", "head"}


def test_the_config_says_how_the_weights_are_stored(tmp_path):
    saved(tmp_path / "a", **WIDE)
    convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format(power_of_two=True))
    told = json.loads((tmp_path / "b" / "config.json").read_text())["quantization_config"]
    kept = told.pop("modules_to_not_convert")
    assert told == {**V3, "scale_fmt": "ue8m0"}
    assert "lm_head" in kept and "model.layers.1.mlp.gate" in kept and not any("proj" in k and "eh_" not in k for k in kept)
    convert(tmp_path / "b", tmp_path / "c")
    assert "quantization_config" not in json.loads((tmp_path / "c" / "config.json").read_text())


def test_fp8_becomes_bfloat16_as_the_published_script_makes_it(tmp_path):
    codes, scales = quantize(torch.randn(200, 300))
    folder_with(tmp_path / "a", {"x.weight": codes, "x.weight_scale_inv": scales, "n": torch.ones(2)}, quantization_config=V3)
    convert(tmp_path / "a", tmp_path / "b")
    after = tensors_of(tmp_path / "b")
    assert after.keys() == {"x.weight", "n"} and after["n"].dtype == torch.float32
    assert torch.equal(after["x.weight"], dequantize(codes, scales).bfloat16())


def test_fp8_to_fp8_in_other_shards_keeps_codes_and_scales(tmp_path):
    saved(tmp_path / "a", **WIDE)
    convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format())
    convert(tmp_path / "b", tmp_path / "c", fp8=FP8Format(), max_shard_bytes=20_000)
    assert same(tensors_of(tmp_path / "b"), tensors_of(tmp_path / "c"))
    weight_map = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())["weight_map"]
    pairs = [name for name in weight_map if name.endswith("_scale_inv")]
    assert pairs and all(weight_map[name] == weight_map[name.removesuffix("_scale_inv")] for name in pairs)


def test_mxfp4_experts_become_bfloat16_in_transformers_layout(tmp_path):
    blocks, scales = quantize_experts(torch.randn(2, 64, 8))
    config = {"quant_method": "mxfp4"}
    folder_with(tmp_path / "a", {"e_blocks": blocks, "e_scales": scales}, quantization_config=config)
    convert(tmp_path / "a", tmp_path / "b")
    wanted = MXFP4Source(SafetensorsSource.of_folder(tmp_path / "a"), config).read("e")
    assert torch.equal(tensors_of(tmp_path / "b")["e"], wanted) and wanted.dtype == torch.bfloat16


def test_mtp_layers_stay_in_their_own_file(tmp_path):
    saved(tmp_path / "a", num_nextn_predict_layers=1)
    convert(tmp_path / "a", tmp_path / "b", dtype="bfloat16")
    held = {p.name: set(safetensors.torch.load_file(p)) for p in (tmp_path / "b").glob("*.safetensors")}
    assert held == {p.name: set(safetensors.torch.load_file(p)) for p in (tmp_path / "a").glob("*.safetensors")}
    assert set(held) == {"model.safetensors", "model-mtp.safetensors"}


def test_transformers_dequantises_what_was_written_to_the_same_numbers(tmp_path):
    from transformers import FineGrainedFP8Config

    # transformers derives the block from the shapes, so only matrices without edge blocks come out right there
    shape = dict(hidden_size=16, intermediate_size=16, moe_intermediate_size=8, q_lora_rank=8, kv_lora_rank=8)
    heads = dict(qk_nope_head_dim=4, qk_rope_head_dim=8, v_head_dim=4, num_attention_heads=4)
    saved(tmp_path / "a", **shape, **heads)
    convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format((8, 8)))
    told = FineGrainedFP8Config(dequantize=True, weight_block_size=(8, 8))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype=torch.float32, quantization_config=told).state_dict()
    ours = open_folder(tmp_path / "b")
    compared = 0
    for name in ours.scales:
        if name in theirs:
            assert torch.equal(theirs[name], ours.read(name)), name
            compared += 1
        else:
            layer, _, rest = name.partition(".experts.")
            expert, kind = rest.split(".")[:2]
            stack = theirs[f"{layer}.experts.{'down_proj' if kind == 'down_proj' else 'gate_up_proj'}"][int(expert)]
            half = stack if kind == "down_proj" else stack.chunk(2)[kind == "up_proj"]
            assert torch.equal(half, ours.read(name)), name
            compared += 1
    assert compared == len(ours.scales) > 20


def test_a_minimax_m2_in_fp8_has_the_logits_of_its_dequantised_numbers(tmp_path):
    from transformers import MiniMaxM2Config

    config = MiniMaxM2Config(
        vocab_size=32, hidden_size=150, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "a")
    done = convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format())
    assert done.quantised == 2 * (4 + 3 * 4)  # q, k, v, o and each expert's w1, w2, w3
    convert(tmp_path / "b", tmp_path / "c", dtype="float32")
    ids = torch.arange(14).view(2, 7) % 32
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "c", dtype=torch.float32, experts_implementation="eager").eval()
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path / "b")(ids), theirs(ids).logits, atol=1e-4)


def test_small_files_come_along_and_code_does_not(tmp_path):
    saved(tmp_path / "a")
    for name in ("tokenizer.json", "LICENSE", "modeling_x.py", "pytorch_model.bin", "chat_template.jinja"):
        (tmp_path / "a" / name).write_text(name)
    (tmp_path / "a" / "training_state").mkdir()
    raw = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps({**raw, "auto_map": {"AutoConfig": "modeling_x.C"}}))
    done = convert(tmp_path / "a", tmp_path / "b")
    assert done.left_out == ["modeling_x.py", "pytorch_model.bin", "training_state/"]
    present = {p.name for p in (tmp_path / "b").iterdir()}
    kept = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "LICENSE", "chat_template.jinja"}
    assert present == kept
    assert "auto_map" not in json.loads((tmp_path / "b" / "config.json").read_text())


def test_progress_reaches_the_whole(tmp_path):
    saved(tmp_path / "a")
    told = []
    done = convert(tmp_path / "a", tmp_path / "b", on_tensor=lambda now, total: told.append((now, total)))
    assert len(told) == done.tensors and told[-1] == (done.bytes, done.bytes) and told == sorted(told)


def test_a_failure_leaves_nothing_behind(tmp_path):
    good, bad = torch.ones(64, 4), torch.full((4, 4), float("nan"))
    tensors = {"model.layers.0.a_proj.weight": good, "model.layers.1.a_proj.weight": bad}
    folder_with(tmp_path / "a", tensors)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.a_proj\.weight holds numbers that are infinite or NaN"):
        convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format(), max_shard_bytes=200)
    assert not (tmp_path / "b").exists()


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path):
    saved(tmp_path / "a")
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="it is the folder that is read"):
        convert(tmp_path / "a", tmp_path / "a", dtype="bfloat16")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(CheckpointError, match="GB are needed"):
        convert(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_stacked_experts_have_no_fp8_layout(tmp_path):
    folder_with(tmp_path / "a", {"model.layers.0.mlp.experts.gate_up_proj": torch.ones(2, 4, 4)})
    with pytest.raises(CheckpointError, match="stack of experts"):
        convert(tmp_path / "a", tmp_path / "b", fp8=FP8Format())


def test_other_quantisations_are_refused_by_name(tmp_path):
    folder_with(tmp_path / "a", {"x": torch.ones(1)}, quantization_config={"quant_method": "awq"})
    with pytest.raises(CheckpointError, match="'awq' is not supported"):
        convert(tmp_path / "a", tmp_path / "b")


PEAK = """
    import os, sys, threading, time, torch
    from seekling.formats import load_model
    from seekling.formats.fp8 import FP8Format
    from seekling.formats.stream import convert

    load_model(sys.argv[4])  # a tiny one: the first meta tensor alone imports much of torch

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    before, most, over, held = resident(), 0.0, False, 0.0

    def watch():
        global most
        while not over:
            most = max(most, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if sys.argv[3] == "load":
        model = load_model(sys.argv[1], "bfloat16")
        held = sum(p.nbytes for p in model.state_dict().values()) / 2**20
    else:
        convert(sys.argv[1], sys.argv[2], fp8=FP8Format() if sys.argv[3] == "fp8" else None)
    over = True
    watcher.join()
    print(most - before, held)
"""


def peak(tmp_path, start, end, to):
    """MB that a conversion (or a load) took at its peak beyond the imports, and MB of the model that it holds."""
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(PEAK),
        str(tmp_path / start),
        str(tmp_path / end),
        to,
        str(tmp_path / "tiny"),
    ]
    return map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def large_fp8(folder, config):
    """A V3 folder of FP8 shards without a model behind it: every tensor that the config asks for, random."""
    folder.mkdir()
    weight_map, shards = {}, {}
    for piece in hf.pieces(Decoder.empty(config)):
        file = f"model-{hf.layer_number(piece.name)}.safetensors"
        shard = shards.setdefault(file, {})
        if piece.name.split(".")[-2].endswith(("_proj", "_proj_with_mqa")):
            codes = torch.randint(0, 120, piece.shape, dtype=torch.uint8).view(torch.float8_e4m3fn)
            shard[piece.name], shard[f"{piece.name}_scale_inv"] = codes, torch.rand(scales_shape(piece.shape)) * 1e-4
        else:
            shard[piece.name] = torch.rand(piece.shape).to(torch.float32 if piece.keep_float32 else torch.bfloat16)
    for file, shard in shards.items():
        safetensors.torch.save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({**write_config(config), "quantization_config": V3}))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_sharded_fp8_model_is_loaded_and_converted_there_and_back_in_bounded_memory(tmp_path):
    shape = dict(hidden_size=512, intermediate_size=1024, moe_intermediate_size=320, num_hidden_layers=4, n_routed_experts=32)
    config = dataclasses.replace(TINY, **shape, q_lora_rank=200, kv_lora_rank=100)
    saved(tmp_path / "tiny")
    large_fp8(tmp_path / "a", config)
    grown, held = peak(tmp_path, "a", "", "load")
    assert held > 90 and grown < held + 32, (grown, held)
    grown, _ = peak(tmp_path, "a", "b", "hf")
    assert grown < 32, grown
    grown, _ = peak(tmp_path, "b", "c", "fp8")
    assert grown < 32, grown
    assert sum(p.stat().st_size for p in (tmp_path / "b").iterdir()) > 90e6
