"""Measuring an engine: speed of decode and prefill, what a token reads, memory, time to the first token.

The engine is driven step by step from here, so that the prompts' time is not counted as decoding. Time to the first token and
memory come from fresh processes (``python -m seekling.engine.measure``), which hold nothing but the engine.

Units: bytes, seconds, tokens a second, GB = 1e9 bytes, price an hour in any currency.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seekling.engine.engine import Engine
from seekling.engine.runner import PAGE
from seekling.engine.sampling import Sampling
from seekling.errors import MachineError, SeeklingError
from seekling.model.config import ModelConfig

START = 16  # prompt tokens of a request whose decoding is measured
REFUSED = 2  # exit code of a fresh process whose last line is for the user
FEW = 8  # tokens that a fresh process writes after the first


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def experts_read(config: ModelConfig, rows: int) -> float:
    """Of a layer's routed experts, the share that a step of so many tokens is expected to read, routers choosing evenly."""
    if not config.n_routed_experts:
        return 0.0
    return 1 - (1 - config.num_experts_per_tok / config.n_routed_experts) ** rows


def cache_positions(config: ModelConfig, position: int) -> float:
    """Cached tokens that one token behind ``position`` others reads, mean over the layers that have a cache."""
    kinds = [i for i in range(config.num_hidden_layers) if config.layer_type(i) != "linear_attention"]
    return statistics.fmean(min(position, config.window(i) or position) for i in kinds) if kinds else 0.0


def bandwidth_share(bytes_a_token: float, tokens_per_second: float, bandwidth_gbs: float) -> float:
    """Share of the memory bandwidth that this speed takes; above 1 where caches hold some of the bytes."""
    return bytes_a_token * tokens_per_second / (bandwidth_gbs * 1e9)


def cost_per_million(price_an_hour: float, tokens_per_second: float) -> float:
    """What a million tokens cost on a machine of that price, busy with nothing else."""
    return price_an_hour / 3600 / tokens_per_second * 1e6


