"""seekling.load: runs, checkpoint folders, and what is neither."""

import pytest
import torch
from formats_tiny import equal, saved, tiny

import seekling
from seekling.errors import CheckpointError
from seekling.lm import LM, resolve
from seekling.text.bpe import train_tokenizer
from seekling.text.tokenizer import Tokenizer

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture
def run(tmp_path):
    for step in (5, 20, 100):
        saved(tmp_path / "run" / "checkpoints" / f"step-{step:06d}", seed=step)
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-000100\n")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["once upon a time there was a small fish. " * 20], 300)


def test_a_checkpoint_folder_gives_a_model_that_is_called_with_ids(tmp_path):
    lm = seekling.load(saved(tmp_path))
    with torch.no_grad():
        logits = lm.model(IDS)
        assert torch.equal(logits, tiny().eval()(IDS))
    assert logits.shape == (2, 3, 11)
    assert (lm.tokenizer, lm.config, lm.path) == (None, tiny().config, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_asked_type_is_the_models(dtype, tmp_path):
    assert seekling.load(str(saved(tmp_path)), dtype=dtype).model.lm_head.weight.dtype == getattr(torch, dtype)


def test_a_run_gives_the_checkpoint_that_latest_names(run):
    (run / "checkpoints" / "latest").write_text("step-000020")
    lm = seekling.load(run)
    assert lm.path.name == "step-000020"
    assert equal(lm.model, tiny(20))


@pytest.mark.parametrize("pointer", ["step-000777", "../../elsewhere", "", None])
def test_a_run_whose_pointer_leads_nowhere_gives_its_newest_complete_checkpoint(run, pointer):
    latest = run / "checkpoints" / "latest"
    latest.unlink() if pointer is None else latest.write_text(pointer)
    (run / "checkpoints" / "step-000200").mkdir()  # without config.json: not complete
    saved(run / "checkpoints" / ".unfinished-step-000300")
    assert resolve(run).name == "step-000100"


def test_newest_goes_by_number_not_by_spelling(run):
    (run / "checkpoints" / "latest").unlink()
    saved(run / "checkpoints" / "step-1000000")
    assert resolve(run).name == "step-1000000"


def test_a_run_under_runs_is_found_by_its_name(run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    assert resolve("first").name == "step-000100"


def test_a_checkpoint_without_tokenizer_takes_that_of_its_run(run, tokenizer):
    tokenizer.save(run / "tokenizer")
    lm = seekling.load(run)
    assert lm.tokenizer.encode("a small fish") == tokenizer.encode("a small fish")


def test_save_writes_model_and_tokenizer(tmp_path, tokenizer):
    lm = LM(tiny(), tokenizer)
    lm.save(tmp_path / "out")
    again = seekling.load(tmp_path / "out")
    assert equal(again.model, lm.model)
    assert again.tokenizer.encode("upon a time") == tokenizer.encode("upon a time")


def test_save_passes_type_and_shard_size_on(tmp_path):
    LM(tiny()).save(tmp_path, dtype="bfloat16", max_shard_bytes=500)
    assert len(list(tmp_path.glob("model-0*.safetensors"))) > 1
    assert equal(seekling.load(tmp_path, "bfloat16").model, seekling.load(saved(tmp_path / "x"), "bfloat16").model)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nothing", "does not exist"),
        ("file", "is a file"),
        ("empty", "neither a run nor a checkpoint"),
        ("young", "no complete checkpoint yet"),
    ],
)
def test_what_is_no_model_is_one_line_with_the_remedy(place, words, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        seekling.load(tmp_path / place)
    message = str(caught.value)
    assert words in message
    assert "config.json" in message
    assert "\n" not in message


def test_the_name_of_a_published_model_is_answered_with_the_way_to_fetch_it():
    with pytest.raises(CheckpointError, match="seekling pull deepseek-ai/DeepSeek-V2-Lite"):
        seekling.load("deepseek-ai/DeepSeek-V2-Lite")
