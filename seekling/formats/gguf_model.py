"""A model in memory as a `TensorSource` and a ``config.json``: what a GGUF file is written from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from seekling.model.config import ModelConfig
    from seekling.model.decoder import Decoder


class ModelSource:
    """The tensors of a model under their Hugging Face names, as views."""

    def __init__(self, model: "Decoder") -> None:
        from seekling.formats.hf import pieces

        self.where = "the model"
        self._memory = model.state_dict()
        self._pieces = {piece.name: piece for piece in pieces(model)}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(piece.shape) for name, piece in self._pieces.items()}

    def read(self, name: str) -> Tensor:
        """A view of the model's own memory."""
        piece = self._pieces[name]
        return piece.of(self._memory[piece.target]).detach()


def config_dict(config: "ModelConfig") -> dict[str, Any]:
    """The model's ``config.json``."""
    return config.to_dict()
