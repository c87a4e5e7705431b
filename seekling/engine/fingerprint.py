"""What an answer depends on beside its request, as one short hash: weights, config, adapters, code, instructions."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from seekling.engine.backend import Backend, runner_path
from seekling.kernels.infer import Packed

_ROOMS = ("engine", "kernels", "model", "text")
_SUFFIXES = (".py", ".cpp", ".h")


def fingerprint(backend: Backend, quant: str | None, digest: str, adapters: Mapping[str, str] | None = None) -> str:
    """ "seekling-" and 16 hex digits; ``digest``: what `weights` gives, ``adapters``: hashes of those that are to count."""
    whole = hashlib.sha256()
    shape, beside = dataclasses.asdict(backend.config), sorted((adapters or {}).items())
    for part in (digest, code(), instructions(backend), str(quant), repr(shape), repr(beside)):
        whole.update(part.encode() + b"\0")
    return f"seekling-{whole.hexdigest()[:16]}"


def weights(backend: Backend) -> str:
    """SHA-256 of the tensors, or of the packed matrices and norms. Reads them all."""
    digest = hashlib.sha256()
    if backend.model is not None:
        for name, tensor in sorted(backend.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
    for part in backend.runner._native.keep:  # type: ignore[attr-defined]
        for tensor in (part.data, part.bias) if isinstance(part, Packed) else (part,):
            if isinstance(tensor, torch.Tensor):
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.cache
def code() -> str:
    """Hash of the source files that take part."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for room in _ROOMS:
        for file in sorted((root / room).rglob("*")):
            if file.suffix in _SUFFIXES:
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def instructions(backend: Backend) -> str:
    """The runner's path. Torch's results also depend on its version, its number of threads and the CPU's abilities."""
    path = runner_path(backend.runner)
    if backend.model is None:
        return path
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{path} {torch.__version__} {capability} {torch.get_num_threads()} threads"
