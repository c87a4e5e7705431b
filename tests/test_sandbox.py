"""The sandbox: what a program gets, how it ends, and that every attempt to break out is held, by bubblewrap and by Landlock."""

import json
import os
import re
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekling import cli, sandbox
from seekling.errors import MachineError, RecipeError
from seekling.sandbox import Limits, confinement, probes, run_python, seccomp
from seekling.sandbox import run as room

HOW = confinement()[0]
needs_bwrap = pytest.mark.skipif(HOW != "bwrap", reason=f"bubblewrap cannot work here: {confinement()[1]}")
needs_any = pytest.mark.skipif(HOW == "none", reason=f"nothing can confine here: {confinement()[1]}")


def landlock_works() -> bool:
    try:
        return room._in_folder({"main.py": b"print(42)"}, b"", Limits(), "landlock").stdout == b"42\n"
    except (OSError, MachineError):
        return False


@pytest.fixture(params=[pytest.param("bwrap", marks=needs_bwrap), "landlock"])
def wall(request, monkeypatch):
    """What confines: bubblewrap, then Landlock as if there were no bubblewrap."""
    if request.param == "landlock":
        if not sys.platform.startswith("linux") or not landlock_works():
            pytest.skip("this kernel has no Landlock")
        monkeypatch.setattr(room, "confinement", lambda: ("landlock", "asked by the test"))
    return request.param


@pytest.mark.filterwarnings("ignore:model-written code")
def test_no_attempt_to_break_out_succeeds(wall):
    escaped = {probe.name: out for probe, _, out in probes.run_probes() if out}
    assert escaped == {}


@pytest.mark.filterwarnings("ignore:model-written code")
def test_an_attempt_that_succeeds_is_noticed_and_none_is_made_where_nothing_confines(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "confinement", lambda: ("none", "asked by the test"))
    secret = tmp_path / "secret"
    secret.write_text("x")
    reading = next(probe for probe in probes.PROBES if probe.name == "host files")
    result = run_python(f"SECRET = {str(secret)!r}\n{probes.TRIES}{reading.code}", unconfined=True)
    assert f"ESCAPED: read {secret}" in result.stdout
    with pytest.raises(MachineError, match="not made"):
        next(probes.run_probes())


@needs_any
def test_a_program_reads_its_input_and_its_files_and_prints():
    code = "import sys, helper\nprint(helper.double(int(input())), open('data/x.bin', 'rb').read(), __name__, sys.argv)"
    files = {"helper.py": "def double(x): return 2 * x", "data/x.bin": b"\x00\xff"}
    result = run_python(code, stdin="21\n", files=files)
    assert (result.stdout, result.outcome, result.code) == ("42 b'\\x00\\xff' __main__ ['main.py']\n", "ok", 0)


@needs_any
@pytest.mark.parametrize(
    ("code", "outcome", "exit_code"),
    [
        ("exit()", "ok", 0),
        ("raise SystemExit(3)", "failed", 3),
        ("1/0", "failed", 1),
        ("def f(:", "failed", 1),
        ("import os; os.abort()", "killed", None),
        ("import signal, time\nwhile True: time.sleep(9)", "time", None),
    ],
)
def test_how_it_ended_is_told(code, outcome, exit_code):
    result = run_python(code, limits=Limits(wall_seconds=1.5 if outcome == "time" else 60))
    assert result.outcome == outcome
    assert exit_code is None or result.code == exit_code


@needs_any
def test_a_traceback_shows_the_program_and_nothing_of_the_sandbox():
    stderr = run_python("def f():\n    return 1 / 0\nf()").stderr
    assert 'File "main.py", line 3, in <module>' in stderr and stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "<string>" not in stderr


@needs_any
def test_much_input_to_a_program_that_does_not_read_and_much_output_do_not_hang():
    result = run_python("print('y' * 500_000)", stdin="x" * 5_000_000)
    assert result.ok and len(result.stdout) == 500_001


