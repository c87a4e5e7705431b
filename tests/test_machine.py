"""What the machine offers, read from fixture texts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling import machine_speed
from seekling.kernels import native
from seekling.machine import (
    Machine,
    cgroup_limits,
    look,
    parse_cfs,
    parse_cgroup,
    parse_cpu_max,
    parse_cpuinfo,
    parse_meminfo,
    parse_memory_limit,
    usable_cores,
)

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f avx512bw avx512_bf16 avx512_vnni
bugs\t\t: something

processor\t: 1
model name\t: AMD EPYC 9R14
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd asimddp i8mm bf16 sve
CPU part\t: 0xd40
"""
AMX = "model name : Intel(R) Xeon(R)\nflags : avx2 amx_bf16 avx512_vnni amx_tile amx_int8\n"


def facts(**changes) -> Machine:
    base = dict(
        cpu="x", cores=8, affinity=8, quota=None, isa=(), memory_bytes=1, memory_available=1, disk_free=1, compiler=None
    )
    return Machine(**{**base, **changes})


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_x86_flags_and_name_of_the_first_processor():
    name, isa = parse_cpuinfo(X86)
    assert name == "AMD EPYC 9R14"
    assert isa == ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni")


def test_arm_features():
    assert parse_cpuinfo(ARM) == ("", ("asimd", "asimddp", "bf16", "i8mm", "sve"))


def test_amx_is_seen():
    assert {"amx_bf16", "amx_tile", "amx_int8"} <= set(parse_cpuinfo(AMX)[1])


@settings(max_examples=50)
@given(st.text())
def test_no_text_breaks_the_cpuinfo_and_meminfo_parsers(text):
    parse_cpuinfo(text)
    assert all(value >= 0 for value in parse_meminfo(text).values())


@pytest.mark.parametrize(("text", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("200000\n", 2.0), ("", None)])
def test_cpu_max_of_cgroup_2(text, cores):
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(("quota", "period", "cores"), [("-1\n", "100000\n", None), ("50000", "100000", 0.5)])
def test_cfs_quota_of_cgroup_1(quota, period, cores):
    assert parse_cfs(quota, period) == cores


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("9223372036854771712\n", None), ("1073741824\n", 1 << 30)])
def test_memory_limits(text, limit):
    assert parse_memory_limit(text) == limit


def test_meminfo_is_in_bytes():
    assert parse_meminfo("MemTotal:  16 kB\nHugePages_Total:  3\n") == {"MemTotal": 16384, "HugePages_Total": 3}


def test_cgroup_paths_by_controller():
    found = parse_cgroup("4:memory:/a\n3:cpu,cpuacct:/b\n0::/c:d\n")
    assert found == {"memory": "/a", "cpu": "/b", "cpuacct": "/b", "": "/c:d"}


def test_the_tightest_limit_of_a_version_2_hierarchy_holds(tmp_path):
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/cpu.max": "100000 100000",
        "sys/fs/cgroup/outer/inner/cpu.max": "400000 100000",
        "sys/fs/cgroup/outer/inner/memory.max": "max",
        "sys/fs/cgroup/outer/memory.max": "1000",
        "sys/fs/cgroup/outer/memory.current": "400",
    })  # fmt: skip
    assert cgroup_limits(root) == (1.0, 1000, 400)


def test_a_container_that_sees_its_own_group_as_the_root_is_read(tmp_path):
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "50000 100000",
        "sys/fs/cgroup/memory.max": "2000",
        "sys/fs/cgroup/memory.current": "1",
    })  # fmt: skip
    assert cgroup_limits(root) == (0.5, 2000, 1)


def test_version_1_limits_are_read(tmp_path):
    root = write(tmp_path, {
        "proc/self/cgroup": "4:memory:/m\n1:cpu,cpuacct:/c\n",
        "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "5000",
        "sys/fs/cgroup/memory/m/memory.usage_in_bytes": "7",
    })  # fmt: skip
    assert cgroup_limits(root) == (3.0, 5000, 7)


def test_no_cgroup_means_no_limit(tmp_path):
    assert cgroup_limits(tmp_path) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        (dict(), 8),
        (dict(affinity=3), 3),
        (dict(quota=1.5), 2),
        (dict(quota=0.2), 1),
        (dict(quota=20.0), 8),
        (dict(quota=4.0, affinity=2), 2),
    ],
)
def test_usable_cores_are_the_tightest_of_cores_affinity_and_quota(changes, usable):
    assert facts(**changes).usable_cores == usable


def test_the_short_way_to_the_usable_cores_agrees_with_the_long_one():
    assert usable_cores() == look().usable_cores


@pytest.mark.parametrize(
    ("isa", "native"), [(("avx512f",), False), (("avx512_bf16",), True), (("amx_bf16",), True), (("bf16",), True)]
)
def test_native_bfloat16(isa, native):
    assert facts(isa=isa).native_bfloat16 is native


def test_looking_at_this_machine_agrees_with_the_operating_system(tmp_path):
    machine = look(tmp_path / "not" / "there" / "yet")
    assert machine.cores == os.cpu_count() and 1 <= machine.usable_cores <= machine.cores
    assert 0 < machine.memory_available <= machine.memory_bytes
    assert machine.disk_free > 0


def test_timings_restore_the_thread_count_and_are_positive():
    import torch

    before = torch.get_num_threads()
    assert machine_speed.gemm_gflops("float32", 1, 0.0, size=64) > 0
    assert machine_speed.read_bandwidth(2, 0.0, 64 << 20) > 0
    assert torch.get_num_threads() == before


def test_the_distance_of_two_threads_is_positive_and_that_of_one_unknown():
    code = "from seekling.machine_speed import core_distance; print(core_distance(50))"
    for limit, known in (("2", native.available()), ("1", False)):
        env = os.environ | {"OMP_THREAD_LIMIT": limit}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()
        assert (float(out) > 0) if known else out == "None"


def test_the_best_round_counts(monkeypatch):
    # One reading sets the end, then a round reads twice and the loop once: rounds of 5, 2 and 3 seconds.
    ticks = iter([0.0, 10.0, 15.0, 15.0, 17.0, 17.0, 20.0])
    monkeypatch.setattr(machine_speed.time, "perf_counter", lambda: next(ticks, 100.0))
    assert machine_speed.best_of(lambda: None, 0.0) == 2.0
