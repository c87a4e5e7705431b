"""The inference kernels on a processor without any of our instruction levels: cross-compiled, run under qemu and compared with
this machine's results.  Needs g++-riscv64-linux-gnu (or g++-aarch64-linux-gnu) and qemu-user from Debian.

python tests/interop/portable_kernels.py riscv64

Matrix products are compared on odd shapes, packing to the byte; then whole models take the same steps: a prompt, a second one
beside it, single tokens, several rows at once, a draft by the MTP layer. A model goes over as an image of its memory: every
block of bytes its structures name, and where in them the pointers lie (both machines have 64-bit pointers, low bytes first).
"""

import ctypes
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from seekling.engine.native_draft import InNative
from seekling.engine.native_runner import NativeRunner
from seekling.engine.runner import Chunk
from seekling.kernels import infer
from seekling.kernels.stamp import stamp

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine_tiny import tiny_lm
from test_engine_mtp import GQA

SOURCES = Path(infer.__file__).parent / "csrc"
FORMATS = ("int8", "q4_1", "q4_k", "q4_64", "q8_0", "q6_k", "bf16", "f32")
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


# ---- whole models ----------------------------------------------------------------------------------------------------

MODELS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "mla, experts, f32": ({}, "f32", "bf16"),
    "mla, experts, int8": ({}, "int8", "bf16"),
    "mla, no query latent, int4, int8 cache": ({"q_lora_rank": None}, "int4", "int8"),
    "gqa, bf16": (GQA, "bf16", "bf16"),
    "gqa, int8, int8 cache": (GQA, "int8", "int8"),
}
IDS = [int(i) for i in torch.randint(0, 256, (80,), generator=torch.Generator().manual_seed(0))]
STEPS = [
    [Chunk(IDS[:37], 0, [1, 0], "all")],
    [Chunk(IDS[37:38], 37, [1, 0]), Chunk(IDS[:9], 0, [2], "last")],
    [Chunk(IDS[38:42], 38, [1, 0], "all"), Chunk(IDS[9:10], 9, [2], "all")],
]


class Image:
    """Blocks of memory and the pointers in them, by address."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bytes]] = []
        self.pointers: list[tuple[int, int, int]] = []  # block, place in it, where to

    def add(self, address: int, content: bytes) -> int:
        self.blocks.append((address, content))
        return len(self.blocks) - 1

    def add_structure(self, structure: Any) -> int:
        """With every pointer in it; what it points at is added separately."""
        block = self.add(ctypes.addressof(structure), bytes(structure))
        self._find(block, structure, 0)
        return block

    def _find(self, block: int, part: Any, at: int) -> None:
        if isinstance(part, ctypes.Array):
            for i, one in enumerate(part):
                self._find(block, one, at + i * ctypes.sizeof(one))
            return
        for name, kind in part._fields_:
            place = at + getattr(type(part), name).offset
            if kind is ctypes.c_void_p and getattr(part, name):
                self.pointers.append((block, place, getattr(part, name)))
            elif issubclass(kind, ctypes.Structure):
                self._find(block, getattr(part, name), place)

    def write(self, out: BinaryIO) -> None:
        out.write(struct.pack("<q", len(self.blocks)))
        for _, content in self.blocks:
            out.write(struct.pack("<q", len(content)) + content)
        out.write(struct.pack("<q", len(self.pointers)))
        for block, place, address in self.pointers:
            homes = [n for n, (start, content) in enumerate(self.blocks) if start <= address < start + len(content)]
            home = max(homes, key=lambda n: self.blocks[n][0])
            out.write(struct.pack("<4q", block, place, home, address - self.blocks[home][0]))


def model_image(runner: NativeRunner) -> tuple[Image, int]:
    """A runner's model before its first step, and the block of its structure."""
    image, native = Image(), runner._native
    for kept in native.keep:
        for tensor in (kept.data, kept.bias) if isinstance(kept, infer.Packed) else (kept,):
            if isinstance(tensor, torch.Tensor):
                image.add(tensor.data_ptr(), tensor.contiguous().view(torch.uint8).numpy().tobytes())
            elif isinstance(tensor, ctypes.Array):
                image.add_structure(tensor)
    for table in (*runner._tables, runner._pool):
        assert table is not None
        image.add(table.data_ptr(), table.view(torch.uint8).numpy().tobytes())
    return image, image.add_structure(native.model)