@needs_any
def test_ordinary_programs_of_the_standard_library_work():
    code = """
import asyncio, collections, concurrent.futures, dataclasses, decimal, json, math, random, re, tempfile, time
async def main():
    return sum(await asyncio.gather(*(asyncio.sleep(0, i) for i in range(4))))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(asyncio.run(main()), list(pool.map(abs, [-1, -2])), re.sub("a", "b", "aa"), {"c", "a", "b"} == set("abc"))
import shutil, os
os.makedirs("d/e"); open("d/e/f", "w").write("1"); shutil.copy("d/e/f", "g"); print(open("g").read())
"""
    result = run_python(code)
    if HOW == "bwrap":
        assert (result.stdout, result.stderr) == ("6 [1, 2] bb True\n1\n", "")
    else:  # Landlock writes nothing
        assert result.stdout == "6 [1, 2] bb True\n"


@needs_any
def test_hashes_and_so_orders_of_sets_are_the_same_every_time():
    code = "print({str(i) for i in range(50)})"
    assert run_python(code).stdout == run_python(code).stdout


@needs_bwrap
def test_the_working_folder_is_fresh_and_leaves_nothing():
    run_python("open('left', 'w').write('1')")
    assert run_python("import os; print(os.listdir())").stdout == "['main.py']\n"


@needs_any
def test_it_works_from_many_threads_at_a_time():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: run_python(f"print({i})").stdout, range(8)))
    assert results == [f"{i}\n" for i in range(8)]


@needs_bwrap
def test_the_program_dies_with_whoever_started_it():
    code = (
        "import os, sys, threading, time\nfrom seekling.sandbox import Limits, run_python\n"
        "threading.Thread(target=run_python, args=('import time\\ntime.sleep(600)',),"
        " kwargs=dict(limits=Limits(wall_seconds=600))).start()\n"
        "found = []\nwhile not found:\n    time.sleep(0.05)\n"
        "    found = [p for p in os.listdir('/proc') if p.isdigit() and ours(p)]\n"
        "print(*found, flush=True)\ntime.sleep(600)"
    )
    ours = (
        "def ours(p):\n  try:\n    return '--json-status-fd' in open(f'/proc/{p}/cmdline').read() and "
        "f'PPid:\\t{__import__(\"os\").getpid()}' in open(f'/proc/{p}/status').read()\n  except OSError:\n    return False\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", ours + code], stdout=subprocess.PIPE, text=True)
    inner = parent.stdout.readline().split()
    assert len(inner) == 1
    parent.kill()
    parent.wait()
    for _ in range(1200):
        if not os.path.exists(f"/proc/{inner[0]}"):
            break
        time.sleep(0.05)
    else:
        pytest.fail("bubblewrap lives on")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "main.py", "a\0b"])
def test_files_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(RecipeError, match="sandbox file"):
        run_python("1", files={name: "x"})


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory_mb": 8}, {"threads": -1}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(RecipeError, match=next(iter(limits))):
        Limits(**limits)


def test_where_nothing_confines_code_runs_only_when_asked_and_never_quietly(monkeypatch):
    monkeypatch.setattr(room, "confinement", lambda: ("none", "asked by the test"))
    with pytest.raises(MachineError, match=r"bubblewrap.*--unconfined"):
        run_python("print(1)")
    with pytest.warns(RuntimeWarning, match="UNCONFINED"):
        result = run_python("print(1)", unconfined=True)
    assert (result.stdout, result.confined) == ("1\n", "none")


def test_a_missing_bubblewrap_is_found_out_and_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    how, why = room.confinement.__wrapped__()
    assert how in ("landlock", "none") and "bubblewrap is not installed" in why


# ---- the filter ------------------------------------------------------------------------------------------------------


def decide(program: bytes, number: int, args=(), arch: int | None = None) -> str:
    """Interpret a filter as the kernel does."""
    arch = seccomp.MACHINES["x86_64"][0] if arch is None else arch
    data = struct.pack("=iIQ6Q", number, arch, 0, *[*args, 0, 0, 0, 0, 0, 0][:6])
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == seccomp.LOAD:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif op == seccomp.RETURN:
            return {seccomp.ALLOW: "allow", seccomp.KILL: "kill"}.get(k, f"errno {k & 0xFFFF}")
        else:
            true = {
                seccomp.EQUAL: accumulator == k,
                seccomp.AT_LEAST: accumulator >= k,
                seccomp.ANY_BIT: bool(accumulator & k),
            }[op]
            at += yes if true else no


