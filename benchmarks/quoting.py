"""What prompt look-up brings a model trained here, where answers quote their prompts.

    python benchmarks/quoting.py --run runs/first --out runs/quoting

A run is taught to repeat sentences, and to repeat them with one name changed (LESSONS conversations about generated stories,
``seekling sft``), unless ``--out`` has been. Then it does so with sentences of stories it has not seen, plain and with each
drafter, taking turns (`own` of decode.py): tokens a second behind the first of each answer. Last line: JSON, with the
share of answers that are right to the letter.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from decode import own

from seekling import Engine, Sampling
from seekling.data.generate import generate
from seekling.data.stories import ANIMAL_NAMES, BOYS, GIRLS

LESSONS, MEASURED = 12000, 40
LEAST, MOST = 90, 220  # letters of what is repeated


def lesson(seed: int, index: int) -> tuple[str, str]:
    """(what is asked, what is to be answered)."""
    dice = random.Random(f"{seed} {index}")
    sentences = re.findall(r"[A-Z][^.!?]*[.!?]", " ".join(str(generate("stories", seed, index)).replace('"', "").split()))
    first = dice.randrange(len(sentences))
    text = sentences[first]
    for sentence in sentences[first + 1 :]:
        if len(text) >= LEAST or len(text) + len(sentence) >= MOST:
            break
        text += " " + sentence
    text = text[:MOST]
    found = [name for name in (*GIRLS, *BOYS, *ANIMAL_NAMES) if re.search(rf"\b{name}\b", text)]
    if not found or dice.random() < 0.7:
        return f"Repeat: {text}", text
    old, new = found[0], dice.choice([name for name in GIRLS + BOYS if name not in found])
    return f"Write {new} for {old}: {text}", re.sub(rf"\b{old}\b", new, text)


def teach(run: Path, out: Path, steps: int) -> None:
    data = out.with_suffix(".jsonl")
    data.parent.mkdir(parents=True, exist_ok=True)
    with data.open("w") as file:
        for index in range(LESSONS):
            ask, answer = lesson(0, index)
            turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    command = [
        sys.executable, "-m", "seekling", "sft", "--model", run, "--out", out, "--data", data, "--steps", steps, "--lr", 2e-3,
        "--seq-len", 256,
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run of your own")
    parser.add_argument("--out", type=Path, required=True, help="the same after the lessons")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.out.exists():
        teach(args.run, args.out, args.steps)
    lessons = [lesson(1, index) for index in range(MEASURED)]
    asks: list[Any] = [[{"role": "user", "content": ask}] for ask, _ in lessons]
    engine = Engine(args.out, threads=args.threads)
    answers = engine.generate(asks, Sampling(max_tokens=96, temperature=0))
    out: dict[str, Any] = {
        "right": sum(a.text.strip() == want for a, (_, want) in zip(answers, lessons, strict=True)) / MEASURED
    }
    print(f"{out['right']:.0%} of {MEASURED} answers right to the letter; the first: {answers[0].text!r}", flush=True)
    for quant in (None, "int8"):
        out[quant or "as stored"] = own(args.out, args.threads, args.rounds, quant, asks)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
