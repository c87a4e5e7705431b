"""`seekling sft`: learns what the conversations say, resumes bit for bit, writes folders that everything else opens."""

import shutil

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import LAMPS, save_base, weights, write_rows

import seekling
from seekling.cli import main
from seekling.errors import CheckpointError, DataError, RecipeError
from seekling.formats.peft import read_adapter
from seekling.formats.safetensors_io import open_tensors
from seekling.lm import LM
from seekling.model import Decoder
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import read_log
from seekling.train.sft import lessons_of, resume, sft
from seekling.train.sft_recipe import SftRecipe
from seekling.verbs.bench import config_of

WORDS = ["red", "blue", "green", "gold"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), LAMPS, num_nextn_predict_layers=1)


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    lines = [{"prompt": f"what colour has lamp {i % 7}?", "completion": f"the lamp is {WORDS[i % 4]}."} for i in range(40)]
    return write_rows(tmp_path_factory.mktemp("talks") / "talks.jsonl", lines)


def recipe(base, talks, out, **more):
    values = dict(
        model=str(base), data=[talks], out=str(out), steps=6, batch_size=4, save_every=3, keep=0, dtype="float32", lr=3e-3
    )
    return SftRecipe.of(**{**values, **more})


VARIANTS: list[dict] = [
    {},
    {"lora": 4},
    {"dtype": "bfloat16"},
    {"lora": 4, "dtype": "bfloat16"},
    {"lora": 2, "lora_shared_a": True},
    {"lora": 4, "lora_dropout": 0.2, "optimizer": "muon"},
]


@pytest.mark.parametrize(
    "more", [{}, {"lora": 4}, {"dtype": "bfloat16"}, {"lora": 4, "lora_dropout": 0.2, "optimizer": "muon"}]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(base, talks, tmp_path, more):
    run = sft(recipe(base, talks, tmp_path / "run", **more))
    final = run / "checkpoints" / "step-000006"
    want = weights(final)
    shutil.rmtree(final)
    resume(run)
    assert weights(final) == want and want


def test_the_held_out_loss_falls(base, talks, tmp_path):
    run = sft(recipe(base, talks, tmp_path / "run", steps=40, lr=1e-2))
    losses = [line["ce"] for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
    assert losses[-1] < 0.7 * losses[0]


def test_the_folder_of_an_adapter_run_opens_over_its_base(base, talks, tmp_path):
    run = sft(recipe(base, talks, tmp_path / "run", lora=4))
    taught, before = seekling.load(run), seekling.load(base)
    adapter = read_adapter(run / "checkpoints" / "step-000006", before.model)
    assert len(adapter.parts) > 10
    name = "model.layers.0.self_attn.o_proj.weight"
    old, new = before.model.state_dict()[name], taught.model.state_dict()[name]
    assert torch.allclose(new, old + adapter.parts[name].delta(), atol=1e-6) and not torch.equal(new, old)
    assert taught.tokenizer.encode("lamp") == before.tokenizer.encode("lamp")


def test_the_engine_answers_from_an_adapter_run(base, talks, tmp_path):
    run = sft(recipe(base, talks, tmp_path / "run", lora=4))
    settings = seekling.Sampling(max_tokens=5, temperature=0, ignore_eos=True)
    merged = seekling.Engine(seekling.load(run)).generate(["the lamp"], settings)[0]
    assert seekling.Engine(run, dtype="float32").generate(["the lamp"], settings)[0].token_ids == merged.token_ids


def test_an_adapter_run_is_exported_and_merged_like_any_model(base, talks, tmp_path):
    run = sft(recipe(base, talks, tmp_path / "run", lora=4))
    want = seekling.load(run, dtype="bfloat16").model.state_dict()
    for verb in (["export", str(run), "--to", "hf"], ["merge", str(base), str(run), "--dtype", "bfloat16"]):
        out = tmp_path / verb[0]
        assert main([*verb, "--out", str(out)]) == 0
        held = seekling.load(out, dtype="bfloat16").model.state_dict()
        for name in ("model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.experts.down_proj"):
            assert torch.allclose(held[name].float(), want[name].float(), rtol=0.02, atol=1e-3), (verb[0], name)
    assert main(["export", str(run), "--to", "gguf", "--quant", "q8_0", "--out", str(tmp_path / "m.gguf")]) == 0
    assert seekling.load(tmp_path / "m.gguf").config.num_hidden_layers == 2


def test_an_adapter_run_is_exported_in_the_type_of_its_base(base, talks, tmp_path):
    half = tmp_path / "half"
    seekling.load(base, dtype="bfloat16").save(half)
    for source, dtype in ((base, torch.float32), (half, torch.bfloat16)):
        run = sft(recipe(source, talks, tmp_path / f"run-{dtype}", lora=4))
        assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / f"out-{dtype}")]) == 0
        held, want = (seekling.load(f, dtype=dtype).model.state_dict() for f in (tmp_path / f"out-{dtype}", run))
        assert all(torch.equal(held[name], want[name]) for name in want)
        with open_tensors(tmp_path / f"out-{dtype}" / "model.safetensors") as read:
            assert read("model.layers.0.self_attn.o_proj.weight").dtype == dtype


