"""What runs first in the sandbox's Python: bounds itself, then runs the program. Given to ``python -c``; imports no seekling.

``sys.argv[1]`` is JSON: ``limits`` (name of an rlimit -> value), and outside bubblewrap ``landlock`` (folders that may be read)
and ``filter`` (the seccomp program, base64). The program is ``main.py`` in the working folder.
"""

import sys


def bound(limits):
    """Set resource limits that cannot be raised again."""
    import resource

    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def confine(readable, program):
    """Landlock and seccomp on this process. Raises OSError where the kernel has none; either may be left out with None."""
    import base64
    import ctypes
    import os
    import struct

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        done = libc.syscall(ctypes.c_long(number), *arguments)
        if done < 0:
            raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
        return done

    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if readable is not None:  # linux/landlock.h: create_ruleset 444, add_rule 445, restrict_self 446
        abi = call(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
        everything = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
        ruleset = call(444, struct.pack("=Q", everything), ctypes.c_size_t(8), ctypes.c_uint32(0))
        for path in readable:
            if not os.path.exists(path):
                continue
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = 0b1101 if os.path.isdir(path) else 0b101  # execute (to map libraries), read file, read folder
            call(445, ctypes.c_int(ruleset), ctypes.c_int(1), struct.pack("=Qi", allowed, handle), ctypes.c_uint32(0))
            os.close(handle)
        call(446, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        os.close(ruleset)
    if program is not None:
        code = base64.b64decode(program)
        buffer = ctypes.create_string_buffer(code, len(code))
        fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        if libc.prctl(22, 2, fprog, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))


def run():
    """The program as ``__main__``; its traceback shows nothing of this file."""
    import _sitebuiltins
    import builtins
    import json
    import types

    settings = json.loads(sys.argv[1])
    bound(settings["limits"])
    if "filter" in settings:
        confine(settings["landlock"], settings["filter"])
    with open("main.py", "rb") as file:
        source = file.read()
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")  # site's, which is not imported
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    sys.argv = ["main.py"]
    sys.path.insert(0, "")
    main = types.ModuleType("__main__")
    main.__file__ = "main.py"
    sys.modules["__main__"] = main
    try:
        exec(compile(source, "main.py", "exec"), main.__dict__)
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
            trace = trace.tb_next
        error.__traceback__ = trace
        sys.excepthook(type(error), error, trace)
        sys.exit(1)


if __name__ == "__main__":
    run()
