"""What this machine offers: cores a process may really use, instruction sets, memory, bandwidth, matrix speed, disk, compiler.

Run: ``seekling doctor``. :func:`look` only reads files (a millisecond, no torch); :func:`measure` also times memory and matrix
products for a few seconds. A container's quota counts, not the host: cgroup version 1 and 2 and the affinity mask are read.
"""

import dataclasses
import math
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path

ISA_FLAGS = (
    "avx2 fma f16c avx512f avx512bw avx512_bf16 avx512_vnni avx_vnni amx_tile amx_int8 amx_bf16 amx_fp16 "
    "asimd asimddp bf16 i8mm sve sve2"
).split()


@dataclass(frozen=True)
class Machine:
    """Facts about the machine; measured ones are None or empty until :func:`measure`.

    Memory and disk in bytes, bandwidth in GB/s (1e9), matrix speed in GFLOP/s (1e9) by dtype name.
    """

    cpu: str
    cores: int
    affinity: int
    quota: float | None
    isa: tuple[str, ...]
    memory_bytes: int
    memory_available: int
    disk_free: int
    compiler: str | None
    native: str = "not asked"
    bandwidth_gbs: float | None = None
    gemm_gflops: dict[str, float] = field(default_factory=dict)

    @property
    def usable_cores(self) -> int:
        """Threads worth starting: the smallest of cores, affinity mask and the quota rounded up."""
        return _usable(self.cores, self.affinity, self.quota)

    @property
    def native_bfloat16(self) -> bool:
        """Whether bfloat16 products are done by the hardware."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.isa))


# ---- parsers (text in, number out) -----------------------------------------------------------------------------------


def parse_cpu_max(text: str) -> float | None:
    """cgroup v2 ``cpu.max``: ``"150000 100000"`` -> 1.5 cores; ``"max 100000"`` -> None."""
    parts = text.split()
    if not parts or parts[0] == "max":
        return None
    period = float(parts[1]) if len(parts) > 1 else 100000.0
    return float(parts[0]) / period if period > 0 else None


def parse_cfs(quota: str, period: str) -> float | None:
    """cgroup v1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``; a negative quota means none."""
    microseconds = float(quota)
    return microseconds / float(period) if microseconds > 0 and float(period) > 0 else None


def parse_memory_limit(text: str) -> int | None:
    """cgroup memory limit in bytes; ``max`` (v2) and the huge number of v1 mean none."""
    text = text.strip()
    if text == "max" or not text:
        return None
    limit = int(text)
    return limit if limit < 2**60 else None


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """(model name, known instruction-set flags in our order) of ``/proc/cpuinfo``; x86 ``flags`` or ARM ``Features``."""
    name, flags = "", set[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "model name" and not name:
            name = value.strip()
        elif key in ("flags", "features") and not flags:
            flags = set(value.split())
    return name, tuple(flag for flag in ISA_FLAGS if flag in flags)


def parse_meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[key.strip()] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def parse_cgroup(text: str) -> dict[str, str]:
    """``/proc/self/cgroup``: controller -> path; version 2's single hierarchy is under ``""``."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in controllers.split(","):
            found[name] = path
    return found


# ---- reading this machine --------------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _ancestors(mount: Path, path: str) -> list[Path]:
    """The group's folder and its parents up to the mount: a limit may sit on any of them."""
    folder = mount / path.lstrip("/")
    return [folder, *(p for p in folder.parents if p.is_relative_to(mount))]


def cgroup_limits(root: Path = Path("/")) -> tuple[float | None, int | None, int | None]:
    """(core quota, memory limit, memory in use) that the cgroups above this process impose, the tightest of them.

    Args:
        root: the file system's root; tests give a folder with ``proc`` and ``sys`` in it.
    """
    groups = parse_cgroup(_text(root / "proc/self/cgroup") or "")
    base = root / "sys/fs/cgroup"
    quotas: list[float | None] = []
    limits: list[tuple[int, int | None]] = []

    def memory(folder: Path, limit_file: str, usage_file: str) -> None:
        limit = parse_memory_limit(_text(folder / limit_file) or "")
        if limit is not None:
            used = _text(folder / usage_file)
            limits.append((limit, int(used) if used else None))

    for mount in (base, base / "unified"):
        for folder in _ancestors(mount, groups.get("", "/")):
            text = _text(folder / "cpu.max")
            quotas.append(parse_cpu_max(text) if text else None)
            memory(folder, "memory.max", "memory.current")
    for controller in ("cpu", "cpu,cpuacct"):
        for folder in _ancestors(base / controller, groups.get("cpu", "/")):
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
            quotas.append(parse_cfs(quota, period) if quota and period else None)
    for folder in _ancestors(base / "memory", groups.get("memory", "/")):
        memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
    real = [q for q in quotas if q is not None]
    limit, used = min(limits) if limits else (None, None)
    return (min(real) if real else None), limit, used


def usable_cores() -> int:
    """Threads worth starting in this process: `Machine.usable_cores`, at a fraction of the price of `look`."""
    cores = os.cpu_count() or 1
    return _usable(cores, _affinity(cores), cgroup_limits()[0])


def _usable(cores: int, affinity: int, quota: float | None) -> int:
    return max(1, min(cores, affinity, math.ceil(quota) if quota else cores))


def _affinity(cores: int) -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores


def look(folder: str | Path = ".") -> Machine:
    """Everything that can be read without timing anything or importing torch; ``folder`` says whose disk."""
    cpu, isa = parse_cpuinfo(_text(Path("/proc/cpuinfo")) or "")
    memory = parse_meminfo(_text(Path("/proc/meminfo")) or "")
    total = memory.get("MemTotal") or _physical_memory()
    available = memory.get("MemAvailable", total)
    quota, limit, used = cgroup_limits()
    if limit is not None and limit < total:
        total = limit
    if limit is not None:
        available = min(available, max(0, limit - (used or 0)))
    cores = os.cpu_count() or 1
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return Machine(
        cpu=cpu or platform.processor() or platform.machine(),
        cores=cores,
        affinity=_affinity(cores),
        quota=quota,
        isa=isa,
        memory_bytes=total,
        memory_available=available,
        disk_free=shutil.disk_usage(place).free,
        compiler=next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None),
    )


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def measure(seconds: float = 3.0, quick: bool = False, folder: str | Path = ".") -> Machine:
    """:func:`look`, and timed: read bandwidth and matrix products with all usable cores, for ``seconds`` in all.

    ``quick`` spends a fifth of the time and takes smaller buffers. The best of several rounds counts, since on a shared host
    anything slower is somebody else's work.
    """
    from seekling.machine_speed import gemm_gflops, read_bandwidth

    machine = look(folder)
    budget = seconds / (5 if quick else 1) / 3
    threads = machine.usable_cores
    return dataclasses.replace(
        machine,
        native=native_status(),
        bandwidth_gbs=read_bandwidth(threads, budget, machine.memory_available),
        gemm_gflops={name: gemm_gflops(name, threads, budget, 512 if quick else 1024) for name in ("float32", "bfloat16")},
    )


def native_status() -> str:
    """One line on the native kernels: loaded or why not."""
    try:
        from seekling.kernels.native import status
    except ImportError as error:
        return f"not available ({error})"
    return str(status())
