"""Attempts to break out, as a program in the sandbox would make them: ``seekling sandbox --check`` and the tests run them.

Each program prints ``ESCAPED`` and how when it reached what it must not reach. Those that exhaust something must be cut short.
"""

import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from seekling.errors import MachineError
from seekling.sandbox import run as run_module
from seekling.sandbox.run import NEEDS, Limits, Result, run_python

QUICK = Limits(seconds=1, wall_seconds=5, memory_mb=128, disk_mb=4, output_bytes=65536, threads=8)
PATIENT = replace(QUICK, seconds=20, wall_seconds=60)  # what must not end by the clock, which runs on while others work

TRIES = """
def attempt(what, act):
    try:
        got = act()
    except BaseException as error:
        print("held:", what, type(error).__name__)
    else:
        print("ESCAPED:", what, repr(got)[:80])
"""


@dataclass(frozen=True)
class Probe:
    """An attempt, and how it may end."""

    name: str
    code: str
    outcomes: tuple[str, ...] = ("ok",)


PROBES = (
    Probe(
        "network",
        """
import socket, ctypes
attempt("connect to this machine", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
attempt("connect outside", lambda: socket.create_connection(("1.1.1.1", 53), 1))
attempt("raw socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("name", lambda: socket.getaddrinfo("example.com", 80))
""",
    ),
    Probe(
        "host files",
        """
import os
for path in (SECRET, os.path.dirname(SECRET), "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/environ",
             "/sys/kernel", "/var/log", "/tmp", "/dev/mem", "/dev/kmsg", "/dev/shm", "/usr/bin/env"):
    attempt("read " + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
""",
    ),
    Probe(
        "symbolic links",
        """
import os
for link, target in (("a", SECRET), ("b", "/work/../" + SECRET), ("c", "/"), ("d", "/proc/self/root" + SECRET)):
    def act():
        os.symlink(target, link)
        return open(link + SECRET if link == "c" else link).read()
    attempt(f"through {link} to {target}", act)
attempt("hard link", lambda: os.link(SECRET, "hard"))
""",
    ),
    Probe(
        "writing outside",
        """
import os, sys
for path in (SECRET, "/escaped", "/usr/lib/escaped", os.__file__, sys.executable, "/dev/shm/escaped", "/tmp/escaped",
             "/dev/escaped"):
    attempt("write " + path, lambda: open(path, "a").write("x"))
attempt("mkdir", lambda: os.mkdir("/escaped"))
attempt("remove", lambda: os.remove(os.__file__))
attempt("chmod", lambda: os.chmod(SECRET, 0))
""",
    ),
    Probe(
        "other programs",
        """
import os, subprocess, sys
attempt("shell", lambda: subprocess.run(["/bin/sh", "-c", "id"], check=True))
attempt("python", lambda: subprocess.run([sys.executable, "-c", "1"], check=True))
attempt("fork", os.fork)
attempt("spawn", lambda: os.posix_spawn(sys.executable, [sys.executable], {}))
attempt("kill the parent", lambda: os.kill(PARENT, 9))
attempt("kill everybody", lambda: os.kill(-1, 15) or (_ for _ in ()).throw(ProcessLookupError()))
""",
    ),
    Probe(
        "system calls",
        """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    def act():
        if getattr(libc, name)(*args) == -1:
            raise OSError(ctypes.get_errno(), name)
    attempt(name, act)
call("ptrace", 16, PARENT, 0, 0)
call("mount", b"none", b"/work", b"tmpfs", 0, 0)
call("umount2", b"/work", 2)
call("chroot", b"/work")
call("unshare", 0x10000000)
call("setns", 0, 0)
call("setuid", 0)
call("personality", 0x0040000)
call("process_vm_readv", PARENT, 0, 0, 0, 0, 0)
call("memfd_create", b"x", 0)
call("shmget", 1, 4096, 0o1600)
call("sethostname", b"x", 1)
call("prctl", 1, 0, 0, 0, 0)
call("pivot_root", b"/work", b"/work")
numbers = {"bpf": 280, "keyctl": 219, "io_uring_setup": 425, "userfaultfd": 282, "perf_event_open": 241}
if platform.machine() == "x86_64":
    numbers = {"bpf": 321, "keyctl": 250, "io_uring_setup": 425, "userfaultfd": 323, "perf_event_open": 298, "kexec_load": 246}
for name, number in numbers.items():
    def act():
        if libc.syscall(number, 0, 0, 0, 0, 0) == -1:
            error = ctypes.get_errno()
            if error not in (1, 38):
                return "the kernel looked at it: errno %d" % error
            raise OSError(error, name)
    attempt(name, act)
attempt("type into the terminal", lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"))
""",
    ),
    Probe(
        "left open",
        """
import os
for fd in range(3, 256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print("ESCAPED: descriptor", fd)
for name in os.environ:
    if name not in ("HOME", "LANG", "PATH", "PYTHONHASHSEED", "PYTHONUTF8", "PWD", "LC_CTYPE"):
        print("ESCAPED: environment", name)
""",
    ),
    Probe(
        "raising limits",
        """
import resource
for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE"):
    attempt(name, lambda: resource.setrlimit(getattr(resource, name), (-1, -1)))
attempt("parent's limits", lambda: resource.prlimit(PARENT, resource.RLIMIT_CPU))
""",
    ),
    Probe("fork bomb", "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", ("time",)),
    Probe(
        "thread bomb",
        """
import threading, time
threading.stack_size(65536)
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError:
        pass
""",
        ("threads", "time", "killed", "memory", "failed"),
    ),
    Probe("memory bomb", "a = []\nwhile True:\n    a.append(bytearray(1 << 24))", ("memory",)),
    Probe(
        "disk bomb",
        """
wrote = 0
try:
    for name in range(1000):
        with open(f"f{name}", "wb") as file:
            wrote += file.write(bytes(1 << 20))
except OSError as error:
    print("held at", wrote, error)
if wrote > 6 << 20:
    print("ESCAPED:", wrote, "bytes written")
""",
    ),
    Probe("output flood", "while True:\n    print('x' * 10000)", ("output",)),
    Probe(
        "ignoring signals",
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        ("time",),
    ),
    Probe("sleeping for ever", "import time\ntime.sleep(10 ** 6)", ("time",)),
    Probe("closed outputs", "import os, time\nos.close(1); os.close(2)\ntime.sleep(10 ** 6)", ("time",)),
    Probe("crash", "import ctypes\nctypes.string_at(0)", ("killed",)),
)


