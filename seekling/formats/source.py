"""Where weights come from: the one interface that checkpoint folders, FP8 and MXFP4 blocks and GGUF files share."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class TensorSource(Protocol):
    """Named tensors that are read one at a time, so that memory holds the model and one tensor of the file.

    Attributes:
        where: path for messages.
        shapes: Hugging Face disk name -> shape of the tensor as ``read`` returns it (after dequantising).
    """

    where: str

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Tensor:
        """The floating tensor of that name, in whatever float dtype the store gives; mapped or made on demand."""
        ...
