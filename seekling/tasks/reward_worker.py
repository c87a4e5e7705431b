"""Runs a user's reward file in a process of its own: one JSON line in, one out.  :mod:`seekling.tasks.user` starts it by path;
it imports nothing of Seekling, and what the file prints goes to standard error."""

import json
import os
import sys


def main(path: str, memory_mb: int) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # not a POSIX system, or already lower
        pass

    def say(record: dict) -> None:
        print(json.dumps(record), file=out, flush=True)

    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    space: dict = {"__name__": "reward", "__file__": path}
    try:
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), space)
    except BaseException as error:
        say({"broken": f"{type(error).__name__}: {error}"})
        return
    if not callable(space.get("reward")):
        say({"broken": "it defines no function reward(answer, problem)"})
        return
    say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            value = space["reward"](asked["answer"], asked["problem"])
        except BaseException as error:
            say({"raised": f"{type(error).__name__}: {error}"})
            continue
        number = isinstance(value, bool | int | float) or hasattr(value, "__float__")
        say({"value": float(value)} if number else {"other": type(value).__name__})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
