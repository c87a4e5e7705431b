"""``seekling export``: each format from the command line, and every misuse one line."""

import json
import shutil
import types

import pytest
import torch
from engine_tiny import TOKENIZER
from formats_tiny import saved, tiny
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


def test_gguf_is_written_by_its_own_room(tmp_path, capsys, monkeypatch):
    import sys

    saved(tmp_path / "a")
    asked = []

    def write_gguf(lm, path, to):
        asked.append((lm.config.hidden_size, path, to))
        path.write_bytes(b"GGUF")

    monkeypatch.setitem(sys.modules, "seekling.formats.gguf_write", types.SimpleNamespace(write_gguf=write_gguf))
    facts = run(capsys, tmp_path / "a", "--to", "gguf", "--quant", "q8_0", "--out", tmp_path / "out")
    assert asked == [(6, tmp_path / "out" / "out-Q8_0.gguf", "q8_0")]
    assert facts == {"path": str(tmp_path / "out" / "out-Q8_0.gguf"), "to": "gguf", "bytes": 4}
    assert "exists" in fails(capsys, tmp_path / "a", "--to", "gguf", "--quant", "q8_0", "--out", tmp_path / "out")


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
