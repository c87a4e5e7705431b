"""Fifty CPU steps of every teaching stage give the losses they always gave (tests/golden/stages.json).

A change that means to alter them writes the file anew (``cd tests; python test_golden_stages.py``) and says why.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import LAMPS, save_base

from seekling.train import distill, dpo, grpo, sft
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.dpo_recipe import DpoRecipe
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import read_log
from seekling.train.sft_recipe import SftRecipe

GOLDEN = Path(__file__).parent / "golden" / "stages.json"
STAGES = ("sft", "sft with adapters", "dpo", "distill", "grpo")
TOLERANCE = 1e-3


def losses(stage: str, place: Path) -> list[float]:
    """The stage's losses of 50 steps on a model of a few thousand weights."""
    for name, seed in (("base", 1), ("teacher", 2)):
        save_base(place / name, LAMPS + "1 2 3 4 + = ", seed=seed)
    words = ["red", "blue", "green", "gold"]
    data = place / "data.jsonl"
    lines = [
        {"prompt": f"what colour has lamp {i}?", "completion": f"lamp {i} is {words[i % 4]}.",
         "chosen": f"lamp {i} is gold.", "rejected": f"lamp {i} is red."}
        for i in range(24)
    ]  # fmt: skip
    data.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    shared = dict(model=str(place / "base"), out=str(place / "run"), steps=50, dtype="float32", lr=3e-3, threads=1, keep=1)
    read = dict(shared, data=[str(data)], batch_size=4)
    if stage == "sft":
        run = sft.sft(SftRecipe.of(**read))
    elif stage == "sft with adapters":
        run = sft.sft(SftRecipe.of(**read, lora=4))
    elif stage == "dpo":
        run = dpo.dpo(DpoRecipe.of(**read))
    elif stage == "distill":
        run = distill.distill(DistillRecipe.of(**read, teacher=str(place / "teacher"), method="logits"))
    else:
        more = dict(tasks=["comparison"], problems=2, group=6, max_tokens=6, eval_problems=2, tagged=False, rollout="torch")
        more |= dict(teacher=str(place / "teacher"), teacher_weight=0.1, kl=0.01)
        run = grpo.grpo(GrpoRecipe.of(**shared, **more))
    return [round(line["loss"], 6) for line in read_log(run / "log.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize("stage", STAGES)
def test_fifty_steps_give_the_losses_they_always_gave(stage, tmp_path):
    want, got = json.loads(GOLDEN.read_text())["loss"][stage], losses(stage, tmp_path)
    assert len(got) == 50
    far = [(i, a, b) for i, (a, b) in enumerate(zip(got, want, strict=True)) if abs(a - b) > TOLERANCE * (1 + abs(b))]
    assert far == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = losses(name, Path(folder))
    what = "losses of 50 steps of each stage on the tiny model of tests/test_golden_stages.py, float32, one thread"
    GOLDEN.write_text(json.dumps({"what": what, "tolerance": TOLERANCE, "loss": found}, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN} written\n")
