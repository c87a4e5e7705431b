"""The safetensors file: what is written is read by the library, and no damaged file is believed."""

import json
import struct

import pytest
import safetensors.torch
import torch
from formats_tiny import raw_file
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import CheckpointError
from seekling.formats.safetensors_io import DTYPE_NAME, ToWrite, open_tensors, read_header, read_metadata, write_safetensors

F32x2 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def same_bits(a, b):
    raw = [x.reshape(-1).view(torch.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def to_write(tensors):
    return [ToWrite(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]


@settings(max_examples=40)
@given(
    spec=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__"),
        st.tuples(
            st.sampled_from(sorted(DTYPE_NAME.keys() - {torch.bool, torch.complex64}, key=str)),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_the_library_reads_what_is_written(spec, tmp_path_factory):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    tensors = {
        n: torch.randint(256, [*shape, dtype.itemsize]).byte().view(dtype).view(shape) for n, (dtype, shape) in spec.items()
    }
    write_safetensors(path, to_write(tensors))
    theirs = safetensors.torch.load_file(path)
    header = read_header(path)
    assert theirs.keys() == tensors.keys() == header.keys()
    for name, tensor in tensors.items():
        assert same_bits(theirs[name], tensor)
        assert (header[name].shape, header[name].dtype) == (tuple(tensor.shape), DTYPE_NAME[tensor.dtype])
        with open_tensors(path) as read:
            assert same_bits(read(name), tensor)


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"b": torch.randn(3, 2).bfloat16(), "a": torch.randn(5), "i": torch.arange(3)}
    safetensors.torch.save_file(tensors, path)
    assert {n: e.shape for n, e in read_header(path).items()} == {"b": (3, 2), "a": (5,), "i": (3,)}


def test_a_part_of_a_larger_tensor_is_written_without_the_rest(tmp_path):
    whole = torch.arange(24.0).view(2, 3, 4)
    write_safetensors(tmp_path / "x", [ToWrite("part", torch.float32, (3, 2), lambda: whole[1, :, ::2])])
    assert torch.equal(safetensors.torch.load_file(tmp_path / "x")["part"], whole[1, :, ::2])


def test_every_tensor_starts_at_a_multiple_of_its_own_size(tmp_path):
    tensors = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(3), "c": torch.ones(1, dtype=torch.float64)}
    write_safetensors(tmp_path / "x", to_write(tensors))
    raw = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    for name, entry in read_header(tmp_path / "x").items():
        assert (8 + length + entry.start) % tensors[name].dtype.itemsize == 0


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x"
    write_safetensors(path, to_write({"a": torch.ones(4), "b": torch.zeros(2, 3)}))
    return path.read_bytes()


def test_a_file_cut_short_anywhere_is_refused(good, tmp_path):
    for length in range(len(good)):
        (tmp_path / "x").write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="copy"):
            read_header(tmp_path / "x")


@settings(max_examples=200)
@given(data=st.data())
def test_changed_bytes_are_refused_or_read_as_tensors_that_fit_the_file(good, data, tmp_path_factory):
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("bad") / "x"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    (length,) = struct.unpack("<Q", raw[:8])
    assert sum(e.end - e.start for e in header.values()) == len(raw) - 8 - length
    with open_tensors(path) as read:
        for name, entry in header.items():
            assert tuple(read(name).shape) == entry.shape


BAD = {
    "not JSON": (b"{nope", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "not an object": ([1], b""),
    "nested beyond any header": (b"[" * 100_000, b""),
    "an entry without offsets": ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "an entry with more keys": ({"a": {**F32x2, "code": "x"}}, b"\0" * 8),
    "an unknown dtype": ({"a": {**F32x2, "dtype": "F7"}}, b"\0" * 8),
    "a dtype that is no text": ({"a": {**F32x2, "dtype": []}}, b"\0" * 8),
    "a negative size": ({"a": {**F32x2, "shape": [-2]}}, b"\0" * 8),
    "a size that is no number": ({"a": {**F32x2, "shape": [True, 2]}}, b"\0" * 8),
    "a shape too large for its bytes": ({"a": {**F32x2, "shape": [2**40, 2**40]}}, b"\0" * 8),
    "offsets beyond the file": ({"a": {**F32x2, "data_offsets": [8, 16]}}, b"\0" * 8),
    "offsets in reverse": ({"a": {**F32x2, "data_offsets": [8, 0]}}, b"\0" * 8),
    "three offsets": ({"a": {**F32x2, "data_offsets": [0, 4, 8]}}, b"\0" * 8),
    "overlapping tensors": ({"a": F32x2, "b": {**F32x2, "data_offsets": [4, 12]}}, b"\0" * 12),
    "the same bytes twice": ({"a": F32x2, "b": F32x2}, b"\0" * 8),
    "a hole between tensors": ({"a": F32x2, "b": {**F32x2, "data_offsets": [12, 20]}}, b"\0" * 20),
    "bytes after the last tensor": ({"a": F32x2}, b"\0" * 9),
    "a name given twice": (json.dumps({"a": F32x2})[:-1].encode() + b', "a": {}}', b"\0" * 8),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": F32x2}, b"\0" * 8),
}


@pytest.mark.parametrize("case", BAD)
def test_a_header_is_refused_that_has(case, tmp_path):
    (tmp_path / "x").write_bytes(raw_file(*BAD[case]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(tmp_path / "x")


def test_a_header_length_beyond_the_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(CheckpointError, match="claims 9223372036854775808 bytes"):
        read_header(tmp_path / "x")


def test_every_damaged_tensor_is_named_at_once(tmp_path):
    (tmp_path / "x").write_bytes(raw_file({"first": {**F32x2, "dtype": "?"}, "second": {**F32x2, "shape": [3]}}, b"\0" * 8))
    with pytest.raises(CheckpointError, match=r"(?s)first.*second"):
        read_header(tmp_path / "x")


def test_text_in_the_header_is_written_beside_the_format_and_read_back(tmp_path):
    write_safetensors(tmp_path / "x", to_write({"a": torch.ones(1)}), {"source": "nano-1", "format": "np"})
    assert read_metadata(tmp_path / "x") == {"source": "nano-1", "format": "pt"}


def test_tensors_are_asked_for_in_the_order_given(tmp_path):
    asked = []

    def give(name):
        asked.append(name)
        return torch.full((2,), float(len(asked)))

    names = ["z", "a", "m"]
    write_safetensors(tmp_path / "x", [ToWrite(n, torch.float32, (2,), lambda n=n: give(n)) for n in names])
    assert asked == names
    assert [t[0].item() for t in map(safetensors.torch.load_file(tmp_path / "x").get, names)] == [1, 2, 3]
