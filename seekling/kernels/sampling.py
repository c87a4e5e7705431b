"""Tokens from rows of logits by native code, many rows at once (csrc/infer_sample.cpp; its oracle: `engine.sampler`)."""

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import cache

from seekling.errors import MachineError
from seekling.kernels import native


class CDraw(ctypes.Structure):
    """struct Draw: one row, what is wanted of it, and after `draw` its ``token`` (−1: damaged logits) and ``logprob``."""

    _fields_ = [
        ("row", c_void_p),
        ("raw", c_void_p),
        ("uniform", c_double),
        ("top_p", c_double),
        ("temperature", c_float),
        ("min_p", c_float),
        ("top_k", c_int32),
        ("size", c_int32),
        ("mark", c_uint64),
        ("layers", c_int32),
        ("candidates", c_int32),
        ("token", c_int32),
        ("logprob", c_float),
    ]


@cache
def _function():
    function, size = native.symbol("infer_draw"), native.symbol("infer_draw_size")
    if function is None or size is None:
        return None
    size.restype = c_int64
    if size() != ctypes.sizeof(CDraw):
        raise MachineError("the native library is of another version; build it again with `pip install -e .`")
    function.restype, function.argtypes = None, [c_void_p, c_int64, c_int64]
    return function


def available() -> bool:
    """Whether the native library can draw."""
    return _function() is not None


def draw(rows: Sequence[CDraw], threads: int) -> list[CDraw]:
    """Fill in tokens and log-probabilities; memory behind the pointers must stay until this returns."""
    count = len(rows)
    array = (CDraw * count)(*rows)
    _function()(ctypes.addressof(array), count, threads)
    return list(array)
