"""A GRPO step and its roll-outs against TRL's ``GRPOTrainer`` and ``transformers.generate`` on this CPU.

Run: ``python benchmarks/grpo.py --peer PYTHON`` (about ten minutes), where PYTHON has trl, peft and transformers installed.

SmolLM2-135M-Instruct, bfloat16, LoRA of rank 16 on every linear layer, the same 4 prompts of 60 tokens, 8 answers each of
exactly 64 tokens, temperature 1, no KL term, rewards that differ within each group.  Each side is a process of its own; they
take turns and the medians are compared.  Roll-outs count everything a step needs for them: here merging the adapters and
packing the weights anew.  TRL runs without gradient checkpointing, which would only slow it down.

The last line is one JSON object: step_speedup_vs_trl, rollout_speedup_vs_transformers by batch, and memory beside each.
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

PROMPTS, GROUP, PROMPT, ANSWER, RANK = 4, 8, 60, 64, 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def prompt_ids(count: int) -> list[list[int]]:
    r = random.Random(0)
    return [[r.randrange(1000, 40000) for _ in range(PROMPT)] for _ in range(count)]


# ---- Seekling --------------------------------------------------------------------------------------------------------


def ours(folder: str, quant: str) -> None:
    import torch

    from seekling.engine import Sampling
    from seekling.tasks import Problem
    from seekling.tasks.base import Reward
    from seekling.train.grpo_recipe import GrpoRecipe
    from seekling.train.loop import Loop, LoopSettings
    from seekling.train.policy import Policy
    from seekling.train.rollout import Answer, Roller
    from seekling.train.teaching import open_student

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    recipe = GrpoRecipe.of(
        model=folder, lora=RANK, steps=10**6, problems=PROMPTS, group=GROUP, max_tokens=ANSWER, dtype="bfloat16", lr=1e-5,
        warmup=0, rollout_quant=quant,
    )  # fmt: skip
    student = open_student(recipe, None)

    class Fixed(Roller):
        """The given prompts, answers of exactly ANSWER tokens, rewards by chance."""

        def tokens_of(self, count: int, group: int, seed: int):
            settings = [Sampling(ANSWER, 1.0, n=group, seed=seed + 131 * i, ignore_eos=True) for i in range(count)]
            return self.engine().generate(prompt_ids(count), settings)

        def draw(self, step: int) -> list[Answer]:
            began, found, r = time.monotonic(), self.tokens_of(PROMPTS, GROUP, step), random.Random(step)
            self.seconds["rollout"] += time.monotonic() - began
            self.tokens += PROMPTS * GROUP * ANSWER
            prompts, out = prompt_ids(PROMPTS), []
            for i, c in enumerate(found):
                reward = float(r.random() < 0.5)
                out.append(
                    Answer(i // GROUP, tuple(prompts[i // GROUP]), tuple(c.token_ids), tuple(c.logprobs or ()), c.text, False,
                           Problem("", "", "addition"), Reward(reward, 1.0, reward))
                )  # fmt: skip
            return out

    roller = Fixed(student.lm, recipe)
    policy = Policy(student, roller, recipe, lambda line: None)
    loop = Loop(student.model, student.optimizer, policy, LoopSettings(10**6, lambda step: 1e-5))

    def rollout(batch: int):
        return {"tokens_per_second": batch * ANSWER / timed(lambda: roller.tokens_of(batch // GROUP, GROUP, 0))}

    answer({"ready": True})
    serve({
        "rollout 8": lambda: rollout(8), "rollout 32": lambda: rollout(32),
        "step": lambda: {"seconds": timed(loop.one_step), "rollout_seconds": roller.seconds["rollout"]},
    })  # fmt: skip


# ---- TRL -------------------------------------------------------------------------------------------------------------


def trl(folder: str) -> None:
    peers_path()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    exact = {"min_new_tokens": ANSWER}

    def rollout(batch: int):
        ids = torch.tensor([ids for ids in prompt_ids(batch // GROUP) for _ in range(GROUP)])
        more = dict(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=ANSWER, pad_token_id=0, **exact)
        with torch.no_grad():
            seconds = timed(lambda: alone.generate(ids, attention_mask=torch.ones_like(ids), **more))
        return {"tokens_per_second": batch * ANSWER / seconds}

    class Turns(TrainerCallback):
        """Each optimizer step waits for its word."""

        began = 0.0

        def on_step_begin(self, args, state, control, **_):
            for line in sys.stdin:
                if line.strip() == "step":
                    self.began = time.perf_counter()
                    return
                answer(rollout(int(line.split()[1])))
            os._exit(0)

        def on_step_end(self, args, state, control, **_):
            answer({"seconds": time.perf_counter() - self.began})

    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=True, per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP, max_completion_length=ANSWER, temperature=1.0, beta=0.0, max_steps=10**6, report_to=[],
        gradient_checkpointing=False,
        generation_kwargs=exact, save_strategy="no", logging_steps=10**6, learning_rate=1e-5, optim="adamw_torch_fused",
        disable_tqdm=True,
    )  # fmt: skip
    texts = [tokenizer.decode(ids) for ids in prompt_ids(PROMPTS)]
    r = random.Random(0)
    trainer = GRPOTrainer(
        model=model, args=settings, train_dataset=Dataset.from_dict({"prompt": texts}), processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [float(r.random() < 0.5) for _ in completions], callbacks=[Turns()],
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )  # fmt: skip
    answer({"ready": True})
    trainer.train()


# ---- both ------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=sys.executable, help="Python with trl, peft and transformers")
    parser.add_argument("--model", default="smollm2", help="what seekling.load opens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quant", default="", choices=("", "int8"), help="of our roll-outs' weights")
    parser.add_argument("--words", nargs="+", default=["step", "rollout 8", "rollout 32"], help="what to measure")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return ours(args.model, args.quant) if args.worker == "ours" else trl(args.model)
    import seekling

    folder = Path(tempfile.gettempdir()) / "seekling-bench-model"
    if not folder.exists():
        seekling.load(args.model, dtype="bfloat16").save(folder)
    workers = [
        Worker(sys.executable, __file__, "ours", "--model", str(folder), "--quant", args.quant),
        Worker(args.peer, __file__, "trl", "--model", str(folder)),
    ]
    found: dict[str, dict[str, list[float]]] = {word: {w.name: [] for w in workers} for word in args.words}
    peaks: dict[str, float] = {}
    for number in range(args.rounds + 1):  # the first warms up
        for word in args.words:
            for worker in workers:
                got = worker.ask(word)
                value, peaks[worker.name] = got.get("seconds") or got["tokens_per_second"], got["peak_mb"]
                print(f"{'warm-up' if number == 0 else number} {word}: {worker.name} {value:.2f}", flush=True)
                if number:
                    found[word][worker.name].append(value)
    for worker in workers:
        worker.close()
    middle = {word: {name: statistics.median(values) for name, values in by.items()} for word, by in found.items()}
    out: dict[str, object] = {"measured": middle, "peak_mb": peaks, "quant": args.quant or "bfloat16"}
    if "step" in middle:
        out["step_speedup_vs_trl"] = round(middle["step"]["trl"] / middle["step"]["ours"], 2)
    ratios = {w.split()[1]: round(m["ours"] / m["trl"], 2) for w, m in middle.items() if w.startswith("rollout")}
    out |= {"rollout_speedup_vs_transformers": ratios, "peak_memory_ratio": round(peaks["ours"] / peaks["trl"], 3)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
