"""One child process under watch: fed, read and, when it breaks a limit, killed with all it started."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

CHUNK = 65536
LOOK = 0.02  # seconds between two looks at the number of threads


@dataclass(frozen=True)
class Ended:
    """How a child ended. ``cut`` names the limit it broke ("time", "output", "threads"), None if it ended by itself."""

    code: int
    stdout: bytes
    stderr: bytes
    cut: str | None
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def watch(
    argv: Sequence[str],
    *,
    stdin: bytes,
    cwd: str | None,
    pass_fds: Sequence[int],
    seconds: float,
    output_bytes: int,
    threads: int,
    inner: Callable[[int], int | None],
) -> Ended:
    """Run a command with an empty environment until it ends or breaks a limit.

    ``inner`` gives the process whose threads count, by the child's id; None while it is not known.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=ENVIRONMENT,
        pass_fds=pass_fds,
        start_new_session=True,
        bufsize=0,
    )
    out: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    cut, cpu, peak = None, 0.0, 0
    try:
        cut = _talk(child, stdin, out, began + seconds, output_bytes, threads, inner)
        if cut is not None:
            cpu, peak = _used(inner(child.pid))  # a killed program's parent is not there to count for it
    finally:
        _kill(child, inner)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        _kill_group(child.pid)  # whatever it left behind; the number is ours until the next line
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        child.returncode,
        bytes(out["stdout"][:output_bytes]),
        bytes(out["stderr"][:output_bytes]),
        cut,
        time.monotonic() - began,
        max(cpu, usage.ru_utime + usage.ru_stime),
        max(peak, usage.ru_maxrss * 1024),
    )


ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # the order of sets does not change a verdict
    "PYTHONUTF8": "1",
}


def _talk(
    child: "subprocess.Popen[bytes]",
    stdin: bytes,
    out: dict[str, bytearray],
    deadline: float,
    output_bytes: int,
    threads: int,
    inner: Callable[[int], int | None],
) -> str | None:
    """Feed and read until both outputs are closed and the child has gone; the limit it broke, or None."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    waiting = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for pipe, name in ((child.stdout, "stdout"), (child.stderr, "stderr")):
            selector.register(pipe, selectors.EVENT_READ, name)
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin, selectors.EVENT_WRITE, "stdin")
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "time"
            if _threads(inner(child.pid)) > threads:
                return "threads"
            reading = any(key.data != "stdin" for key in selector.get_map().values())
            if not reading and _gone(child.pid):
                return None
            for key, _ in selector.select(min(LOOK if reading else 0.001, deadline - now)):
                if key.data == "stdin":
                    waiting = _feed(child.stdin, waiting)
                    if not waiting:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                out[key.data] += data
                if sum(map(len, out.values())) > output_bytes:
                    return "output"


def _feed(pipe: IO[bytes], waiting: memoryview) -> memoryview:
    """Write what fits; what is left. Nothing is left for a reader that has gone."""
    if not waiting:
        return waiting
    try:
        return waiting[os.write(pipe.fileno(), waiting[:CHUNK]) :]
    except BlockingIOError:
        return waiting
    except BrokenPipeError:
        return waiting[:0]


def _gone(pid: int) -> bool:
    """Whether the child has ended; it stays a zombie, to be reaped with its usage."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _threads(pid: int | None) -> int:
    try:
        return 0 if pid is None else len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _used(pid: int | None) -> tuple[float, int]:
    """Seconds of processor time and peak bytes of a living process."""
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status:
            ticks = sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
            peak = [int(line.split()[1]) for line in status if line.startswith("VmHWM:")]
    except OSError:
        return 0.0, 0
    return ticks / os.sysconf("SC_CLK_TCK"), sum(peak) * 1024


def _kill(child: "subprocess.Popen[bytes]", inner: Callable[[int], int | None]) -> None:
    """SIGKILL, which nothing can ignore, to the innermost process and to the child's group."""
    pid = inner(child.pid)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _kill_group(child.pid)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
