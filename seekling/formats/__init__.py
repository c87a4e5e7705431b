"""Weights and configs at the edge: Hugging Face checkpoint folders, read and written without any other library's help."""

from seekling.formats.checkpoint import load_model, save_model
from seekling.formats.folder import read_config, write_config

__all__ = ["load_model", "read_config", "save_model", "write_config"]
