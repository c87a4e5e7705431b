"""The native library: which build of it fits this processor, loading it, and calling it with tensors.

There is one library a processor level (setup.py).  They are found beside this file; where none is built everything runs on
plain torch and ``status()`` tells why, and so it does where the sources beside them have changed since (`stamp`).  The
environment can say so too: SEEKLING_NATIVE=0 for plain torch, =avx2 (or another level) for that library.
"""

import ctypes
import glob
import logging
import os
import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from seekling.errors import MachineError
from seekling.kernels.stamp import stamp

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
# Best first: the flags of /proc/cpuinfo that a level needs.
_LEVELS = {
    "avx512bf16": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16", "avx512_vnni"},
    "avx512vnni": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
    "base": set(),
}


STALE = "built from other sources than those here: `python setup.py build_ext --inplace --force` builds it again"


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of this processor as Linux names them; empty elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """(library, one line that says which path runs and why)."""
    wish = os.environ.get("SEEKLING_NATIVE", "")
    if wish == "0":
        return None, "torch (SEEKLING_NATIVE=0)"
    if wish and wish not in _LEVELS:
        raise MachineError(f"SEEKLING_NATIVE={wish!r} is no kernel level; use 0 for plain torch or one of {', '.join(_LEVELS)}")
    reason = "no native library is built; with a C++ compiler `pip install -e .` builds it"
    for level, needs in _LEVELS.items():
        if wish not in ("", level):
            continue
        if not needs <= cpu_flags():
            reason = f"this processor lacks {', '.join(sorted(needs - cpu_flags()))} for level {level}" if wish else reason
            continue
        for path in glob.glob(str(Path(__file__).parent / f"_native_{level}.*")):
            try:
                _share_openmp()
                library = ctypes.CDLL(path)
            except OSError as error:
                reason = f"{Path(path).name} does not load: {error}"
                continue
            if _is_stale(library):
                reason = f"{Path(path).name} is {STALE}"
                logging.getLogger("seekling").warning("%s; until then kernels run on torch, slowly", reason)
                return None, f"torch ({reason})"
            return library, f"native, {level}"
    return None, f"torch ({reason})"


def _is_stale(library: ctypes.CDLL) -> bool:
    """Whether it was built from other sources than those that lie here; its structures may then be others too."""
    expected = stamp(Path(__file__).parent)
    if expected is None:
        return False
    function = getattr(library, "sk_stamp", None)
    if function is None:  # from before there were stamps
        return True
    function.restype = ctypes.c_char_p
    return bool(function() != expected.encode())


def _share_openmp() -> None:
    """Make the OpenMP runtime that torch has loaded visible to our library: one pool of threads, not two that fight."""
    loaded = None
    if platform.system() == "Linux":
        for line in Path("/proc/self/maps").read_text().splitlines():
            name = line.rsplit("/", 1)[-1]
            if name.startswith(("libgomp", "libiomp5", "libomp")):
                loaded = line[line.index("/") :]
                break
    ctypes.CDLL(loaded or "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def status() -> str:
    """One line for people: which path runs the kernels."""
    return _library()[1]


def available() -> bool:
    """Whether any native library is loaded."""
    return _library()[0] is not None


def fits(*tensors: Tensor) -> bool:
    """Whether the native kernels can take these tensors: on the CPU, all bfloat16 or all float32."""
    dtype = tensors[0].dtype
    return dtype in _SUFFIX and all(t.device.type == "cpu" and t.dtype == dtype for t in tensors) and _library()[0] is not None


def call(name: str, dtype: torch.dtype | None, *args: Tensor | int | float | None) -> None:
    """Run ``sk_{name}_{dtype}``.  Tensors must be contiguous and become pointers, None a null pointer, floats C floats."""
    _function(name if dtype is None else f"{name}_{_SUFFIX[dtype]}")(*[_argument(a) for a in args])


@cache
def _function(name: str):
    library = _library()[0]
    assert library is not None, "call() without a library; ask fits() first"
    function = getattr(library, f"sk_{name}")
    function.restype = None
    return function


def symbol(name: str):
    """The C function ``sk_{name}`` itself, for callers that pass structures; None where no library is loaded."""
    library = _library()[0]
    return None if library is None else getattr(library, f"sk_{name}", None)


def _argument(value: Tensor | int | float | None):
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_float(value)
