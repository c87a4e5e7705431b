"""Speed of the native runner on weights that exist only as shapes: decode, batches, long contexts, prefill.

python benchmarks/kernels.py --shape qwen-1.5b                 # or smollm2, v2-lite, v3-100m; --format q8_0
python benchmarks/kernels.py --shape v2-lite --context 8192

The weights are random blocks (a step's time does not depend on their values, apart from the experts chosen); beside every
figure stands what it is of the memory's read speed or of the int8 product's peak, measured in the same run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from seekling.engine.native_runner import NativeRunner
from seekling.engine.packed import Blocks, PackedWeights
from seekling.engine.runner import PAGE, Chunk
from seekling.kernels import infer, native
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

_GQA = dict(attention="gqa", rope_interleave=False, model_type="llama")
SHAPES: dict[str, dict] = {
    "smollm2": dict(
        _GQA, vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, v_head_dim=64, tie_word_embeddings=True,
    ),
    "qwen-1.5b": dict(
        _GQA, vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, head_dim=128, v_head_dim=128, qkv_bias=True,
    ),
    "v2-lite": dict(
        model_type="deepseek_v2", vocab_size=102400, hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408,
        num_hidden_layers=9, num_attention_heads=16, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
        v_head_dim=128, n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2, first_k_dense_replace=1,
        scoring_func="softmax", topk_method="greedy", norm_topk_prob=False,
    ),
    "v3-100m": dict(
        vocab_size=32000, hidden_size=512, intermediate_size=1536, moe_intermediate_size=256, num_hidden_layers=6,
        num_attention_heads=8, q_lora_rank=256, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
        n_routed_experts=32, num_experts_per_tok=4, n_shared_experts=1, first_k_dense_replace=1, n_group=4, topk_group=2,
    ),
}  # fmt: skip


class RandomParts:
    """A decoder's tensors, made up when asked for: quantised matrices as random GGUF blocks, the rest as small floats."""

    def __init__(self, config: ModelConfig, format: str):
        self.config, self._format = config, format
        self._shapes = {name: tuple(t.shape) for name, t in Decoder.empty(config).state_dict().items()}
        self._g = torch.Generator().manual_seed(0)

    def has(self, target: str) -> bool:
        return target in self._shapes

    def _shape(self, target: str, expert: int | None, rows: tuple[int, int] | None) -> tuple[int, ...]:
        shape = self._shapes[target] if expert is None else self._shapes[target][1:]
        return shape if rows is None else (rows[1] - rows[0], *shape[1:])

    def tensor(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Tensor:
        if target.endswith("norm.weight"):
            return torch.ones(self._shapes[target])
        return torch.randn(self._shape(target, expert, rows), generator=self._g) * 0.02

    def blocks(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Blocks | None:
        shape = self._shape(target, expert, rows)
        per, size = infer.BLOCKS[self._format]
        if len(shape) != 2 or shape[1] % per:
            return None
        blocks = torch.randint(0, 256, (shape[0], shape[1] // per, size), dtype=torch.uint8, generator=self._g)
        step = 0.02 / (60 if self._format == "q8_0" else 4)
        halves = [step] if self._format in ("q8_0", "q4_0") else [step, -7.5 * step]
        if self._format == "q4_k":
            halves = [step / 32, step / 4]
        if self._format == "q6_k":  # its scale stands last
            halves = [step / 512]
        first = size - 2 if self._format == "q6_k" else 0
        blocks[..., first : first + 2 * len(halves)] = torch.tensor(halves).half().view(torch.uint8)
        return self._format, blocks.flatten(1), shape


def median_of(run: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Median seconds of a call, repeated for about as long as asked."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < least:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_speed() -> float:
    """GB/s of reading 256 MB by a sum, all threads."""
    data = infer.Memory.map(1 << 28).view(torch.int64)
    data.fill_(1)
    return data.nbytes / median_of(data.sum, 0.5) / 1e9


def product_peak(format: str) -> float:
    """Gop/s of a large product with packed weights that stay in the cache."""
    w, x = infer.pack(torch.randn(512, 1024), format), torch.randn(96, 1024)
    return 2 * 96 * 512 * 1024 * 20 / median_of(lambda: infer.multiply(w, x, 20), 0.5) / 1e9


def active_bytes(runner: NativeRunner) -> int:
    """Packed bytes a single token reads: the routed experts by their share, an untied embedding not at all."""
    config, total, seen = runner.config, 0, set()
    for packed in runner.packed():
        if id(packed) in seen:
            continue
        seen.add(id(packed))
        share = config.num_experts_per_tok / config.n_routed_experts if packed.shape[0] == config.n_routed_experts else 1
        total += int(packed.nbytes() * (share if len(packed.shape) == 3 else 1))
    return total if config.tie_word_embeddings else total - runner.embedding_bytes()


def measure(runner: NativeRunner, context: int, seconds: float) -> dict[str, float]:
    """Tokens a second for one and sixteen requests, at a long context, and for a prompt of 512."""
    pages = -(-(context + 64) // PAGE)
    runner.allocate(max(16 * 8, pages))
    table = [list(range(8 * i, 8 * i + 8)) for i in range(16)]
    decode = lambda rows: runner.step([Chunk([7 + i], 100, table[i]) for i in range(rows)])  # noqa: E731
    prompt = list(range(100, 612))
    out = {
        "decode_1": 1 / median_of(lambda: decode(1), seconds),
        "decode_8": 8 / median_of(lambda: decode(8), seconds),
        "decode_16": 16 / median_of(lambda: decode(16), seconds),
        "prefill_512": 512 / median_of(lambda: runner.step([Chunk(prompt, 0, list(range(16)))]), seconds, 1),
    }
    if context:
        whole = list(range(pages))
        out[f"decode_at_{context}"] = 1 / median_of(lambda: runner.step([Chunk([7], context, whole)]), seconds)
    return out


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--format", choices=infer.BLOCKS, default="q4_1")
    parser.add_argument("--context", type=int, default=0, help="also decode behind so many tokens")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure")
    args = parser.parse_args(argv)
    config = ModelConfig(**SHAPES[args.shape], max_position_embeddings=max(4096, args.context + 64))
    runner = NativeRunner(PackedWeights(RandomParts(config, args.format), "gguf"))
    before = read_speed()
    result = measure(runner, args.context, args.seconds)
    memory, peak = (before + read_speed()) / 2, product_peak("q4_1" if args.format == "q4_0" else args.format)
    active = active_bytes(runner)
    print(f"{args.shape} {args.format}: {native.status()}, {torch.get_num_threads()} threads")
    print(f"  {runner.weight_bytes() / 1e6:.0f} MB of weights, {active / 1e6:.0f} MB a token, memory {memory:.1f} GB/s")
    for name, speed in result.items():
        print(f"  {name:<16} {speed:8.1f} tokens/s")
    result["bandwidth_share"] = active * result["decode_1"] / 1e9 / memory
    work = 2 * (config.parameters().active_matmul - config.vocab_size * config.hidden_size)
    result["prefill_peak_share"] = work * result["prefill_512"] / 1e9 / peak
    print(json.dumps({"shape": args.shape, "format": args.format, "memory_gb_s": memory, "product_gop_s": peak, **result}))


if __name__ == "__main__":
    main(sys.argv[1:])
