"""GGUF headers: what the gguf package writes is read, and no damaged or hostile file is believed."""

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf_tiny import RAW, file_bytes, key, model_of, tensor, text, write_with_library
from hypothesis import given, settings
from hypothesis import strategies as st

import seekling
from seekling.errors import CheckpointError, SeeklingError
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_header import Header
from seekling.formats.gguf_types import TYPES, dequantise, float_dtype
from seekling.formats.gguf_write import write_gguf
from seekling.lm import LM

READABLE = ["F32", "F16", *(kind.name for kind in gguf.quants._type_traits)]


def saved(folder, data, name="x.gguf"):
    path = folder / name
    path.write_bytes(data)
    return path


# ---- what is right -------------------------------------------------------------------------------------------------------


def test_block_sizes_are_those_of_the_gguf_package():
    theirs = {int(kind): (kind.name, *size) for kind, size in gguf.constants.GGML_QUANT_SIZES.items()}
    ours = {code: (kind.name, kind.values, kind.bytes) for code, kind in TYPES.items()}
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("name", READABLE)
def test_every_type_is_read_as_the_gguf_package_reads_it(name):
    kind = next(kind for kind in TYPES.values() if kind.name == name)
    width, generator = 512, np.random.default_rng(3)
    rows = generator.integers(0, 256, (37, kind.row_bytes(width)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(kind.code)).reshape(37, width)
    got = dequantise(kind, rows, width)
    assert got.dtype == float_dtype(kind)
    np.testing.assert_array_equal(got.float().numpy(), wanted)


def test_a_tensor_larger_than_a_slice_is_read_whole(monkeypatch):
    monkeypatch.setattr("seekling.formats.gguf_types.SLICE_VALUES", 1000)
    values = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    rows = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    wanted = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(dequantise(TYPES[8], rows, 64).numpy(), wanted)


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K"])
def test_types_that_hold_no_weights_are_refused(name):
    kind = next(kind for kind in TYPES.values() if kind.name == name)
    with pytest.raises(CheckpointError, match=f"{name} hold no weights"):
        dequantise(kind, np.zeros((1, kind.row_bytes(256)), np.uint8), 256)


def test_keys_and_tensors_of_the_gguf_package_are_read(tmp_path):
    keys = {"a.bool": True, "a.int": 7, "a.float": 0.5, "a.text": "ü", "a.list": [1, 2, 3], "a.texts": ["x", "", "ÿz"]}
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_with_library(tmp_path / "x.gguf", "test", keys, {"w": values, "v": np.float16([1, 2])})
    header = Header(tmp_path / "x.gguf")
    assert {k: header.metadata[k] for k in keys} == keys
    assert {name: (t.kind.name, t.shape) for name, t in header.tensors.items()} == {"w": ("F32", (2, 3)), "v": ("F16", (2,))}
    np.testing.assert_array_equal(header.bytes_of(header.tensors["w"]).view(np.float32), values)


def test_a_model_in_parts_is_one_model(tmp_path):
    for i in range(3):
        split = {"split.no": i, "split.count": 3, "split.tensors.count": 3}
        write_with_library(tmp_path / f"m-{i + 1:05d}-of-00003.gguf", "test", split, {f"w{i}": np.full((1, 2), i, np.float32)})
    header = Header(tmp_path / "m-00001-of-00003.gguf")
    assert [header.bytes_of(t).view(np.float32).tolist() for t in header.tensors.values()] == [[[0, 0]], [[1, 1]], [[2, 2]]]
    with pytest.raises(CheckpointError, match="open the first"):
        Header(tmp_path / "m-00002-of-00003.gguf")
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"00003-of-00003\.gguf does not exist"):
        Header(tmp_path / "m-00001-of-00003.gguf")


# ---- what is wrong -------------------------------------------------------------------------------------------------------

