"""The inference kernels on a processor without any of our instruction levels: cross-compiled, run under qemu and compared with
this machine's results.  Needs g++-riscv64-linux-gnu (or g++-aarch64-linux-gnu) and qemu-user from Debian.

python tests/interop/portable_kernels.py riscv64
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from seekling.kernels import infer

SOURCES = Path(infer.__file__).parent / "csrc"
FORMATS = ("int8", "int4", "q8_0", "bf16", "f32")
SHAPES = [(1, 1, 1), (5, 7, 3), (33, 70, 8), (64, 96, 13)]


def write_cases(path: Path) -> None:
    """Weights, their packed bytes, inputs and products, as portable_kernels.cpp reads them."""
    g = torch.Generator().manual_seed(0)
    with path.open("wb") as out:
        put = lambda tensor: out.write(tensor.contiguous().numpy().tobytes())  # noqa: E731
        put(torch.tensor([len(FORMATS) * len(SHAPES)], dtype=torch.int32))
        for format in FORMATS:
            for outputs, inputs, rows in SHAPES:
                weight, x = torch.randn(outputs, inputs, generator=g), torch.randn(rows, inputs, generator=g)
                packed = infer.pack(weight, format)
                sizes = [infer.FORMATS[format], outputs, inputs, rows, packed.data.numel()]
                put(torch.tensor(sizes, dtype=torch.int32))
                put(weight)
                put(packed.data)
                put(torch.nn.functional.pad(x, (0, -inputs % infer.GROUP)))
                put(infer.multiply(packed, x))


def main(machine: str) -> int:
    compiler, emulator = f"{machine}-linux-gnu-g++", f"qemu-{machine}"
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            print(f"{tool} is missing: apt-get install g++-{machine}-linux-gnu qemu-user")
            return 2
    flags = ["-O3", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(SOURCES.glob("*.cpp")):  # everything must at least compile
            target = f"{folder}/{source.stem}.o"
            subprocess.run([compiler, *flags, "-c", str(source), "-o", target], check=True)
        program, cases = f"{folder}/check", Path(folder) / "cases"
        write_cases(cases)
        parts = [str(Path(__file__).with_suffix(".cpp")), f"{folder}/infer_matmul.o", f"{folder}/infer_pack.o"]
        subprocess.run([compiler, *flags, f"-I{SOURCES}", "-static", *parts, "-o", program], check=True)
        return subprocess.run([emulator, program, str(cases)], env={"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "riscv64"))
