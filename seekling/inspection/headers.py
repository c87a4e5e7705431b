"""The tensors that a folder's safetensors headers declare. Nothing of the data is read.

A folder of ordinary size goes through the checks that loading does. DeepSeek-V3's 92 thousand tensors take a shorter way here:
every entry's dtype, shape and length is checked and the lengths must fill the file, but not where each begins.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seekling.errors import CheckpointError, SeeklingError
from seekling.formats import folder as files
from seekling.formats.fp8 import FP8Format, scales_shape
from seekling.formats.safetensors_io import ITEM_BYTES, MAX_HEADER_BYTES
from seekling.formats.stores import open_folder

MANY = 8192  # tensors from which on the shorter way is taken
SCALE = "_scale_inv"


@dataclass
class Stored:
    """What a folder or file stores.

    Attributes:
        tensors: name -> (dtype as the format calls it, shape as stored).
        bytes: dtype -> bytes; ``numbers``: dtype -> stored values.
        shapes: name -> logical shape after dequantising, for comparing with what a model needs.
        problems: why the weights would be refused.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    where: str = ""

    def read(self, name: str) -> torch.Tensor:
        """Part of the interface of weight stores; an inspection has no values to give."""
        raise CheckpointError(f"{self.where}: {name} was not read, this is an inspection")

    def count(self, name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
        """Take a tensor in."""
        self.tensors[name] = (dtype, shape)
        self.add(dtype, math.prod(shape), size)

    def add(self, dtype: str, numbers: int, size: int) -> None:
        """Add to the sums of a dtype."""
        self.bytes[dtype] = self.bytes.get(dtype, 0) + size
        self.numbers[dtype] = self.numbers.get(dtype, 0) + numbers


def stored_in(folder: Path, raw_config: Mapping[str, Any]) -> Stored:
    """The weights of a checkpoint folder; whatever is wrong with them is in ``problems``."""
    found = Stored(where=str(folder))
    try:
        names = weight_map_files(folder)
        if names is None:
            return _strict(folder, raw_config, found)
        for name in names:
            _add_header(files.trusted_file(folder, name), found)
        found.shapes = _logical(found, raw_config.get("quantization_config"), folder)
    except SeeklingError as error:
        found.problems += error_lines(error)
    return found


def weight_map_files(folder: Path) -> list[str] | None:
    """Files that a large index names, None where there is no large index.

    Raises:
        CheckpointError: the index is damaged.
    """
    if not (folder / files.INDEX).exists() or (folder / files.SINGLE).exists():
        return None
    weight_map = files.read_json(folder, files.INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or len(weight_map) <= MANY:
        return None  # the loader's own words, if it is damaged
    names = set(weight_map.values())
    if not all(isinstance(name, str) and name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{folder / files.INDEX}: weight_map names files that are no .safetensors; copy it again")
    return sorted(names)


def _strict(folder: Path, raw_config: Mapping[str, Any], found: Stored) -> Stored:
    """As loading opens the folder."""
    for entries in files.weight_files(folder).values():
        for name, entry in entries.items():
            found.count(name, entry.dtype, entry.shape, entry.end - entry.start)
    source = open_folder(folder, raw_config)
    found.shapes = source.shapes
    found.problems += source.unreadable()
    return found


def _add_header(path: Path, found: Stored) -> None:
    """Take every tensor of one file. Raises CheckpointError for a header that cannot be right."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path}: its header claims {length} bytes in a file of {size}; copy it again")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        total = 0
        numbers: dict[str, int] = {}
        for name, entry in header.items():
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            count = math.prod(shape)
            if count * ITEM_BYTES[dtype] != end - start or name in found.tensors:
                raise ValueError(name)
            total += end - start
            numbers[dtype] = numbers.get(dtype, 0) + count
            found.tensors[name] = (dtype, shape)
        for dtype, count in numbers.items():
            found.add(dtype, count, count * ITEM_BYTES[dtype])
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header ({error}); copy the file again") from None
    if total != size - 8 - length:
        raise CheckpointError(f"{path}: its tensors take {total} bytes of {size - 8 - length}; copy the file again")


def _logical(found: Stored, quantised: Any, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes after dequantising FP8 blocks: scales disappear into their weights."""
    shapes = {name: shape for name, (_, shape) in found.tensors.items()}
    if quantised is None:
        return shapes
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if method != "fp8":
        found.problems.append(
            f"quantization_config with quant_method {method!r} is not supported; give the folder with the bfloat16 weights"
        )
        return shapes
    block = FP8Format.of_config(quantised, str(folder / files.CONFIG)).block
    bad = []
    for name, (dtype, shape) in found.tensors.items():
        if not dtype.startswith("F8_E4M3"):
            continue
        scales = shapes.pop(name + SCALE, None)
        if scales is None:
            bad.append(f"{name} is FP8 and has no {name + SCALE}")
        elif scales != scales_shape(shape, block):
            bad.append(f"{name + SCALE} has shape {list(scales)}, blocks of {list(block)} make it {scales_shape(shape, block)}")
    found.problems += bad[:20] + ([f"and {len(bad) - 20} more"] if len(bad) > 20 else [])
    return shapes


def error_lines(error: SeeklingError) -> list[str]:
    """One line for each problem that an error lists."""
    head, *rest = str(error).splitlines()
    return [line.removeprefix("  - ") for line in rest] or [head]
