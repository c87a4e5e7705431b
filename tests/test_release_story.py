"""Releasing and repeating what `seekling run` made: pretraining, lessons that end early, practice by reward."""

import dataclasses
import hashlib
import json
import shutil

import pytest
from release_runs import OFFLINE, TINY, tales  # noqa: F401  a fixture

from seekling.cli import main
from seekling.errors import CheckpointError, RecipeError
from seekling.recipe import Recipe
from seekling.release.build import build
from seekling.release.chain import read_stage
from seekling.release.layout import STORY
from seekling.release.material import gather
from seekling.release.rerun.recipes import safe_story
from seekling.resolve import resolve
from seekling.tasks.base import Reward
from seekling.train.pretrain import pretrain
from seekling.train.story import plan_lessons, teach
from seekling.train.story_recipe import StoryRecipe

TAUGHT = dict(
    tasks=["comparison@2", "sorting@1"], lessons=8, talks=2, sft_steps=6, grpo_steps=2, problems=2, group=2, max_tokens=6,
    eval_problems=4, drawn=2,
)  # fmt: skip


def quiet(line):
    pass


@pytest.fixture(scope="module")
def run(tales, tmp_path_factory):  # noqa: F811
    """A run of seconds with lessons and practice."""
    out = tmp_path_factory.mktemp("story") / "run"
    wanted = TINY | dict(seq_len=128, max_position_embeddings=128, steps=2)
    recipe = resolve(Recipe.of(size="nano", out=str(out), data=[str(tales / "tales")], heldout=0.2, **wanted))
    plan_lessons(StoryRecipe.of(**TAUGHT), recipe)
    pretrain(recipe)
    teach(out)
    return out


@pytest.fixture(scope="module")
def options(tales):  # noqa: F811
    return dataclasses.replace(OFFLINE, about=str(tales / "about.toml"), name="tiny", checkpoints=False)


