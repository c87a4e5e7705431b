"""Writing checkpoint folders: Hugging Face names, shards, and never a folder between two states."""

import dataclasses
import errno
import json

import pytest
import safetensors.torch
import torch
from formats_tiny import TINY, edit, equal, saved, tiny

from seekling.errors import CheckpointError
from seekling.formats import folder as files
from seekling.formats import load_model, save_model

INDEX = "model.safetensors.index.json"


def names_in(folder):
    return {n for f in folder.glob("*.safetensors") for n in safetensors.torch.load_file(f)}


def test_every_expert_has_its_own_tensors_gate_rows_before_up_rows(tmp_path):
    model = tiny()
    save_model(model, tmp_path)
    disk = safetensors.torch.load_file(tmp_path / "model.safetensors")
    packed = model.model.layers[1].mlp.experts
    for j in range(4):
        prefix = f"model.layers.1.mlp.experts.{j}"
        assert torch.equal(disk[f"{prefix}.gate_proj.weight"], packed.gate_up_proj[j, :3])
        assert torch.equal(disk[f"{prefix}.up_proj.weight"], packed.gate_up_proj[j, 3:])
        assert torch.equal(disk[f"{prefix}.down_proj.weight"], packed.down_proj[j])
    assert not any("gate_up_proj" in name for name in disk)


def test_an_mtp_layer_follows_the_main_ones_with_copies_of_both_tables(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)
    main = safetensors.torch.load_file(tmp_path / "model.safetensors")
    mtp = safetensors.torch.load_file(tmp_path / "model-mtp.safetensors")
    assert torch.equal(mtp["model.layers.2.embed_tokens.weight"], main["model.embed_tokens.weight"])
    assert torch.equal(mtp["model.layers.2.shared_head.head.weight"], main["lm_head.weight"])
    inside = {n.removeprefix("model.layers.2.") for n in mtp} - {"embed_tokens.weight", "shared_head.head.weight"}
    block = {n.removeprefix("model.layers.1.") for n in main if n.startswith("model.layers.1.")}
    assert inside == block | {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}


def test_a_tied_head_is_not_written_twice(tmp_path):
    assert "lm_head.weight" not in names_in(saved(tmp_path, tie_word_embeddings=True))


@pytest.mark.parametrize("limit", [1, 300, 1000, 10**9])
@pytest.mark.parametrize("mtp", [0, 1])
def test_a_model_split_into_shards_is_read_back_equal(limit, mtp, tmp_path):
    model = tiny(num_nextn_predict_layers=mtp)
    save_model(model, tmp_path, max_shard_bytes=limit)
    assert equal(load_model(tmp_path), model)


def test_the_index_lists_every_shard_and_the_total_size(tmp_path):
    save_model(tiny(), tmp_path, max_shard_bytes=600)
    index = json.loads((tmp_path / INDEX).read_text())
    shards = {f.name: safetensors.torch.load_file(f) for f in tmp_path.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in shards.values() for t in tensors.values())
    assert all(sum(t.nbytes for t in ts.values()) <= 600 or len(ts) == 1 for ts in shards.values())


def test_a_cast_while_saving_rounds_the_weights_and_keeps_router_biases(tmp_path):
    model = tiny()
    save_model(model, tmp_path, dtype="bfloat16")
    disk = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {str(t.dtype) for n, t in disk.items() if "correction_bias" not in n} == {"torch.bfloat16"}
    assert torch.equal(disk["model.layers.1.mlp.gate.e_score_correction_bias"], model.routers()[0].e_score_correction_bias)
    assert torch.equal(disk["lm_head.weight"], model.lm_head.weight.bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saving_and_loading_in_the_models_own_type_changes_no_bit(dtype, tmp_path):
    model = tiny(dtype=dtype, num_nextn_predict_layers=2)
    save_model(model, tmp_path)
    assert equal(load_model(tmp_path, dtype), model)


def test_equal_models_give_equal_files(tmp_path):
    for name in "ab":
        save_model(tiny(num_nextn_predict_layers=1), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# ---- taking the place of what was there -----------------------------------------------------------------------------------


def test_weights_of_an_older_layout_go_and_other_files_stay(tmp_path):
    save_model(tiny(0, num_nextn_predict_layers=1), tmp_path, max_shard_bytes=600)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "training_state").mkdir()
    (tmp_path / "model-of-mine.safetensors").write_bytes(b"")
    save_model(tiny(1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model-of-mine.safetensors", "model.safetensors",
        "training_state",
    ]  # fmt: skip
    assert equal(load_model(tmp_path), tiny(1))


def test_a_model_can_be_saved_over_the_folder_it_came_from(tmp_path):
    model = load_model(saved(tmp_path))
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    save_model(model, tmp_path)
    assert equal(load_model(tmp_path), model)


def fail_at(monkeypatch, owner, name, call, error):
    """Let the n-th call of a function raise."""
    original, count = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] == call:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(call, tmp_path, monkeypatch):
    saved(tmp_path, 0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fail_at(monkeypatch, files, "write_safetensors", call, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_model(tiny(1, num_nextn_predict_layers=1), tmp_path, max_shard_bytes=2000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(1, 12))
def test_a_kill_while_files_are_exchanged_never_leaves_old_and_new_mixed(call, tmp_path, monkeypatch):
    """Both models have the same shapes, so that a mixture would load without complaint."""
    save_model(tiny(0, num_nextn_predict_layers=1), tmp_path, max_shard_bytes=1500)
    fail_at(monkeypatch, files.os, "replace", call, Killed())
    try:
        save_model(tiny(1, num_nextn_predict_layers=1), tmp_path, max_shard_bytes=1500)
    except Killed:
        with pytest.raises(CheckpointError, match=r"config\.json"):
            load_model(tmp_path)
    else:
        assert equal(load_model(tmp_path), tiny(1, num_nextn_predict_layers=1))
    monkeypatch.undo()
    save_model(tiny(2, num_nextn_predict_layers=1), tmp_path, max_shard_bytes=1500)
    assert equal(load_model(tmp_path), tiny(2, num_nextn_predict_layers=1))


def test_remains_of_a_killed_save_are_removed_by_the_next(tmp_path):
    (tmp_path / ".unfinished-weights-x").mkdir()
    (tmp_path / ".unfinished-weights-x" / "model.safetensors").write_bytes(b"half")
    saved(tmp_path)
    assert not list(tmp_path.glob(".unfinished*"))


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save_model(tiny(), tmp_path / "x")


def test_a_limit_that_holds_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="max_shard_bytes"):
        save_model(tiny(), tmp_path, max_shard_bytes=0)


def test_a_changed_tensor_on_disk_changes_the_model(tmp_path):
    """The comparison used by these tests can fail."""
    edit(saved(tmp_path), lambda t: t["model.layers.1.mlp.experts.3.down_proj.weight"][0, 0].add_(1))
    assert not equal(load_model(tmp_path), tiny())


def test_a_config_survives_with_yarn(tmp_path):
    from seekling.formats import read_config
    from seekling.model.config import RopeScaling

    scaling = RopeScaling("yarn", 40.0, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=0.5)
    saved(tmp_path, rope_scaling=scaling)
    assert read_config(tmp_path) == dataclasses.replace(TINY, rope_scaling=scaling)
