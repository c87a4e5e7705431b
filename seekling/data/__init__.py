"""Declared sources → documents → token streams → packed batches, with a manifest of where everything came from."""

from seekling.data.packed import Batch, Packed
from seekling.data.prepare import Prepared, prepare
from seekling.data.stream import TokenStream, bits_per_byte, stream_of

__all__ = ["Batch", "Packed", "Prepared", "TokenStream", "bits_per_byte", "prepare", "stream_of"]
