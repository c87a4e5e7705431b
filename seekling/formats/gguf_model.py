"""A model in memory as a `TensorSource`: what a GGUF file is written from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from seekling.formats.hf import pieces

if TYPE_CHECKING:
    from seekling.model.decoder import Decoder


class ModelSource:
    """The tensors of a model under their Hugging Face names."""

    def __init__(self, model: "Decoder") -> None:
        self.where = "the model"
        self._memory = model.state_dict()
        self._pieces = {piece.name: piece for piece in pieces(model)}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(piece.shape) for name, piece in self._pieces.items()}

    def read(self, name: str) -> Tensor:
        """The tensor, sharing the model's memory where its layout allows."""
        piece = self._pieces[name]
        return piece.get(self._memory[piece.target]).detach()
