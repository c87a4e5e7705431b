"""Safetensors folders as a source: every tensor of every shard, mapped, within the folder, in bounded memory."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch
from formats_tiny import raw_file, saved

from seekling.errors import CheckpointError
from seekling.formats.safetensors_source import SafetensorsSource


def sharded(folder, shards):
    for file, tensors in shards.items():
        safetensors.torch.save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_every_tensor_of_a_single_file_is_read_as_it_is_stored(tmp_path):
    source = SafetensorsSource.of_folder(saved(tmp_path))
    theirs = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert source.shapes == {name: tuple(t.shape) for name, t in theirs.items()}
    for name, tensor in theirs.items():
        assert torch.equal(source.read(name), tensor) and source.read(name).dtype == tensor.dtype


def test_shards_are_one_source_that_knows_the_file_of_each_tensor(tmp_path):
    a, b = torch.randn(3, 2), torch.randn(4).bfloat16()
    source = SafetensorsSource.of_folder(sharded(tmp_path, {"model-1.safetensors": {"a": a}, "model-2.safetensors": {"b": b}}))
    assert source.files == {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    assert source.dtypes == {"a": "F32", "b": "BF16"}
    assert torch.equal(source.read("a"), a) and torch.equal(source.read("b"), b)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.bfloat16, torch.float16, torch.float64]
)
def test_floating_tensors_keep_their_bits(dtype, tmp_path):
    stored = torch.arange(256, dtype=torch.uint8).view(dtype)
    safetensors.torch.save_file({"w": stored}, tmp_path / "w.safetensors")
    got = SafetensorsSource.of_file(tmp_path / "w.safetensors").read("w")
    assert got.dtype == dtype and torch.equal(got.view(torch.uint8), stored.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.bool])
def test_codes_are_no_weights_but_can_be_had_as_stored(dtype, tmp_path):
    codes = torch.tensor([1, 0, 1]).to(dtype)
    safetensors.torch.save_file({"w": codes, "x": torch.ones(1)}, tmp_path / "w.safetensors")
    source = SafetensorsSource.of_file(tmp_path / "w.safetensors")
    assert torch.equal(source.stored("w"), codes)
    with pytest.raises(CheckpointError, match=r"w holds .* not weights"):
        source.read("w")
    assert [line.split()[0] for line in source.unreadable()] == ["w"]


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    source = SafetensorsSource.of_file(tmp_path / "w.safetensors")
    source.read("w").zero_()
    assert torch.equal(source.read("w"), torch.ones(3))


def test_a_tensor_outlives_its_source(tmp_path):
    safetensors.torch.save_file({"w": torch.arange(5.0)}, tmp_path / "w.safetensors")
    tensor = SafetensorsSource.of_file(tmp_path / "w.safetensors").read("w")
    (tmp_path / "w.safetensors").unlink()
    assert torch.equal(tensor, torch.arange(5.0))


def test_tensors_that_other_writers_did_not_align_are_read(tmp_path):
    values = torch.tensor([1.5, -2.0, 3.25])
    header = {
        "w": {"dtype": "F32", "shape": [3], "data_offsets": [1, 13]},
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    (tmp_path / "w.safetensors").write_bytes(raw_file(header, b"\7" + values.numpy().tobytes()))
    assert torch.equal(SafetensorsSource.of_file(tmp_path / "w.safetensors").read("w") * 1, values)


def test_empty_tensors_and_scalars_are_read(tmp_path):
    safetensors.torch.save_file({"none": torch.empty(0, 4), "one": torch.tensor(2.5)}, tmp_path / "w.safetensors")
    source = SafetensorsSource.of_file(tmp_path / "w.safetensors")
    assert source.read("none").shape == (0, 4) and source.read("one").item() == 2.5


def test_a_file_changed_after_it_was_opened_is_an_error_not_other_numbers(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(4)}, tmp_path / "w.safetensors")
    source = SafetensorsSource.of_file(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"w": torch.ones(40)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        source.read("w")


def test_an_unknown_name_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.nothing'"):
        SafetensorsSource.of_folder(saved(tmp_path)).read("model.nothing")


@pytest.mark.parametrize("file", ["../w.safetensors", "/etc/w.safetensors", "sub/w.safetensors", ".."])
def test_an_index_may_not_name_files_outside_the_folder(file, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(CheckpointError, match=r"plain file name|not a \.safetensors"):
        SafetensorsSource.of_folder(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    os.symlink(tmp_path / "secret.safetensors", tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        SafetensorsSource.of_folder(tmp_path / "model")


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path):
    torch.save({"w": torch.ones(2), "v": torch.zeros(3)}, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError) as error:
        SafetensorsSource.of_file(tmp_path / "adapter_model.bin")
    line = str(error.value).partition("if you trust it: ")[2]
    assert line.startswith("python -c ")
    done = subprocess.run(line.replace("python", sys.executable, 1), shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert SafetensorsSource.of_file(tmp_path / "weights.safetensors").read("w").tolist() == [1, 1]


READ_ALL = """
    import os, sys, torch
    from seekling.formats.safetensors_source import SafetensorsSource

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    source = SafetensorsSource.of_folder(sys.argv[1])
    before, most, total = resident(), 0.0, 0.0
    for name in source.shapes:
        tensor = source.read(name)
        total += float(tensor.sum())
        most = max(most, resident())
        del tensor
    print(most - before, resident() - before, total)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_reading_a_large_folder_holds_one_tensor_and_gives_its_pages_back(tmp_path):
    shards = {f"model-{i}.safetensors": {f"w{i}.{j}": torch.ones(2**21) for j in range(8)} for i in range(4)}  # 32 × 8 MB
    sharded(tmp_path, shards)
    script = textwrap.dedent(READ_ALL)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    most, after, total = map(float, done.stdout.split())
    assert total == 4 * 8 * 2**21
    assert most < 20  # MB; the folder has 256
    assert after < 8
