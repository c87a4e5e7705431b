"""Training speed of Seekling's decoder against transformers' ``DeepseekV3ForCausalLM`` with the same shapes.

Run: ``python benchmarks/train.py`` (about five minutes; ``--sizes micro`` for one size, ``--rounds 3`` to be quicker).

Both train the same random tokens with fused AdamW, gradient clipping and bfloat16: Seekling as it trains (bfloat16 weights over
float32 masters), transformers under bf16 autocast with whichever of its experts implementations is fastest here.  They take
turns within one process, a few steps each, and the medians of the rounds are compared; the machine's bf16 GEMM peak is measured
between the rounds. ``gemm_share`` is the share of that peak which the model's arithmetic (6·N active + attention) reaches.
Peak memory is that of a process of its own for each. A dense Seekling model of equal active parameters shows what MoE costs.

The last line is one JSON object: {size: {speedup_vs_transformers, gemm_share, peak_memory_ratio, …}, "machine": {…}}.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from seekling.formats.families import write_config
from seekling.kernels import status
from seekling.machine_speed import gemm_gflops
from seekling.model import Decoder, ModelConfig
from seekling.plan import flops_per_token
from seekling.sizes import size_config
from seekling.train.loss import compute_loss
from seekling.train.optim import Optimizer, OptimSettings

ROWS, LENGTH = 16, 256
TOKENS = ROWS * LENGTH
EXTRA_SIZES = {"15m": ("milli", {"n_routed_experts": 16})}  # the shape the first measurements of transformers were made with
EXPERTS = ("grouped_mm", "eager")  # its third, batched_mm, gathers the weights of every token: minutes a step


def shape(size: str) -> ModelConfig:
    """The size without its MTP layer, which transformers does not train."""
    base, changes = EXTRA_SIZES.get(size, (size, {}))
    return size_config(base, num_nextn_predict_layers=0, max_position_embeddings=LENGTH, **changes)


def dense_of(config: ModelConfig) -> ModelConfig:
    """A dense model whose active parameters equal those of ``config``: its MLPs share the width out evenly."""
    dense = dataclasses.replace(config, n_routed_experts=0, first_k_dense_replace=config.num_hidden_layers, intermediate_size=1)
    room = config.parameters().active - dense.parameters().active
    width = 1 + round(room / (config.num_hidden_layers * 3 * config.hidden_size))
    return dataclasses.replace(dense, intermediate_size=width // 16 * 16)


def tokens(config: ModelConfig) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def seekling_step(config: ModelConfig) -> Callable[[], float]:
    """One optimizer step as ``seekling pretrain --optimizer adamw`` makes it."""
    model = Decoder.build(config)
    optimizer = Optimizer(model, OptimSettings("adamw"), torch.bfloat16)
    ids = tokens(config)
    batch = SimpleNamespace(tokens_BS=ids, doc_BS=torch.zeros_like(ids, dtype=torch.int32), mask_BS=None)

    def step() -> float:
        out = compute_loss(model, batch, seq_balance_alpha=1e-4 if config.n_routed_experts else 0.0)
        out.loss.backward()
        optimizer.scale_and_clip(1.0, 1.0)
        optimizer.step(1e-3)
        if out.loads_LE.numel():
            model.update_router_bias(out.loads_LE, 1e-3)
        return float(out.ce_sum) / out.targets

    return step


def transformers_step(config: ModelConfig, experts: str) -> Callable[[], float]:
    """The same step by transformers: bf16 autocast, SDPA, fused AdamW."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    model = DeepseekV3ForCausalLM(DeepseekV3Config(**write_config(config))).train()
    model.set_experts_implementation(experts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = tokens(config)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(inputs, labels=inputs, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def seconds_per_step(step: Callable[[], float], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def fastest_experts(config: ModelConfig) -> str:
    """The experts implementation of transformers that trains fastest here."""
    times = {}
    for experts in EXPERTS:
        try:
            step = transformers_step(config, experts)
            seconds_per_step(step, 1)
            times[experts] = min(seconds_per_step(step, 1) for _ in range(2))
        except (RuntimeError, NotImplementedError, ValueError) as error:
            print(f"  transformers with {experts} experts does not train here: {str(error).splitlines()[0][:90]}")
    print("  transformers, seconds a step:", ", ".join(f"{k} {v:.2f}" for k, v in times.items()))
    return min(times, key=times.__getitem__)


def peak_memory(size: str, who: str) -> float:
    """MB that three training steps add to the peak of a process of their own."""
    command = [sys.executable, __file__, "--memory-of", who, "--sizes", size]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def memory_child(size: str, who: str) -> None:
    config = shape(size)
    make = seekling_step if who == "seekling" else lambda c: transformers_step(c, who)
    if who != "seekling":
        import transformers.models.deepseek_v3.modeling_deepseek_v3  # noqa: F401  its import is not training memory
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    seconds_per_step(make(config), 3)
    print(resident("VmHWM") - before)


def resident(field: str) -> float:
    """MB of a field of /proc/self/status."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def compare(size: str, rounds: int, threads: int) -> dict:
    config = shape(size)
    dense = dense_of(config)
    flops = flops_per_token(config, LENGTH).train
    counts = config.parameters()
    print(f"{size}: {counts.total / 1e6:.1f}M parameters, {counts.active / 1e6:.1f}M active, {flops / 1e6:.1f} MFLOP a token")
    experts = fastest_experts(config)
    contenders = {
        "seekling": seekling_step(config),
        "transformers": transformers_step(config, experts),
        "dense": seekling_step(dense),
    }
    for step in contenders.values():
        seconds_per_step(step, 2)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = []
    for number in range(rounds):
        peaks.append(gemm_gflops("bfloat16", threads, 0.5))
        for name, step in contenders.items():
            speeds[name].append(TOKENS / seconds_per_step(step, 2 if name == "transformers" else 4))
        now = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
        print(f"  round {number + 1}: {now} tokens/s; bf16 GEMM {peaks[-1]:.0f} GFLOP/s")
    median = {name: statistics.median(values) for name, values in speeds.items()}
    peak = statistics.median(peaks)
    ratios = [a / b for a, b in zip(speeds["seekling"], speeds["transformers"], strict=True)]
    memory = {who: peak_memory(size, who) for who in ("seekling", experts)}
    return {
        "speedup_vs_transformers": round(statistics.median(ratios), 3),
        "speedup_min": round(min(ratios), 3),
        "speedup_max": round(max(ratios), 3),
        "gemm_share": round(median["seekling"] * flops / (peak * 1e9), 3),
        "gemm_share_transformers": round(median["transformers"] * flops / (peak * 1e9), 3),
        "peak_memory_ratio": round(memory["seekling"] / memory[experts], 3),
        "peak_memory_mb": round(memory["seekling"]),
        "tokens_per_second": round(median["seekling"]),
        "tokens_per_second_transformers": round(median["transformers"]),
        "tokens_per_second_dense_equal_active": round(median["dense"]),
        "moe_cost_in_time": round(median["dense"] / median["seekling"], 3),
        "transformers_experts": experts,
        "gemm_gflops": round(peak),
        "parameters": counts.total,
        "active_parameters": counts.active,
        "dense_parameters": dense.parameters().total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["micro", "milli"], help="micro milli 15m …")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return memory_child(args.sizes[0], args.memory_of)
    results: dict = {size: compare(size, args.rounds, args.threads) for size in args.sizes}
    import transformers

    results["machine"] = {
        "threads": args.threads,
        "kernels": status(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": ROWS,
        "length": LENGTH,
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
