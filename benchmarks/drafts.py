"""Speculation: what drafts and their rows cost on a shape, and what they bring on real models.

    python benchmarks/drafts.py --shapes v3-100m --own runs/first --quote

``--shapes`` (of decode.py): random weights with one MTP layer, so nothing is foretold: the table gives the time of a step
with 1 to 5 rows and of a draft of 1 to 3 tokens, and the tokens a step must yield for 1.3 times plain decode. ``--own``: a run,
decoded token by token (as between several requests), in bursts, with prompt look-up and with MTP. ``--quote``: SmolLM2
repeats and mends a paragraph, plain and with prompt look-up. Last line: JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from decode import SHAPES, own

from seekling import Engine, Sampling
from seekling.engine.native_draft import InNative
from seekling.engine.native_runner import NativeRunner
from seekling.engine.packed import DecoderParts, PackedQuant, PackedWeights
from seekling.engine.runner import PAGE, Chunk
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

TEXT = (
    "The harbour lay quiet in the early morning. Three boats had come in during the night, and their crews slept below deck "
    "while the gulls walked up and down the quay. Old Marten, who kept the lamp, counted the crates on the wall: eleven of "
    "herring, four of salt, and one that nobody had claimed. He wrote the numbers into his book, drew a line under them, and "
    "went to wake the baker, because the baker's boy was late again and the ovens had to be lit before the ferry came."
)
ASKS = ("Repeat this text word for word:", "Copy this text and change 'Marten' to 'Anton' everywhere:")
ROWS, DRAFTS, DEPTH = (1, 2, 3, 4, 5), (1, 2, 3), 256


def median(work: Any, seconds: float = 1.0) -> float:
    """Microseconds."""
    times: list[float] = []
    work()
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def costs(name: str, quant: PackedQuant, threads: int) -> dict[str, Any]:
    """Of a shape with one MTP layer and random weights, behind `DEPTH` tokens."""
    model = Decoder.build(ModelConfig(**SHAPES[name] | {"num_nextn_predict_layers": 1}), dtype=torch.bfloat16)
    runner = NativeRunner(PackedWeights(DecoderParts(model), quant), threads=threads, drafts=True)
    del model
    pages, random = list(range((DEPTH + 64) // PAGE)), torch.Generator().manual_seed(0)
    ids = torch.randint(100, 20000, (DEPTH + 8,), generator=random).tolist()
    runner.allocate(len(pages))
    runner.step([Chunk(ids[:DEPTH], 0, pages)])
    rows = {k: median(lambda k=k: runner.step([Chunk(ids[DEPTH : DEPTH + k], DEPTH, pages, "all")])) for k in ROWS}
    layer, states = InNative(runner), [runner.raw_states[0][:1].copy()]
    drafts = {k: median(lambda k=k: layer.draft([Chunk(ids[:1], DEPTH, pages)], states, k)) for k in DRAFTS}
    needed = {k: round(1.3 * (rows[1 + k] + drafts[k]) / rows[1], 2) for k in DRAFTS}
    out = {"rows_us": rows, "draft_us": drafts, "tokens_a_step_for_1.3": needed, "weights_mb": runner.weight_bytes() / 1e6}
    print(f"{name} {quant}, {out['weights_mb']:.0f} MB: 1 to 5 rows", *(f"{rows[k]:.0f}" for k in ROWS), end=" us; ")
    print(
        "drafts of 1 to 3",
        *(f"{drafts[k]:.0f}" for k in DRAFTS),
        f"us; for 1.3 times plain a step must yield {needed}",
        flush=True,
    )
    return out


def quoting(threads: int, rounds: int) -> dict[str, Any]:
    """SmolLM2 (Q4_1) writes what it was shown: tokens a second, plain and with prompt look-up, in turns."""
    s = Sampling(max_tokens=160, temperature=0, logprobs=False)
    engines = {kind: Engine("smollm2", threads=threads, prefix_cache=False, speculate=kind) for kind in (None, "ngram")}
    speeds: dict[Any, list[float]] = {kind: [] for kind in engines}
    answers = {}
    for turn in range(rounds + 1):
        for kind, engine in engines.items():
            count, seconds = 0, 0.0
            for ask in ASKS:
                began = None
                for delta in engine.stream([{"role": "user", "content": f"{ask}\n\n{TEXT}"}], s):
                    began = began or time.perf_counter()
                    count += len(delta.token_ids)
                seconds += time.perf_counter() - (began or 0.0)
            answers[kind] = count
            if turn:
                speeds[kind].append((count - len(ASKS)) / seconds)
    plain, ngram = (statistics.median(speeds[kind]) for kind in engines)
    stats = engines["ngram"].stats()
    out = {"plain": plain, "ngram": ngram, "gain": ngram / plain, "tokens_per_draft_step": stats["tokens_per_step"]}
    print(f"SmolLM2 repeats a text: {plain:.0f} tokens/s, with look-up {ngram:.0f}: {ngram / plain:.2f} times", flush=True)
    return out | {"tokens": answers["ngram"], "accepted": stats["accepted"], "drafted": stats["drafted"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", help=", ".join(SHAPES))
    parser.add_argument("--quants", default="int8,int4", help="int8, int4, bf16, f32")
    parser.add_argument("--own", type=Path, help="a run of your own")
    parser.add_argument("--quote", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out: dict[str, Any] = {}
    if args.own is not None:
        for kind in (None, "int8", "int4"):
            out[f"own {kind or 'as stored'}"] = own(args.own, args.threads, args.rounds, kind)
    if args.quote:
        out["quote"] = quoting(args.threads, args.rounds)
    for name in filter(None, args.shapes.split(",")):
        for quant in args.quants.split(","):
            out[f"{name} {quant}"] = costs(name, quant, args.threads)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
