"""``seekling doctor``: what this machine offers and what Seekling will use."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from seekling.recipe import Recipe, resolve

if TYPE_CHECKING:
    from seekling.machine import Machine


def doctor(args: argparse.Namespace) -> int:
    """What the machine offers, and what Seekling will use of it."""
    from seekling.machine import measure

    machine = measure(quick=args.quick)
    if args.json:
        offered = dataclasses.asdict(machine) | {"usable_cores": machine.usable_cores}
        print(json.dumps({**offered, "use": choices(machine)}))
        return 0
    gb = 1e9
    quota = "none" if machine.quota is None else f"{machine.quota:g}"
    speed = ", ".join(f"{name} {value:,.0f} GFLOP/s" for name, value in machine.gemm_gflops.items())
    rows = [
        ("processor", machine.cpu),
        ("cores", f"{machine.usable_cores} usable of {machine.cores} (affinity {machine.affinity}, cgroup quota {quota})"),
        ("instructions", " ".join(machine.isa) or "none known"),
        ("memory", f"{machine.memory_available / gb:.1f} GB available of {machine.memory_bytes / gb:.1f} GB"),
        ("read bandwidth", f"{machine.bandwidth_gbs:.1f} GB/s with {machine.usable_cores} threads"),
        ("matrix products", speed),
        ("free disk", f"{machine.disk_free / gb:.1f} GB"),
        ("compiler", machine.compiler or "none (native kernels cannot be built; torch does the work)"),
        ("native kernels", machine.native),
        *(("will use: " + name, text) for name, text in choices(machine).items()),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    return 0


def choices(machine: "Machine") -> dict[str, str]:
    """What Seekling derives from the machine where nothing is said."""
    from seekling.dial import fits_in_memory
    from seekling.sizes import SIZES

    fitting = [n for n in SIZES if fits_in_memory(resolve(Recipe.of(size=n, steps=1, out="x"), machine), machine)]
    fp32, bf16 = machine.gemm_gflops.get("float32"), machine.gemm_gflops.get("bfloat16")
    if machine.native_bfloat16:
        ratio = f", {bf16 / fp32:.1f} times float32 here" if fp32 and bf16 else ""
        dtype = f"bfloat16 over float32 master weights (native{ratio})"
    else:
        dtype = "float32 (no native bfloat16)"
    return {
        "threads": str(machine.usable_cores),
        "training dtype": dtype,
        "largest size that fits": fitting[-1] if fitting else "none: free some memory",
    }
