"""Many people at once: Seekling's server under N concurrent streams, against llama-server on the same weights in the same run.

Run: ``python benchmarks/load.py --llama DIR`` with the folder of llama-server and llama-quantize (built from the source
distribution of llama-cpp-python). Without it only Seekling is measured; ``--server URL`` measures one that already runs.

Every stream asks a question, reads the answer to its end and asks the next, for ``--seconds``. Prompts are of 30 to 330 tokens,
no two alike, answers end where the model ends them or after ``--tokens``. The servers take turns ``--rounds`` times for each
number of ``--streams``, each with as many slots as there are streams, the same threads, and the machine to itself and the
client (one process of its own, which parses as little as it can). llama-server gets its fastest format of these weights (Q4_0)
unless ``--same-file``.

For long measurements ``--streams 64 --seconds 600 --llama DIR`` does both sides in turn. It can be cut in two: ``--side ours``,
later ``--side peer``, each with the same settings and its last line kept in a file, then ``--merge OURS PEER``.

Reported: tokens a second of all streams, time to the first token and between tokens (p50, p95, p99, ms), requests, errors, CPU
seconds of server and client, and the server's resident memory after ``--warm``, at the end, and its growth. The last line is
one JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

TOKEN = re.compile(rb'"content":\s*"[^"]')
USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
TICK = os.sysconf("SC_CLK_TCK")
WORDS = (
    "river mountain engine window letter garden winter market bridge doctor animal planet harbour music science "
    "village teacher machine forest history colour island weather kitchen library journey festival mirror camera castle"
).split()


# ---- the client ------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the streams of one measurement saw; times in seconds."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0
    said: int = 0  # tokens by the servers' own usage, of completed answers
    heard: int = 0  # the same by pieces of text
    errors: list[str] = field(default_factory=list)


class Answer(asyncio.Protocol):
    """One request and its stream. Looks for pieces of text and notes when they came; nothing else is parsed."""

    def __init__(self, request: bytes, seen: Seen, since: float, until: float):
        self.request, self.seen, self.since, self.until = request, seen, since, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = self.last = 0.0
        self.pieces, self.rest, self.tail, self.head = 0, b"", b"", b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.began = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.tail = (self.tail + data)[-4096:]
        if len(self.head) < 16:
            self.head += data[:16]
        text = self.rest + data
        cut = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        self.rest, count = text[cut:], len(TOKEN.findall(text, 0, cut))
        if now > self.until:  # what comes after the end is not counted
            return self._end()
        for _ in range(count):
            if now > self.since:
                (self.seen.between if self.pieces else self.seen.first).append(now - (self.last if self.pieces else self.began))
                self.seen.tokens += 1
            self.last = now
            self.pieces += 1
        if b"data: [DONE]" in self.tail:
            usage = USAGE.findall(self.tail)
            self.seen.requests += now > self.since
            if usage and now > self.since:
                self.seen.said += int(usage[-1])
                self.seen.heard += self.pieces
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            if time.perf_counter() < self.until:
                self.seen.errors.append(f"cut off after {self.pieces} pieces: {(self.head + self.tail)[:200]!r}")
            self.done.set_result(None)

    def _end(self) -> None:
        if not self.done.done():
            if not self.head.startswith(b"HTTP/1.1 200"):
                self.seen.errors.append(self.tail[:200].decode("utf-8", "replace"))
            self.done.set_result(None)
            self.transport.close()


def question(draw: random.Random) -> str:
    """A prompt nobody has sent before."""
    notes = " ".join(draw.choices(WORDS, k=draw.choice((5, 20, 60, 150, 250))))
    return f"Note {draw.randrange(10**9)}: {notes}. Write a short story with these words."


async def one_stream(url: Any, number: int, tokens: int, seen: Seen, since: float, until: float, seed: int) -> None:
    draw = random.Random(seed * 1000 + number)
    loop = asyncio.get_running_loop()
    while time.perf_counter() < until:
        body = json.dumps(
            {
                "model": "smollm2",
                "messages": [{"role": "user", "content": question(draw)}],
                "max_tokens": tokens,
                "temperature": 0.7,
                "stream": True,
                "stream_options": {"include_usage": True},
                "seed": draw.randrange(1 << 30),
            }
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            _, answer = await loop.create_connection(lambda r=request: Answer(r, seen, since, until), url.hostname, url.port)
        except OSError as error:
            seen.errors.append(str(error))
            await asyncio.sleep(0.1)
            continue
        try:
            await asyncio.wait_for(asyncio.shield(answer.done), max(0.1, until - time.perf_counter() + 0.2))
        except TimeoutError:
            answer.transport.close()


async def streams(url: str, count: int, warm: float, seconds: float, tokens: int, seed: int) -> Seen:
    """All of them for ``warm`` seconds unseen, so that they no longer march in step, and then for ``seconds``."""
    seen, since = Seen(), time.perf_counter() + warm
    until = since + seconds
    await asyncio.gather(*(one_stream(urlsplit(url), n, tokens, seen, since, until, seed) for n in range(count)))
    return seen


# ---- servers ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Running:
    """A server process that has answered /health."""

    def __init__(self, name: str, command: list[Any], port: int, log: Path):
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        began = time.perf_counter()
        self.process = subprocess.Popen(list(map(str, command)), stdout=log.open("wb"), stderr=subprocess.STDOUT)
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                pass
            if self.process.poll() is not None or time.perf_counter() - began > 120:
                raise SystemExit(f"{name} did not start: {log.read_text()[-600:]}")
            time.sleep(0.05)
        self.started = time.perf_counter() - began

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def ours(model: str, rows: int, threads: int, folder: Path) -> Running:
    port = free_port()
    keys = folder / "no-keys.json"
    command = [sys.executable, "-m", "seekling", "serve", model, "--port", port, "--rows", rows, "--threads", threads]
    return Running("seekling", [*command, "--keys", keys, "--max-queue", 1024], port, folder / "seekling.log")


def llama(tools: Path, file: Path, rows: int, threads: int, folder: Path) -> Running:
    port = free_port()
    command = [tools / "llama-server", "-m", file, "--port", port, "-np", rows, "-c", rows * 1024, "-t", threads]
    return Running("llama-server", [*command, "-tb", threads, "--no-webui"], port, folder / "llama.log")


def q4_0(tools: Path, path: Path, folder: Path) -> Path:
    """llama.cpp's fastest format of these weights."""
    out = folder / f"{path.stem}-q4_0.gguf"
    command = [tools / "llama-quantize", "--allow-requantize", path, out, "Q4_0", 2]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return out


