"""LoRA fine-tuning against TRL's ``SFTTrainer`` with PEFT on this CPU.

Run: ``python benchmarks/sft.py --peer PYTHON`` (about five minutes), where PYTHON has trl, peft and transformers installed.

SmolLM2-135M-Instruct, bfloat16, LoRA of rank 16 on every linear layer, 16 pairs of prompt (about 100 tokens) and completion
(about 100 tokens) a step, the loss on the completions.  All pairs are nearly of one length, so that padding costs TRL nothing.
Each side is a process of its own; they take turns and the medians are compared; tokens are those of the pairs, padding aside.

``--base-quant int4`` and the like pack our frozen base; ``--alone`` leaves the peer out (a minute).

The last line is one JSON object: sft_speedup_vs_trl, tokens a second and peak memory of each.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from turns import Worker, answer, peers_path, serve, timed

from seekling.quants import QUANTS

PAIRS, RANK = 16, 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WORDS = "the a one of and river stone light wind open house small bird green under table never always walk slow".split()


def pairs(count: int) -> list[dict[str, str]]:
    r = random.Random(0)
    text = lambda n: " ".join(r.choice(WORDS) for _ in range(n))  # noqa: E731
    return [{"prompt": text(100), "completion": " " + text(100)} for _ in range(count)]


def ours(folder: str, base_quant: str) -> None:
    import torch

    from seekling.train.log import RunLog
    from seekling.train.loop import Loop, LoopSettings
    from seekling.train.pretrain import NextTokens
    from seekling.train.schedule import Schedules
    from seekling.train.sft import lessons_of, resolved
    from seekling.train.sft_recipe import SftRecipe
    from seekling.train.teaching import open_student

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    work = Path(tempfile.mkdtemp())
    data = work / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, pairs(PAIRS * 8))), "utf-8")
    recipe = SftRecipe.of(model=folder, data=[str(data)], lora=RANK, steps=8, heldout=0.0, dtype="bfloat16", batch_size=4,
                         base_quant=base_quant)  # fmt: skip
    student = open_student(recipe, None)
    assert student.lm.tokenizer is not None
    lessons = lessons_of(recipe, student.lm.tokenizer, student.lm.config)
    recipe = resolved(recipe, lessons)
    objective = NextTokens(student.model, lessons.train, recipe.learn, Schedules.of(recipe.learn))  # type: ignore[arg-type]
    log = RunLog(work / "log.jsonl")
    loop = Loop(student.model, student.optimizer, objective, LoopSettings(10**6, lambda step: 1e-5), log=log)

    def step():
        before = loop.step
        rows = lessons.train.batch(before * recipe.learn.batch_size, recipe.learn.batch_size)
        tokens = int((rows.doc_BS < rows.doc_BS.amax(1, keepdim=True)).sum()) or rows.doc_BS.numel()
        return {"tokens_per_second": tokens / timed(loop.one_step), "tokens": tokens}

    answer({"ready": True})
    serve({"step": step})


def trl(folder: str) -> None:
    peers_path()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    data = pairs(PAIRS * 8)
    mean = statistics.mean(len(tokenizer(p["prompt"] + p["completion"])["input_ids"]) + 1 for p in data)

    class Turns(TrainerCallback):
        """Each optimizer step waits for its word."""

        began = 0.0

        def on_step_begin(self, args, state, control, **_):
            if not sys.stdin.readline():
                os._exit(0)
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            seconds = time.perf_counter() - self.began
            answer({"tokens_per_second": PAIRS * mean / seconds, "tokens": PAIRS * mean})

    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=True, per_device_train_batch_size=PAIRS, max_steps=10**6,
        gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=10**6, learning_rate=1e-5,
        optim="adamw_torch_fused", completion_only_loss=True, max_length=2048, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(data), processing_class=tokenizer, callbacks=[Turns()],
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )  # fmt: skip
    answer({"ready": True})
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable, help="Python with trl, peft and transformers")
    parser.add_argument("--model", default="smollm2", help="what seekling.load opens")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--base-quant", default="", choices=("", *QUANTS, "gguf"), help="of our frozen base")
    parser.add_argument("--alone", action="store_true", help="ours without the peer")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return ours(args.model, args.base_quant) if args.worker == "ours" else trl(args.model)
    import seekling

    folder = Path(tempfile.gettempdir()) / "seekling-bench-model"
    if not folder.exists():
        seekling.load(args.model, dtype="bfloat16").save(folder)
    mine = args.model if args.base_quant == "gguf" else str(folder)
    workers = [Worker(sys.executable, __file__, "ours", "--model", mine, "--base-quant", args.base_quant)]
    if not args.alone:
        workers.append(Worker(args.peer, __file__, "trl", "--model", str(folder)))
    speeds: dict[str, list[float]] = {w.name: [] for w in workers}
    peaks: dict[str, float] = {}
    for number in range(args.rounds + 1):  # the first warms up
        for worker in workers:
            got = worker.ask("step")
            peaks[worker.name] = got["peak_mb"]
            print(f"{'warm-up' if number == 0 else number}: {worker.name} {got['tokens_per_second']:.0f} tokens/s", flush=True)
            if number:
                speeds[worker.name].append(got["tokens_per_second"])
    for worker in workers:
        worker.close()
    middle = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    out: dict[str, object] = {"tokens_per_second": middle, "peak_mb": peaks, "base_quant": args.base_quant or "bfloat16"}
    if not args.alone:
        out["sft_speedup_vs_trl"] = round(middle["ours"] / middle["trl"], 2)
        out["peak_memory_ratio"] = round(peaks["ours"] / peaks["trl"], 3)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
