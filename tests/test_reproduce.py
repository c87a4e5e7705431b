"""`seekling reproduce` and `seekling release check --smoke` on a release of a run of seconds."""

import json
import shutil
import sys

import pytest
import release_tiny as tiny

from seekling.cli import main
from seekling.errors import CheckpointError, DataError, RecipeError
from seekling.release import layout
from seekling.release.rerun.recipes import checked_manifest, safe_recipe


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Made once: a real run takes the seconds that torch needs to start."""
    home = tmp_path_factory.mktemp("tiny")
    return tiny.release(home, *tiny.train(home))


@pytest.fixture
def folder(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "release")


def edit(folder, change):
    """Change release.json."""
    path = folder / layout.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return manifest


def test_check_with_smoke_passes_everything_and_repeats_the_first_losses(original, capsys):
    assert main(["release", "check", str(original), "--smoke", "2", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["verdict"], out["osaid"]["verdict"], out["mof"]["class"]) == ("pass", "pass", 1)
    smoke = [f["text"] for f in out["findings"] if f["id"] == "smoke.run"]
    assert smoke == [
        "stages/1-pretrain: 2 steps from the declared start: training data (hash) equal",
        "stages/1-pretrain: 2 steps from the declared start: losses of the first 2 logged steps equal (bit for bit)",
    ]


def test_reproduce_runs_it_whole_and_compares_data_losses_and_score(folder, tmp_path, capsys):
    def change(manifest):
        manifest["stages"][0]["first_losses"][1]["loss"] += 1e-7  # far below the tolerance, yet not the same bits
        manifest["stages"][0]["final"]["value"] += 0.01

    edit(folder, change)
    assert main(["reproduce", str(folder), "--json", "--keep", str(tmp_path / "kept")]) == 1
    out = json.loads(capsys.readouterr().out)
    data, losses, final = out["stages"][0]["comparisons"]
    assert (out["same_machine"], data["verdict"], losses["verdict"], final["verdict"]) == (
        True,
        "equal",
        "DIFFERS",
        "within the band",
    )
    assert "first difference at step 2" in losses["detail"]
    assert (tmp_path / "kept" / "1-pretrain" / "checkpoints").is_dir()


def test_on_another_kind_of_machine_losses_may_lie_within_the_tolerance(folder, capsys):
    def change(manifest):
        manifest["reproduce"]["machine"]["processor"] = "a machine of long ago"
        manifest["stages"][0]["first_losses"][0]["loss"] += 1e-3

    edit(folder, change)
    assert main(["reproduce", str(folder), "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert "another kind of machine" in out and "a machine of long ago there" in out and "within the band" in out


@pytest.mark.parametrize("steps", [1, 6])
def test_a_stage_that_our_own_stop_ends_on_its_way_out_counts_and_only_that_one(steps, folder, tmp_path, monkeypatch, capsys):
    python = tmp_path / "python"  # trains to the end whoever stops it, and is then ended by SIGINT as without a handler
    python.write_text(f'#!/bin/bash\ntrap : INT; {sys.executable} "$@" || exit; trap - INT; kill -INT $$\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    code = main(["reproduce", str(folder), "--steps", str(steps)])
    assert code == (0 if steps == 1 else 2)
    assert ("ended at step 6 of 6" in capsys.readouterr().err) == (steps == 6)


# ---- bad input: named, before anything is run ------------------------------------------------------------------------


def test_a_changed_or_missing_recipe_is_named(folder):
    recipe = folder / "stages/1-pretrain/recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 6", "steps = 7"))
    with pytest.raises(CheckpointError, match=r"stages/1-pretrain/recipe\.toml was changed since the release was made"):
        checked_manifest(folder)
    recipe.unlink()
    with pytest.raises(CheckpointError, match=r"stages/1-pretrain/recipe\.toml is missing"):
        checked_manifest(folder)


def test_a_damaged_manifest_is_named_with_its_places(folder):
    edit(folder, lambda m: m.pop("stages"))
    with pytest.raises(CheckpointError, match="'stages' is a required property"):
        checked_manifest(folder)
    (folder / layout.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        checked_manifest(folder)
    (folder / layout.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="is not a release made by seekling release"):
        checked_manifest(folder)


@pytest.mark.parametrize("place", ["../1-pretrain", "/tmp/x", "stages/../../x"])
def test_a_stage_outside_the_release_is_refused(place, folder):
    edit(folder, lambda m: m["stages"][0].update(folder=place))
    with pytest.raises(CheckpointError, match="outside the release"):
        checked_manifest(folder)


def safe(folder, manifest, **changes):
    return safe_recipe(folder, manifest, {**manifest["stages"][0], **changes}, {}, None, None)


def recipe_of(folder, **changes):
    """The recipe that would be run, after lines of recipe.toml were changed."""
    path = folder / "stages/1-pretrain/recipe.toml"
    text = path.read_text()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    path.write_text(text)
    return safe(folder, json.loads((folder / layout.MANIFEST).read_text()))


def test_a_recipe_reads_only_files_of_the_release_and_starts_no_tracker(folder):
    recipe = recipe_of(folder, data='["/etc/ducks.txt"]', trackers='["wandb"]')
    assert recipe.flat()["data"] == (str((folder / "data" / "ducks.txt").absolute()),)
    assert recipe.flat()["trackers"] == () and recipe.flat()["out"] is None


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "sources.toml", "release.json/.."])
def test_other_files_are_asked_for(name, folder):
    (folder / "data" / "sources.toml").write_text("")  # would declare sources of its own
    with pytest.raises(DataError, match="give its folder with --data DIR"):
        recipe_of(folder, data=json.dumps([name]))


def test_an_unknown_verb_and_a_teacher_behind_an_address_are_refused(folder):
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    with pytest.raises(RecipeError, match="no verb 'shell' that trains"):
        safe(folder, manifest, verb="shell")
    from seekling.train.distill_recipe import DistillRecipe

    recipe = DistillRecipe().replaced({"teacher": "http://host/v1", "model": ""})
    (folder / "stages/1-pretrain/recipe.toml").write_text(recipe.to_toml())
    with pytest.raises(RecipeError, match="behind an address"):
        safe(folder, manifest, verb="distill")


def test_bad_flags_are_refused(original, tmp_path, capsys):
    assert main(["reproduce", str(original), "--steps", "0"]) == 2
    (tmp_path / "x").write_text("")
    assert main(["reproduce", str(original), "--keep", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_a_changed_text_file_is_named(folder):
    (folder / "data/ducks.txt").write_text("geese")
    with pytest.raises(CheckpointError, match=r"data/ducks\.txt was changed since the release was made"):
        recipe_of(folder)


def test_a_stage_that_ends_with_an_error_says_why(folder, capsys):
    (folder / "data/ducks.txt").write_text("geese")

    def change(manifest):
        entry = next(f for f in manifest["files"] if f["path"] == "data/ducks.txt")
        entry["sha256"] = layout.sha256(folder / "data/ducks.txt")

    edit(folder, change)
    assert main(["reproduce", str(folder), "--steps", "1"]) == 2
    assert "stages/1-pretrain ended at step 0 of 1: " in capsys.readouterr().err
