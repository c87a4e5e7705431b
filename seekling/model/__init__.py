"""What is computed: the decoder and its configuration, in plain PyTorch.  Knows no files, no HTTP, no optimizer."""

from seekling.model.cache import Cache
from seekling.model.config import ModelConfig, RopeScaling
from seekling.model.decoder import Decoder
from seekling.model.moe import Trace

__all__ = ["Cache", "Decoder", "ModelConfig", "RopeScaling", "Trace"]
