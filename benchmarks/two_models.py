"""Two models in one process: what it costs that their engines share the cores, and why they take turns.

Run: ``python benchmarks/two_models.py`` (SmolLM2 twice; any two models may be given). ``--rows`` answers of ``--tokens`` tokens
are written together: by one engine; by two that take turns, a step each, half of the answers with each (``beside``, what
``seekling serve A B`` does); and by two whose threads step whenever they like. The three are measured in turn,
``--rounds`` times. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from statistics import median
from typing import Any

from seekling import Sampling
from seekling.engine import Engine

QUESTION = "Write a long story about a lighthouse keeper and the {} ships he saw."


def rate(engines: list[Engine], rows: int, tokens: int) -> float:
    """Tokens a second of all answers, the engines' shares begun together."""
    never = {token: -100.0 for token in engines[0].config.eos_token_ids}
    began = time.perf_counter()
    handles = [
        engines[n % len(engines)].submit(
            [{"role": "user", "content": QUESTION.format(n)}], Sampling(max_tokens=tokens, seed=n, logit_bias=never)
        )
        for n in range(rows)
    ]
    made = sum(len(answer.token_ids) for handle in handles for answer in handle.results())
    return made / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["smollm2", "smollm2"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    first, second = args.models
    a = Engine(first, cache_tokens=8192)
    turns = Engine(second, cache_tokens=8192, beside=a)
    free = Engine(second, cache_tokens=8192)
    modes: dict[str, list[Engine]] = {"one": [a], "two, in turns": [a, turns], "two, at once": [a, free]}
    rates: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(args.rounds + 1):
        for name, engines in modes.items():
            measured = rate(engines, args.rows, args.tokens)
            if number:  # the first round warms up
                rates[name].append(measured)
        print({name: round(some[-1]) for name, some in rates.items() if some}, file=sys.stderr, flush=True)
    result: dict[str, Any] = {name: [round(median(some)), round(min(some)), round(max(some))] for name, some in rates.items()}
    ratios = [turn / once for turn, once in zip(rates["two, in turns"], rates["two, at once"], strict=True)]
    result["in turns over at once"] = [round(median(ratios), 2), round(min(ratios), 2), round(max(ratios), 2)]
    print(json.dumps({"benchmark": "two_models", "models": args.models, "rows": args.rows, "tokens": args.tokens, **result}))


if __name__ == "__main__":
    main()
