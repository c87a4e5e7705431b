"""``seekling export``: each format from the command line, and every misuse one line."""

import json
import shutil

import pytest
import torch
from engine_tiny import TOKENIZER
from formats_tiny import saved, tiny
from peft_tiny import base
from transformers import AutoModelForCausalLM

import seekling
from seekling import cli
from seekling.formats import save_model
from seekling.formats.safetensors_source import SafetensorsSource

WIDE = dict(hidden_size=130, intermediate_size=140, moe_intermediate_size=20)


def run(capsys, *argv) -> dict:
    assert cli.main(["export", *map(str, argv), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def fails(capsys, *argv) -> str:
    assert cli.main(["export", *map(str, argv)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err
    return err


def logits(folder):
    with torch.no_grad():
        return seekling.load(folder).model(torch.tensor([[1, 2, 3, 4]]))


def test_a_copy_in_bfloat16_that_transformers_opens(tmp_path, capsys):
    saved(tmp_path / "a")
    facts = run(capsys, tmp_path / "a", "--to", "hf", "--dtype", "bfloat16", "--out", tmp_path / "b")
    assert facts["path"] == str(tmp_path / "b") and facts["left_out"] == []
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype=torch.float32, experts_implementation="eager")
    with torch.no_grad():
        assert torch.allclose(theirs(torch.tensor([[1, 2, 3, 4]])).logits, logits(tmp_path / "b"), atol=1e-4)


def test_fp8_and_back_gives_the_logits_of_the_rounded_weights(tmp_path, capsys):
    saved(tmp_path / "a", **WIDE)
    facts = run(capsys, tmp_path / "a", "--to", "fp8", "--out", tmp_path / "b")
    assert facts["quantised"] > 10
    run(capsys, tmp_path / "b", "--to", "hf", "--out", tmp_path / "c", "--dtype", "float32")
    a, c = logits(tmp_path / "a"), logits(tmp_path / "c")
    assert 1e-4 < (a - c).norm() / a.norm() < 0.2


def test_power_of_two_scales_are_kept_when_the_folder_is_written_again(tmp_path, capsys):
    saved(tmp_path / "a", **WIDE)
    run(capsys, tmp_path / "a", "--to", "fp8", "--scales", "ue8m0", "--out", tmp_path / "b")
    run(capsys, tmp_path / "b", "--to", "fp8", "--out", tmp_path / "c", "--shard-gb", "0.00002")
    b, c = SafetensorsSource.of_folder(tmp_path / "b"), SafetensorsSource.of_folder(tmp_path / "c")
    for name in b.shapes:
        assert torch.equal(b.stored(name).view(torch.uint8), c.stored(name).view(torch.uint8))
    for folder in "bc":
        assert json.loads((tmp_path / folder / "config.json").read_text())["quantization_config"]["scale_fmt"] == "ue8m0"


def test_a_checkpoint_takes_the_tokenizer_of_its_run_along(tmp_path, capsys):
    saved(tmp_path / "run" / "checkpoints" / "step-000001")
    TOKENIZER.save(tmp_path / "run" / "tokenizer")
    run(capsys, tmp_path / "run", "--to", "hf", "--out", tmp_path / "b")
    shutil.rmtree(tmp_path / "run")
    assert seekling.load(tmp_path / "b").tokenizer.encode("hello") == TOKENIZER.encode("hello")


def test_a_gguf_file_holds_the_model_and_comes_back_as_a_folder(tmp_path, capsys):
    base("llama", tmp_path / "a")
    facts = run(capsys, tmp_path / "a", "--to", "gguf", "--quant", "f32", "--out", tmp_path / "out")
    assert facts["path"] == str(tmp_path / "out" / "out-F32.gguf")
    assert facts["notes"] == ["without a tokenizer: llama.cpp will take token ids only"]
    run(capsys, facts["path"], "--to", "hf", "--dtype", "float32", "--out", tmp_path / "b")
    assert torch.allclose(logits(tmp_path / "b"), logits(tmp_path / "a"), atol=1e-5)
    assert "exists" in fails(capsys, tmp_path / "a", "--to", "gguf", "--quant", "f32", "--out", tmp_path / "out")
    assert "two steps" in fails(capsys, facts["path"], "--to", "fp8", "--out", tmp_path / "c")


def test_fp8_weights_go_into_gguf_as_their_numbers(tmp_path, capsys):
    saved(tmp_path / "a", **WIDE)
    run(capsys, tmp_path / "a", "--to", "fp8", "--out", tmp_path / "b")
    facts = run(capsys, tmp_path / "b", "--to", "gguf", "--quant", "f32", "--out", tmp_path / "m.gguf")
    assert torch.allclose(logits(facts["path"]), logits(tmp_path / "b"), atol=1e-4)


def test_code_left_behind_is_said(tmp_path, capsys):
    saved(tmp_path / "a")
    (tmp_path / "a" / "modeling.py").write_text("")
    assert cli.main(["export", str(tmp_path / "a"), "--to", "hf", "--out", str(tmp_path / "b")]) == 0
    assert "note: modeling.py was not copied" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "hf", "--quant", "q8_0"], "--quant is for --to gguf"),
        (["--to", "gguf", "--dtype", "float32"], "--dtype is not for --to gguf"),
        (["--to", "hf", "--scales", "ue8m0"], "--scales is for --to fp8"),
        (["--to", "hf", "--shard-gb", "0"], "--shard-gb must be positive"),
        (["--to", "safetensors"], "invalid choice"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, message, tmp_path, capsys):
    save_model(tiny(), tmp_path / "a")
    assert message in fails(capsys, tmp_path / "a", *flags, "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    assert "does not exist" in fails(capsys, tmp_path / "none", "--to", "hf", "--out", tmp_path / "b")


def test_a_folder_of_pickles_says_how_to_convert_it(tmp_path, capsys):
    saved(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "a" / "pytorch_model.bin")
    err = fails(capsys, tmp_path / "a", "--to", "hf", "--out", tmp_path / "b")
    assert "pickled weights (pytorch_model.bin)" in err and "python -c" in err


def test_licence_and_notice_go_along_into_gguf_and_out_of_it(tmp_path, capsys):
    from seekling.formats.gguf_file import open_gguf

    saved(tmp_path / "a")
    (tmp_path / "a" / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
    (tmp_path / "a" / "NOTICE").write_text("made for a test\n")
    file = run(capsys, tmp_path / "a", "--to", "gguf", "--quant", "f16", "--out", tmp_path / "b")["path"]
    assert open_gguf(file).licence == "apache-2.0"
    run(capsys, file, "--to", "hf", "--out", tmp_path / "c")
    for folder in ("b", "c"):
        assert (tmp_path / folder / "NOTICE").read_text() == "made for a test\n"
        assert (tmp_path / folder / "LICENSE").read_text().startswith("Apache License")