U32 = struct.pack("<I", 5)
ONE = tensor("w", (2, 2), 0, 0)
DAMAGED = {
    "empty": (b"", "is empty"),
    "magic": (file_bytes(magic=b"GGML"), "begin with 'GGUF'"),
    "version 1": (file_bytes(version=1), "version 1"),
    "big-endian": (file_bytes(version=3 << 24), "big-endian"),
    "only a magic": (b"GGUF", "ends within its header"),
    "many keys": (file_bytes(counts=(0, 1 << 60)), "beyond the limits"),
    "many tensors": (file_bytes(counts=(1 << 60, 0)), "beyond the limits"),
    "keys that are not there": (file_bytes(counts=(0, 9)), "ends within its header|needs|unknown value|twice"),
    "key twice": (file_bytes([key("a", 4, U32), key("a", 4, U32)]), "'a' is given twice"),
    "key type": (file_bytes([key("a", 99, U32)]), "unknown value type 99"),
    "long key": (file_bytes([struct.pack("<Q", 1 << 50) + b"a"]), "a key claims"),
    "long text": (file_bytes([key("a", 8, struct.pack("<Q", 1 << 20) + b"x")]), "needs 1048576 bytes"),
    "text beyond the limit": (file_bytes([key("a", 8, struct.pack("<Q", 1 << 62))]), "limit"),
    "not UTF-8": (file_bytes([key("a", 8, text(b"\xff\xfe"))]), "not UTF-8"),
    "truth of 2": (file_bytes([key("a", 7, b"\x02")]), "truth value of 2"),
    "long list": (file_bytes([key("a", 9, struct.pack("<IQ", 4, 1 << 24))]), "needs"),
    "list beyond the limit": (file_bytes([key("a", 9, struct.pack("<IQ", 0, 1 << 60))]), "limit"),
    "list of lists": (file_bytes([key("a", 9, struct.pack("<IQ", 9, 1))]), "unknown type 9"),
    "list of long texts": (file_bytes([key("a", 9, struct.pack("<IQQ", 8, 1, 1 << 63))]), "an entry of the list 'a'"),
    "alignment": (file_bytes([key("general.alignment", 4, struct.pack("<I", 33))]), "alignment 33"),
    "alignment of text": (file_bytes([key("general.alignment", 8, text("x"))]), "alignment 'x'"),
    "no dimensions": (file_bytes(tensors=[tensor("w", (), 0, 0)]), "0 dimensions"),
    "five dimensions": (file_bytes(tensors=[tensor("w", (1,) * 5, 0, 0)]), "5 dimensions"),
    "empty tensor": (file_bytes(tensors=[tensor("w", (0, 4), 0, 0)]), "holds nothing"),
    "tensor type": (file_bytes(tensors=[tensor("w", (2, 2), 77, 0)]), "unknown type 77"),
    "half a block": (file_bytes(tensors=[tensor("w", (2, 48), 8, 0)], data=bytes(200)), "whole number of Q8_0 blocks"),
    "tensor twice": (file_bytes(tensors=[ONE, ONE], data=bytes(64)), "'w' is there twice"),
    "overlap": (file_bytes(tensors=[ONE, tensor("v", (2, 2), 0, 0)], data=bytes(64)), "begins at byte"),
    "hole": (file_bytes(tensors=[tensor("w", (2, 2), 0, 64)], data=bytes(128)), "not where the last one ends"),
    "unaligned": (file_bytes(tensors=[ONE, tensor("v", (2, 2), 0, 16)], data=bytes(64)), "not aligned"),
    "cut short": (file_bytes(tensors=[ONE], data=bytes(15)), "ends at byte"),
    "huge tensor": (file_bytes(tensors=[tensor("w", (1 << 40, 1 << 40), 0, 0)], data=bytes(32)), "ends at byte"),
    "long name": (file_bytes(tensors=[tensor("w" * 500, (2, 2), 0, 0)], data=bytes(32)), "name claims 500"),
    "split count": (file_bytes([key("split.count", 4, struct.pack("<I", 1 << 31))]), "split.count"),
    "split text": (file_bytes([key("split.count", 8, text("3"))]), "split.count"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_the_damage(case, tmp_path):
    data, wanted = DAMAGED[case]
    path = saved(tmp_path, data)
    with pytest.raises(CheckpointError, match=wanted) as caught:
        Header(path)
    assert str(path) in str(caught.value)


def test_a_lying_count_costs_no_memory(tmp_path):
    path = saved(tmp_path, file_bytes([key("a", 9, struct.pack("<IQ", 8, (1 << 24) - 1))], data=bytes(4096)))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        Header(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(("make", "wanted"), [
    (lambda folder: folder / "absent.gguf", "does not exist"),
    (lambda folder: folder, "is a folder"),
    (lambda folder: saved(folder, file_bytes()), "general.architecture is missing"),
    (lambda folder: saved(folder, file_bytes([key("general.architecture", 8, text("bloom"))])), "architecture 'bloom'"),
    (lambda folder: saved(folder, file_bytes([key("general.architecture", 8, text("llama")),
                                              key("general.type", 8, text("adapter"))])), "is of type 'adapter'"),
    (lambda folder: saved(folder, file_bytes([key("general.architecture", 8, text("llama"))])), "no token_embd.weight"),
])  # fmt: skip
def test_files_that_are_no_models_are_refused(make, wanted, tmp_path):
    with pytest.raises(CheckpointError, match=wanted):
        open_gguf(make(tmp_path))


# ---- fuzzing -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A real small file with a tokenizer and expert tensors, and where its data begin."""
    from seekling.text.bpe import train_tokenizer

    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    raw = dict(RAW["deepseek_v3"], vocab_size=320)
    with pytest.warns(UserWarning):
        write_gguf(LM(model_of(raw), train_tokenizer(["some words to learn, a few words more. " * 40] * 2, 290)), path, "q8_0")
    header = Header(path)
    return path.read_bytes(), min(t.start for t in header.tensors.values())


def opened_or_refused(path):
    """Do all that loading does; anything but a SeeklingError is a failure of the test."""
    try:
        file = open_gguf(path)
        file.tokenizer()
        for name in list(file.source.shapes)[:12]:
            file.source.blocks(name)
            assert tuple(file.source.read(name).shape) == file.source.shapes[name]
        seekling.load(path)
    except SeeklingError as error:
        return str(error)
    return None


@settings(max_examples=120)
@given(data=st.data())
def test_flipped_bytes_are_read_or_refused(data, whole, tmp_path_factory):
    content, start = bytearray(whole[0]), whole[1]
    for _ in range(data.draw(st.integers(1, 4))):
        # structure is dense at the front; the vocabulary fills most of the rest
        where = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, start - 1), st.integers(start - 3000, start - 1)))
        content[where] = data.draw(st.integers(0, 255))
    opened_or_refused(saved(tmp_path_factory.mktemp("fuzz"), bytes(content)))


@settings(max_examples=40)
@given(cut=st.floats(0, 1))
def test_a_file_cut_anywhere_is_refused(cut, whole, tmp_path_factory):
    content = whole[0]
    # only the padding behind the last tensor may go
    said = opened_or_refused(saved(tmp_path_factory.mktemp("cut"), content[: int(cut * (len(content) - 64))]))
    assert said is not None


@settings(max_examples=60)
@given(value=st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([2**63, 2**32, 2**31 - 1, 2**64 - 1])), data=st.data())
def test_lengths_and_offsets_of_any_size_are_read_or_refused(value, data, whole, tmp_path_factory):
    content, start = bytearray(whole[0]), whole[1]
    where = data.draw(st.integers(4, start - 8))
    content[where : where + 8] = struct.pack("<Q", value)
    opened_or_refused(saved(tmp_path_factory.mktemp("fuzz"), bytes(content)))


def test_the_whole_file_of_the_fuzzing_tests_is_good(whole, tmp_path):
    assert opened_or_refused(saved(tmp_path, whole[0])) is None
