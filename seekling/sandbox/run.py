"""`run_python`: a program's text in, what it printed and how it ended out."""

import base64
import functools
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from seekling.errors import MachineError, RecipeError
from seekling.sandbox import bwrap, seccomp
from seekling.sandbox.process import Ended, watch

MB = 1 << 20
BOOT = Path(__file__).with_name("boot.py")
NEEDS = "install bubblewrap (Debian: apt install bubblewrap) on a machine that allows user namespaces"


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of processor time, all threads together.
        wall_seconds: by the clock; None is twice ``seconds`` and one more.
        memory_mb: of address space.
        disk_mb: of its working folder, which is in memory.
        output_bytes: of standard output and error together.
        threads: at a time. Other processes it can never start.
    """

    seconds: float = 5.0
    wall_seconds: float | None = None
    memory_mb: int = 512
    disk_mb: int = 16
    output_bytes: int = 1 << 20
    threads: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise RecipeError(f"sandbox limit {field.name} is {value}: give a number above 0")
        if self.memory_mb < 64:
            raise RecipeError(f"sandbox limit memory_mb is {self.memory_mb}: Python alone needs 64")

    @property
    def wall(self) -> float:
        return 2 * self.seconds + 1 if self.wall_seconds is None else self.wall_seconds

    @property
    def rlimits(self) -> dict[str, int]:
        return {
            "RLIMIT_CPU": max(1, int(self.seconds + 0.999)),
            "RLIMIT_AS": self.memory_mb * MB,
            "RLIMIT_FSIZE": self.disk_mb * MB,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        outcome: "ok" (exit code 0), "failed" (another one, so an exception too), or what it was stopped for: "time", "memory"
            (a MemoryError ended it), "output", "threads", "killed" (a signal, such as a crash).
        code: exit code; minus the signal's number where one ended it.
        confined: "bwrap", "landlock" or "none": what stood around it.
    """

    outcome: str
    code: int
    stdout: str
    stderr: str
    seconds: float
    wall_seconds: float
    peak_mb: float
    confined: str

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


def run_python(
    code: str,
    *,
    stdin: str = "",
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
    unconfined: bool = False,
) -> Result:
    """Run a Python program that nobody has read, with the standard library and nothing else.

    Under bubblewrap it has its own namespaces (no network, no other processes, no user), a system it cannot write, a working
    folder in memory with ``main.py`` and ``files``, a filter of system calls and ``limits``. Where bubblewrap cannot work,
    Landlock with the same filter stands in, loudly: it reads only Python and its own files and writes nothing.

    Args:
        files: relative paths -> contents, put beside the program.
        unconfined: where neither works, run with limits and time alone rather than not at all.

    Raises:
        MachineError: this machine can confine nothing and ``unconfined`` is not set.
        RecipeError: a file's name leads out of the folder.
    """
    limits = limits or Limits()
    given = {"main.py": code.encode("utf-8", "surrogatepass")}
    for name, content in (files or {}).items():
        given[_inside(name)] = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    how, why = confinement()
    if how == "none" and not unconfined:
        raise MachineError(f"the sandbox cannot confine anything here ({why}): {NEEDS}, or accept the danger with --unconfined")
    if how != "bwrap":
        warnings.warn(f"model-written code runs {WEAKER[how]} ({why}); {NEEDS}", RuntimeWarning, stacklevel=2)
    fed = stdin.encode("utf-8", "surrogatepass")
    return _result(_in_bwrap(given, fed, limits) if how == "bwrap" else _in_folder(given, fed, limits, how), how)


WEAKER = {
    "landlock": "behind Landlock and a system call filter only, without namespaces",
    "none": "UNCONFINED, with this user's rights",
}


@functools.cache
def confinement() -> tuple[str, str]:
    """The strongest that works here, "bwrap", "landlock" or "none", and why nothing stronger does. Tried once a process."""
    if not sys.platform.startswith("linux"):
        return "none", f"{sys.platform} has neither bubblewrap nor Landlock"
    machine = os.uname().machine
    if machine not in seccomp.MACHINES:
        return "none", f"no system call filter for {machine}"
    program, small = {"main.py": b"print(6 * 7)"}, Limits()
    reasons = []
    for how in ("bwrap", "landlock"):
        try:
            ended = _in_bwrap(program, b"", small) if how == "bwrap" else _in_folder(program, b"", small, how)
        except (MachineError, OSError) as error:
            reasons.append(f"{how}: {error}")
            continue
        if ended.stdout == b"42\n":
            return how, "; ".join(reasons)
        reasons.append(f"{how}: {ended.stderr.decode('utf-8', 'replace').strip()[-200:] or 'it ran nothing'}")
    return "none", "; ".join(reasons)


def _in_bwrap(files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Ended:
    boot = [*python(), BOOT.read_text("utf-8"), json.dumps({"limits": limits.rlimits})]
    with bwrap.room(boot, files, disk_bytes=limits.disk_mb * MB) as (argv, fds, status):
        ended = watch(
            argv,
            stdin=stdin,
            cwd="/",
            pass_fds=fds,
            seconds=limits.wall,
            output_bytes=limits.output_bytes,
            threads=limits.threads,
            inner=lambda _: status.child(),
        )
        if ended.cut is None and not status.ran():
            raise MachineError(f"bubblewrap: {ended.stderr.decode('utf-8', 'replace').strip()[-300:] or 'it did not start'}")
    return ended


def _in_folder(files: Mapping[str, bytes], stdin: bytes, limits: Limits, how: str) -> Ended:
    """Without namespaces: a temporary folder, and in the child Landlock ("landlock"), the call filter, limits."""
    with tempfile.TemporaryDirectory(prefix="seekling-sandbox-") as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        settings: dict[str, object] = {"limits": limits.rlimits}
        if how == "landlock":
            filter_ = seccomp.build(os.uname().machine, alone=False)
            settings["filter"] = base64.b64encode(filter_).decode()
            settings["landlock"] = [*bwrap.system_folders(), *bwrap.DEVICES, bwrap.stdlib(), folder]
        return watch(
            [*python(), BOOT.read_text("utf-8"), json.dumps(settings)],
            stdin=stdin,
            cwd=folder,
            pass_fds=(),
            seconds=limits.wall,
            output_bytes=limits.output_bytes,
            threads=limits.threads,
            inner=lambda child: child,
        )


def python() -> list[str]:
    """This interpreter without site packages and without the caller's settings."""
    return [bwrap.interpreter(), "-S", "-s", "-P", "-B", "-c"]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or path.as_posix() in (".", "main.py"):
        raise RecipeError(f"sandbox file {name!r}: give a path inside the working folder, and not main.py")
    return path.as_posix()


def _result(ended: Ended, how: str) -> Result:
    code = 128 - ended.code if 128 < ended.code <= 192 else ended.code  # bubblewrap's way to tell of a signal
    stderr = ended.stderr.decode("utf-8", "replace")
    if ended.cut is not None:
        outcome = ended.cut
    elif code in (-9, -24):  # nothing but the processor time's limit kills from outside
        outcome = "time"
    elif code < 0:
        outcome = "killed"
    elif code and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        outcome = "memory"
    else:
        outcome = "failed" if code else "ok"
    return Result(
        outcome,
        code,
        ended.stdout.decode("utf-8", "replace"),
        stderr,
        round(ended.cpu_seconds, 4),
        round(ended.wall_seconds, 4),
        round(ended.peak_bytes / MB, 1),
        how,
    )