X86 = seccomp.build("x86_64", alone=True)


@pytest.mark.parametrize(
    ("number", "args", "verdict"),
    [
        (0, (), "allow"),  # read
        (41, (2, 1, 0), "errno 1"),  # socket
        (53, (1, 1, 0), "allow"),  # socketpair AF_UNIX
        (53, (2, 1, 0), "errno 1"),
        (56, (0x3D0F00,), "allow"),  # clone of a thread, as glibc asks
        (56, (17,), "errno 1"),  # fork
        (56, (0x10000000 | 0x10000,), "errno 1"),  # CLONE_NEWUSER
        (57, (), "errno 1"),  # fork
        (101, (16,), "errno 1"),  # ptrace
        (165, (), "errno 1"),  # mount
        (435, (), "errno 38"),  # clone3
        (9999, (), "errno 38"),  # not invented yet
        (16, (0, 0x5401), "allow"),  # ioctl TCGETS
        (16, (0, 0x5412), "errno 25"),  # TIOCSTI
        (16, (0, 0x5412 | 1 << 32), "errno 25"),  # the kernel reads 32 bits of it, so do we
        (0x40000000, (), "kill"),  # x32
    ],
)
def test_what_the_filter_says(number, args, verdict):
    assert decide(X86, number, args) == verdict


def test_another_architectures_calls_kill():
    assert decide(X86, 0, arch=0x40000003) == "kill"  # i386 on x86-64


@given(
    st.sampled_from(sorted(seccomp.MACHINES)),
    st.booleans(),
    st.integers(0, 600),
    st.lists(st.integers(0, 2**64 - 1), max_size=6),
)
def test_what_is_not_listed_is_never_allowed(machine, alone, number, args):
    program = seccomp.build(machine, alone=alone)
    if decide(program, number, args, seccomp.MACHINES[machine][0]) == "allow":
        assert number in seccomp.numbers(machine).values()


def test_without_a_namespace_the_filter_takes_signals_and_file_modes_too():
    program = seccomp.build("x86_64", alone=False)
    known = seccomp.numbers("x86_64")
    assert {decide(program, known[name]) for name in ("kill", "tgkill", "execve", "chmod", "utimensat")} == {"errno 1"}


@pytest.mark.skipif(
    not os.path.exists("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), reason="no kernel headers to compare with"
)
def test_the_numbers_are_the_kernels():
    text = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
    said = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    assert {name: said[name] for name in seccomp.numbers("x86_64")} == seccomp.numbers("x86_64")


# ---- the verb --------------------------------------------------------------------------------------------------------


@needs_any
def test_the_verb_passes_output_and_exit_code_on(tmp_path, capsys):
    program, data = tmp_path / "p.py", tmp_path / "in.txt"
    program.write_text("import sys\nprint(input()[::-1])\nsys.exit(7)")
    data.write_text("olleh\n")
    with warnings.catch_warnings():
        assert cli.main(["sandbox", str(program), "--stdin", str(data)]) == 7
    assert capsys.readouterr().out == "hello\n"
    assert cli.main(["sandbox", str(program), "--json"]) == 1
    assert "EOFError" in json.loads(capsys.readouterr().out)["stderr"]


@needs_any
def test_the_verb_says_why_it_stopped_a_program(tmp_path, capsys):
    program = tmp_path / "p.py"
    program.write_text("while True: print('x' * 1000)")
    assert cli.main(["sandbox", str(program), "--output-kb", "8"]) == 124
    assert "--output-kb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "give a FILE"),
        (["-", "--stdin", "-"], "stdin"),
        (["x", "--check"], "drop x"),
        (["--check", "--unconfined"], "drop --unconfined"),
    ],
)
def test_the_verb_refuses_what_makes_no_sense(argv, says, capsys):
    assert cli.main(["sandbox", *argv]) == 2
    assert says in capsys.readouterr().err


def test_the_room_needs_nothing_heavy():
    code = "import sys, seekling.sandbox; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert sandbox.__all__ == ["Limits", "Result", "confinement", "run_python"]
