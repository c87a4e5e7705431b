"""The verb: a whole run folder, exact resume through Hugging Face files, refusals before anything is touched."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from pretrain_tiny import PREPARED, made_text, recipe, stories  # noqa: F401
from safetensors.torch import load_file
from train_tiny import one_thread  # noqa: F401

import seekling
from seekling.data import Packed
from seekling.errors import CheckpointError, DataError, MachineError, RecipeError
from seekling.recipe import Recipe
from seekling.train import pretrain as room
from seekling.train.evaluate import byte_lengths, evaluate
from seekling.train.heldout import bits_per_byte, heldout_texts
from seekling.train.log import TIMES, read_log
from seekling.train.loop import Loop
from seekling.train.pretrain import measure_step_rate, pretrain, resume
from seekling.train.rundir import claim, data_fingerprint
from seekling.train.stopping import Interrupted

pytestmark = pytest.mark.usefixtures("made_text")


def log_of(run):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_log(run / "log.jsonl")]


def newest(run):
    return run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()


def same_checkpoint(a, b):
    """Every tensor of weights and training state is equal bit for bit."""
    for name in ("model.safetensors", "model-mtp.safetensors", "training_state/state.safetensors"):
        x, y = load_file(newest(a) / name), load_file(newest(b) / name)
        assert x.keys() == y.keys()
        assert [n for n in x if not torch.equal(x[n], y[n])] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run in float32."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "prepare_data", lambda recipe, run, say=None: PREPARED)
        return pretrain(recipe(run))


# ---- the run folder ----------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_everything_the_contract_names(finished):
    for name in ("recipe.toml", "data_manifest.json", "tokenizer/tokenizer.json", "log.jsonl", "checkpoints/latest"):
        assert (finished / name).is_file(), name
    names = {p.name for p in newest(finished).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training_state"} <= names
    assert newest(finished).name == "step-000006"
    assert Recipe.load(finished / "recipe.toml").run.resolved


def test_the_log_has_steps_evaluations_samples_and_a_final_evaluation_on_everything(finished):
    log = log_of(finished)
    assert [r["step"] for r in log if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    evals = [r for r in log if r["kind"] == "eval"]
    assert [(r["step"], r.get("final", False)) for r in evals] == [(3, False), (6, True)]
    assert evals[0]["share"] < 1 and evals[1]["share"] == 1
    assert set(evals[1]["sources"]) == {"ducks", "geese"} and evals[1]["bpb"] > 0
    assert evals[1]["bytes"] == sum(s.bytes for s in PREPARED.heldout.values())
    samples = [r for r in log if r["kind"] == "sample"]
    assert [r["step"] for r in samples] == [4, 6]
    assert {s["source"] for s in samples[0]["samples"]} == {"ducks", "geese"}
    assert all(s["prompt"].startswith("The") and s["text"] for s in samples[0]["samples"])


def test_the_loss_falls_by_the_schedule_s_learning_rates(finished):
    steps = [r for r in log_of(finished) if r["kind"] == "step"]
    assert steps[-1]["ce"] < steps[0]["ce"]
    assert steps[-1]["lr"] < steps[0]["lr"] == 5e-3
    assert steps[0]["tokens"] == 4 * 16


def test_seekling_load_gives_the_trained_model(finished):
    lm = seekling.load(finished)
    final = [r for r in log_of(finished) if r["kind"] == "eval"][-1]
    again = evaluate(lm.model, PREPARED.heldout, 16, byte_lengths(lm.tokenizer))
    assert again.total.bits_per_byte == pytest.approx(final["bpb"], rel=1e-5)
    assert lm.tokenizer.encode("ducks") == PREPARED.tokenizer.encode("ducks")


def test_transformers_opens_the_checkpoint(finished):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(newest(finished), dtype=torch.float32)
    ids = torch.tensor([[0, 30, 40, 50, 60]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, seekling.load(finished).model(ids), atol=1e-4, rtol=1e-4)


# ---- resume ------------------------------------------------------------------------------------------------------------


def interrupted_at(step, monkeypatch, number=signal.SIGTERM):
    """Make the loop receive a signal while it computes ``step``."""
    original = Loop.one_step

    def one_step(self):
        if self.step == step:
            signal.raise_signal(number)
        original(self)

    monkeypatch.setattr(Loop, "one_step", one_step)


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "optimizer": "muon"}], ids=["float32 adamw", "bfloat16 muon"])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path, monkeypatch, finished, changes, stop):
    """Stops before an evaluation, at one, and at a sample that are due after the step; an epoch ends within step 5."""
    assert 4 * 4 < Packed(PREPARED.train, 16).n_rows < 5 * 4
    whole = finished
    if changes:
        whole = pretrain(recipe(tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        interrupted_at(stop, patch)
        torch.manual_seed(77)  # what was drawn before the run must not matter
        pretrain(recipe(tmp_path / "cut", **changes))
    assert stopped.value.code == 143 and f"--resume {tmp_path / 'cut'}" in str(stopped.value)
    assert newest(tmp_path / "cut").name == f"step-{stop + 1:06d}"
    torch.manual_seed(1234)
    resume(tmp_path / "cut")
    same_checkpoint(tmp_path / "cut", whole)
    assert log_of(tmp_path / "cut") == log_of(whole)


def test_two_threads_and_native_kernels_repeat_bit_for_bit_too(tmp_path, monkeypatch):
    """Sizes that the fast kernels take: 64-wide heads and experts, bfloat16 where the CPU has it."""
    wide = dict(
        hidden_size=64, moe_intermediate_size=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16
    )
    wide |= dict(threads=2, dtype="auto", steps=4, seq_len=32, n_routed_experts=8, eval_every=9, sample_every=9)
    whole = pretrain(recipe(tmp_path / "whole", **wide))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_at(1, patch)
        pretrain(recipe(tmp_path / "cut", **wide))
    resume(tmp_path / "cut")
    same_checkpoint(tmp_path / "cut", whole)


def test_a_run_that_was_moved_resumes_where_it_is(tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_at(2, patch)
        pretrain(recipe(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert resume(tmp_path / "there") == tmp_path / "there"
    same_checkpoint(tmp_path / "there", finished)
    assert not (tmp_path / "here").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path, finished):
    before = (finished / "log.jsonl").read_text()
    resume(finished)
    assert (finished / "log.jsonl").read_text() == before


def test_a_run_stopped_before_its_first_save_begins_again(tmp_path, monkeypatch, finished):
    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "one_step", die)
        pretrain(recipe(tmp_path / "run"))
    resume(tmp_path / "run")
    same_checkpoint(tmp_path / "run", finished)
    assert log_of(tmp_path / "run") == log_of(finished)


def test_an_edited_recipe_or_other_data_is_refused(tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_at(2, patch)
        pretrain(recipe(tmp_path / "run"))
    text = (tmp_path / "run" / "recipe.toml").read_text()
    (tmp_path / "run" / "recipe.toml").write_text(text.replace("lr = 0.005", "lr = 0.006"))
    with pytest.raises(CheckpointError, match="another recipe"):
        resume(tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").write_text(text)
    PREPARED.train.tokens[5] += 1
    try:
        with pytest.raises(CheckpointError, match="another data"):
            resume(tmp_path / "run")
    finally:
        PREPARED.train.tokens[5] -= 1


# ---- refusals ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match=r"not empty.*thesis.tex"):
        pretrain(recipe(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_existing_run_is_not_overwritten(finished):
    before = json.dumps(sorted(p.name for p in finished.iterdir()))
    with pytest.raises(RecipeError, match=f"--resume {finished}"):
        pretrain(recipe(finished))
    assert json.dumps(sorted(p.name for p in finished.iterdir())) == before


def test_a_run_that_failed_before_its_first_step_leaves_its_name_free(tmp_path, monkeypatch):
    def no_text(recipe, run, say=None):
        raise DataError("the corpus is empty; add text")

    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(room, "prepare_data", no_text)
        pretrain(recipe(tmp_path / "run"))
    assert pretrain(recipe(tmp_path / "run", steps=1)) == tmp_path / "run"


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(tmp_path, monkeypatch):
    from seekling.train.rundir import check_room

    with monkeypatch.context() as patch, pytest.raises(MachineError, match="3 checkpoints"):
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20_000))
        pretrain(recipe(tmp_path / "run"))
    assert pretrain(recipe(tmp_path / "run", steps=1)) == tmp_path / "run"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=350_000_000))
    for keep, count in ((3, 4), (0, 20)):  # those kept and the one being written; all
        with pytest.raises(MachineError, match=f"{count} checkpoints of 100.0 MB"):
            check_room(tmp_path, 100_000_000, SimpleNamespace(steps=40, save_every=2, keep=keep))
    check_room(tmp_path, 100_000_000, SimpleNamespace(steps=40, save_every=2, keep=2))
    for step in (2, 4, 6):  # a run that goes on has most of them already
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    check_room(tmp_path, 100_000_000, SimpleNamespace(steps=40, save_every=2, keep=3))


def test_two_processes_cannot_train_in_one_folder(finished):
    with claim(finished), pytest.raises(CheckpointError, match="another process"):
        resume(finished)


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match=r"no recipe\.toml"):
        resume(tmp_path)


def test_a_sequence_longer_than_the_model_is_refused_before_any_work(tmp_path):
    with pytest.raises(RecipeError, match="seq_len 128"):
        pretrain(recipe(tmp_path / "run", seq_len=128))
    assert not (tmp_path / "run").exists()


# ---- small parts -------------------------------------------------------------------------------------------------------


def test_the_data_fingerprint_sees_tokens_and_document_edges_but_not_the_integer_type():
    from dataclasses import replace

    stream = PREPARED.train
    assert data_fingerprint(stream) == data_fingerprint(replace(stream, tokens=stream.tokens.astype("<u2")))
    moved = stream.offsets.copy()
    moved[1] += 1
    assert data_fingerprint(stream) != data_fingerprint(replace(stream, offsets=moved))


def test_the_measured_rate_is_tokens_over_seconds(tmp_path, monkeypatch):
    from seekling.recipe import resolve

    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    rate = measure_step_rate(resolve(recipe(tmp_path / "x", micro_batch=4)), seconds=30.0)
    assert rate == 4 * 16 / 2  # a micro-batch lasts one tick of this clock and an optimizer step another


# ---- with the data room ------------------------------------------------------------------------------------------------


def test_a_run_on_the_user_s_own_folder_survives_a_stop_from_text_to_checkpoint(tmp_path, monkeypatch):
    """No stand-in: documents on disk, split, tokenizer, cache, training, resume."""
    monkeypatch.undo()  # the text made in memory
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for i, text in enumerate(stories(0, 60)):
        (tmp_path / "text" / f"{i}.txt").write_text(text * 3)
    asked = dict(data=(str(tmp_path / "text"),), heldout=0.1)
    whole = pretrain(recipe(tmp_path / "whole", **asked))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_at(2, patch)
        pretrain(recipe(tmp_path / "cut", **asked))
    resume(tmp_path / "cut")
    same_checkpoint(tmp_path / "cut", whole)
    assert log_of(tmp_path / "cut") == log_of(whole)
    manifest = json.loads((whole / "data_manifest.json").read_text())
    assert manifest["train"]["documents"] + manifest["heldout"]["documents"] == 60
    texts = heldout_texts(whole, tokens=100)
    scores = bits_per_byte(seekling.load(whole), texts)
    assert set(scores) == {"text", ""} and scores[""]["bits_per_byte"] > 0


def test_text_of_which_nothing_can_be_held_out_trains_without_evaluations(tmp_path, monkeypatch, capsys):
    import random

    from seekling.cli import main

    monkeypatch.undo()
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_text("".join(random.Random(0).choices("abcdefgh", k=3000)))  # no place to cut
    asked = recipe(tmp_path / "run", data=(str(tmp_path / "text"),), eval_every=2, sample_every=2)
    lines: list[str] = []
    run = pretrain(asked, SimpleNamespace(print=lambda text, **_: lines.append(text), is_terminal=False))
    assert newest(run).name == "step-000006" and {line["kind"] for line in log_of(run)} == {"step"}
    assert sum("nothing is held out" in line for line in lines) == 1
    assert main(["eval", str(run), "--limit", "4"]) == 0 and "bits" not in capsys.readouterr().out
    assert main(["eval", str(run), "--suite", "bits"]) == 2 and "was held out" in capsys.readouterr().err
    (tmp_path / "story").mkdir()
    (tmp_path / "story" / "story.toml").write_text("")  # stages would be compared by it
    with pytest.raises(DataError, match="--no-teach"):
        pretrain(recipe(tmp_path / "story", data=(str(tmp_path / "text"),)))


def test_a_vocabulary_larger_than_the_text_allows_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for i in range(20):
        (tmp_path / "text" / f"{i}.txt").write_text(f"only {i} words")
    with pytest.raises(DataError, match="vocab"):
        pretrain(recipe(tmp_path / "run", data=(str(tmp_path / "text"),), vocab_size=4000))
    assert not (tmp_path / "run" / "recipe.toml").exists()
