"""The weights of a checkpoint folder, whatever way they are stored in: plain, FP8 blocks or MXFP4 experts."""

from pathlib import Path

from seekling.formats import folder as files
from seekling.formats.safetensors_source import SafetensorsSource
from seekling.formats.source import TensorSource


def weights_of(folder: Path) -> TensorSource:
    """Every tensor of the folder under its Hugging Face name, dequantised as it is read.

    Raises:
        CheckpointError: no weights, damaged files, or a quantisation that is not known.
    """
    source = SafetensorsSource.of_folder(folder)
    quantisation = files.quantisation_of(folder)
    if quantisation is None:
        return source
    if quantisation["quant_method"] == "fp8":
        from seekling.formats.fp8 import FP8Source

        return FP8Source(source, quantisation)
    from seekling.formats.mxfp4 import MXFP4Source

    return MXFP4Source(source, quantisation)
