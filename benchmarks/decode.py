"""Generation speed of Seekling's engine against llama.cpp, same weights, same threads, taking turns in one run.

Run: ``python benchmarks/decode.py --llama DIR`` with the folder of llama-bench, llama-batched-bench and llama-quantize (built
from the source distribution of llama-cpp-python). Without it only Seekling is measured.

``--models smollm2,v3-100m,dense-1.5b,mla-5b``: SmolLM2 is the real one (`seekling pull smollm2`), the others are random weights
of those shapes. llama.cpp gets the weights in each of its formats; Seekling opens the first file as it is and llama.cpp's
Q4_0 of it, and makes its own int8 and int4. Writing the larger shapes takes a while: ``--prepare --folder DIR`` does it
beforehand.

Cells: decode of 1 request, prefill of 512 tokens, 16 requests together; ``--depth 8192`` adds decode behind so many tokens;
time from the start of a process to its first token and its memory beyond weights and cache. ``--own RUN`` adds plain decode of
a run of your own against prompt look-up and its MTP layer, on the endings of its own samples. A round measures every
contestant once, in turn; the medians of ``--rounds`` are compared, the best format of each. Memory bandwidth is measured
between the rounds.

The host of a virtual machine moves its cores about: they share a cache and its way to memory at one time and lie apart at
another, where memory is nearly twice as fast. So the time from core to core is taken before and after each measurement, and
what was measured throughout one kind of placement is compared by itself too: cell_vs_llamacpp_cores_near (within 100 ns of
each other) and …_cores_apart, each [ratio, how many measurements of ours, of theirs].

The last line is one JSON object: {model: {cell (with its rounds: GB/s read before, ours, theirs), cell_vs_llamacpp (and by
placement), cell_bandwidth_share, prefill_gemm_share, decode_overhead_us (a token's time less that of reading its weights),
first_token_seconds, extra_memory_bytes, …}, "own": {…, gain}, "machine": {…}}.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from seekling import Engine, Sampling
from seekling.engine.loop import Loop
from seekling.engine.measure import fresh
from seekling.kernels import status
from seekling.lm import LM, resolve
from seekling.machine_speed import best_of, core_distance, gemm_gflops, read_bandwidth
from seekling.model import Decoder, ModelConfig
from seekling.verbs.bench import config_of

MLA = dict(first_k_dense_replace=1, max_position_embeddings=16384)
SHAPES: dict[str, dict[str, Any]] = {
    "v3-100m": dict(
        model_type="deepseek_v3", vocab_size=32000, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
        q_lora_rank=256, kv_lora_rank=256, qk_rope_head_dim=32, qk_nope_head_dim=64, v_head_dim=64, n_routed_experts=32,
        num_experts_per_tok=4,
        n_shared_experts=1, moe_intermediate_size=256, intermediate_size=1408, n_group=4, topk_group=2, **MLA,
    ),
    "mla-5b": dict(  # 26 layers: by their number llama.cpp knows models of this family that have no query latent
        model_type="deepseek_v2", vocab_size=32000, hidden_size=1280, num_hidden_layers=26, num_attention_heads=16,
        kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=64, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=768, intermediate_size=6912, scoring_func="softmax", topk_method="greedy",
        norm_topk_prob=False, **MLA,
    ),
    "dense-1.5b": dict(
        model_type="qwen2", attention="gqa", vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, head_dim=128, qkv_bias=True, max_position_embeddings=16384,
        moe_intermediate_size=0, kv_lora_rank=0, qk_nope_head_dim=0, qk_rope_head_dim=0, v_head_dim=0,
    ),
}  # fmt: skip
WRITTEN = {"dense-1.5b": "q4_0", "mla-5b": "q4_0"}  # random weights of the others are written as Q8_0
TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize")
FORMATS = ("Q4_0", "Q4_K_M", "Q8_0")
OURS = ("file", "Q4_0", "int4", "int8")
NEAR = 100  # nanoseconds from core to core: less where they share a cache, on the machines seen so far
CELLS = {"decode": "decode, 1 request", "prefill": "prefill 512", "together": "16 requests together"}


# ---- models ----------------------------------------------------------------------------------------------------------


def gguf_of(name: str, folder: Path) -> Path:
    """The model's GGUF file, as it comes or written from random weights, unless the folder has it from another run."""
    if name == "smollm2":
        return resolve("smollm2")
    from seekling.formats.gguf_write import write_gguf

    path = folder / f"{name}.gguf"
    if not path.is_file():
        print(f"{name:10} writing {path} …", flush=True)
        write_gguf(LM(random_model(ModelConfig(**SHAPES[name]))), path, WRITTEN.get(name, "q8_0"))
    return path