@pytest.mark.parametrize("more", [{}, {"base_quant": "int8"}])
def test_adapters_over_an_adapter_run_open_over_both(base, talks, tmp_path, more):
    first = sft(recipe(base, talks, tmp_path / "first", lora=4, dtype="bfloat16"))
    run = sft(recipe(first, talks, tmp_path / "second", lora=4, dtype="bfloat16", **more))
    below, taught = (seekling.load(folder).model.state_dict() for folder in (first, run))
    name = "model.layers.0.self_attn.o_proj.weight"
    delta = read_adapter(run / "checkpoints" / "step-000006", seekling.load(base).model).parts[name].delta()
    assert torch.allclose(taught[name], below[name] + delta, atol=1e-6) and delta.abs().max() > 0
    rounded = seekling.load(run, dtype="bfloat16").model.state_dict()
    assert torch.equal(rounded[name], taught[name].bfloat16())  # the same sum, rounded once
    settings = seekling.Sampling(max_tokens=5, temperature=0, ignore_eos=True)
    want = seekling.Engine(seekling.load(run), runner="native").generate(["the lamp"], settings)[0].token_ids
    assert seekling.Engine(run, dtype="float32").generate(["the lamp"], settings)[0].token_ids == want
    assert config_of(run / "checkpoints" / "step-000006") == seekling.load(base).config  # what bench asks
    assert main(["export", str(run), "--to", "gguf", "--out", str(tmp_path / "m.gguf")]) == 0


def test_what_decides_and_scales_keeps_its_float32_under_adapters_too(base, tmp_path):
    from seekling.train.teaching import open_student

    model = open_student(recipe(base, "", tmp_path, lora=2, lora_targets=["q_proj"], dtype="bfloat16"), None).model
    before, now = seekling.load(base).model.state_dict(), model.state_dict()
    router = "model.layers.1.mlp.gate.weight"
    assert torch.equal(now[router], before[router]) and not torch.equal(before[router], before[router].bfloat16().float())
    assert now["model.layers.1.mlp.shared_experts.up_proj.weight"].dtype == torch.bfloat16


def test_the_folder_of_a_full_run_is_a_model_with_its_mtp_layer(base, talks, tmp_path):
    run = sft(recipe(base, talks, tmp_path / "run"))
    assert seekling.load(run).config.num_nextn_predict_layers == 1
    assert any("mtp_ce" in line for line in read_log(run / "log.jsonl") if line["kind"] == "step")


