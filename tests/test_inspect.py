"""Inspection: the model's own counts, reasons for what is refused, and the loader's verdict, without reading weights."""

import gc
import json
import struct
import time
import tracemalloc
from importlib import resources

import pytest
import safetensors.torch
import torch
from formats_tiny import TINY, edit, edit_config, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspect_huge import v3_config, v3_tensors, write_headers

import seekling
from seekling import cli
from seekling.errors import CheckpointError, SeeklingError
from seekling.formats import save_model
from seekling.formats.gguf_write import write_gguf
from seekling.inspection import inspect
from seekling.inspection.headers import MANY
from seekling.inspection.report import render
from seekling.lm import LM
from seekling.model.decoder import Decoder
from seekling.reference.tokens import tokenizer


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "model")
    return tmp_path / "model"


def loads(path) -> bool:
    try:
        seekling.load(path)
    except SeeklingError:
        return False
    return True


# ---- what a model is -------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_loaded_model(folder):
    found = inspect(folder)
    model = seekling.load(folder).model
    assert found.model["parameters"] + found.model["parameters_mtp"] == sum(p.numel() for p in model.parameters())
    assert found.model["layers"] == 2 and found.model["moe_layers"] == 1
    assert found.model["kv_bytes_per_token"] == 2 * 2 * (3 + 2)
    assert found.model["attention"].startswith("MLA, 2 heads")
    assert found.loads is True and found.refused == []


def test_bytes_are_counted_by_dtype(folder):
    found = inspect(folder)
    held = safetensors.torch.load_file(folder / "model.safetensors")
    assert found.weights["bytes"] == sum(t.numel() * t.element_size() for t in held.values())
    assert found.weights["dtypes"]["F32"]["tensors"] == len(held)


@pytest.mark.parametrize(
    ("name", "total", "kv"), [("v2-lite", 15.706e9, 31_104), ("v2", 235.741e9, 69_120), ("v3", 671.026e9, 70_272)]
)
def test_the_published_configs_are_understood(name, total, kv):
    with resources.as_file(resources.files("seekling").joinpath("published", f"{name}.json")) as path:
        found = inspect(path)
    assert found.kind == "config" and found.refused == [] and found.loads is None
    assert found.model["parameters"] == pytest.approx(total, rel=1e-4)
    assert found.model["kv_bytes_per_token"] == kv and "yarn × 40" in found.model["rope_scaling"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (dict(model_type="llama", num_key_value_heads=2, head_dim=16), "GQA, 4 heads of 16, 2 for keys and values"),
        (dict(model_type="qwen2", num_key_value_heads=1), "MQA, 4 heads of 16, 1 for keys and values, biases"),
        (
            dict(model_type="qwen3", num_key_value_heads=4, head_dim=16),
            "MHA, 4 heads of 16, 4 for keys and values, queries and keys normed",
        ),
    ],
)
def test_other_families_are_described(tmp_path, raw, words):
    common = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    (tmp_path / "config.json").write_text(json.dumps({**common, "max_position_embeddings": 128, **raw}))
    assert inspect(tmp_path / "config.json").model["attention"].startswith(words)


def test_a_gguf_file_is_inspected_by_its_blocks(tmp_path):
    words = tokenizer(384)
    config = dict(
        vocab_size=384, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_attention_heads=4, kv_lora_rank=32,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, first_k_dense_replace=9, n_routed_experts=0, n_shared_experts=0,
    )  # fmt: skip
    import dataclasses

    model = Decoder.build(dataclasses.replace(TINY, q_lora_rank=None, num_experts_per_tok=0, **config))
    with pytest.warns(UserWarning):
        write_gguf(LM(model, words), tmp_path / "m.gguf", "q8_0", licence="mit")
    found = inspect(tmp_path / "m.gguf")
    assert found.kind == "gguf" and found.loads == loads(tmp_path / "m.gguf")
    assert {"Q8_0", "F32"} <= found.weights["dtypes"].keys() and 8 < found.weights["bits_per_weight"] < 16
    assert found.licence == {"name": "mit", "source": "GGUF metadata"}
    assert found.tokenizer["vocabulary"] == 384 and found.tokenizer["control"] > 10
    assert inspect(tmp_path).kind == "gguf"  # a folder with nothing else


