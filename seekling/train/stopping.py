"""Stopping a run from outside: SIGINT and SIGTERM let the step in work end and be saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(SystemExit):
    """The run was asked to stop, has saved and says how to go on. Exit code 130 after SIGINT, 143 after SIGTERM."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(128 + signal_number)
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list; a second SIGINT interrupts at once. Does nothing off the main thread."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        if number == signal.SIGINT:
            os.write(2, b"\nstopping after this step and saving; press Ctrl-C again to stop at once without saving\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