def pages_in_use(url: str) -> float | None:
    """Share of the cache's pages that answers hold, by Seekling's metrics; None where there are none such."""
    try:
        with urllib.request.urlopen(url + "/metrics", timeout=5) as answer:
            found = re.search(r"^vllm:kv_cache_usage_perc\{[^}]*\} (\S+)", answer.read().decode(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else float(found.group(1))


# ---- measuring -------------------------------------------------------------------------------------------------------


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95, p99 in milliseconds; None where nothing came."""
    ordered = sorted(values)

    def at(p: int) -> float | None:
        return round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))], 1) if ordered else None

    return {f"p{p}": at(p) for p in (50, 95, 99)}


def measure(server: Running, count: int, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Warm up, then measure."""
    watched: list[int] = []
    marks: list[float] = []

    async def both() -> Seen:
        async def watch() -> None:
            await asyncio.sleep(args.warm)
            marks[:] = [server.cpu(), time.process_time(), time.perf_counter()]
            while True:
                watched.append(server.rss())
                await asyncio.sleep(1 + args.seconds / 50)

        watching = asyncio.ensure_future(watch())
        try:
            return await streams(server.url, count, args.warm, args.seconds, args.tokens, seed)
        finally:
            watching.cancel()

    seen = asyncio.run(both())
    took = time.perf_counter() - marks[2]
    out = {
        "tokens_per_s": round(seen.tokens / args.seconds, 1),
        "ttft_ms": percentiles(seen.first),
        "inter_token_ms": percentiles(seen.between),
        "requests": seen.requests,
        "tokens": seen.tokens,
        "errors": len(seen.errors),
        "tokens_a_piece": round(seen.said / max(1, seen.heard), 3),
        "server_cores": round((server.cpu() - marks[0]) / took, 2),
        "client_cores": round((time.process_time() - marks[1]) / took, 2),
    }
    time.sleep(1.0)  # answers that were cut off end within a step
    begin, third = watched[0], watched[len(watched) // 3]
    end = server.rss()
    out["rss_mb"] = {
        "begin": begin >> 20,
        "third": third >> 20,
        "end": end >> 20,
        "growth_after_third": round(end / third - 1, 4),
    }
    out["pages_in_use_at_end"] = pages_in_use(server.url)
    for line in dict.fromkeys(seen.errors[:5]):
        print(f"  {server.name}: {line}", file=sys.stderr)
    return out


def line(name: str, count: int, cell: dict[str, Any]) -> str:
    first, between = (
        " / ".join("-" if v is None else f"{v:.0f}" for v in cell[k].values()) for k in ("ttft_ms", "inter_token_ms")
    )
    return (
        f"{name:>12} {count:3d} streams  {cell['tokens_per_s']:7.0f} tokens/s  first {first} ms  between {between} ms  "
        f"{cell['requests']} answers, {cell['errors']} errors, {cell['server_cores']} + {cell['client_cores']} cores"
    )


def middle(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several rounds the one with the median speed, and the spread."""
    speeds = [cell["tokens_per_s"] for cell in cells]
    return sorted(cells, key=lambda cell: abs(cell["tokens_per_s"] - median(speeds)))[0] | {
        "spread": [min(speeds), max(speeds)],
        "errors": sum(cell["errors"] for cell in cells),
    }


SETTINGS = ("model", "seconds", "warm", "tokens", "threads", "rounds")  # what two pieces must have in common


def sides(args: argparse.Namespace) -> list[Callable[[int], Running]]:
    """What starts each server that is to be measured, for a number of streams."""
    out: list[Callable[[int], Running]] = []
    if args.side != "peer":
        out.append(lambda count: ours(args.model, count, args.threads, args.folder))
    if args.llama is not None and args.side != "ours":
        from seekling.lm import resolve

        path = Path(resolve(args.model))
        file = path if args.same_file else q4_0(args.llama, path, args.folder)
        out.append(lambda count: llama(args.llama, file, count, args.threads, args.folder))
    return out


def compared(cells: dict[str, Any]) -> dict[str, Any]:
    """With the ratios, where both were measured."""
    if {"seekling", "llama-server"} <= cells.keys():
        mine, theirs = cells["seekling"], cells["llama-server"]
        pairs = {
            "tokens_per_s": (mine["tokens_per_s"], theirs["tokens_per_s"]),
            "ttft_p95": (mine["ttft_ms"]["p95"], theirs["ttft_ms"]["p95"]),
        }
        cells["ratio"] = {name: round(own / other, 2) if own and other else None for name, (own, other) in pairs.items()}
    return cells


def merged(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Pieces of one measurement as one. SystemExit where their settings differ."""
    out = dict(pieces[0])
    for piece in pieces[1:]:
        for name in SETTINGS:
            if piece[name] != out[name]:
                raise SystemExit(f"the pieces do not belong together: {name} is {out[name]} and {piece[name]}")
        for count in piece.keys() - out.keys():
            out[count] = {}
        for count, cells in piece.items():
            if count.isdigit():
                out[count] = compared({**out[count], **cells})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--llama", type=Path, default=None, help="folder of llama-server and llama-quantize")
    parser.add_argument("--same-file", action="store_true", help="llama-server reads the file as it is")
    parser.add_argument("--side", choices=("ours", "peer"), default=None, help="measure only this one")
    parser.add_argument("--merge", type=Path, nargs=2, default=None, metavar="FILE", help="two pieces' last lines as one")
    parser.add_argument("--server", default=None, help="measure only this URL")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--warm", type=float, default=40.0, help="unseen seconds, until answers begin and end evenly")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/seekling-load"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.server is not None:
        for count in args.streams:
            seen = asyncio.run(streams(args.server, count, args.warm, args.seconds, args.tokens, 1))
            cell = {"tokens_per_s": seen.tokens / args.seconds, "ttft_ms": percentiles(seen.first)}
            print(json.dumps({count: cell | {"inter_token_ms": percentiles(seen.between), "errors": len(seen.errors)}}))
        return
    if args.merge is not None:
        print(json.dumps(merged([json.loads(path.read_text().splitlines()[-1]) for path in args.merge])))
        return
    if args.side == "peer" and args.llama is None:
        parser.error("--side peer needs --llama DIR")
    results: dict[str, Any] = {}
    for count in args.streams:
        rounds: dict[str, list[dict[str, Any]]] = {}
        for number in range(args.rounds):
            for make in sides(args):
                server = make(count)
                try:
                    cell = measure(server, count, args, number)
                finally:
                    server.stop()
                cell["start_s"] = round(server.started, 2)
                rounds.setdefault(server.name, []).append(cell)
                print(line(server.name, count, cell), file=sys.stderr, flush=True)
        results[str(count)] = compared({name: middle(some) for name, some in rounds.items()})
    settings = {name: getattr(args, name) for name in SETTINGS}
    print(json.dumps({"benchmark": "load", **settings, **results}))


if __name__ == "__main__":
    main()
