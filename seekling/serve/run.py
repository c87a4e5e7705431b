"""The process: a socket, uvicorn around the application, and an end that lets open answers finish."""

import argparse
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from seekling.errors import MachineError
from seekling.serve.app import make_app
from seekling.serve.guard import Doors, Guard
from seekling.serve.state import Server


def run(server: Server, args: argparse.Namespace, doors: Doors, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; then no new requests, and open ones have ``args.drain`` seconds.

    Raises:
        MachineError: the address cannot be had.
    """
    listening = bind(args.host, args.port)
    port = listening.getsockname()[1]
    host = f"[{args.host}]" if ":" in args.host else args.host
    say(f"{server.name} at http://{host}:{port} (OpenAI base URL http://{host}:{port}/v1); Ctrl-C stops")
    config = uvicorn.Config(
        Guard(make_app(server), server, doors),
        limit_concurrency=1024,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=args.drain,
        timeout_keep_alive=30,
        lifespan="on",
    )
    Quiet(config).run(sockets=[listening])
    return 0


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
