"""Checkpoints appear whole or not at all; damage is found, named and survived."""

import errno
import json
import os
import random
import subprocess

import numpy
import pytest
import torch
from train_tiny import tiny_config

from seekling.errors import CheckpointError
from seekling.formats import save_model
from seekling.model import Decoder
from seekling.train.state import (
    HIDDEN,
    MANIFEST,
    STATE_DIR,
    Checkpoints,
    problems_of,
    random_state,
    set_random_state,
)


def write_weights(folder):
    (folder / "model.safetensors").write_bytes(os.urandom(4000))


def save(checkpoints, step, write=write_weights, **values):
    return checkpoints.save(step, write, {"a": torch.full((5,), float(step))}, values)


@pytest.fixture
def checkpoints(tmp_path):
    warnings = []
    out = Checkpoints(tmp_path / "run" / "checkpoints", keep=2, warn=warnings.append)
    out.warnings = warnings
    return out


def names(checkpoints):
    return sorted(p.name for p in checkpoints.folder.iterdir())


def test_what_was_saved_is_loaded(checkpoints):
    path = save(checkpoints, 7, tokens=123)
    saved = checkpoints.load()
    assert saved.path == path == checkpoints.newest()
    assert saved.step == 7 and saved.values["tokens"] == 123
    assert torch.equal(saved.tensors["a"], torch.full((5,), 7.0))
    assert (checkpoints.folder / "latest").read_text().strip() == "step-000007"


def test_the_manifest_lists_every_other_file(checkpoints):
    path = save(checkpoints, 1)
    listed = set(json.loads((path / STATE_DIR / MANIFEST).read_text())["files"])
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert listed == there - {f"{STATE_DIR}/{MANIFEST}"}
    assert problems_of(path, hashes=True) == []


def test_only_the_newest_are_kept_and_zero_keeps_all(checkpoints):
    for step in (1, 2, 3):
        save(checkpoints, step)
    assert names(checkpoints) == ["latest", "step-000002", "step-000003"]
    checkpoints.keep = 0
    save(checkpoints, 4)
    assert names(checkpoints) == ["latest", "step-000002", "step-000003", "step-000004"]


def test_steps_are_ordered_as_numbers(checkpoints):
    save(checkpoints, 999_999)
    save(checkpoints, 1_000_000)
    assert checkpoints.load().step == 1_000_000


def test_a_truncated_newest_is_named_with_the_older_one_used_instead(checkpoints):
    older, newer = save(checkpoints, 1), save(checkpoints, 2)
    with open(newer / "model.safetensors", "r+b") as file:
        file.truncate(100)
    assert checkpoints.newest() == older
    assert checkpoints.load().step == 1
    (line,) = checkpoints.warnings
    assert "step-000002" in line and "step-000001" in line and "100 bytes instead of 4000" in line


def test_a_flipped_bit_is_found_by_its_hash(checkpoints):
    save(checkpoints, 1)
    newer = save(checkpoints, 2)
    data = bytearray((newer / "model.safetensors").read_bytes())
    data[1234] ^= 1
    (newer / "model.safetensors").write_bytes(data)
    assert checkpoints.load().step == 1
    assert "other contents" in checkpoints.warnings[0]


@pytest.mark.parametrize("damage", ["missing file", "no manifest", "empty manifest"])
def test_other_damage_is_survived_too(checkpoints, damage):
    save(checkpoints, 1)
    newer = save(checkpoints, 2)
    manifest = newer / STATE_DIR / MANIFEST
    if damage == "missing file":
        (newer / "model.safetensors").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("")
    assert checkpoints.load().step == 1 and len(checkpoints.warnings) == 1


def test_with_no_intact_checkpoint_the_error_names_all(checkpoints):
    for step in (1, 2):
        (save(checkpoints, step) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-000002.*step-000001.*no older checkpoint is intact"):
        checkpoints.load()


def test_a_run_without_checkpoints_says_so(checkpoints):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoints.load()


def test_training_past_a_damaged_checkpoint_replaces_it(checkpoints):
    save(checkpoints, 1)
    (save(checkpoints, 2) / "model.safetensors").write_bytes(b"")
    save(checkpoints, 2)
    assert checkpoints.load().step == 2 and checkpoints.warnings == []


def test_leftovers_of_a_killed_save_are_invisible_and_removed_at_the_start(checkpoints):
    save(checkpoints, 1)
    (checkpoints.folder / f"{HIDDEN}step-000002").mkdir()
    (checkpoints.folder / f"{HIDDEN}step-000002" / "model.safetensors").write_bytes(b"half")
    (checkpoints.folder / f"{HIDDEN}latest").write_text("x")
    assert checkpoints.load().step == 1
    assert len(checkpoints.clean()) == 2
    assert names(checkpoints) == ["latest", "step-000001"]


def test_an_error_while_writing_keeps_the_older_one_and_leaves_nothing_behind(checkpoints):
    save(checkpoints, 1)

    def full(folder):
        write_weights(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"step 2 not saved: the disk is full.*step-000001 is intact.*--resume"):
        save(checkpoints, 2, write=full)
    assert names(checkpoints) == ["latest", "step-000001"]
    assert checkpoints.load().step == 1


def test_too_little_free_space_is_noticed_before_anything_is_written(checkpoints):
    with pytest.raises(CheckpointError, match="disk is full"):
        checkpoints.save(1, lambda folder: pytest.fail("wrote"), {}, {}, model_bytes=1 << 60)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("part", ["model", "file", "state"])
def test_a_really_full_disk(small_disk, part):
    checkpoints = Checkpoints(small_disk / "checkpoints")
    checkpoints.save(1, write_weights, {}, {})
    checkpoints._check_space = lambda expected: None  # as if the space had gone after the check
    big = 3 << 20
    decoder = Decoder.build(tiny_config(vocab_size=big // 16 // 4))
    model = {"model": lambda f: save_model(decoder, f), "file": lambda f: (f / "x").write_bytes(bytes(big))}.get(
        part, write_weights
    )
    tensors = {"a": torch.zeros(big, dtype=torch.uint8)} if part == "state" else {}
    with pytest.raises(CheckpointError, match=r"disk is full.*step-000001 is intact"):
        checkpoints.save(2, model, tensors, {})
    assert names(checkpoints) == ["latest", "step-000001"]
    assert checkpoints.load().step == 1
    checkpoints.save(2, write_weights, {}, {})
    assert checkpoints.load().step == 2


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(Checkpoints(tmp_path / "file" / "checkpoints"), 1)


def test_all_random_generators_continue_where_they_were():
    def draw():
        return torch.rand(3).tolist(), random.random(), random.gauss(0, 1), numpy.random.rand(), numpy.random.randn()

    draw()
    state, other = random_state()
    other = json.loads(json.dumps(other))
    first = draw()
    draw()
    set_random_state(state, other)
    assert draw() == first
