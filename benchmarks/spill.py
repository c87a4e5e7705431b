"""The cache's spill: a long prompt computed, and read back from files by a later engine.

    python benchmarks/spill.py --tokens 4096

SmolLM2 (Q4_1) reads a text of so many tokens and writes one; then a new engine over the same folder does. Last line: JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from seekling import Engine, Sampling


def timed(folder: Path | None, ids: list[int], args: argparse.Namespace) -> tuple[float, Any, dict[str, Any], float]:
    """Seconds to the first token, the answer, the engine's counts, and seconds to close."""
    engine = Engine(
        args.model, threads=args.threads, cache_tokens=args.tokens + 256, cache_dtype=args.cache_dtype, cache_spill=folder
    )
    engine.generate([[5, 6, 7]], Sampling(max_tokens=4, temperature=0))  # warm
    start = time.perf_counter()
    answer = engine.generate([ids], Sampling(max_tokens=1, temperature=0))[0]
    seconds, stats = time.perf_counter() - start, engine.stats()
    start = time.perf_counter()
    engine.close()
    return seconds, answer, stats, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache-dtype", choices=("bf16", "int8"), default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    computed, read, closing, answers, stats = [], [], [], set(), {}
    for turn in range(args.rounds):
        ids = torch.randint(100, 20000, (args.tokens,), generator=torch.Generator().manual_seed(turn)).tolist()
        with tempfile.TemporaryDirectory() as folder:
            seconds, first, _, close = timed(Path(folder), ids, args)
            computed.append(seconds)
            closing.append(close)
            seconds, again, stats, _ = timed(Path(folder), ids, args)
            read.append(seconds)
        assert (first.token_ids, first.logprobs) == (again.token_ids, again.logprobs), "the answer changed"
        answers.add(again.cached_tokens)
    out = {
        "prefill_seconds": statistics.median(computed), "reload_seconds": statistics.median(read),
        "times": statistics.median(computed) / statistics.median(read), "cached_tokens": sorted(answers),
        "reloaded_mb": stats["reloaded_bytes"] / 1e6, "close_seconds": statistics.median(closing),
    }  # fmt: skip
    print(
        f"{args.tokens} tokens: computed in {out['prefill_seconds']:.2f} s, read back ({out['reloaded_mb']:.0f} MB) in "
        f"{out['reload_seconds']:.3f} s: {out['times']:.1f} times; writing them at close {out['close_seconds']:.2f} s"
    )
    print(json.dumps(out))


if __name__ == "__main__":
    main()
