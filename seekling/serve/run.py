"""The process: a socket, uvicorn around the application, and an end that lets open answers finish."""

import argparse
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from seekling.errors import MachineError
from seekling.serve.app import make_app
from seekling.serve.guard import Doors, Guard
from seekling.serve.line import lines
from seekling.serve.state import Limits, Server


def run(server: Server, args: argparse.Namespace, doors: Doors, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; then no new requests, and open ones have ``args.drain`` seconds.

    Raises:
        MachineError: the address cannot be had.
    """
    listening = bind(args.host, args.port)
    host = f"[{args.host}]" if ":" in args.host else args.host
    url, names = f"http://{host}:{listening.getsockname()[1]}", ", ".join(model.name for model in server.models)
    say(f"{names} at {url} (OpenAI base URL {url}/v1); Ctrl-C stops")
    Quiet(config(Guard(make_app(server), server, doors), server.limits, args.drain)).run(sockets=[listening])
    return 0


def config(app: ASGIApp, limits: Limits, drain: int) -> uvicorn.Config:
    """uvicorn's settings; ``drain``: seconds that open answers get when it is told to stop."""
    return uvicorn.Config(
        app,
        http=lines(limits),
        ws="none",
        limit_concurrency=limits.connections,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain,
        timeout_keep_alive=30,
        lifespan="on",
    )


class Quiet(uvicorn.Server):
    """Being told to stop is no failure: the exit code is 0 (uvicorn would raise the signal once more)."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; the port is taken before anything slow begins."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise MachineError(f"{host}:{port} cannot be had ({error.strerror}): give another --host or --port") from None
    return listening