def run_probes() -> Iterator[tuple[Probe, Result, list[str]]]:
    """Run every probe; yields it, its result, and what got out (nothing, one hopes).

    Raises:
        MachineError: nothing confines here. Some of these programs would then do what they try.
    """
    if run_module.confinement()[0] == "none":
        raise MachineError(f"nothing confines here ({run_module.confinement()[1]}), so the attempts are not made: {NEEDS}")
    with socket.socket() as server, tempfile.TemporaryDirectory() as folder:
        server.bind(("127.0.0.1", 0))
        server.listen()
        secret = Path(folder, "secret")
        secret.write_text("the host's secret")
        names = f"PORT, SECRET, PARENT = {server.getsockname()[1]}, {str(secret)!r}, {os.getpid()}\n"

        def run(probe: Probe) -> Result:
            return run_python(names + TRIES + probe.code, limits=QUICK if "time" in probe.outcomes else PATIENT)

        with ThreadPoolExecutor(4) as pool:
            results = pool.map(run, PROBES)
            yield from _verdicts(results, secret)


def _verdicts(results: Iterable[Result], secret: Path) -> Iterator[tuple[Probe, Result, list[str]]]:
    for probe, result in zip(PROBES, results, strict=True):
        out = [line for line in result.stdout.splitlines() if line.startswith("ESCAPED")]
        if result.outcome not in probe.outcomes:
            out.append(f"ended with {result.outcome!r}, not {' or '.join(probe.outcomes)}: {result.stderr.strip()[-200:]}")
        if secret.read_text() != "the host's secret":
            out.append("ESCAPED: the secret was changed")
        yield probe, result, out
