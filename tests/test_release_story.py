"""Releasing and repeating what `seekling run` made: pretraining, lessons that end early, practice by reward."""

import dataclasses
import json
import shutil

import pytest
from release_runs import OFFLINE, TINY, tales  # noqa: F401  a fixture

from seekling.cli import main
from seekling.errors import CheckpointError, RecipeError
from seekling.recipe import Recipe
from seekling.release.build import build
from seekling.release.chain import open_chain
from seekling.release.layout import STORY
from seekling.release.material import gather
from seekling.release.rerun.recipes import checked_manifest, safe_recipe, safe_story
from seekling.release.rerun.run import reproduce
from seekling.resolve import resolve
from seekling.train.pretrain import pretrain
from seekling.train.story import plan_lessons, teach
from seekling.train.story_recipe import StoryRecipe

TAUGHT = dict(
    tasks=["comparison@2", "sorting@1"], lessons=8, talks=2, sft_steps=6, grpo_steps=2, problems=2, group=2, max_tokens=6,
    eval_problems=4, drawn=2, until=1e-9,
)  # fmt: skip


def quiet(line):
    pass


@pytest.fixture(scope="module")
def run(tales, tmp_path_factory):  # noqa: F811
    """A run of seconds whose lessons ended at step 5 of 6, since what was right by then was called enough."""
    out = tmp_path_factory.mktemp("story") / "run"
    wanted = TINY | dict(seq_len=96, max_position_embeddings=128, steps=2)
    recipe = resolve(Recipe.of(size="nano", out=str(out), data=[str(tales / "tales")], heldout=0.2, **wanted))
    plan_lessons(StoryRecipe.of(**TAUGHT), recipe)
    pretrain(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seekling.train.story.CHECK_EVERY", 5)
        patch.setattr(StoryRecipe.of().story.__class__, "until", 0.0, raising=False)
        teach(out)
    return out


@pytest.fixture(scope="module")
def released(run, tales, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("released") / "out"
    build(run, out, dataclasses.replace(OFFLINE, about=str(tales / "about.toml"), name="tiny"), quiet)
    return out


@pytest.fixture
def manifest(released):
    return json.loads((released / "release.json").read_text("utf-8"))