def test_a_run_shows_its_newest_checkpoint(tmp_path):
    saved(tmp_path / "run" / "checkpoints" / "step-1")
    saved(tmp_path / "run" / "checkpoints" / "step-20")
    tokenizer(300).save(tmp_path / "run" / "tokenizer")
    found = inspect(tmp_path / "run")
    assert found.kind == "run" and "step-20" in found.notes[0]


def test_tokenizer_and_template_are_those_the_loader_uses(folder):
    words = tokenizer(300)
    words.save(folder)
    edit_config(folder, vocab_size=11)
    found = inspect(folder)
    assert found.tokenizer["kind"] == "byte-level BPE" and found.tokenizer["vocabulary"] == 300
    assert found.template["built_in"] and len(found.template["sha256"]) == 64
    assert found.refused == ["the tokenizer has 300 tokens, the model's vocabulary 11"]
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    other = inspect(folder).template
    assert not other["built_in"] and "sandbox" in other["encoding"] and other["sha256"] != found.template["sha256"]


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("README.md", "---\nlicense: apache-2.0\ntags: [x]\n---\n# Model", "apache-2.0"),
        ("README.md", "---\nlicense: other\nlicense_name: deepseek\n---\n", "deepseek"),
        ("LICENSE", "MIT License\n\nCopyright (c) 2026", "mit"),
        ("LICENSE.txt", "                 Apache License\n           Version 2.0, January 2004", "apache-2.0"),
        ("LICENSE-MODEL", "\nMy own terms\nare these", "My own terms"),
    ],
)
def test_the_licence_is_read_where_it_is_stated(folder, file, text, licence):
    assert inspect(folder).licence is None
    (folder / file).write_text(text)
    assert inspect(folder).licence == {"name": licence, "source": file}


def test_an_adapter_names_rank_targets_and_base(tmp_path):
    prefix = "base_model.model.model.layers.0.self_attn.o_proj"
    safetensors.torch.save_file(
        {f"{prefix}.lora_A.weight": torch.ones(2, 6), f"{prefix}.lora_B.weight": torch.ones(6, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    raw = dict(peft_type="LORA", r=2, lora_alpha=4, target_modules=["o_proj"], base_model_name_or_path="some/base")
    (tmp_path / "adapter_config.json").write_text(json.dumps(raw))
    found = inspect(tmp_path)
    assert found.kind == "adapter" and found.loads is True
    assert found.adapter == {
        "kind": "LORA", "rank": 2, "alpha": 4, "base": "some/base", "parameters": 24, "targets": ["o_proj"],
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps({**raw, "peft_type": "VERA"}))
    assert inspect(tmp_path).loads is False and "VERA" in inspect(tmp_path).refused[0]


def test_a_run_that_trained_an_adapter_shows_the_adapter(tmp_path):
    place = tmp_path / "run" / "checkpoints" / "step-20"
    place.mkdir(parents=True)
    test_an_adapter_names_rank_targets_and_base(place)
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["o_proj"]}))
    found = inspect(tmp_path / "run")
    assert found.kind == "adapter" and found.adapter["rank"] == 2 and "step-20" in found.notes[-1]


# ---- what is refused -------------------------------------------------------------------------------------------------

