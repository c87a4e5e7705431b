"""``seekling merge``: an adapter into its base on disk and out again, in every layout a base can have."""

import json

import pytest
import torch
from formats_tiny import saved
from peft_tiny import EXPERTS, adapted, base, logits, opened

from seekling import cli
from seekling.formats import load_model
from seekling.formats.adapters import Adapter, LowRank, merge, model_fingerprint
from seekling.formats.fp8 import FP8Format
from seekling.formats.peft import read_adapter
from seekling.formats.peft_write import write_adapter
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.formats.stream import convert

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about itself
SETTINGS = {
    "llama": dict(target_modules="all-linear"),
    "deepseek_v3": dict(target_modules=["o_proj"], target_parameters=[*EXPERTS, "mlp.gate.weight"]),
    "qwen2_moe": dict(target_modules=["q_proj"], target_parameters=[*EXPERTS, "mlp.shared_expert.up_proj.weight"]),
    "gpt_oss": dict(target_modules=["v_proj"], target_parameters=[*EXPERTS, "mlp.router.weight"]),
}


def run(capsys, *argv) -> dict:
    assert cli.main(["merge", *map(str, argv), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(capsys, *argv) -> str:
    capsys.readouterr()
    assert cli.main(["merge", *map(str, argv)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err
    return err


def tensors_of(folder):
    source = SafetensorsSource.of_folder(folder)
    return {name: source.stored(name) for name in source.shapes}


@pytest.fixture(params=SETTINGS)
def case(request, tmp_path):
    """(base folder, adapter folder, their adapted model)."""
    base(request.param, tmp_path / "base")
    theirs = adapted(opened(tmp_path / "base"), tmp_path / "lora", **SETTINGS[request.param])
    return tmp_path / "base", tmp_path / "lora", theirs


def test_the_merged_folder_has_the_logits_of_pefts_model_in_transformers(case, tmp_path, capsys):
    folder, lora, theirs = case
    facts = run(capsys, folder, lora, "--out", tmp_path / "out")
    assert facts["changed"] >= facts["parts"] > 0 and facts["exact"]
    assert torch.allclose(logits(opened(tmp_path / "out")), logits(theirs), atol=2e-5, rtol=1e-5)


def test_merging_on_disk_and_in_memory_gives_the_same_bits(case, tmp_path, capsys):
    folder, lora, _ = case
    run(capsys, folder, lora, "--out", tmp_path / "out")
    model = load_model(folder)
    merge(model, read_adapter(lora, model))
    on_disk = load_model(tmp_path / "out").state_dict()
    assert all(torch.allclose(on_disk[name], weight, atol=1e-6, rtol=0) for name, weight in model.state_dict().items())


def test_unmerging_gives_the_base_up_to_one_rounding_and_leaves_the_rest_alone(case, tmp_path, capsys):
    folder, lora, _ = case
    run(capsys, folder, lora, "--out", tmp_path / "merged")
    facts = run(capsys, tmp_path / "merged", lora, "--unmerge", "--out", tmp_path / "back")
    assert facts["exact"] is False
    before, back = tensors_of(folder), tensors_of(tmp_path / "back")
    assert before.keys() == back.keys()
    exact = sum(torch.equal(before[name], back[name]) for name in before)
    assert exact >= len(before) - facts["changed"]
    assert all(torch.allclose(before[name], back[name], atol=4e-6, rtol=0) for name in before)


def test_a_bfloat16_base_stays_bfloat16_and_is_rounded_once(tmp_path, capsys):
    base("llama", tmp_path / "base", dtype=torch.bfloat16)
    adapted(opened(tmp_path / "base"), tmp_path / "lora", target_modules=["q_proj"])
    run(capsys, tmp_path / "base", tmp_path / "lora", "--out", tmp_path / "out")
    name = "model.layers.1.self_attn.q_proj.weight"
    before, after = tensors_of(tmp_path / "base"), tensors_of(tmp_path / "out")
    part = read_adapter(tmp_path / "lora").parts[name]
    assert after[name].dtype == torch.bfloat16
    assert torch.equal(after[name], (before[name].float() + part.delta()).bfloat16())
    assert all(torch.equal(before[n], after[n]) for n in before if n not in read_adapter(tmp_path / "lora").parts)


def test_an_fp8_base_is_merged_from_its_exact_numbers_into_bfloat16(tmp_path, capsys):
    saved(tmp_path / "full", hidden_size=130)
    convert(tmp_path / "full", tmp_path / "base", fp8=FP8Format())
    name = "model.layers.0.self_attn.o_proj.weight"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, generator=generator), torch.randn(130, 2, generator=generator)
    write_adapter(Adapter({name: LowRank(a, b, 0.5)}), tmp_path / "lora")
    run(capsys, tmp_path / "base", tmp_path / "lora", "--out", tmp_path / "out")
    numbers = load_model(tmp_path / "base").state_dict()
    after = tensors_of(tmp_path / "out")
    assert torch.equal(after[name], (numbers[name] + 0.5 * (b @ a)).bfloat16())
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_base_an_adapter_was_trained_on_is_recognised_on_disk(tmp_path, capsys):
    base("llama", tmp_path / "base")
    base("llama", tmp_path / "other", seed=9)
    adapted(opened(tmp_path / "base"), tmp_path / "lora", target_modules=["q_proj"])
    model = load_model(tmp_path / "base")
    adapter = read_adapter(tmp_path / "lora", model)
    write_adapter(Adapter(adapter.parts, "b", model_fingerprint(model)), tmp_path / "named", model)
    run(capsys, tmp_path / "base", tmp_path / "named", "--out", tmp_path / "a")
    assert "--any-base" in fails(capsys, tmp_path / "other", tmp_path / "named", "--out", tmp_path / "b")
    assert "--any-base" in fails(capsys, tmp_path / "a", tmp_path / "named", "--out", tmp_path / "b")  # merged already
    run(capsys, tmp_path / "other", tmp_path / "named", "--any-base", "--out", tmp_path / "b")
    run(capsys, tmp_path / "a", tmp_path / "named", "--unmerge", "--out", tmp_path / "c")


def test_an_adapter_for_another_base_is_refused_before_anything_is_written(tmp_path, capsys):
    base("qwen2_moe", tmp_path / "base")
    adapted(base("deepseek_v3"), tmp_path / "lora", target_modules=["o_proj", "kv_b_proj"])
    err = fails(capsys, tmp_path / "base", tmp_path / "lora", "--out", tmp_path / "out")
    assert "2 problems" in err
    assert all(f"the model has no model.layers.{layer}.self_attn.kv_b_proj.weight" in err for layer in (0, 1))
    assert not (tmp_path / "out").exists()


def test_what_was_done_is_said(tmp_path, capsys):
    base("llama", tmp_path / "base")
    adapted(opened(tmp_path / "base"), tmp_path / "lora", target_modules=["q_proj"])
    assert cli.main(["merge", str(tmp_path / "base"), str(tmp_path / "lora"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "2 adapted matrices or stacks merged into 2 tensors" in out and "seekling chat" in out
    assert cli.main(["merge", str(tmp_path / "out"), str(tmp_path / "lora"), "--unmerge", "--out", str(tmp_path / "x")]) == 0
    assert "up to one rounding" in capsys.readouterr().out


def test_a_base_that_is_an_adapter_is_sent_through_export(tmp_path, capsys):
    base("llama", tmp_path / "base")
    adapted(opened(tmp_path / "base"), tmp_path / "lora", target_modules=["q_proj"])
    said = fails(capsys, tmp_path / "lora", tmp_path / "lora", "--out", tmp_path / "out")
    assert "is an adapter itself" in said and "--to hf" in said


def test_a_gguf_base_is_sent_through_export(tmp_path, capsys):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert "--to hf" in fails(capsys, tmp_path / "m.gguf", tmp_path, "--out", tmp_path / "out")
