"""Quality for time: held-out bits per byte after N minutes of training, MoE against a dense model of equal active parameters.

Run: ``python benchmarks/quality.py --minutes 10`` (an hour and more on two cores: two models, three seeds each).

Minutes are minutes of this machine at rest: each model's tokens a second are measured first, in turns, and a run then trains on
exactly the tokens that the minutes buy at the median speed. So what else the machine does while the runs go on changes how long
they take, not what they see.  Both models share the corpus, tokenizer, data order, schedule shape and optimizer; a seed sets
initial weights and data order of both, so differences are paired.

The last line is one JSON object; ``--out`` keeps the run folders, and finished runs found there are not repeated.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from seekling.errors import SeeklingError
from seekling.recipe import Recipe, resolve
from seekling.train.log import read_log
from seekling.train.pretrain import measure_step_rate, pretrain

KINDS = ("moe", "dense")


def recipe_of(kind: str, size: str, corpus: str, seed: int, tokens: int, out: Path) -> Recipe:
    """The default recipe of the size; ``dense`` gives the same active parameters without experts."""
    return Recipe.of(
        size=size, corpus=corpus, seed=seed, data_seed=0, tokens=tokens, out=str(out), dense=kind == "dense", keep=1
    )


def measured_rates(size: str, corpus: str, rounds: int, folder: Path) -> dict[str, float]:
    """Median tokens a second of each kind, taken in turns."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            recipe = resolve(recipe_of(kind, size, corpus, 0, 10**6, folder / "unused"))
            rates[kind].append(measure_step_rate(recipe, 4.0))
    return {kind: statistics.median(values) for kind, values in rates.items()}


def final_bits(run: Path) -> float | None:
    """Held-out bits per byte of a finished run, None while it is not finished."""
    if not (run / "log.jsonl").exists():
        return None
    evals = [line for line in read_log(run / "log.jsonl") if line["kind"] == "eval" and line.get("final")]
    return evals[-1]["bpb"] if evals else None


def spread(values: list[float]) -> dict[str, float]:
    out = {"mean": round(statistics.mean(values), 4)}
    if len(values) > 1:
        out["sd"] = round(statistics.stdev(values), 4)
        out["se"] = round(statistics.stdev(values) / len(values) ** 0.5, 4)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", default="nano", help="size of the MoE model")
    parser.add_argument("--corpus", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs=2, metavar=("MOE", "DENSE"), help="tokens a second, if known already")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    known = dict(zip(KINDS, args.rates, strict=True)) if args.rates else None
    rates = known or measured_rates(args.size, args.corpus, 5, args.out)
    tokens = {kind: int(rates[kind] * args.minutes * 60) for kind in KINDS}
    print(f"{args.size}: " + ", ".join(f"{k} {rates[k]:,.0f} tokens/s -> {tokens[k]:,} tokens" for k in KINDS), flush=True)
    bits: dict[str, list[float]] = {kind: [] for kind in KINDS}
    done_seeds = []
    for seed in args.seeds:
        for kind in KINDS:
            run = args.out / f"{args.size}-{kind}-{args.minutes:g}min-seed{seed}"
            started = time.monotonic()
            if final_bits(run) is None:
                pretrain(recipe_of(kind, args.size, args.corpus, seed, tokens[kind], run))
            value = final_bits(run)
            if value is None:
                raise SeeklingError(f"{run} ended without a final evaluation; delete it and run again")
            bits[kind].append(value)
            print(f"  seed {seed} {kind}: {value:.4f} bits per byte ({time.monotonic() - started:.0f} s)", flush=True)
        done_seeds.append(seed)
    differences = [m - d for m, d in zip(bits["moe"], bits["dense"], strict=True)]
    result = {
        "minutes": args.minutes,
        "size": args.size,
        "corpus": args.corpus,
        "seeds": done_seeds,
        "tokens_per_second": {k: round(v) for k, v in rates.items()},
        "tokens": tokens,
        "bits_per_byte": bits,
        "moe": spread(bits["moe"]),
        "dense": spread(bits["dense"]),
        "moe_minus_dense": spread(differences),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
