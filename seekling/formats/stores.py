"""Which source reads a checkpoint folder: plain safetensors, FP8 blocks or MXFP4 experts, as its config.json says."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from seekling.errors import CheckpointError
from seekling.formats.folder import CONFIG, checkpoint_folder, read_json
from seekling.formats.fp8 import FP8Source
from seekling.formats.mxfp4 import MXFP4Source
from seekling.formats.safetensors_source import SafetensorsSource

FolderSource = SafetensorsSource | FP8Source | MXFP4Source


def open_folder(
    folder: str | os.PathLike, raw_config: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> FolderSource:
    """The weights of a Hugging Face folder as floating tensors, whatever they are stored as.

    Args:
        raw_config: config.json as it was read, None = read it here.
        dtype: of the matrices that were quantised; None = float32 for FP8 (nothing lost), bfloat16 for MXFP4 (exact).

    Raises:
        CheckpointError: a quantisation that is not read here, or a folder that is damaged; each names what is wrong.
    """
    path = checkpoint_folder(folder)
    raw = read_json(path, CONFIG) if raw_config is None else raw_config
    quantised = raw.get("quantization_config")
    plain = SafetensorsSource.of_folder(path)
    if quantised is None:
        return plain
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if method == "fp8":
        if raw.get("expert_dtype") is not None:  # V4 says it beside the object, its successor inside
            quantised = {"expert_dtype": raw["expert_dtype"], **quantised}
        return FP8Source(plain, quantised, dtype or torch.float32)
    if method == "mxfp4":
        return MXFP4Source(plain, quantised, dtype or torch.bfloat16)
    raise CheckpointError(
        f"{path / CONFIG}: quantization_config with quant_method {method!r} is not supported (fp8 and mxfp4 are); "
        "give the folder with the bfloat16 or float32 weights"
    )