def test_another_base_under_the_same_name_is_refused_on_resume(base, talks, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    run = sft(recipe(copy, talks, tmp_path / "run", lora=4))
    shutil.rmtree(run / "checkpoints" / "step-000006")
    lm = seekling.load(copy)
    LM(Decoder.build(lm.config, seed=9), lm.tokenizer).save(copy)
    with pytest.raises(CheckpointError, match="base"):
        resume(run)


def test_changed_conversations_are_refused_on_resume(base, talks, tmp_path):
    mine = tmp_path / "talks.jsonl"
    shutil.copy(talks, mine)
    run = sft(recipe(base, str(mine), tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-000006")
    mine.write_text(mine.read_text("utf-8").replace("gold", "grey"), "utf-8")
    with pytest.raises(CheckpointError, match="data"):
        resume(run)


def test_every_conversation_that_cannot_be_encoded_is_named_with_its_line(base, tmp_path):
    asks, answers = {"role": "user", "content": "red?"}, {"role": "assistant", "content": "blue."}
    lines = [[asks, answers], [asks, answers | {"weight": 0}], [asks, answers], [asks, answers, answers]]
    mine = write_rows(tmp_path / "talks.jsonl", [{"messages": line} for line in lines])
    with pytest.raises(DataError, match="correct or remove") as caught:
        sft(recipe(base, mine, tmp_path / "run"))
    said = str(caught.value).splitlines()
    assert len(said) == 3 and ":2: messages: message 1 has keys" in said[1]
    assert ":4: messages: message 2 is an answer without a question" in said[2]


def test_conversations_that_occur_twice_are_all_held_out_or_all_learned(base, tmp_path):
    lines = [{"prompt": f"lamp {i % 10}?", "completion": "red"} for i in range(40)]
    lm = seekling.load(base)
    asked = recipe(base, write_rows(tmp_path / "talks.jsonl", lines), tmp_path / "run", heldout=0.2)
    lessons = lessons_of(asked, lm.tokenizer, lm.config)
    sides = [[tuple(e.ids.tolist()) for e in rows.examples] for rows in (lessons.train, lessons.heldout)]
    assert len(sides[1]) == 8 and len(sides[0]) == 32 and not set(sides[0]) & set(sides[1])


def test_a_finished_run_is_repeated_as_it_was_or_at_another_length(base, talks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sft", "--model", str(base), "--data", talks, "--epochs", "2", "--batch-size", "4", "--out", "a"]) == 0
    first = SftRecipe.load("a").learn
    assert main(["sft", "--recipe", "a"]) == 0  # into a folder of its own
    assert SftRecipe.load("runs/sft-1").learn == first
    assert main(["sft", "--recipe", "a", "--epochs", "1"]) == 0
    half = SftRecipe.load("runs/sft-2").learn
    assert half.steps == -(-first.steps // 2) and half.epochs < 0.6 * first.epochs
    assert len([r for r in read_log(tmp_path / "runs/sft-2/log.jsonl") if r["kind"] == "step"]) == half.steps


def test_problems_come_before_anything_is_written(base, talks, tmp_path):
    with pytest.raises(DataError, match="--seq-len"):
        sft(recipe(base, talks, tmp_path / "run", seq_len=8))
    with pytest.raises(RecipeError, match="contradict"):
        recipe(base, talks, tmp_path / "run", epochs=2.0)
    with pytest.raises(RecipeError, match="no layer is called w_pack"):
        sft(recipe(base, talks, tmp_path / "run", lora=2, lora_targets=["w_pack"]))
    sft(recipe(base, talks, tmp_path / "run", steps=1))  # the same --out may be used after a failed start


def test_a_run_started_with_relative_paths_goes_on_from_any_folder(base, talks, tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    shutil.copytree(base, home / "base")
    shutil.copy(talks, home / "talks.jsonl")
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    assert main(["sft", "--model", "base", "--data", "talks.jsonl", "--steps", "2", "--lora", "2", "--out", "run"]) == 0
    shutil.rmtree(home / "run/checkpoints/step-000002")
    monkeypatch.chdir(elsewhere)
    assert main(["sft", "--resume", "../home/run"]) == 0
    assert weights(home / "run/checkpoints/step-000002")


def test_the_files_of_practice_are_noted_with_their_whole_path(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "p.jsonl", [{"question": f"lamp {i}?", "answer": "red"} for i in range(30)])
    shutil.copytree(base, tmp_path / "runs/base")
    words = "--problems 1 --group 2 --max-tokens 2 --steps 1 --warmup 0 --eval-problems 1 --no-tagged --out run".split()
    assert main(["grpo", "--model", "base", "--tasks", "p.jsonl", "addition", *words]) == 0
    flat = GrpoRecipe.load("run").flat()
    assert flat["model"] == str(tmp_path / "runs/base") and flat["tasks"] == (str(tmp_path / "p.jsonl"), "addition")


def test_an_adapter_whose_base_is_gone_names_itself_and_the_remedy(base, talks, tmp_path, capsys):
    mine = tmp_path / "base"
    shutil.copytree(base, mine)
    run = sft(recipe(mine, talks, tmp_path / "run", lora=2))
    mine.rename(tmp_path / "moved")
    assert main(["generate", str(run), "lamp"]) == 2
    said = capsys.readouterr().err
    assert f"{run}/checkpoints/step-000006 is an adapter over {mine}" in said and "seekling merge BASE" in said


# ---- killed --------------------------------------------------------------------------------------------------------------


def test_a_run_killed_at_any_moment_goes_on_to_the_very_same_adapter(base, talks, tmp_path):
    import subprocess
    import sys
    import time

    asked = dict(steps=30, save_every=1, keep=2, lora=4, heldout=0.0, threads=1)
    want = weights(sft(recipe(base, talks, tmp_path / "whole", **asked)) / "checkpoints" / "step-000030")
    run = tmp_path / "run"
    (tmp_path / "asked.toml").write_text(recipe(base, talks, run, **asked).to_toml())
    command = [sys.executable, "-m", "seekling", "sft", "--recipe", str(tmp_path / "asked.toml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (run / "checkpoints" / "latest").is_file():
        time.sleep(0.005)
    process.kill()
    process.wait()
    resume(run)
    assert weights(run / "checkpoints" / "step-000030") == want
