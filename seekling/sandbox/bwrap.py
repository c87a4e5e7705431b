"""The room bubblewrap makes: what is in it, and how it is asked for.

Inside there are Python's executable and standard library, the system's shared libraries, three harmless devices and ``/work``,
a bounded file system in memory. No shell, no other program, no ``/proc``, ``/etc`` or ``/home``; the root cannot be written.
"""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seekling.errors import MachineError
from seekling.sandbox import seccomp

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/nix/store")


def interpreter() -> str:
    """The real file of this Python, not a virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def stdlib() -> str:
    """Where this Python keeps its own modules."""
    return sysconfig.get_path("stdlib")


def system_folders() -> list[str]:
    """Folders of shared libraries on this machine, and the one Python was installed to."""
    return [path for path in dict.fromkeys([*SYSTEM, sysconfig.get_config_var("LIBDIR") or ""]) if os.path.isdir(path)]


class Status:
    """What bubblewrap reports on ``--json-status-fd``: the child's id, later that it ran."""

    def __init__(self, fd: int):
        self._fd, self._text = fd, b""
        os.set_blocking(fd, False)

    def child(self) -> int | None:
        """The program's process id outside, None before it exists."""
        return self._find("child-pid")

    def ran(self) -> bool:
        """Whether the program itself was started and has ended."""
        return self._find("exit-code") is not None

    def _find(self, name: str) -> int | None:
        try:
            while more := os.read(self._fd, 4096):
                self._text += more
        except BlockingIOError:
            pass
        for line in self._text.splitlines():
            try:
                value = json.loads(line).get(name)
            except ValueError:  # half of a line as yet
                continue
            if value is not None:
                return int(value)
        return None


@contextmanager
def room(
    command: Sequence[str], files: Mapping[str, bytes], *, disk_bytes: int
) -> Iterator[tuple[list[str], list[int], Status]]:
    """bubblewrap's command line for a command, the descriptors it needs, and its status.

    Raises:
        MachineError: bubblewrap is not installed.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise MachineError("bubblewrap is not installed")
    open_fds: list[int] = []

    def content(data: bytes) -> str:
        fd = os.memfd_create("seekling", os.MFD_CLOEXEC)
        open_fds.append(fd)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        return str(fd)

    try:
        reading, writing = os.pipe()
        open_fds += [reading, writing]
        argv = [program, "--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
        argv += ["--unshare-uts", "--unshare-cgroup-try", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
        argv += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--as-pid-1"]
        argv += ["--seccomp", content(seccomp.build(os.uname().machine, alone=True)), "--json-status-fd", str(writing)]
        argv += _system()
        argv += ["--size", str(disk_bytes), "--tmpfs", "/work"]
        for name, data in files.items():
            argv += ["--file", content(data), f"/work/{name}"]
        argv += ["--remount-ro", "/", "--chdir", "/work", "--", *command]
        yield argv, [fd for fd in open_fds if fd != reading], Status(reading)
    finally:
        for fd in open_fds:
            os.close(fd)


def _system() -> list[str]:
    """The read-only part: libraries, Python, devices."""
    argv: list[str] = []
    for path in system_folders():
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        else:
            argv += ["--ro-bind", path, path]
    argv += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    library = stdlib()
    argv += ["--ro-bind", library, library]
    for packages in ("site-packages", "dist-packages"):
        if Path(library, packages).is_dir():
            argv += ["--tmpfs", f"{library}/{packages}", "--remount-ro", f"{library}/{packages}"]
    argv += ["--ro-bind", interpreter(), interpreter()]
    for device in DEVICES:
        argv += ["--dev-bind", device, device]
    return argv
