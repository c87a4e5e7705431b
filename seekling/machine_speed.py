"""Timings that bound everything else: how fast memory can be read, how fast matrices multiply, how far cores are apart."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import torch


def best_of(call, seconds: float, rounds: int = 3) -> float:
    """Shortest wall time of ``call`` over at least ``rounds`` calls and ``seconds``, after one call to warm up."""
    call()
    best, end, done = float("inf"), time.perf_counter() + seconds, 0
    while done < rounds or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        done += 1
    return best


def read_bandwidth(threads: int, seconds: float, available: int) -> float:
    """GB/s (1e9) at which ``threads`` threads together read memory that no cache holds.

    Each thread sums its own 256 MB (less where memory is short) of float32.
    """
    each = min(256 << 20, max(8 << 20, available // (4 * threads)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # one torch thread in each of ours
    try:
        blocks = [torch.ones(each // 4) for _ in range(threads)]
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            shortest = best_of(lambda: list(pool.map(torch.sum, blocks)), seconds)
    finally:
        torch.set_num_threads(before)
    return threads * each / shortest / 1e9


def core_distance(turns: int = 2000) -> float | None:
    """Nanoseconds a line of memory takes from one thread to another, the best of three tries.

    None without the native library or a second thread. A virtual machine's cores lie where its host puts them from moment to
    moment: behind one shared cache (tens of nanoseconds), where they share one way to memory too, or apart.
    """
    from seekling.kernels import native

    function = native.symbol("core_distance")
    if function is None:
        return None
    function.restype = ctypes.c_double
    return min(function(ctypes.c_int64(turns)) for _ in range(3)) or None


def gemm_gflops(dtype: str, threads: int, seconds: float, size: int = 1024) -> float:
    """GFLOP/s (1e9) of a square matrix product of that dtype, 2·size³ operations, with ``threads`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kind = getattr(torch, dtype)
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(size, size, generator=generator).to(kind) for _ in range(2))
        out = torch.empty(size, size, dtype=kind)
        shortest = best_of(lambda: torch.mm(a, b, out=out), seconds)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / shortest / 1e9
