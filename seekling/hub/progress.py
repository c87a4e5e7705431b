"""The progress of a download: a bar with rate and time left on a terminal, a line a file elsewhere."""

from typing import Any


class Quiet:
    """Shows nothing; what `Bar` and `Lines` do with each call is described here."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def file(self, name: str, size: int, done: int = 0) -> None:
        """A file of ``size`` bytes begins, ``done`` of them being here already."""

    def advance(self, n: int) -> None:
        """``n`` more bytes of it arrived."""

    def say(self, text: str) -> None:
        """A line about what is going on."""


class Lines(Quiet):
    """A line a file on stderr."""

    def file(self, name: str, size: int, done: int = 0) -> None:
        from seekling.plan import size_text

        self.say(f"{name}  {size_text(size)}" + (f", {size_text(done)} of it here already" if done else ""))

    def say(self, text: str) -> None:
        import sys

        print(text, file=sys.stderr, flush=True)


class Bar(Quiet):
    """A bar a file on a terminal's stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._task: Any = None

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def file(self, name: str, size: int, done: int = 0) -> None:
        self._task = self._progress.add_task(name, total=size, completed=done)

    def advance(self, n: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, n)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def shown() -> Quiet:
    """The form that suits stderr."""
    import sys

    return Bar() if sys.stderr.isatty() else Lines()
