"""What a model costs before it is trained: parameters, arithmetic, memory, cache, time and money.

Run: ``seekling plan --size micro``, ``seekling plan --config v3``. With the inputs of the
DeepSeek-V3 report (14.8T tokens, 180K GPU-hours a trillion, $2 an hour) it gives the report's 2,788K GPU-hours and $5.576M.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seekling.errors import RecipeError

if TYPE_CHECKING:
    from seekling.model.config import ModelConfig
    from seekling.recipe import Recipe

BYTES = {"float32": 4, "bfloat16": 2}
# Share of the matrix peak that training reaches where nothing was measured; small models spend much time outside products.
UTILISATION = 0.25
# What a rented two-core machine costs, for want of a better price of one's own computer.
CPU_PRICE = 0.05


@dataclass(frozen=True)
class Reported:
    """What a report states about its pre-training: tokens, GPU-hours a trillion tokens, further GPU-hours, $ an hour."""

    tokens: int
    seq_len: int = 4096
    hours_per_trillion: float | None = None
    extra_hours: dict[str, float] = field(default_factory=dict)
    price: float = 2.0


# DeepSeek-V3 table 1 and §1; DeepSeek-V2 §3.2.3.
REPORTED = {
    "v2-lite": Reported(5_700_000_000_000),
    "v2": Reported(8_100_000_000_000, hours_per_trillion=172_800),
    "v3": Reported(
        14_800_000_000_000,
        hours_per_trillion=180_000,
        extra_hours={"context extension": 119_000, "post-training": 5_000},
    ),
}


@dataclass(frozen=True)
class Flops:
    """Operations a token, a multiply-add counting two; ``train`` is forward and backward, three times the forward."""

    matmul: float
    attention: float
    mtp: float

    @property
    def main(self) -> float:
        """Training operations without MTP: 6·N_active + attention."""
        return self.matmul + self.attention

    @property
    def train(self) -> float:
        return self.main + self.mtp

    @property
    def forward(self) -> float:
        return self.main / 3


def flops_per_token(config: "ModelConfig", seq_len: int) -> Flops:
    """Training operations a token in sequences of ``seq_len``.

    6·N for the active weights that multiply (all but the embedding table), and for attention 6·L·H·(qk + v)·T/2, since a causal
    query sees half the sequence on average. V3 at 4K: 250 GFLOP, V2: 155, as DeepSeek's hardware paper (arXiv 2505.09343) says.
    An MTP layer adds its block, its projection and one more pass through the head.
    """
    p = config.parameters()
    layer = 6 * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim) * seq_len / 2
    table = config.vocab_size * config.hidden_size
    tied = table if config.tie_word_embeddings else 0  # the head multiplies even where it shares the embedding's weights
    block = config.layer_parameters(config.num_hidden_layers)[1] + 2 * config.hidden_size**2 + table
    return Flops(
        matmul=6 * (p.active_matmul + tied),
        attention=config.num_hidden_layers * layer,
        mtp=config.num_nextn_predict_layers * (6 * block + layer),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes held while training; ``activations`` is an estimate."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def activation_elements(config: "ModelConfig") -> int:
    """Numbers kept for the backward pass for each token of a micro-batch: inputs of every product, norm and non-linearity."""
    d, heads = config.hidden_size, config.num_attention_heads
    latents = (config.q_lora_rank or 0) + config.kv_lora_rank + config.qk_rope_head_dim
    attention = 3 * d + 2 * latents + heads * (2 * config.qk_head_dim + 2 * config.v_head_dim)
    dense = 3 * d + 3 * config.intermediate_size
    experts = config.num_experts_per_tok + config.n_shared_experts
    moe = 3 * d + config.n_routed_experts + experts * (3 * config.moe_intermediate_size) + 2 * config.num_experts_per_tok * d
    layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)
    total = sum(attention + (moe if config.is_moe(i) else dense) for i in layers)
    return total + config.num_nextn_predict_layers * 4 * d + 2 * d


def training_memory(config: "ModelConfig", dtype: str, optimizer: str, micro_tokens: int, loss_chunk: int = 1024) -> Memory:
    """Bytes for float32 master weights with a copy in the compute type, float32 gradient sums and optimizer state."""
    p = config.parameters()
    n = p.total + p.mtp
    size = BYTES[dtype]
    vectors = p.embedding + p.head  # stay with AdamW (two moments) under Muon (one)
    return Memory(
        weights=n * (4 + (size if size < 4 else 0)),
        gradients=n * 4,
        optimizer=n * 8 if optimizer == "adamw" else vectors * 8 + (n - vectors) * 4,
        activations=activation_elements(config) * micro_tokens * size,
        logits=2 * min(loss_chunk, micro_tokens) * config.vocab_size * 4,
    )


@dataclass(frozen=True)
class Cost:
    """Time and money: device-hours by part, and the price of a device-hour in dollars.

    ``speed`` is the operations a second that one device then does; ``how`` says what the hours were computed from.
    """

    hours: dict[str, float]
    price: float
    devices: int
    speed: float
    how: str

    @property
    def device_hours(self) -> float:
        return sum(self.hours.values())

    @property
    def dollars(self) -> float:
        return self.device_hours * self.price

    @property
    def wall_hours(self) -> float:
        return self.device_hours / self.devices


@dataclass(frozen=True)
class Plan:
    """Everything ``seekling plan`` prints."""

    name: str
    config: "ModelConfig"
    tokens: int
    seq_len: int
    batch_size: int | None
    flops: Flops
    memory: Memory | None
    dtype: str
    cost: Cost | None

    @property
    def flops_total(self) -> float:
        return self.flops.train * self.tokens

    def kv_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        """Bytes of latent cache a token over all layers (bfloat16)."""
        return self.config.kv_elements_per_token() * bytes_per_element

    def mha_bytes_per_token(self) -> int:
        """The same if every head kept its own key and value of the nope/value width (bfloat16)."""
        c = self.config
        return 2 * c.num_hidden_layers * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)

    def weight_bytes(self) -> int:
        """Size of the weights on disk in ``dtype``; an MTP layer carries copies of embedding and head (V3's layout)."""
        p = self.config.parameters()
        copies = self.config.num_nextn_predict_layers * 2 * p.embedding
        return (p.total + p.mtp + copies) * BYTES[self.dtype]

    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint that training can resume from: weights, float32 masters, optimizer state."""
        if self.memory is None:
            return self.weight_bytes()
        masters = 0 if self.dtype == "float32" else self.memory.weights * 4 // 6
        return self.weight_bytes() + masters + self.memory.optimizer

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``--json``: FLOP, bytes, hours, dollars."""
        p = self.config.parameters()
        flat: dict[str, Any] = {
            "name": self.name,
            "parameters": {**dataclasses.asdict(p), "active_without_embedding": p.active_matmul},
            "flops_per_token": {"main": self.flops.main, "mtp": self.flops.mtp, "train": self.flops.train},
            "tokens": self.tokens,
            "seq_len": self.seq_len,
            "flops_total": self.flops_total,
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "mha_bytes_per_token": self.mha_bytes_per_token(),
            "weight_bytes": self.weight_bytes(),
            "checkpoint_bytes": self.checkpoint_bytes(),
            "memory_bytes": {**dataclasses.asdict(self.memory), "total": self.memory.total} if self.memory else None,
            "dtype": self.dtype,
        }
        if self.cost is not None:
            c = self.cost
            flat["cost"] = {
                "device_hours": c.device_hours,
                "hours": c.hours,
                "price": c.price,
                "dollars": c.dollars,
                "devices": c.devices,
                "wall_hours": c.wall_hours,
                "flops_per_second_per_device": c.speed,
                "how": c.how,
            }
        return flat


def cost_from_speed(flops: float, speed: float, price: float, devices: int = 1, how: str = "") -> Cost:
    """Hours when one device does ``speed`` operations a second. Raises RecipeError for a speed or device count of 0."""
    if not speed > 0 or devices < 1:
        raise RecipeError("time needs a speed above 0 and at least 1 device; check --tflops, --utilisation and --devices")
    return Cost({"pre-training": flops / speed / 3600}, price, devices, speed, how)


def cost_from_hours(
    plan_tokens: int, flops_per_token: float, hours_per_trillion: float, extra: dict[str, float], price: float, devices: int
) -> Cost:
    """Hours from a measured GPU-hours-a-trillion-tokens figure, as the V3 report counts."""
    hours = {"pre-training": plan_tokens * hours_per_trillion / 1e12, **extra}
    speed = flops_per_token * 1e12 / (hours_per_trillion * 3600)
    return Cost(hours, price, devices, speed, f"{hours_per_trillion / 1e3:g}K device-hours a trillion tokens")


def plan_recipe(recipe: "Recipe", speed: float, price: float = CPU_PRICE, how: str = "") -> Plan:
    """The plan of a resolved recipe on one device that does ``speed`` operations a second."""
    from seekling.resolve import model_config

    config, train = model_config(recipe), recipe.train
    flops = flops_per_token(config, recipe.data.seq_len or 1)
    micro_tokens = (train.micro_batch or 1) * (recipe.data.seq_len or 1)
    tokens = train.tokens or 0
    return Plan(
        name=recipe.run.size or "",
        config=config,
        tokens=tokens,
        seq_len=recipe.data.seq_len or 1,
        batch_size=train.batch_size,
        flops=flops,
        memory=training_memory(config, train.dtype, train.optimizer, micro_tokens, train.loss_chunk),
        dtype=train.dtype,
        cost=cost_from_speed(flops.train * tokens, speed, price, 1, how),
    )


def plan_config(
    name: str,
    config: "ModelConfig",
    *,
    tokens: int | None = None,
    seq_len: int | None = None,
    hours_per_trillion: float | None = None,
    speed: float | None = None,
    price: float | None = None,
    devices: int = 1,
    how: str = "",
) -> Plan:
    """The plan of a bare config; for a published one the report's own inputs hold where nothing else is given.

    ``hours_per_trillion`` wins over ``speed`` (operations a second of one device); with neither there is no cost.
    """
    reported = REPORTED.get(name, Reported(20 * config.parameters().active, min(4096, config.max_position_embeddings)))
    own_length = tokens is not None
    tokens, seq_len = tokens or reported.tokens, seq_len or reported.seq_len
    flops = flops_per_token(config, seq_len)
    price = reported.price if price is None else price
    if hours_per_trillion is None and speed is None:
        hours_per_trillion = reported.hours_per_trillion
    cost = None
    if hours_per_trillion:
        extra = {} if own_length and tokens != reported.tokens else reported.extra_hours
        cost = cost_from_hours(tokens, flops.main, hours_per_trillion, extra, price, devices)
    elif speed:
        cost = cost_from_speed(flops.train * tokens, speed, price, devices, how)
    return Plan(name, config, tokens, seq_len, None, flops, None, "bfloat16", cost)


# ---- text ------------------------------------------------------------------------------------------------------------


def count(n: float) -> str:
    """1,846,784 -> ``1.847M``."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= scale:
            return f"{n / scale:.3f}{letter}"
    return f"{n:g}"


def size_text(n: float) -> str:
    """Bytes with a decimal unit."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if n >= scale:
            return f"{n / scale:.2f} {unit}"
    return f"{n:.0f} B"


def hours_text(hours: float) -> str:
    """A duration people can picture."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} seconds"
    if hours < 2:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"


def render(plan: Plan) -> str:
    """The plan as aligned lines."""
    p, f, kv = plan.config.parameters(), plan.flops, plan.kv_bytes_per_token()
    each = plan.tokens / p.active
    rows = [
        ("model", plan.name),
        ("parameters", count(p.total) + (f" (+ {count(p.mtp)} MTP)" if p.mtp else "")),
        ("active a token", f"{count(p.active)} ({count(p.active_matmul)} without the embedding table)"),
        ("training tokens", f"{count(plan.tokens)} in sequences of {plan.seq_len:,} ({each:.1f} an active parameter)"),
        ("FLOP a token", f"{count(f.main)} = 6N {count(f.matmul)} + attention {count(f.attention)}"),
        ("FLOP in all", f"{plan.flops_total:.3e}" + (f" (MTP adds {count(f.mtp)} a token)" if f.mtp else "")),
        ("KV cache a token", f"{kv:,} B in bf16 (plain attention: {plan.mha_bytes_per_token() / kv:.1f} times as much)"),
        ("weights on disk", f"{size_text(plan.weight_bytes())} in {plan.dtype}"),
    ]
    if plan.memory is not None:
        parts = dataclasses.asdict(plan.memory)
        told = " + ".join(f"{name} {size_text(n)}" for name, n in parts.items())
        rows.append(("checkpoint", size_text(plan.checkpoint_bytes())))
        rows.append(("training memory", f"about {size_text(plan.memory.total)} = {told}"))
    if plan.cost is not None:
        rows += _cost_rows(plan.cost)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _cost_rows(cost: Cost) -> list[tuple[str, str]]:
    if cost.device_hours >= 1e4:
        parts = " + ".join(f"{h / 1e3:,.0f}K {name}" for name, h in cost.hours.items())
        rows = [("time", f"{cost.device_hours / 1e3:,.0f}K device-hours = {parts}")]
    else:
        rows = [("time", f"{hours_text(cost.device_hours)} on one device")]
    if cost.devices > 1:
        rows.append(("on all devices", f"{hours_text(cost.wall_hours)} on {cost.devices:,}"))
    money = f"${cost.dollars / 1e6:,.3f}M" if cost.dollars >= 1e5 else f"${cost.dollars:,.2f}"
    rows.append(("computed from", f"{cost.how}: {count(cost.speed)}FLOP/s a device"))
    rows.append(("money", f"{money} at ${cost.price:g} a device-hour"))
    return rows
