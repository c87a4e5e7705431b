"""Reference models: the same bytes from the same seed, numbers transformers confirms, a check that finds wrong engines."""

import hashlib
import json

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import seekling
from seekling import cli
from seekling.errors import CheckpointError, ConfigError
from seekling.reference.archs import CONFIGS, arch_named, available
from seekling.reference.check import check
from seekling.reference.golden import MARGIN, PROMPTS, compute, same_choices
from seekling.reference.tokens import tokenizer
from seekling.reference.write import write


@pytest.fixture(scope="module", params=available())
def folder(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / request.param
    write(request.param, out)
    return out


@pytest.fixture(scope="module")
def v3(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "v3-again"
    write("v3", out)
    return out


def golden(folder):
    return safetensors.torch.load_file(folder / "golden.safetensors"), json.loads((folder / "golden.json").read_text())


def test_the_same_seed_gives_the_same_bytes_whatever_came_before(folder, tmp_path):
    torch.manual_seed(12345)
    torch.randn(7)
    write(folder.name, tmp_path / "again")
    files = sorted(p.name for p in folder.iterdir())
    assert files == sorted(p.name for p in (tmp_path / "again").iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_weights_of_a_seed_are_the_same_for_ever(v3):
    """Their generator is made of whole numbers, so that no processor and no library's version changes them."""
    digest = hashlib.sha256((v3 / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "c15ff4a84a6519ac32bea38184a21b4d28b15a755bfa2ba4fc0549c3d4cf3be2"


def test_another_seed_gives_another_model(v3, tmp_path):
    write("deepseek_v3", tmp_path / "other", seed=1)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (v3 / "model.safetensors").read_bytes()
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() == (v3 / "tokenizer.json").read_bytes()


def test_a_model_takes_about_a_megabyte(folder):
    weights = sum(p.stat().st_size for p in folder.glob("*.safetensors") if "golden" not in p.name)
    assert 0.5e6 < weights < 2e6
    assert (folder / "golden.safetensors").stat().st_size < 3e6


def test_transformers_computes_the_golden_logits(folder):
    tensors, facts = golden(folder)
    for dtype, limit in ((torch.float64, facts["tolerance"]["float64"]), (torch.float32, facts["tolerance"]["float32"])):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager")
        for name in facts["prompts"]:
            with torch.no_grad():
                logits = model(tensors[f"{name}.ids"].long()[None]).logits[0]
            assert (logits - tensors[f"{name}.logits"]).abs().max() < limit, (name, dtype)


def test_transformers_tokenizes_as_the_golden_ids_say(folder):
    theirs = AutoTokenizer.from_pretrained(folder)
    tensors, _ = golden(folder)
    message = [{"role": "user", "content": "What is 3 plus 4?"}]
    assert theirs.apply_chat_template(message, add_generation_prompt=True, return_dict=False) == tensors["chat.ids"].tolist()
    assert [theirs.bos_token_id, *theirs.encode(PROMPTS["long"][1][0], add_special_tokens=False)] == tensors[
        "long.ids"
    ].tolist()


def test_logits_are_spread_and_no_choice_is_a_near_tie(folder):
    tensors, facts = golden(folder)
    for name in facts["prompts"]:
        assert tensors[f"{name}.logits"].std(-1).min() > 1
        top = tensors[f"{name}.logits"][-1].topk(2).values
        assert not facts["prompts"][name]["continuation"]["ids"] or top[0] - top[1] >= MARGIN
    model = seekling.load(folder, "float64").model
    ids = tensors["long.ids"].tolist()
    before = compute(model, ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + facts["noise"] / 6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert same_choices(before, compute(model, ids))


def test_every_expert_is_chosen_by_some_token(folder):
    tensors, _ = golden(folder)
    layers = {key.split(".")[2] for key in tensors if ".router." in key}
    for layer in layers:
        chosen = torch.cat([tensors[f"{name}.router.{layer}.experts"].flatten() for name in PROMPTS])
        assert len(set(chosen.tolist())) == CONFIGS[folder.name]["n_routed_experts"]


def test_text_that_imitates_a_control_token_stays_text(v3):
    tensors, facts = golden(v3)
    user = 3
    assert user in tensors["chat.ids"] and user not in tensors["bytes.ids"]
    lm = seekling.load(v3)
    assert lm.tokenizer.decode(facts["prompts"]["bytes"]["ids"]) == PROMPTS["bytes"][1][0]


def test_our_engine_passes(folder):
    lines = list(check(folder))
    assert [line for line in lines if not line.ok] == []
    compared = {line.what for line in lines}
    assert {"ids", "logits", "hidden norms, relative", "greedy continuation"} <= compared


@pytest.mark.parametrize(
    ("key", "value", "first_wrong"),
    [
        ("routed_scaling_factor", 1.0, "logits"),
        ("topk_group", 3, "logits"),
        ("rope_interleave", False, "logits"),
        ("rope_theta", 20000.0, "logits"),
        ("rms_norm_eps", 1e-2, "logits"),
    ],
)
def test_an_engine_with_one_thing_wrong_is_found(v3, tmp_path, key, value, first_wrong):
    for path in v3.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((v3 / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, key: value}))
    wrong = [line for line in check(tmp_path) if not line.ok]
    assert wrong[0].what == first_wrong and wrong[0].engine == "torch float64"


def test_an_engine_that_adds_the_router_bias_to_the_weights_is_found(v3):
    """The bias must be large enough to matter."""
    tensors, _ = golden(v3)
    model = seekling.load(v3, "float64").model
    for router in model.routers():
        router.e_score_correction_bias.zero_()
    assert not same_choices(
        compute(model, tensors["long.ids"].tolist()), compute(seekling.load(v3, "float64").model, tensors["long.ids"].tolist())
    )


def test_another_engines_tensors_are_compared_by_name(v3, tmp_path):
    tensors, _ = golden(v3)
    logits = tensors["text.logits"]
    mine = {
        "text.logits": logits.float() + 1e-5,
        "text.router.1.experts": tensors["text.router.1.experts"].flip(-1).contiguous(),
    }
    safetensors.torch.save_file(mine, tmp_path / "mine.safetensors")
    assert all(line.ok for line in check(v3, tmp_path / "mine.safetensors"))
    mine["text.logits"][3, 5] += 0.01
    safetensors.torch.save_file(mine, tmp_path / "mine.safetensors")
    assert [line.what for line in check(v3, tmp_path / "mine.safetensors") if not line.ok] == ["logits"]
    mine["text.logits"][3, 5] = float("nan")
    safetensors.torch.save_file(mine, tmp_path / "mine.safetensors")
    assert not all(line.ok for line in check(v3, tmp_path / "mine.safetensors"))


def test_tensors_that_cannot_be_compared_are_refused(v3, tmp_path):
    safetensors.torch.save_file({"text.logit": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"text\.logit is not golden"):
        list(check(v3, tmp_path / "a.safetensors"))
    safetensors.torch.save_file({"text.logits": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"has shape \[1\]"):
        list(check(v3, tmp_path / "a.safetensors"))


def test_the_script_of_the_readme_runs(v3, monkeypatch, capsys):
    monkeypatch.chdir(v3)
    model = seekling.load(v3).model
    text = (v3 / "README.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]

    def my_engine(ids):
        with torch.no_grad():
            return model(torch.tensor([ids]))[0].numpy()

    exec(compile(script, "README.md", "exec"), {"my_engine": my_engine})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in printed] == list(PROMPTS) and all(float(x) < 5e-4 for _, x in printed)


def test_generations_go_by_short_and_long_names():
    assert [arch_named(n) for n in ("v2", "V3", "deepseek_v3", "deepseek-v2")] == [
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v3",
        "deepseek_v2",
    ]
    with pytest.raises(ConfigError, match="give one of v2, v3, v32, v4"):
        arch_named("v5")


def test_a_generation_that_cannot_be_computed_yet_is_refused_and_leaves_nothing(tmp_path):
    for name in ("v32", "v4"):
        if arch_named_or_none(name) not in available():
            with pytest.raises(ConfigError, match="cannot be computed by this version"):
                write(name, tmp_path / name)
            assert not (tmp_path / name).exists()


def arch_named_or_none(name):
    try:
        return arch_named(name)
    except ConfigError:
        return None


def test_a_folder_in_use_is_not_written_to(v3, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not an empty folder"):
        write("v3", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_tokenizer_spells_everything(v3):
    words = tokenizer(384)
    assert words.vocab_size == 384
    for text in ("Once upon a time", "树苗 😀 \x00\n", "naïve <think>"):
        assert words.decode(words.encode(text)) == text
    assert len(words.encode("the seedling")) < 8


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_and_checks(tmp_path, capsys):
    assert cli.main(["reference", "--arch", "v3", "--out", str(tmp_path / "r")]) == 0
    assert "golden.safetensors" in capsys.readouterr().out
    assert cli.main(["reference", "--check", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out and "greedy continuation" in out
    raw = json.loads((tmp_path / "r" / "config.json").read_text())
    (tmp_path / "r" / "config.json").write_text(json.dumps({**raw, "routed_scaling_factor": 2.4}))
    assert cli.main(["reference", "--check", str(tmp_path / "r")]) == 2
    out = capsys.readouterr()
    assert "WRONG" in out.out and "comparisons differ, first logits" in out.err


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("", "give --arch and --out"),
        ("--out x --check y", "give --arch and --out"),
        ("--out x", "--out needs --arch"),
        ("--arch v3 --out x --logits y", "--logits belongs to --check"),
        ("--check x --seed 3", "--check takes"),
        ("--check /nowhere", "write it with seekling reference"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(line, remedy, capsys):
    assert cli.main(["reference", *line.split()]) == 2
    assert remedy in capsys.readouterr().err
