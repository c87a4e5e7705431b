"""The watermark: how often it is found by length, how often where there is none, and what it costs in quality and speed.

Run: ``python benchmarks/watermark.py`` (SmolLM2; ``--model`` takes any other). Ordinary questions are answered at temperature
0.7, once without a mark and once with it, every marked answer under a key of its own, all by fixed seeds. The detector is
that of ``seekling watermark detect``. False positives are counted over unmarked answers and over text people wrote (this
project's documentation), each under ``--keys`` other keys; their interval is Wilson's, as if pairs that share a text were
independent. Quality is the log-probability a token under the model itself without the mark, and the share of distinct
4-grams. Speed is that of ``--rows`` answers together, both kinds in turns. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from seekling import Sampling
from seekling.engine import Engine
from seekling.engine.sampling import Completion
from seekling.engine.watermark import Watermark, detect

QUESTIONS = (
    "How does a bicycle stay upright?",
    "Write a short story about a lighthouse keeper.",
    "What should I think of before I adopt a dog?",
    "Explain photosynthesis to a child.",
    "Describe a walk through a market in the morning.",
    "Why do people travel?",
    "Give me advice for learning to play the piano.",
    "What is the history of bread?",
)
LENGTHS = (50, 100, 200)
DOCS = Path(__file__).parent.parent / "docs"


def key(*parts: Any) -> Watermark:
    """A key that follows from its parts, so that the run can be repeated."""
    return Watermark(hashlib.sha256(repr(parts).encode()).digest())


def answers(engine: Engine, count: int, tokens: int, seed: int, marked: bool) -> list[Completion]:
    """``count`` answers to the questions in turn."""
    prompts = [[{"role": "user", "content": QUESTIONS[n % len(QUESTIONS)]}] for n in range(count)]
    settings = [
        Sampling(
            max_tokens=tokens,
            temperature=0.7,
            seed=seed + n,
            logprobs=True,
            watermark=key("answer", seed, n) if marked else None,
        )
        for n in range(count)
    ]
    return engine.generate(prompts, settings)


def wilson(hits: int, of: int) -> list[float]:
    """95 % interval of a share."""
    if not of:
        return [0.0, 1.0]
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return [round((middle + sign * half) / (1 + z * z / of), 5) for sign in (-1, 1)]


def found(p_values: Sequence[float]) -> dict[str, Any]:
    """Shares below the usual bounds, and the median."""
    below = {bound: sum(p < float(bound) for p in p_values) for bound in ("1e-2", "1e-4")}
    shares = {f"p<{bound}": [round(hits / len(p_values), 4), *wilson(hits, len(p_values))] for bound, hits in below.items()}
    return {"texts": len(p_values), **shares, "median_p": float(f"{median(p_values):.1e}")} if p_values else {"texts": 0}


def detection(marked: list[Completion], seed: int, tokenizer: Any) -> dict[str, Any]:
    """By length in tokens; and from the bare text of the longer ones, tokenized again."""
    out: dict[str, Any] = {}
    for length in LENGTHS:
        long = [(n, answer) for n, answer in enumerate(marked) if len(answer.token_ids) >= length]
        out[str(length)] = found([detect(key("answer", seed, n), a.token_ids[:length]).p_value for n, a in long])
    long = [(n, answer) for n, answer in enumerate(marked) if len(answer.token_ids) >= 100]
    out["from the text, 100 and more"] = found(
        [detect(key("answer", seed, n), tokenizer.encode(a.text)).p_value for n, a in long]
    )
    return out


def false_positives(texts: list[list[int]], keys: int, seed: int) -> dict[str, Any]:
    """Over all pairs of a text and a key it was not made with."""
    p_values = [detect(key("other", seed, k), ids).p_value for ids in texts for k in range(keys)]
    out: dict[str, Any] = {"texts": len(texts), "pairs": len(p_values)}
    for bound in ("1e-2", "1e-3", "1e-4"):
        hits = sum(p < float(bound) for p in p_values)
        out[f"p<{bound}"] = [round(hits / len(p_values), 5), *wilson(hits, len(p_values))]
    return out


def written_by_people(tokenizer: Any, length: int = 200) -> list[list[int]]:
    """Pieces of the documentation."""
    ids = [token for path in sorted(DOCS.glob("*.md")) for token in tokenizer.encode(path.read_text("utf-8"))]
    return [ids[at : at + length] for at in range(0, len(ids) - length, length)]


def quality(some: list[Completion]) -> dict[str, Any]:
    """Mean log-probability a token and share of distinct 4-grams, each with its standard error over answers."""
    logs = [mean(answer.logprobs) for answer in some if answer.logprobs]
    grams = []
    for answer in some:
        ids = answer.token_ids
        all_grams = [tuple(ids[at : at + 4]) for at in range(len(ids) - 3)]
        if all_grams:
            grams.append(len(set(all_grams)) / len(all_grams))

    def with_error(values: list[float]) -> list[float]:
        return [round(mean(values), 4), round(stdev(values) / math.sqrt(len(values)), 4)]

    return {"logprob": with_error(logs), "distinct_4": with_error(grams)}


def speed(engine: Engine, rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both kinds, in turns."""
    rates: dict[str, list[float]] = {"unmarked": [], "marked": []}
    for number in range(rounds + 1):
        for name in rates:
            began = time.perf_counter()
            made = answers(engine, rows, tokens, 10_000 + number, name == "marked")
            if number:  # the first round warms up
                rates[name].append(sum(len(answer.token_ids) for answer in made) / (time.perf_counter() - began))
    ratios = [marked / plain for marked, plain in zip(rates["marked"], rates["unmarked"], strict=True)]
    return {name: round(median(values), 1) for name, values in rates.items()} | {
        "ratio": round(median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=200, help="most tokens of an answer")
    parser.add_argument("--keys", type=int, default=100, help="other keys for each unmarked text")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="of the speed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Engine(args.model, max_rows=args.rows) as engine:
        plain = answers(engine, args.answers, args.tokens, args.seed, False)
        print(f"{len(plain)} unmarked answers", file=sys.stderr, flush=True)
        marked = answers(engine, args.answers, args.tokens, args.seed, True)
        print(f"{len(marked)} marked answers", file=sys.stderr, flush=True)
        differences = [
            mean(m.logprobs) - mean(p.logprobs) for m, p in zip(marked, plain, strict=True) if m.logprobs and p.logprobs
        ]
        result = {
            "benchmark": "watermark",
            "model": args.model,
            "answers": args.answers,
            "temperature": 0.7,
            "seed": args.seed,
            "detection": detection(marked, args.seed, engine.tokenizer),
            "false_positives": {
                "answers": false_positives([list(answer.token_ids) for answer in plain], args.keys, args.seed),
                "people": false_positives(written_by_people(engine.tokenizer), args.keys, args.seed),
            },
            "quality": {
                "unmarked": quality(plain),
                "marked": quality(marked),
                "logprob_paired": [
                    round(mean(differences), 4),
                    round(stdev(differences) / math.sqrt(len(differences)), 4),
                ],
            },
            "speed": speed(engine, args.rows, 100, args.rounds),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