def random_model(config: ModelConfig) -> Decoder:
    """A model whose matrices are parts of one piece of memory, each beginning elsewhere.

    Embeddings are large and layers differ, so that tokens do too and routers spread them over the experts.
    """
    model = Decoder.empty(config, dtype=torch.bfloat16)
    generator, apart = torch.Generator().manual_seed(0), 1 << 20
    pool = torch.empty(max(p.numel() for p in model.parameters()) + apart, dtype=torch.bfloat16)
    pool.normal_(0, config.initializer_range, generator=generator)
    for module in model.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            norm = name == "weight" and tensor.dim() == 1
            first = int(torch.randint(apart, (1,), generator=generator))
            part = pool[first : first + tensor.numel()].view(tensor.shape)
            data = torch.ones(tensor.shape, dtype=torch.bfloat16) if norm else part
            if isinstance(module, torch.nn.Embedding):
                data = data / config.initializer_range
            setattr(module, name, torch.nn.Parameter(data, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return model


def requantised(path: Path, kind: str, tools: Path | None, folder: Path) -> Path | None:
    """The same weights in another of llama.cpp's formats."""
    if tools is None:
        return None
    out = folder / f"{path.stem}-{kind}.gguf"
    if out.is_file():
        return out
    command = [tools / "llama-quantize", "--allow-requantize", path, out, kind, "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"llama-quantize {kind}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return out


# ---- Seekling --------------------------------------------------------------------------------------------------------


class Ours:
    """One engine, measured through its public calls; without ``quant`` it takes the file as it is."""

    def __init__(self, path: Path, quant: Any, threads: int, depth: int):
        context = max(4096, depth + 512)
        self.engine = Engine(path, quant, threads=threads, cache_tokens=context, prefix_cache=False, runner="native")
        self.depth, self.random = depth, random.Random(0)

    def ids(self, count: int) -> list[int]:
        return [self.random.randrange(100, 20000) for _ in range(count)]

    def speak(self, prompts: list[list[int]], count: int) -> float:
        """Tokens a second of all answers, from the moment when all prompts are computed."""
        s = Sampling(max_tokens=count, temperature=0, ignore_eos=True, logprobs=False)
        handles = [self.engine._submit(group) for group in self.engine._intake.requests(prompts, s)]
        requests = [handle.requests[0] for handle in handles]
        while not all(request.token_ids for request in requests):
            self.engine._loop.step()
        before, start = sum(len(r.token_ids) for r in requests), time.perf_counter()
        for handle in handles:
            handle.results()
        return (sum(len(r.token_ids) for r in requests) - before) / (time.perf_counter() - start)

    def measure(self, cell: str) -> float:
        if cell == "decode":
            return self.speak([self.ids(16)], 65)
        if cell == "together":
            return self.speak([self.ids(128) for _ in range(16)], 49)
        if cell != "prefill":
            return self.speak([self.ids(self.depth)], 33)
        prompt, start = self.ids(512), time.perf_counter()
        self.engine.generate(prompt, Sampling(max_tokens=1, temperature=0, logprobs=False))
        return 512 / (time.perf_counter() - start)

    def bytes_a_token(self) -> float:
        """Bytes of weights one token reads: all but the input table, and of the experts those it is sent to."""
        count, runner = self.engine.config.parameters(), self.engine._backend.runner
        return runner.weight_bytes() * count.active_matmul / count.total  # type: ignore[attr-defined]


# ---- llama.cpp -------------------------------------------------------------------------------------------------------


def llama(tools: Path, path: Path, threads: int, depth: int, cell: str) -> float:
    """The same cell from llama-bench or llama-batched-bench."""
    if cell == "together":
        batched = run([
            tools / "llama-batched-bench", "-m", path, "-t", threads, "-c", 4096, "-b", 2048, "-ub", 512, "-npp", 128, "-ntg",
            48, "-npl", 16, "--output-format", "jsonl",
        ])  # fmt: skip
        return next(json.loads(line) for line in batched.splitlines() if line.startswith("{"))["speed_tg"]
    shallow = {"decode": ["-p", 0, "-n", 64], "prefill": ["-p", 512, "-n", 0]}
    what = shallow.get(cell, ["-p", 0, "-n", 32, "-d", depth, "-fa", 1])
    command = [tools / "llama-bench", "-m", path, "-t", threads, "-r", 1, "-o", "json", *what]
    return json.loads(run(command))[0]["avg_ts"]


def int8_gops(threads: int, size: int = 1024) -> float:
    """1e9 operations a second of torch's own int8 product, which uses VNNI: the peak that prefill is measured against."""
    torch.set_num_threads(threads)
    a, b = (torch.randint(-100, 100, (size, size), dtype=torch.int8) for _ in range(2))
    return 2 * size**3 / best_of(lambda: torch._int_mm(a, b), 0.3) / 1e9


def run(command: list[Any]) -> str:
    # Settings of OpenMP made for Seekling, such as threads that sleep at once, would cost llama.cpp half its speed.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-400:]}")
    return done.stdout


# ---- a run of one's own ------------------------------------------------------------------------------------------------------


def no_bursts() -> Any:
    """The engine as it is between several requests: Python between all tokens."""
    return mock.patch.object(Loop, "_alone", lambda self, works: None)


def own(path: Path, threads: int, rounds: int, quant: Any = None, prompts: list[Any] | None = None) -> dict[str, Any]:
    """Greedy answers to prompts the model is good at, plain and with each drafter, taking turns.

    Args:
        prompts: others than the usual five, whose answers end where the model ends them. Their time to the first token is
            measured too and does not count.
    """
    first = Sampling(max_tokens=1, temperature=0, logprobs=False)
    s = Sampling(max_tokens=96, temperature=0, ignore_eos=prompts is None, logprobs=False)
    skipped = prompts is not None
    if prompts is None:
        prompts = ["Once upon a time", [{"role": "user", "content": "Tell me a story."}]]
        prompts += [[{"role": "user", "content": text}] for text in ("Hello!", "Count from 1 to 20.", "What is 3 plus 4?")]
    kinds = {"steps": None, "plain": None, "ngram": "ngram", "mtp": "mtp"}  # steps: a native call for each token, no bursts
    engines: dict[str, Engine] = {}
    for kind, drafter in kinds.items():
        try:
            engines[kind] = Engine(path, threads=threads, prefix_cache=False, speculate=drafter, quant=quant)
        except Exception as error:
            print(f"own, {kind}: {error}", file=sys.stderr)
    speeds: dict[str, list[float]] = defaultdict(list)
    answers: dict[str, list[list[int]]] = {}
    for turn in range(rounds + 1):  # the first is slower and not counted
        for kind, engine in engines.items():
            with no_bursts() if kind == "steps" else contextlib.nullcontext():
                start = time.perf_counter()
                for prompt in prompts if skipped else ():
                    engine.generate([prompt], first)
                until_first = time.perf_counter() - start
                answers[kind] = [engine.generate([prompt], s)[0].token_ids for prompt in prompts]
            if turn:
                tokens = sum(map(len, answers[kind])) - skipped * len(prompts)
                speeds[kind].append(tokens / (time.perf_counter() - start - 2 * until_first))
    out: dict[str, Any] = {kind: round(statistics.median(values), 1) for kind, values in speeds.items()}
    for kind in engines.keys() - {"plain"}:
        out[f"{kind}_gain"] = round(out[kind] / out["plain"], 2)
    for kind in engines.keys() - {"plain", "steps"}:
        out[f"{kind}_tokens_per_step"] = round(engines[kind].stats()["tokens_per_step"], 2)
        out[f"{kind}_runner"] = engines[kind].stats()["runner"]
    print(f"own {quant or 'as stored':9} " + "  ".join(f"{key} {value}" for key, value in out.items()), flush=True)
    return out


# ---- the run ---------------------------------------------------------------------------------------------------------


def compare(name: str, args: argparse.Namespace, folder: Path, bandwidth: list[float]) -> dict[str, Any]:
    path = gguf_of(name, folder)
    files = {kind: requantised(path, kind, args.llama, folder) for kind in args.formats}
    if args.llama is not None:
        files["as it is"] = path
    ours: Values = defaultdict(lambda: defaultdict(list))
    theirs: Values = defaultdict(lambda: defaultdict(list))
    if args.prepare:
        return {"file": str(path), "others": [str(file) for file in files.values() if file is not None]}
    opened: dict[str, tuple[Path, str | None]] = {}  # file, and quant where it is not taken as it is
    for kind in args.ours:
        file = files.get(kind) if kind in FORMATS else path
        if file is not None:
            opened[kind] = file, None if kind in ("file", *FORMATS) else kind
    contestants = {kind: Ours(*what, args.threads, args.depth) for kind, what in opened.items()}
    cells = [*args.cells, *([f"decode_at_{args.depth}"] if args.depth else [])]
    weights = {quant: contestant.bytes_a_token() for quant, contestant in contestants.items()}
    for _ in range(args.rounds):
        bandwidth.append(read_bandwidth(args.threads, 0.5, 1 << 30))
        for quant, contestant in contestants.items():
            contestant.speak([contestant.ids(8)], 3)  # warm
            for cell in cells:
                ours[cell][quant].append(placed(partial(contestant.measure, cell)))
        for kind, file in files.items():
            for cell in cells if file is not None else ():
                theirs[cell][kind].append(placed(partial(llama, args.llama, file, args.threads, args.depth, cell)))
    contestants.clear()
    gc.collect()
    out = table(name, ours, theirs, weights, bandwidth[-args.rounds :])
    config = config_of(path)
    operations = 2 * (config.parameters().active_matmul - config.vocab_size * config.hidden_size)  # the head runs once
    if "prefill" not in out:
        return out
    out["prefill_gemm_share"] = round(out["prefill"]["tokens_per_second"] * operations / 1e9 / int8_gops(args.threads), 2)
    if "decode" not in out:
        return out
    best = out["decode"]["format"]
    start = fresh(*opened[best], "native", args.threads, 16, 512)
    out["first_token_seconds"], out["extra_memory_bytes"] = round(start.seconds, 2), start.extra
    print(
        f"{name:10} first token {start.seconds:.2f} s, {(start.extra or 0) / 1e6:.0f} MB beyond weights and cache", flush=True
    )
    return out


Placed = tuple[float, bool | None]  # a value, and whether the cores lay apart; None: moved meanwhile, or nobody can tell
Values = dict[str, dict[str, list[Placed]]]  # by cell and format, one a round


def placed(measure: Callable[[], float]) -> Placed:
    before, value, after = core_distance(), measure(), core_distance()
    if before is None or after is None or (before > NEAR) != (after > NEAR):
        return value, None
    return value, before > NEAR


def medians(values: dict[str, list[Placed]]) -> dict[str, float]:
    return {kind: statistics.median(value for value, _ in rounds) for kind, rounds in values.items()}


def table(name: str, ours: Values, theirs: Values, weights: dict[str, float], bandwidths: list[float]) -> dict[str, Any]:
    """Print the medians of every format; return the cells. ``bandwidths``: GB/s read before each round."""
    out: dict[str, Any] = {}
    bandwidth = statistics.median(bandwidths)
    for cell, values in ours.items():
        mine, peer = medians(values), medians(theirs[cell])
        best = max(mine, key=mine.__getitem__)
        out[cell] = {"tokens_per_second": round(mine[best], 1), "format": best}
        text = "  ".join(f"{k} {v:.1f}" for k, v in mine.items()) + "  |  " + "  ".join(f"{k} {v:.1f}" for k, v in peer.items())
        if peer:
            best_peer = max(peer, key=peer.__getitem__)
            out[f"{cell}_vs_llamacpp"] = round(mine[best] / peer[best_peer], 2)
            text += f"  |  {out[f'{cell}_vs_llamacpp']} x"
            both = values[best], theirs[cell][best_peer]
            rounds = zip(bandwidths, *both, strict=True)
            out[cell]["rounds"] = [[round(x, 1) for x in (before, one[0], other[0])] for before, one, other in rounds]
            for apart, place in ((False, "near"), (True, "apart")):
                a, b = ([value for value, where in one if where == apart] for one in both)
                if a and b:
                    ratio = round(statistics.median(a) / statistics.median(b), 2)
                    out[f"{cell}_vs_llamacpp_cores_{place}"] = [ratio, len(a), len(b)]
                    text += f"  {place}: {ratio} x ({len(a)}, {len(b)})"
        if cell.startswith("decode"):
            share = {k: v * weights[k] / 1e9 / bandwidth for k, v in mine.items()}
            out[f"{cell}_bandwidth_share"] = round(share[best], 2)
            out[f"{cell}_overhead_us"] = round(1e6 * (1 / mine[best] - weights[best] / 1e9 / bandwidth))
        print(f"{name:10} {CELLS.get(cell, cell):22} {text}", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2", help=f"smollm2, {', '.join(SHAPES)}")
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's tools")
    parser.add_argument("--formats", default=",".join(FORMATS), help="llama.cpp's")
    parser.add_argument("--ours", default=",".join(OURS), help="file, a format of llama.cpp's, int4, int4-64, int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own", type=Path, help="a run of your own, for speculation")
    parser.add_argument("--cells", default="decode,prefill,together", help="which of them; none with --cells ''")
    parser.add_argument("--folder", type=Path, help="keep the files of random weights here, for the next run")
    parser.add_argument("--prepare", action="store_true", help="only write those files")
    parser.add_argument("--depth", type=int, default=0, help="also measure decode behind so many tokens")
    args = parser.parse_args()
    args.formats, args.ours, args.cells = (
        list(filter(None, value.split(","))) for value in (args.formats, args.ours, args.cells)
    )
    missing = [] if args.llama is None else [tool for tool in TOOLS if not (args.llama / tool).is_file()]
    if missing:
        parser.error(f"--llama {args.llama} holds no {', '.join(missing)}: give the folder where llama.cpp's tools were built")
    torch.set_num_threads(args.threads)
    bandwidth: list[float] = []
    out: dict[str, Any] = {}
    if args.own is not None:
        out["own"] = own(args.own, args.threads, args.rounds)
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in filter(None, args.models.split(",")):
            out[name] = compare(name, args, Path(folder), bandwidth)
    bandwidth.append(read_bandwidth(args.threads, 0.5, 1 << 30))
    out["machine"] = {
        "threads": args.threads,
        "read_GB_s": round(statistics.median(bandwidth), 1),
        "int8_GOP_s": round(int8_gops(args.threads)),
        "bf16_GFLOP_s": round(gemm_gflops("bfloat16", args.threads, 0.3)),
        "kernels": status(),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
