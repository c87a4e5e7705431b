"""A real uvicorn server in a thread, over a tiny model that answers at random or says what a test tells it."""

import subprocess
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import uvicorn
from engine_tiny import EOS as EOS
from engine_tiny import TOKENIZER, Script, config, tiny_lm

from seekling.engine import Engine
from seekling.serve.app import make_app
from seekling.serve.guard import Doors, Guard
from seekling.serve.model import Model
from seekling.serve.run import bind
from seekling.serve.run import config as uvicorn_config
from seekling.serve.state import Limits, Server

CONTEXT = 768
PATIENCE = 120.0  # seconds: a loaded machine is slow, a server that hangs stays so
for part in ("connect", "read", "write", "pool"):  # of every request that names no other: httpx waits five seconds
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, PATIENCE)


def random_engine(**options):
    lm = tiny_lm(max_position_embeddings=CONTEXT)
    return Engine(lm, **{"max_rows": 4, "cache_tokens": 4096, **options})


class Scripted(Script):
    """Says ``text`` after whatever prompt its test has announced."""

    def say(self, server, text, prompt_ids):
        ids = TOKENIZER.encode_pieces(text) if isinstance(text, list) else TOKENIZER.encode(text)
        self.tokens, self.prompt_length = [*ids, EOS], len(prompt_ids)


def scripted_engine(**options):
    lm = SimpleNamespace(model=Scripted([EOS], 1), tokenizer=TOKENIZER, config=config(max_position_embeddings=CONTEXT))
    return Engine(lm, **{"max_rows": 4, "cache_tokens": 4096, "prefix_cache": False, **options})


@contextmanager
def serving(engine=None, limits=None, beside=(), **options):
    """The server's state, its (first) model and its URL while it runs; ``beside``: further models."""
    names, adapters = options.pop("names", ["tiny", "gpt-tiny"]), options.pop("adapters", frozenset())
    model = Model(engine or random_engine(), names, adapters)
    more = {name: options.pop(name) for name in ("ledger", "barriers") if name in options}
    state = Server([model, *beside], limits or Limits(), options.pop("keep_alive", 10.0), **more)
    listening = bind("127.0.0.1", 0)
    app = options.pop("around", lambda app: app)(Guard(make_app(state), state, options.pop("doors", Doors())))
    server = uvicorn.Server(uvicorn_config(app, state.limits, drain=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        more = {"server": server, "thread": thread, "listening": listening}
        yield SimpleNamespace(state=state, model=model, engine=model.engine, url=url, **more)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


@contextmanager
def slowly(served, seconds=0.03):
    """Each step of its engine takes so long at least: an answer is under way still when the next request comes."""
    runner = served.engine._loop.cache.runner
    step = runner.step
    runner.step = lambda chunks: (time.sleep(seconds), step(chunks))[1]
    try:
        yield
    finally:
        runner.step = step


def started(command, **options):
    """A server in a process of its own, and its URL, once it says where it listens."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    said = []
    for line in process.stderr:
        said.append(line)
        if "http://" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, "http://" + line.split("http://")[1].split(" ")[0]
    raise AssertionError(f"it ended with {process.wait()} and said: {''.join(said)}")


def until(true, seconds=PATIENCE):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)