def write_model(out: BinaryIO, changes: dict[str, Any], quant: Any, cache: Any) -> None:
    """The image, then each step's structure and arrays with the logits that came here, then a draft and its tokens."""
    lm = tiny_lm(dtype=torch.float32, num_nextn_predict_layers=1, **changes)
    runner = NativeRunner(lm.model, quant, threads=2, cache=cache, drafts=True)
    runner.allocate(3)
    runner.check(IDS, [0], 80)  # makes the tables of rotations
    image, model = model_image(runner)
    image.write(out)
    out.write(struct.pack("<2q", model, len(STEPS)))
    native = runner._native
    do_step, do_draft = native.step, native.draft

    def arrays(step: Any, end: int) -> Image:
        one = Image()
        one.add_structure(step)
        one.add(step.ids, ctypes.string_at(step.ids, end - step.ids))
        return one

    def step(one: Any) -> None:
        blocks, floats = arrays(one, one.wanted + 4 * one.wanted_count), one.wanted_count * one.logits_stride
        blocks.add(one.logits, bytes(4 * floats))
        blocks.add(one.raw_states, bytes(4 * sum(len(c.ids) for c in now) * runner.state_floats))
        blocks.write(out)
        do_step(one)
        out.write(struct.pack("<3q", one.wanted_count, one.logits_stride, runner.config.vocab_size))
        out.write(ctypes.string_at(one.logits, 4 * floats))

    def draft(one: Any, drafting: Any) -> None:
        count = one.chunks * drafting.most
        blocks = arrays(one, drafting.room + 4 * one.chunks)
        blocks.add_structure(drafting)
        blocks.add(drafting.states, states.tobytes())
        blocks.add(drafting.tokens, bytes(4 * count))
        blocks.write(out)
        do_draft(one, drafting)
        out.write(struct.pack("<q", count) + ctypes.string_at(drafting.tokens, 4 * count))

    native.step, native.draft = step, draft  # type: ignore[method-assign]
    for now in STEPS:
        runner.step(now)
    states = np.ascontiguousarray(runner.raw_states[0])
    InNative(runner).draft([Chunk(IDS[39:43], 38, [1, 0])], [states], 3)


def main(machine: str) -> int:
    compiler, emulator = f"{machine}-linux-gnu-g++", f"qemu-{machine}"
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            print(f"{tool} is missing: apt-get install g++-{machine}-linux-gnu qemu-user")
            return 2
    flags = ["-O3", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
    flags.append(f'-DSK_STAMP="{stamp(SOURCES.parent)}"')  # as setup.py has it
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(SOURCES.glob("*.cpp")):  # everything must at least compile
            target = f"{folder}/{source.stem}.o"
            subprocess.run([compiler, *flags, "-c", str(source), "-o", target], check=True)
        program, cases = f"{folder}/check", Path(folder) / "cases"
        write_cases(cases)
        with cases.open("ab") as out:
            out.write(struct.pack("<q", len(MODELS)))
            for name, (changes, quant, cache) in MODELS.items():
                out.write(struct.pack("<q", len(name)) + name.encode())
                write_model(out, changes, quant, cache)
        parts = [str(Path(__file__).with_suffix(".cpp")), *map(str, sorted(Path(folder).glob("infer_*.o")))]
        subprocess.run([compiler, *flags, f"-I{SOURCES}", "-static", *parts, "-o", program], check=True)
        return subprocess.run([emulator, program, str(cases)], env={"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "riscv64"))