DAMAGE = {
    "an unknown key": lambda f: edit_config(f, hyper_connections=4),
    "an unknown family": lambda f: edit_config(f, model_type="mamba"),
    "a quantisation": lambda f: edit_config(f, quantization_config={"quant_method": "awq", "bits": 4}),
    "a missing tensor": lambda f: edit(f, lambda t: t.pop("model.norm.weight")),
    "an unexpected tensor": lambda f: edit(f, lambda t: t.update(extra=torch.zeros(1))),
    "another shape": lambda f: edit(f, lambda t: t.update({"model.norm.weight": torch.zeros(3)})),
    "packed codes": lambda f: edit(f, lambda t: t.update({"model.norm.weight": torch.zeros(6, dtype=torch.int8)})),
    "a cut file": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-4]),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "only a pickle": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "no config": lambda f: (f / "config.json").unlink(),
    "config that is no JSON": lambda f: (f / "config.json").write_text("{"),
    "a damaged tokenizer": lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}'),
    "nothing wrong": lambda f: None,
}
REASON = {
    "an unknown key": "hyper_connections", "an unknown family": "mamba", "a quantisation": "awq",
    "a missing tensor": "model.norm.weight", "an unexpected tensor": "extra", "another shape": "[3]", "packed codes": "I8",
    "a cut file": "model.safetensors", "no weights": "model.safetensors", "only a pickle": "pytorch_model.bin",
    "no config": "config.json", "config that is no JSON": "JSON", "a damaged tokenizer": "tokenizer",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_verdict_is_the_loaders_and_has_a_reason(folder, damage):
    DAMAGE[damage](folder)
    found = inspect(folder)
    assert found.loads == loads(folder), found.refused
    assert any(REASON[damage] in line for line in found.refused) if damage in REASON else found.refused == []
    assert all("\n" not in line for line in found.refused)


def test_announced_mtp_without_weights_is_said_and_loads(folder):
    edit_config(folder, num_nextn_predict_layers=1)
    found = inspect(folder)
    assert found.loads is True and "multi-token prediction" in found.notes[0]
    with pytest.warns(UserWarning, match="loaded without MTP"):
        assert loads(folder)


def test_every_problem_is_listed_not_only_the_first(folder):
    edit_config(folder, one=1, two=2, quantization_config={"quant_method": "gptq"})
    refused = " ".join(inspect(folder).refused)
    assert "'one'" in refused and "'two'" in refused and "gptq" in refused


def test_code_and_pickles_beside_good_weights_are_said_and_left_alone(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"})
    (folder / "modeling_x.py").write_text("raise SystemExit('it was run')")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    found = inspect(folder)
    assert found.loads is True
    told = " ".join(found.ignored)
    assert "auto_map" in told and "modeling_x.py" in told and "pytorch_model.bin" in told


def test_a_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to(secret)
    found = inspect(folder)
    assert found.loads is False and "outside the checkpoint" in found.refused[0]


@pytest.mark.parametrize("name", ["model.bin", "x.pt"])
def test_a_pickle_is_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    assert "pickle" in inspect(tmp_path / name).refused[0]


def test_what_does_not_exist_or_is_no_model_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.json").write_text("[]")
    for path in ("absent", "a.txt", "b.json"):
        with pytest.raises(CheckpointError) as caught:
            inspect(tmp_path / path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_routed_experts"])
def test_absurd_counts_are_refused_before_anything_loops_over_them(folder, key):
    edit_config(folder, **{key: 1 << 40})
    assert inspect(folder).refused[0].startswith(f"config.json: {key} is 1099511627776")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    "hidden_size num_hidden_layers num_attention_heads vocab_size rope_scaling rope_theta quantization_config auto_map "
    "architectures head_dim layer_types eos_token_id max_position_embeddings n_routed_experts".split()
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(["llama", "qwen3_moe", "deepseek_v3", "gpt_oss"]), st.dictionaries(KEYS, JSON, max_size=4))
def test_any_config_is_inspected_or_refused_with_reasons(tmp_path, family, changes):
    base = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **base, **changes}))
    for path in (tmp_path, tmp_path / "config.json"):
        found = inspect(path)
        assert render(found) and json.dumps(found.to_dict())
    assert inspect(tmp_path).refused  # there are no weights


# ---- 671 billion parameters ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def v3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("huge") / "DeepSeek-V3"
    raw = v3_config()
    return folder, write_headers(folder, raw, v3_tensors(raw))


def test_deepseek_v3_is_inspected_in_under_a_second(v3):
    folder, total = v3
    inspect(folder)  # imports, once
    gc.collect()
    start = time.process_time()
    found = inspect(folder)
    assert time.process_time() - start < 1.5  # half of that where nothing else runs
    assert found.model["parameters"] == pytest.approx(671.026e9, rel=1e-4)
    assert found.model["parameters_active"] == pytest.approx(37.55e9, rel=1e-3)
    assert found.weights["bytes"] == total and found.weights["tensors"] == 91_991
    assert found.weights["quantisation"] == "fp8, blocks of 128 × 128"
    assert found.loads is True, found.refused[:3]
    assert any("memory" in note for note in found.notes)