@pytest.fixture(scope="module")
def released(run, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("released") / "out"
    build(run, out, options, quiet)
    return out


@pytest.fixture
def manifest(released):
    return json.loads((released / "release.json").read_text("utf-8"))


# ---- what is in it -----------------------------------------------------------------------------------------------------------


def test_stages_follow_each_other_and_say_how_they_are_repeated(manifest):
    stages = [(s["verb"], s["starts_from"], s["steps"], s["part_of"]) for s in manifest["stages"]]
    assert stages == [
        ("pretrain", None, 2, "run"), ("sft", "stages/1-pretrain", 6, "run"), ("grpo", "stages/2-sft", 2, "run"),
    ]  # fmt: skip
    assert manifest["stages"][2]["repeat"] == "cp stages/story.toml again-1/ && seekling run --resume again-1"
    assert all(len(s["data_fingerprint"]) == 64 for s in manifest["stages"])


def test_scores_are_of_the_released_weights_with_those_of_earlier_stages_beside(released, run):
    results = json.loads((released / "evaluation/results.json").read_text("utf-8"))
    after = [json.loads((run / place / "evaluation.json").read_text())["tasks"]["sorting@1"] for place in ("", "sft", "grpo")]
    assert results["results"]["sorting@1"]["exact_match,none"] == after[2]["accuracy"]
    assert results["results"]["sorting@1"]["pass@2,none"] == after[2]["pass@2"]
    beside = results["chance"]["sorting@1"]
    assert [beside[when]["exact_match"] for when in ("after pretraining", "after lessons")] == [
        s["accuracy"] for s in after[:2]
    ]
    assert set(results["results"]) == {"comparison@2", "sorting@1", "sft_heldout", "heldout", "heldout_tales"}
    assert results["chance"]["heldout"]["after pretraining"]["bits_per_byte"] > 0


def test_data_card_tells_of_the_generated_lessons_and_of_the_rewards(released, manifest):
    card = (released / "data/README.md").read_text("utf-8")
    assert "worked problems of the tasks" in card and "lessons.py, seeded" in card
    assert "Sort from small to large" in card and "2 answers of the model itself were drawn to each problem" in card
    sources = {s["name"]: s for s in manifest["data"]["sources"]}
    assert sources["lessons"]["licence"] == "MIT" and sources["lessons"]["documents"] == 18
    assert sources["sorting@1"]["documents"] == 2 and sources["sorting@1"]["osaid_kind"] == "open"


def test_report_tells_the_stages_apart(released):
    text = (released / "report.md").read_text("utf-8")
    assert "## What each stage changed" in text and "| pretrained | after lessons (SFT) | after practice (GRPO) |" in text
    assert "practice by reward (GRPO)" in text and "Reward of an answer: the answer is compared exactly" in text
    assert "cp stages/story.toml again-1/ && seekling run --resume again-1" in text
    assert "The models in sft/" not in text and "It is a base model" not in text


def test_check_finds_nothing_wrong(released):
    from seekling.release.check.place import open_folder
    from seekling.release.check.run import check

    report = check(open_folder(released))
    assert report.mof_class in (2, 3)  # a folder of the user's text that nobody else can get
    assert not [f.text for f in report.findings if f.verdict == "fail"]


# ---- repeating it ------------------------------------------------------------------------------------------------------------


def test_reproduce_repeats_every_stage_bit_for_bit(released, tales, tmp_path, capsys):  # noqa: F811
    assert main(["reproduce", str(released), "--data", str(tales), "--json", "--keep", str(tmp_path / "kept")]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["same_machine"] and [s["folder"] for s in out["stages"]] == [
        "stages/1-pretrain",
        "stages/2-sft",
        "stages/3-grpo",
    ]
    said = {(s["verb"], c["what"]): (c["verdict"], c["detail"]) for s in out["stages"] for c in s["comparisons"]}
    assert said[("pretrain", "training data (hash)")][0] == said[("sft", "training data (hash)")][0] == "equal"
    assert said[("grpo", "problems practised (hash)")][0] == "equal"
    for verb, steps in (("pretrain", 2), ("sft", 6), ("grpo", 2)):
        assert said[(verb, f"losses of the first {steps} logged steps")] == ("equal", "bit for bit")
    assert said[("grpo", "final accuracy")][0] == "equal" and said[("sft", "final ce")][0] == "equal"


def test_text_that_the_release_does_not_hold_is_asked_for(released, tmp_path, capsys):
    assert main(["reproduce", str(released)]) == 2
    error = capsys.readouterr().err
    assert "was trained on 'tales', which is not in the release: give its folder with --data DIR" in error


def test_changed_story_and_tasks_of_files_are_refused(released, tmp_path):
    folder = shutil.copytree(released, tmp_path / "out")
    (folder / STORY).write_text((folder / STORY).read_text().replace("lessons = 8", "lessons = 9"), "utf-8")
    with pytest.raises(CheckpointError, match=r"story\.toml was changed since the release was made"):
        safe_story(folder)
    listed = json.loads((folder / "release.json").read_text("utf-8"))
    text = (folder / STORY).read_text().replace('"sorting@1"', '"mine.jsonl:reward.py"')
    (folder / STORY).write_text(text, "utf-8")
    row = next(f for f in listed["files"] if f["path"] == STORY)
    row["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "release.json").write_text(json.dumps(listed), "utf-8")
    with pytest.raises(RecipeError, match=r"mine\.jsonl:reward\.py.*nothing of a release is run"):
        safe_story(folder)


# ---- runs that were moved, that ended early, that are not finished -----------------------------------------------------------


def test_moved_run_still_finds_its_own_stages(run, options, tmp_path, monkeypatch):
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "other-name")
    monkeypatch.chdir(tmp_path)
    chain = gather(moved, options, quiet).chain
    assert [s.run.parent if s.verb != "pretrain" else s.run for s in chain.stages] == [moved.resolve()] * 3


def test_lessons_that_ended_early_count_as_finished(run, options, tales, tmp_path):  # noqa: F811
    from seekling.train.story import lessons_stage

    early = shutil.copytree(run, tmp_path / "run")
    for place in ("sft", "grpo"):
        shutil.rmtree(early / place)
    story = StoryRecipe.load(early / "story.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seekling.train.judging.Judge.__call__", lambda self, problem, reply: Reward(1.0, 1.0, 1.0))
        patch.setattr("seekling.train.rollout.spoken", lambda text, think: text)
        lessons_stage(early, Recipe.load(early), story.story, None)
    stage = read_stage(early / "sft")
    assert (stage.steps, stage.planned) == (5, 6) and stage.final is not None


def test_run_that_was_not_taught_to_the_end_is_refused(run, options, tmp_path):
    half = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(half / "grpo")
    with pytest.raises(CheckpointError, match=r"was not taught to the end.*seekling run --resume"):
        gather(half, options, quiet)
    assert gather(half / "sft", options, quiet).chain.last.verb == "sft"  # said outright, it is what is meant
