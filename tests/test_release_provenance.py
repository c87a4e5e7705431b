"""Bases, teachers and merged adapters: what comes along, and what their licences forbid, with the clause."""

import dataclasses
import json
import shutil

import pytest
import torch
from release_runs import OFFLINE, tales, talks  # noqa: F401  fixtures

from seekling import load
from seekling.release.ancestors import Ancestor, spdx
from seekling.release.build import build
from seekling.release.licences import LicenceError
from seekling.release.material import compute, eu_lines, gather
from seekling.release.terms import forbidding, refusals
from seekling.train.sft import sft
from seekling.train.sft_recipe import SftRecipe


def quiet(line):
    pass


def said(licence, name="mine", *, base=(), teacher=(), text=None):
    bases = [Ancestor("their-base", i, text=text) for i in base]
    teachers = [Ancestor("their-teacher", i, text=text) for i in teacher]
    return refusals(licence, name, bases, teachers, [])


@pytest.mark.parametrize("good", ["MIT", "Apache-2.0", "CC0-1.0", "OpenMDW-1.0"])
def test_open_bases_and_teachers_may_be_released(good):
    assert said("MIT", base=[good], teacher=[good]) == []


def test_licence_that_bars_outputs_from_training_is_refused_with_its_clause():
    (line,) = said("MIT", "Llama-mine", teacher=["LicenseRef-llama3"])
    assert "1.b.v" in line and "to improve any other large language model" in line


def test_llama_base_asks_for_its_licence_and_its_name():
    lines = said("MIT", base=["LicenseRef-llama3.1"])
    assert any("shall provide a copy of this Agreement" in line for line in lines)
    assert any("--name Llama-mine" in line for line in lines)
    assert said("LicenseRef-llama3.1", "Llama-mine", base=["LicenseRef-llama3.1"]) == []


@pytest.mark.parametrize(
    ("base", "clause"),
    [
        ("CC-BY-ND-4.0", "not Share, Adapted Material"),
        ("CC-BY-NC-4.0", "NonCommercial purposes only"),
        ("GPL-3.0-only", "license the entire work, as a whole, under this License"),
        ("LicenseRef-gemma", "use restrictions referenced in Section 3.2"),
        ("LicenseRef-bigscience-openrail-m", "Use-based restrictions"),
    ],
)
def test_base_that_does_not_allow_mit_is_refused_with_its_clause(base, clause):
    (line,) = said("MIT", base=[base])
    assert clause in line


def test_share_alike_base_goes_out_under_its_own_licence():
    assert said("CC-BY-SA-4.0", base=["CC-BY-SA-4.0"]) == [] and said("MIT", base=["CC-BY-SA-4.0"]) != []


def test_unknown_licence_text_is_read_and_the_sentence_quoted():
    text = "You may copy it. You shall not use outputs of the model to train or improve another model. Be kind."
    (line,) = said("MIT", teacher=["LicenseRef-House"], text=text)
    assert "You shall not use outputs of the model to train or improve another model." in line
    assert forbidding("You may use outputs to train other models.", "teacher") is None
    (line,) = said("MIT", base=["LicenseRef-House"], text="For non-commercial use.")
    assert "non-commercial" in line


def test_ancestor_without_a_licence_or_its_text_is_refused():
    assert 'models."their-base"' in said("MIT", base=[None])[0]
    assert "whose text is not at hand" in said("MIT", base=["LicenseRef-House"])[0]


def test_hub_ids_become_spdx_ids():
    assert spdx("apache-2.0", "x") == "Apache-2.0" and spdx("llama3.1", "x") == "LicenseRef-llama3.1"


