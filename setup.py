"""Builds the native kernels, one library per x86-64 level from the same sources; everything else is in pyproject.toml.

The libraries are optional: without a C++ compiler the install succeeds and Seekling runs on plain torch (`seekling doctor`
says so). For work on the kernels: `python setup.py build_ext --inplace`.
"""

import copy
import os
import platform
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NAMES = ("rowwise", "experts", "attention", "tree_attention", "infer_matmul", "infer_pack", "infer_encode")
NAMES += ("infer_attention", "infer_step", "infer_step_attention", "infer_step_experts", "infer_step_adapters", "infer_cache8")
NAMES += ("infer_sample", "infer_step_draft", "infer_burst", "distance", "stamp")
HEADERS = (
    "common",
    "attention",
    "attention_bf16",
    "tree_attention",
    "tree_attention_bf16",
    "infer_simd",
    "infer_matmul",
    "infer_encode",
    "infer_model",
    "infer_rows",
)
HEADERS += ("infer_attention", "infer_step", "infer_step_parts", "infer_sample")
SOURCES = [f"seekling/kernels/csrc/{name}.cpp" for name in NAMES]
# -fopenmp without linking libgomp: the symbols come from the OpenMP runtime that torch has loaded, so that both share one
# pool of threads (seekling/kernels/native.py).
FLAGS = ["-O3", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
LEVELS = {"base": []}
if platform.machine() in ("x86_64", "AMD64"):
    # prefetchw came with the processors of these levels, but is not in them; where it is missing nothing happens
    LEVELS["avx2"] = ["-march=x86-64-v3", "-mprfchw"]
    LEVELS["avx512"] = ["-march=x86-64-v4", "-mprfchw", "-mprefer-vector-width=512"]
    LEVELS["avx512vnni"] = [*LEVELS["avx512"], "-mavx512vnni"]
    LEVELS["avx512bf16"] = [*LEVELS["avx512vnni"], "-mavx512bf16"]

KERNELS = Path(__file__).resolve().parent / "seekling" / "kernels"
STAMP = runpy.run_path(str(KERNELS / "stamp.py"))["stamp"](KERNELS)


class BuildLevels(build_ext):
    """Builds the levels side by side, each with object files of its own."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True

    def build_extension(self, ext: Extension) -> None:
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name.rpartition(".")[2])
        super(BuildLevels, own).build_extension(ext)


setup(
    cmdclass={"build_ext": BuildLevels},
    ext_modules=[
        Extension(
            f"seekling.kernels._native_{level}",
            sources=SOURCES,
            depends=["setup.py", *(f"seekling/kernels/csrc/{name}.h" for name in HEADERS)],
            define_macros=[("SK_STAMP", f'"{STAMP}"')],
            extra_compile_args=[*FLAGS, *march],
            language="c++",
            optional=True,
        )
        for level, march in LEVELS.items()
    ],
)
