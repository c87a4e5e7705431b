"""The thread that does the steps. Engines of one process may share it: they take turns, each step with all the cores.

Two engines that stepped at once would have twice as many threads as there are cores, waiting for each other at every barrier.
"""

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from seekling.engine.loop import Loop


class Driver:
    """Steps the loops that have joined it, while any of them has something to do.

    Attributes:
        wake: to be notified when a loop has something to do; it notifies after a step. stepping: held by whoever steps one of
            its loops.
        door: held by who waits for `stepping` or has it for something else than a step. The thread goes through it before every
            step, or it would take `stepping` again before anybody who waits could wake up.
        hurry: int32, one number that native code reads: not 0 once somebody wants a turn, and a step of several tokens ends.
    """

    def __init__(self) -> None:
        self.wake = threading.Condition()
        self.stepping, self.door = threading.RLock(), threading.Lock()
        self.hurry = np.zeros(1, np.int32)
        self._loops: list[Loop] = []
        self._steps = 0
        self._thread: threading.Thread | None = None

    def join(self, loop: "Loop") -> None:
        """Step this loop too, from now on."""
        with self.wake:
            if loop not in self._loops:
                self._loops.append(loop)
            if not self._runs:
                self._thread = threading.Thread(target=self._work, name="seekling-engine", daemon=True)
                self._thread.start()
            self.wake.notify_all()

    def leave(self, loop: "Loop") -> None:
        """Step it no more. With the last loop the thread ends, before this returns."""
        with self.wake:
            if loop in self._loops:
                self._loops.remove(loop)
            thread = None if self._loops else self._thread
            self.wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def drives(self, loop: "Loop") -> bool:
        """Whether the thread runs and steps this loop."""
        return self._runs and loop in self._loops

    def others_wait(self, loop: "Loop") -> bool:
        """Whether another loop has something to do."""
        return any(other.busy for other in self._loops if other is not loop)

    def give_way(self) -> None:
        """Wait for the thread to do a step, where there is something to do: who pauses it again and again is faster than it."""
        with self.wake:
            before = self._steps
            stepped = lambda: self._steps > before or not (self._runs and any(loop.busy for loop in self._loops))  # noqa: E731
            self.wake.wait_for(stepped, timeout=1.0)

    @property
    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self.wake:
                self.wake.notify_all()  # those that give way
                while self._loops and not any(loop.busy for loop in self._loops):
                    self.wake.wait()
                if not self._loops:
                    self._thread = None
                    return
                busy = [loop for loop in self._loops if loop.busy]
            for loop in busy:
                with self.door:
                    pass
                loop.step()
                self._steps += 1