def tokens_needed(rows: Sequence[int], tokens: int, prompt: int, depth: int | None) -> int:
    """Size of the cache for these cells, whole pages for every request and one to spare."""
    a_row = (-(-(START + tokens) // PAGE) + 1) * PAGE
    return max(max(rows) * a_row, prompt + 2 * PAGE, (depth or 0) + tokens + 2 * PAGE)


# ---- what an engine holds --------------------------------------------------------------------------------------------


def matrices(engine: Engine) -> list[tuple[str, int]]:
    """("embedding" | "expert" | "other", bytes) of everything the engine keeps of the weights; MTP layers are left out."""
    config, runner = engine.config, engine._backend.runner
    tied = config.tie_word_embeddings
    if hasattr(runner, "packed"):
        sides = {config.moe_intermediate_size, config.hidden_size}
        out = []
        for matrix in runner.packed():
            *stack, outputs, inputs = matrix.shape
            expert = bool(stack) and stack[0] == config.n_routed_experts and {outputs, inputs} == sides
            table = matrix is runner._embedding and not tied  # type: ignore[attr-defined]
            out.append(("expert" if expert else "embedding" if table else "other", matrix.nbytes()))
        return out
    tensors = [*engine.model.named_parameters(), *engine.model.named_buffers()]
    out = []
    for name, tensor in tensors:
        layer = name.removeprefix("model.layers.").partition(".")[0]
        if "mtp" in name or (layer.isdigit() and int(layer) >= config.num_hidden_layers):
            continue
        table = "embed_tokens" in name and not tied
        out.append(("expert" if ".experts." in name else "embedding" if table else "other", tensor.nbytes))
    return out


def weight_bytes(engine: Engine) -> int:
    """Bytes of the weights as the engine keeps them."""
    return sum(size for _, size in matrices(engine))


def weight_format(engine: Engine) -> str:
    """The format that holds most bytes of the weights: a key of `kernels.infer.FORMATS`, or "f16"."""
    sizes: Counter[str] = Counter()
    runner = engine._backend.runner
    if hasattr(runner, "packed"):
        for matrix in runner.packed():
            sizes[matrix.format] += matrix.nbytes()
    else:
        for tensor in (*engine.model.parameters(), *engine.model.buffers()):
            name = str(tensor.dtype).removeprefix("torch.")
            sizes[{"uint8": engine.quant or name}.get(name, name.replace("bfloat", "bf").replace("float", "f"))] += (
                tensor.nbytes
            )
    return sizes.most_common(1)[0][0]


def cache_bytes_a_token(engine: Engine) -> float:
    """Bytes one token leaves in the cache, all layers."""
    runner = engine._backend.runner
    if hasattr(runner, "packed"):
        return runner._native.model.page_bytes / PAGE  # type: ignore[attr-defined]
    return engine.config.kv_elements_per_token() * next(engine.model.parameters()).element_size()


def bytes_a_token(engine: Engine, rows: int, position: float) -> float:
    """Bytes of weights and cache read for each token, where ``rows`` requests stand behind ``position`` tokens each.

    A step reads the weights once for all its rows, of the routed experts those that are expected to be chosen, and of the
    input table next to nothing (a row a token).
    """
    share = {"other": 1.0, "expert": experts_read(engine.config, rows), "embedding": 0.0}
    weights = sum(size * share[kind] for kind, size in matrices(engine))
    return weights / rows + cache_bytes_a_token(engine) * cache_positions(engine.config, round(position))


# ---- driving it ------------------------------------------------------------------------------------------------------


def drawn(engine: Engine, count: int, seed: int) -> list[int]:
    """A prompt of random tokens, the same every time."""
    r = random.Random(seed)
    return [r.randrange(engine.config.vocab_size) for _ in range(count)]


def speak(engine: Engine, prompts: list[Any], count: int) -> float:
    """Decode tokens a second of all answers together, from the moment when every prompt is computed."""
    s = Sampling(max_tokens=count, temperature=0, ignore_eos=True, logprobs=False)
    handles = [engine._submit(group, bounded=False) for group in engine._intake.requests(prompts, s)]
    requests = [handle.requests[0] for handle in handles]
    while not all(request.token_ids for request in requests):
        if not engine._loop.step():
            break
    before, start = sum(len(r.token_ids) for r in requests), time.perf_counter()
    for handle in handles:
        handle.results()
    return max(1, sum(len(r.token_ids) for r in requests) - before) / (time.perf_counter() - start)


def first_token(engine: Engine, prompt: list[int]) -> float:
    """Seconds from a prompt to its first token, in an engine that runs already."""
    start = time.perf_counter()
    engine.generate([prompt], Sampling(max_tokens=1, temperature=0, ignore_eos=True, logprobs=False))
    return time.perf_counter() - start


class Others:
    """How many cores the other processes of this machine kept busy since the last call; None where /proc does not say."""

    def __init__(self) -> None:
        self._last = self._read()

    def cores(self) -> float | None:
        before, self._last = self._last, self._read()
        if before is None or self._last is None or self._last[1] <= before[1]:
            return None
        return max(0.0, (self._last[0] - before[0]) / (self._last[1] - before[1]))

    @staticmethod
    def _read() -> tuple[float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            user, nice, system, _, _, irq, softirq, steal = (int(x) / os.sysconf("SC_CLK_TCK") for x in fields)
        except (OSError, ValueError):
            return None
        return user + nice + system + irq + softirq + steal - sum(os.times()[:4]), time.perf_counter()


# ---- fresh processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """One command from its start.

    Attributes:
        seconds: from the start of the process to its first token.
        peak: most memory it ever held (VmHWM); resident: what it held at the end (VmRSS). None where /proc does not say.
        weights, cache: bytes of the weights as kept, and of the cache in use at its fullest.
    """

    seconds: float
    peak: int | None
    resident: int | None
    weights: int
    cache: int

    @property
    def extra(self) -> int | None:
        """Memory over weights and cache at the end."""
        return None if self.resident is None else self.resident - self.weights - self.cache


def fresh(path: Path, quant: str | None, runner: str, threads: int | None, rows: int, prompt: int) -> Fresh:
    """Start a process that loads the model, writes a token, then works on ``rows`` requests and a long prompt.

    Raises:
        MachineError: it ended with an error, such as too little memory.
    """
    task = {"path": str(path), "quant": quant, "runner": runner, "threads": threads, "rows": rows, "prompt": prompt}
    start = time.perf_counter()
    command = [sys.executable, "-m", "seekling.engine.measure", json.dumps(task)]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:  # a pipe nobody reads could fill
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            seconds = time.perf_counter() - start
            out = process.stdout.read()
        errors.seek(0)
        err = errors.read()
    if process.returncode:
        why = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        if process.returncode == REFUSED:
            raise MachineError(why)
        raise MachineError(f"a fresh process with {path} ended: {why}; free some memory, or quantise the weights")
    return Fresh(seconds=seconds, **json.loads(out.splitlines()[-1]))


def child(task: dict[str, Any], say: Callable[[str], None]) -> None:
    """What a fresh process does: the first token, then the memory that more work takes."""
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    cache = tokens_needed([task["rows"]], FEW, task["prompt"], None)
    engine = Engine(
        task["path"], task["quant"], runner=task["runner"], threads=task["threads"], max_rows=task["rows"],
        cache_tokens=cache, prefix_cache=False,
    )  # fmt: skip
    first_token(engine, drawn(engine, START, 0))
    say("first")
    pool = engine._loop.cache.pool
    most = 0
    parts: list[list[Any]] = [[drawn(engine, task["prompt"], 1)], [drawn(engine, START, i) for i in range(task["rows"])]]
    for prompts in parts:
        s = Sampling(max_tokens=FEW, temperature=0, ignore_eos=True, logprobs=False)
        for group in engine._intake.requests(prompts, s):
            engine._submit(group, bounded=False)
        while engine._loop.step():
            most = max(most, pool.used)
    held = round(most * PAGE * cache_bytes_a_token(engine))
    memory = status_bytes()
    say(json.dumps(dict(peak=memory.get("VmHWM"), resident=memory.get("VmRSS"), weights=weight_bytes(engine), cache=held)))


def status_bytes() -> dict[str, int]:
    """Sizes in /proc/self/status, in bytes; nothing where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def forget_files(path: Path) -> bool:
    """Ask the system to drop a model's files from its file cache; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]:
        try:
            handle = os.open(file, os.O_RDONLY)
        except OSError:
            return False
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def as_dict(spread: Spread) -> dict[str, float]:
    return asdict(spread)


if __name__ == "__main__":
    try:
        child(json.loads(sys.argv[1]), lambda line: print(line, flush=True))
    except SeeklingError as refused:
        print(" ".join(str(refused).split()), file=sys.stderr)
        sys.exit(REFUSED)
