"""`seekling run` after pretraining: lessons, practice, the same evaluation after each; nothing is done twice, all resumes."""

import json
import shutil

import pytest
import torch
from pretrain_tiny import made_text, recipe  # noqa: F401  made_text is a fixture

import seekling
from seekling import cli
from seekling.errors import RecipeError
from seekling.recipe import Recipe
from seekling.release.report import write_report
from seekling.tasks import task_at
from seekling.tasks.base import Reward, is_unseen
from seekling.train import grpo as grpo_room
from seekling.train.log import read_log
from seekling.train.pretrain import pretrain
from seekling.train.stopping import Interrupted
from seekling.train.story import check_tasks, lessons_stage, plan_lessons, teach
from seekling.train.story_recipe import StoryRecipe

SMALL = dict(
    tasks=["chain_sum@1", "sorting@1"], lessons=6, talks=2, sft_steps=3, grpo_steps=2, problems=2, group=2, max_tokens=6,
    eval_problems=4, drawn=2,
)  # fmt: skip


def begun(out):
    """A pretrained run of seconds with its lessons planned."""
    base = recipe(out, seq_len=128, max_position_embeddings=128, steps=2)
    plan_lessons(StoryRecipe.of(**SMALL), base)
    return pretrain(base)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from pretrain_tiny import PREPARED, room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "prepare_data", lambda recipe, run, say=None: PREPARED)
        folder = begun(tmp_path_factory.mktemp("story") / "run")
        teach(folder)
        yield folder


def test_every_stage_is_a_run_that_opens_and_has_its_evaluation(run):
    for place in ("", "sft", "grpo"):
        assert seekling.load(run / place).tokenizer is not None
        scores = json.loads((run / place / "evaluation.json").read_text())
        assert set(scores["tasks"]) == set(SMALL["tasks"]) and scores["bits_per_byte"] > 0
        score = scores["tasks"]["sorting@1"]
        assert score["problems"] == 4 and 0 <= score["pass@1"] <= score["pass@2"] <= 1
        low, high = score["accuracy_interval"]
        assert low <= score["accuracy"] <= high


def test_lessons_never_show_a_question_that_evaluations_ask(run):
    rows = [json.loads(line)["messages"] for line in (run / "lessons.jsonl").read_text().splitlines()]
    worked = [m for m in rows if "reasoning_content" in m[-1]]
    assert len(worked) == 12 and len(rows) == 14
    assert not any(is_unseen(m[0]["content"].split("\n")[0]) for m in worked)
    task, level = task_at("sorting@1", 1)
    assert all(is_unseen(p.question) for p in task.problems(1, 20, level, unseen=True))


def test_teaching_again_changes_nothing(run, made_text):  # noqa: F811
    before = {path: path.read_bytes() for path in run.rglob("*.json*") if "report" not in path.name}
    teach(run)
    assert {path: path.read_bytes() for path in before} == before


def test_the_report_shows_what_each_stage_changed(run):
    markdown = write_report(run).read_text()
    section = markdown.split("## Teaching")[1].split("\n## ")[0]
    assert "| task, unseen problems | pretrained | after lessons (SFT) | after practice (GRPO) |" in section
    assert "chain_sum@1 (4) greedy" in section and "maj@2" in section and "bits per byte" in section
    assert "in points: chain_sum@1" in section and "figures/teaching.png" in section
    facts = json.loads((run / "report.json").read_text())
    assert [s["stage"] for s in facts["stages"]] == ["base", "sft", "grpo"] and len(facts["stages"][2]["curve"]) == 2


def test_a_stopped_practice_goes_on_to_the_very_same_model(run, made_text, tmp_path, monkeypatch):  # noqa: F811
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "grpo")
    monkeypatch.chdir(tmp_path)
    whole, calls = grpo_room.Policy.load, []

    def stop_at_the_second(self, step):
        calls.append(step)
        if len(calls) == 2:
            raise Interrupted(0, "stopped")
        return whole(self, step)

    monkeypatch.setattr(grpo_room.Policy, "load", stop_at_the_second)
    with pytest.raises(Interrupted, match=r"seekling run --resume .*again"):
        teach(again)
    monkeypatch.setattr(grpo_room.Policy, "load", whole)
    assert cli.main(["run", "--resume", str(again)]) == 0
    a, b = (seekling.load(folder / "grpo").model.state_dict() for folder in (run, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len([r for r in read_log(again / "grpo/log.jsonl") if r["kind"] == "step"]) == 2


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_run_that_was_moved_goes_on_in_its_new_place_alone(run, made_text, tmp_path, monkeypatch, stage):  # noqa: F811
    there = tmp_path / "there"
    shutil.copytree(run, there)
    for later in ("sft", "grpo")[("sft", "grpo").index(stage) :]:
        shutil.rmtree(there / later / "checkpoints") if later == stage else shutil.rmtree(there / later)
        (there / later / "evaluation.json").unlink(missing_ok=True)
    hidden = run.rename(tmp_path / "hidden")  # what reads the old place fails
    try:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["run", "--resume", "there"]) == 0
    finally:
        hidden.rename(run)
    a, b = (seekling.load(folder / "grpo").model.state_dict() for folder in (run, there))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_lessons_end_once_enough_comes_out_right_and_stay_ended(run, made_text, tmp_path):  # noqa: F811
    base = tmp_path / "easy"
    shutil.copytree(run, base)
    for place in ("sft", "grpo"):
        shutil.rmtree(base / place)
    recipe_of_story = StoryRecipe.load(base / "story.toml").override(dict(until=1e-9, sft_steps=40, lessons=6))
    (base / "story.toml").write_text(recipe_of_story.to_toml())
    story, whole = recipe_of_story.story, Recipe.load(base)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seekling.train.judging.Judge.__call__", lambda self, problem, reply: Reward(1.0, 1.0, 1.0))
        patch.setattr("seekling.train.rollout.spoken", lambda text, think: text)
        lessons_stage(base, whole, story, None)
    steps = [r["step"] for r in read_log(base / "sft/log.jsonl") if r["kind"] == "step"]
    assert steps[-1] == 5 and [p.name for p in (base / "sft/checkpoints").glob("step-*")] == ["step-000005"]
    lessons_stage(base, whole, story, None)  # nothing more is learned when it is asked to go on
    assert [r["step"] for r in read_log(base / "sft/log.jsonl") if r["kind"] == "step"] == steps


def test_short_runs_get_short_lessons_and_given_numbers_stay():
    assert StoryRecipe.of().resolved(10**6).story.sft_steps == StoryRecipe.of().resolved(5000).story.sft_steps
    assert StoryRecipe.of().resolved(40).story.sft_steps == 10
    assert StoryRecipe.of(grpo_steps=7).resolved(40).story.grpo_steps == 7


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (["adition"], "did you mean addition"),
        (["sorting@9"], "levels 1 to"),
        (["subtraction"], "no worked steps"),
    ],
)
def test_what_cannot_be_taught_is_said_before_anything_starts(tasks, says):
    with pytest.raises(RecipeError, match=says):
        check_tasks(StoryRecipe.of(tasks=tasks))


def test_rows_too_short_for_lessons_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="--no-teach"):
        plan_lessons(StoryRecipe.of(), recipe(tmp_path / "run"))
