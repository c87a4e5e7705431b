"""The weights of a safetensors folder or file as a ``TensorSource``: one tensor at a time, mapped from disk.

>>> source = SafetensorsSource.of_folder("DeepSeek-V2-Lite")
>>> source.shapes["lm_head.weight"], source.dtypes["lm_head.weight"]
((102400, 2048), 'BF16')

Memory: only the tensors that the caller still holds.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from seekling.errors import CheckpointError
from seekling.formats import folder as files
from seekling.formats.safetensors_io import ANY_DTYPE, Entry, MappedFile, read_header

_WHOLE_NUMBERS = "are packed codes or whole numbers, not weights; give the checkpoint with bfloat16 or float32 weights"
TABLES = re.compile(r"\.tid2eid$")  # whole numbers by nature: DeepSeek-V4's experts by token id


class SafetensorsSource:
    """Every tensor of a single file, or of the shards an index names (and of our MTP file beside them).

    Attributes:
        where: the folder or file.
        shapes: disk name -> shape.
        dtypes: disk name -> dtype as safetensors calls it ("BF16", "F8_E4M3", "U8", …).
        files: disk name -> the file that holds it.
    """

    def __init__(self, where: Path, found: Mapping[str, tuple[Path, Mapping[str, Entry]]]):
        self.where = str(where)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self._mapped: dict[str, MappedFile] = {}
        for file, (path, entries) in found.items():
            self._mapped[file] = MappedFile(path, entries)
            for name in sorted(entries, key=lambda n, held=entries: held[n].start):  # type: ignore[misc]
                self.shapes[name], self.dtypes[name], self.files[name] = entries[name].shape, entries[name].dtype, file

    @classmethod
    def of_folder(cls, folder: str | os.PathLike) -> "SafetensorsSource":
        """The weights of a checkpoint folder, in the order of their files.

        Raises:
            CheckpointError: no weights, only pickles, an index or a header that lies, a name or link that leads outside.
        """
        path = files.checkpoint_folder(folder)
        found = files.weight_files(path)
        return cls(path, {file: (path / file, entries) for file, entries in found.items()})

    @classmethod
    def of_file(cls, file: str | os.PathLike) -> "SafetensorsSource":
        """One safetensors file (an adapter, a single shard). Raises CheckpointError for a missing or damaged one."""
        path = Path(file)
        if path.suffix in files.PICKLES:
            raise CheckpointError(f"{path} is a pickle, which can run code when opened; {UNPICKLE.format(path)}")
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist or is no file; give a .safetensors file")
        return cls(path, {path.name: (path, read_header(path))})

    @property
    def inner(self) -> "SafetensorsSource":
        """What sources that dequantise or merge wrap; this one wraps nothing."""
        return self

    def read(self, name: str) -> Tensor:
        """The floating tensor, in the dtype it is stored in, as a map of the file.

        Raises:
            CheckpointError: no such tensor, or one of whole numbers: quantised weights need their own source.
        """
        tensor = self.stored(name)
        if not tensor.dtype.is_floating_point and not TABLES.search(name):
            raise CheckpointError(f"{self.where}: {name} holds {self.dtypes[name]} values, which {_WHOLE_NUMBERS}")
        return tensor

    def stored(self, name: str) -> Tensor:
        """The tensor in whatever dtype the file gives it, codes included. Raises CheckpointError as ``read``."""
        if name not in self.files:
            raise CheckpointError(f"{self.where} holds no tensor {name!r}")
        return self._mapped[self.files[name]].read(name)

    def unreadable(self) -> list[str]:
        """A line for every tensor that ``read`` would refuse, for one error that lists them all."""
        bad = []
        for name, dtype in self.dtypes.items():
            if dtype not in ANY_DTYPE:
                bad.append(f"{name} is stored as {dtype}, which this torch lacks; update torch")
            elif not ANY_DTYPE[dtype].is_floating_point and not TABLES.search(name):
                bad.append(f"{name} holds {dtype} values, which {_WHOLE_NUMBERS}")
            elif dtype.startswith("F8"):
                bad.append(f"{name} holds {dtype} values, but config.json names no quantization_config to scale them by")
        return bad


# What a user types to turn a pickle they trust into the format that is read here.
UNPICKLE = (
    'if you trust it: python -c "import torch, safetensors.torch as s; '
    "s.save_file({{k: v.clone() for k, v in torch.load('{0}', weights_only=True).items()}}, 'weights.safetensors')\""
)