# ---- real runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(talks):  # noqa: F811
    """A model of somebody else (with card and licence), and a LoRA run on it."""
    home = talks / "their-model"
    shutil.copytree(talks / "base/checkpoints/step-000004", home, ignore=shutil.ignore_patterns("training_state"))
    (home / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Theirs\n", "utf-8")
    recipe = SftRecipe.of(
        model=str(home), data=[str(talks / "talks.jsonl")], out=str(talks / "adapted"), heldout=0.25, steps=1, batch_size=2,
        threads=1, dtype="float32", lora=2,
    )  # fmt: skip
    sft(recipe)
    return talks


def test_adapter_goes_out_as_adapter_and_names_its_base(foreign, tmp_path):
    about = tmp_path / "about.toml"
    path = str(foreign / "their-model")
    about.write_text((foreign / "about.toml").read_text("utf-8") + f'\n[models."{path}"]\nflops = 3e15\n', "utf-8")
    build(foreign / "adapted", tmp_path / "out", dataclasses.replace(OFFLINE, about=str(about)), quiet)
    manifest = json.loads((tmp_path / "out/release.json").read_text("utf-8"))
    (base,) = manifest["provenance"]["base_models"]
    assert base["licence"] == "Apache-2.0" and len(base["hash"] or "0" * 64) == 64
    assert manifest["kind"] == "adapter" and manifest["provenance"]["relation"] == "adapter"
    config = json.loads((tmp_path / "out/adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == base["name"]
    assert manifest["compute"]["flops"] == pytest.approx(3e15 + manifest["compute"]["own_flops"])
    assert manifest["compute"]["eu"]["modification_threshold"] == pytest.approx(1e15)
    assert "Apache License" in (tmp_path / "out/LICENSES/Apache-2.0.txt").read_text("utf-8")
    from seekling.release.check.place import open_folder
    from seekling.release.check.run import check

    assert not [f.text for f in check(open_folder(tmp_path / "out")).findings if f.verdict == "fail"]


def test_an_adapter_over_a_run_of_ours_is_merged_whoever_made_the_first_base(foreign, tmp_path):
    more = dict(steps=1, batch_size=2, threads=1, dtype="float32", lora=2, heldout=0.25)
    sft(SftRecipe.of(model=str(foreign / "adapted"), data=[str(foreign / "talks.jsonl")], out=str(tmp_path / "twice"), **more))
    build(tmp_path / "twice", tmp_path / "out", dataclasses.replace(OFFLINE, about=str(foreign / "about.toml")), quiet)
    manifest = json.loads((tmp_path / "out/release.json").read_text("utf-8"))
    assert manifest["provenance"]["relation"] == "finetune" and len(manifest["provenance"]["base_models"]) == 1
    want, got = (load(place).model.state_dict() for place in (tmp_path / "twice", tmp_path / "out"))
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_base_with_a_forbidding_licence_stops_the_release(foreign):
    card = foreign / "their-model/README.md"
    kept = card.read_text("utf-8")
    card.write_text("---\nlicense: cc-by-nd-4.0\n---\n", "utf-8")
    try:
        with pytest.raises(LicenceError, match=r"CC-BY-ND-4\.0.*not Share, Adapted Material"):
            gather(foreign / "adapted", dataclasses.replace(OFFLINE, about=str(foreign / "about.toml")), quiet)
    finally:
        card.write_text(kept, "utf-8")


def test_teacher_named_in_about_comes_along_and_is_judged(talks, tmp_path):  # noqa: F811
    about = (
        (talks / "about.toml").read_text("utf-8").replace('licence = "CC0-1.0"', 'licence = "CC0-1.0"\nteacher = "big-model"')
    )
    (tmp_path / "about.toml").write_text(about + '\n[models.big-model]\nlicence = "llama2"\n', "utf-8")
    options = dataclasses.replace(OFFLINE, about=str(tmp_path / "about.toml"))
    with pytest.raises(LicenceError, match=r"the teacher big-model .* forbids this release: Llama 2 and 3"):
        gather(talks / "taught", options, quiet)
    (tmp_path / "about.toml").write_text(about + '\n[models.big-model]\nlicence = "mit"\n', "utf-8")
    release = gather(talks / "taught", options, quiet)
    assert [(t.name, t.licence) for t in release.chain.teachers] == [("big-model", "MIT")]
    (source,) = [s for s in release.chain.sources if s.name == "talks"]
    assert source.synthetic and source.generator == "big-model"


def test_merged_folder_keeps_base_and_stages(foreign, tmp_path):
    from seekling.cli import main

    assert main(["merge", str(foreign / "their-model"), str(foreign / "adapted"), "--out", str(tmp_path / "merged")]) == 0
    options = dataclasses.replace(OFFLINE, about=str(foreign / "about.toml"))
    release = gather(tmp_path / "merged", options, quiet)
    assert release.chain.relation == "merge" and release.chain.weights == tmp_path / "merged"
    assert [a.licence for a in release.chain.base_models] == ["Apache-2.0"] and release.chain.last.verb == "sft"


def test_base_that_is_a_release_hands_its_sources_on(talks, tmp_path):  # noqa: F811
    options = dataclasses.replace(OFFLINE, about=str(talks / "about.toml"), checkpoints=False)
    build(talks / "base", tmp_path / "theirs", options, quiet)
    recipe = SftRecipe.of(
        model=str(tmp_path / "theirs"), data=[str(talks / "talks.jsonl")], out=str(tmp_path / "mine"), heldout=0.25, steps=1,
        batch_size=2, threads=1, dtype="float32",
    )  # fmt: skip
    release = gather(sft(recipe), options, quiet)
    assert {(s.name, s.stage) for s in release.chain.sources} == {("tales", "base: pretrain"), ("talks", "sft")}
    assert release.chain.base_models[0].licence == "MIT" and release.compute["flops"] > release.compute["own_flops"]


def test_thresholds_are_told_in_words(talks):  # noqa: F811
    release = gather(talks / "base", dataclasses.replace(OFFLINE, about=str(talks / "about.toml")), quiet)
    (line,) = eu_lines(release.compute)
    assert "below it" in line and "1e25" in line
    whole = compute(release.chain, [{**release.stage_facts[0], "flops": 2e23}])
    assert whole["eu"]["general_purpose"] is True and "above it" in eu_lines(whole)[0]


# ---- uploading -------------------------------------------------------------------------------------------------------


def test_push_refuses_a_release_that_was_changed(talks, tmp_path):  # noqa: F811
    from seekling.errors import CheckpointError
    from seekling.release.push import whole

    options = dataclasses.replace(OFFLINE, about=str(talks / "about.toml"), checkpoints=False)
    build(talks / "base", tmp_path / "out", options, quiet)
    whole(tmp_path / "out")
    (tmp_path / "out/report.md").write_text("changed", "utf-8")
    with pytest.raises(CheckpointError, match=r"report\.md was changed"):
        whole(tmp_path / "out")
