"""Declared sources → documents → token streams → packed batches, with a manifest of where everything came from."""

from seekling.data.packed import Batch, Packed
from seekling.data.stream import TokenStream, bits_per_byte, stream_of

__all__ = ["Batch", "Packed", "TokenStream", "bits_per_byte", "stream_of"]