SHORTER = {**v3_config(), "num_hidden_layers": 9, "num_nextn_predict_layers": 0}  # still more tensors than `headers.MANY`


def test_memory_is_a_few_hundred_bytes_a_tensor(tmp_path):
    write_headers(tmp_path, SHORTER, v3_tensors(SHORTER))
    tracemalloc.start()
    try:
        found = inspect(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1000 * found.weights["tensors"]
    finally:
        tracemalloc.stop()
    assert found.weights["tensors"] > MANY and found.loads is True


def without(name):
    return lambda tensors: [t for t in tensors if t[0] != name]


def reshaped(name, *shape):
    return lambda tensors: [(n, d, shape if n == name else s) for n, d, s in tensors]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("model.layers.5.mlp.experts.7.up_proj.weight"), "missing model.layers.5.mlp.experts.7.up_proj.weight"),
        (
            without("model.layers.5.self_attn.o_proj.weight_scale_inv"),
            "has no model.layers.5.self_attn.o_proj.weight_scale_inv",
        ),
        (reshaped("model.embed_tokens.weight", 129280, 7167), "has shape [129280, 7167]"),
        (reshaped("model.layers.5.self_attn.q_a_proj.weight_scale_inv", 55, 56), "blocks of [128, 128]"),
    ],
    ids=["missing", "no scale", "shape", "shape of a scale"],
)
def test_a_large_folder_with_something_wrong_is_found(tmp_path, change, reason):
    write_headers(tmp_path, SHORTER, change(list(v3_tensors(SHORTER))))
    found = inspect(tmp_path)
    assert found.loads is False and any(reason in line for line in found.refused), found.refused[:3]


def test_a_large_folder_with_a_lying_header_is_found(tmp_path):
    write_headers(tmp_path, SHORTER, v3_tensors(SHORTER))
    shard = sorted(tmp_path.glob("*.safetensors"))[5]
    with open(shard, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.truncate(8 + length + 10)
    assert any(shard.name in line and "copy the file again" in line for line in inspect(tmp_path).refused)


def test_planning_deepseek_v3_reads_nothing_but_its_config(v3, capsys):
    start = time.process_time()
    assert (
        cli.main(["plan", "--config", str(v3[0]), "--tokens", "14800000000000", "--hours-per-trillion", "180000", "--json"])
        == 0
    )
    assert time.process_time() - start < 1
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] == pytest.approx(671.026e9, rel=1e-4)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_aligned_rows(folder, capsys):
    assert cli.main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and "loads           yes" in out
    (folder / "model.safetensors").unlink()
    assert cli.main(["inspect", str(folder)]) == 0
    assert "\nrefused:\n  - " in capsys.readouterr().out


def test_json_is_one_object_with_every_key(folder, capsys):
    assert cli.main(["inspect", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(inspect(folder).to_dict()))
    assert {
        "model",
        "weights",
        "licence",
        "tokenizer",
        "template",
        "files",
        "refused",
        "ignored",
        "notes",
        "loads",
    } <= facts.keys()


def test_a_long_list_of_reasons_is_cut_for_people(folder):
    edit_config(folder, **{f"key_{i}": i for i in range(30)})
    found = inspect(folder)
    assert len(found.refused) >= 30 and "and 18 more" in render(found)


def test_dtype_of_a_bfloat16_copy(tmp_path):
    save_model(Decoder.build(TINY), tmp_path, "bfloat16")
    dtypes = inspect(tmp_path).weights["dtypes"]
    assert dtypes["BF16"]["numbers"] > dtypes["F32"]["numbers"]  # router biases stay float32


def test_a_licence_with_a_clause_of_its_own_is_not_called_mit(tmp_path):
    from seekling.inspection.text import licence_of
    from seekling.release.licences import text_of

    (tmp_path / "LICENSE").write_text(text_of("MIT", holder="X", year=2026))
    assert licence_of(tmp_path) == {"name": "mit", "source": "LICENSE"}
    (tmp_path / "LICENSE").write_text(text_of("MIT", holder="X", year=2026) + "\nYou shall display our name in your product.\n")
    assert licence_of(tmp_path) == {"name": "mit with other words in it", "source": "LICENSE"}
