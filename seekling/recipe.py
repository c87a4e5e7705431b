"""One recipe: a typed dataclass tree that is the Python API, the TOML file beside every checkpoint, and the command's flags.

Field names are unique over the four sections, so a flag needs no prefix (``--batch-size``) and ``Recipe.of(lr=1e-3)`` finds
its section. A default of None means "derived": :func:`seekling.resolve.resolve` fills it from the size and the machine, and the
field's type is what it has from then on. A field that may mean "none" has a value for it (``q_lora_rank = 0``), since TOML has
no null.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seekling.knobs import Knob, knob
from seekling.sizes import SIZES
from seekling.tree import Tree, knobs_of

WIDEST = 2**20  # of any width in a model


@dataclass(frozen=True)
class RunPart:
    """Where, how long and how big."""

    out: str = knob(None, "run folder", derived="runs/<size>-<n>, the first that is free")
    size: str = knob(None, "model size", choices=tuple(SIZES), derived="the time budget, or nano")
    minutes: float | None = knob(
        None, "time budget of the whole run; measures this machine, then picks size and tokens", above=0, high=1e7
    )
    seed: int = knob(0, "seed of weights, data order and samples", low=0, high=2**63 - 1)
    device: str = knob("cpu", "device to train on", choices=("cpu", "cuda", "mps"))
    threads: int = knob(None, "worker threads", low=1, high=4096, derived="usable cores")
    command: str = knob("", "the command that started the run", flag=False)
    resolved: bool = knob(False, "every derived value is filled in and fixed", flag=False)


@dataclass(frozen=True)
class ModelPart:
    """ModelConfig's fields; all follow from the size. The vocabulary is in the data section."""

    dense: bool = knob(False, "no experts: a dense model with as many active parameters (for comparison)")
    num_hidden_layers: int = knob(None, "decoder layers", low=1, high=2**12, derived="size")
    hidden_size: int = knob(None, "width of the residual stream", low=1, high=WIDEST, derived="size")
    num_attention_heads: int = knob(None, "attention heads", low=1, high=WIDEST, derived="size")
    q_lora_rank: int = knob(None, "query latent width; 0 = no query compression", low=0, high=WIDEST, derived="size")
    kv_lora_rank: int = knob(None, "key/value latent width (what the cache holds)", low=1, high=WIDEST, derived="size")
    qk_nope_head_dim: int = knob(None, "query/key channels of a head without position", low=1, high=WIDEST, derived="size")
    qk_rope_head_dim: int = knob(None, "query/key channels of a head with rotary position", low=2, high=WIDEST, derived="size")
    v_head_dim: int = knob(None, "value channels of a head", low=1, high=WIDEST, derived="size")
    intermediate_size: int = knob(None, "width of dense MLPs", low=1, high=WIDEST, derived="size")
    moe_intermediate_size: int = knob(None, "width of one expert", low=1, high=WIDEST, derived="size")
    n_routed_experts: int = knob(None, "routed experts a layer", low=0, high=2**16, derived="size")
    num_experts_per_tok: int = knob(None, "routed experts a token visits", low=0, high=2**16, derived="size")
    n_shared_experts: int = knob(None, "experts every token visits", low=0, high=2**16, derived="size")
    first_k_dense_replace: int = knob(None, "leading layers with a dense MLP", low=0, high=2**16, derived="size")
    n_group: int = knob(None, "groups of experts", low=1, high=2**16, derived="size")
    topk_group: int = knob(None, "groups a token may choose experts from", low=1, high=2**16, derived="size")
    model_type: str = knob("deepseek_v3", "model family", choices=("deepseek_v3", "deepseek_v2"))
    scoring_func: str = knob(None, "router scores", choices=("sigmoid", "softmax"), derived="model type")
    topk_method: str = knob(None, "expert choice", choices=("noaux_tc", "greedy", "group_limited_greedy"), derived="model type")
    norm_topk_prob: bool = knob(None, "make the chosen experts' weights sum to one", derived="model type")
    routed_scaling_factor: float = knob(
        None, "factor on the routed experts' sum", above=0, high=1e6, derived="√num_experts_per_tok"
    )
    num_nextn_predict_layers: int = knob(None, "MTP depth; 0 = none", low=0, high=8, derived="size")
    max_position_embeddings: int = knob(
        None, "longest sequence", low=1, high=2**22, derived="seq_len, up to the size's maximum"
    )
    rope_theta: float = knob(10000.0, "rotary base", above=1)
    rms_norm_eps: float = knob(1e-6, "RMSNorm epsilon", above=0, below=1)
    tie_word_embeddings: bool = knob(False, "one table for embedding and output head")
    attention_bias: bool = knob(False, "biases in attention")
    initializer_range: float = knob(0.02, "standard deviation of initial weights", above=0, below=1)
    mtp_hidden_first: bool = knob(
        False, "MTP input order as in the V3 paper (hidden first) instead of as in the published weights"
    )
    mtp_after_norm: bool = knob(False, "MTP reads the main model's output after its final norm")


@dataclass(frozen=True)
class DataPart:
    """What is read."""

    corpus: str = knob(
        None, "built-in corpus (default, zh, shakespeare, generated, none)", derived="default, or none with --data"
    )
    data: tuple[str, ...] = knob((), "folders or files of .txt, .md, .jsonl(.zst), .parquet")
    generated_share: float = knob(
        None,
        "share of generated simple text in the training tokens",
        low=0,
        high=1,
        derived="the corpus: 0.25 in the default, 0 with --data",
    )
    vocab_size: int = knob(None, "tokens in the vocabulary", low=280, high=2**20, derived="size")
    seq_len: int = knob(None, "tokens in a training sequence", low=8, high=2**20, derived="size")
    heldout: float = knob(0.02, "share of documents kept for evaluation", above=0, high=0.5)
    fim_rate: float = knob(0.0, "share of documents re-ordered for fill-in-the-middle (V3: 0.1)", low=0, high=1)
    document_mask: bool = knob(True, "attention stays inside a document")
    data_seed: int = knob(None, "seed of the split and of generated text", low=0, high=2**63 - 1, derived="seed")


@dataclass(frozen=True)
class TrainPart:
    """How it is learned."""

    steps: int = knob(None, "optimizer steps", low=1, derived="tokens or minutes")
    tokens: int = knob(None, "training tokens (10M, 1.5e9)", low=1, derived="steps, minutes, or 20 an active parameter")
    batch_size: int = knob(None, "sequences in an optimizer step", low=1, high=2**20, derived="size")
    micro_batch: int = knob(
        None, "sequences computed at once (gradients accumulate)", low=1, derived="batch_size, 8192 tokens at most"
    )
    optimizer: str = knob("muon", "optimizer of the matrices; the rest is always AdamW", choices=("adamw", "muon"))
    lr: float = knob(None, "peak learning rate", above=0, high=1, derived="size and optimizer")
    schedule: str = knob(
        "wsd",
        "after warm-up: wsd = constant, then cosine decay; v3 = V3's very shape",
        choices=("wsd", "v3", "cosine", "constant"),
    )
    warmup: int = knob(None, "steps of linear warm-up", low=0, derived="4 % of steps, 2000 at most")
    decay_fraction: float = knob(0.4, "wsd: share of steps spent in decay", low=0, high=1)
    min_lr_ratio: float = knob(0.1, "final over peak learning rate", low=0, high=1)
    beta1: float = knob(0.9, "AdamW first-moment decay", low=0, below=1)
    beta2: float = knob(0.95, "AdamW second-moment decay", low=0, below=1)
    momentum: float = knob(0.95, "Muon momentum", low=0, below=1)
    ns_steps: int = knob(5, "Muon's Newton-Schulz steps (V4: 10)", low=1, high=20)
    weight_decay: float = knob(0.1, "decoupled weight decay of matrices", low=0, high=10)
    clip: float = knob(1.0, "largest gradient norm; 0 = no clipping", low=0)
    mtp_weight: float = knob(0.3, "λ of the MTP loss", low=0)
    mtp_weight_late: float = knob(0.1, "λ once the learning rate decays", low=0)
    seq_balance_alpha: float = knob(1e-4, "weight of the sequence-wise balance loss", low=0)
    bias_update_speed: float = knob(
        None, "γ, step of the routing bias", low=0, below=1, derived="5/steps, between 0.001 (V3) and 0.01"
    )
    bias_freeze_fraction: float = knob(0.034, "last share of steps in which the routing bias stays fixed", low=0, high=1)
    dtype: str = knob(
        "auto", "compute type", choices=("auto", "bfloat16", "float32"), derived="what the machine multiplies natively"
    )
    loss_chunk: int = knob(1024, "tokens whose logits are held at once", low=1)
    save_every: int = knob(None, "steps between checkpoints", low=1, derived="steps / 5, 10 to 1000")
    keep: int = knob(3, "checkpoints kept; 0 = all", low=0)
    eval_every: int = knob(None, "steps between evaluations", low=1, derived="steps / 8, at least 20")
    eval_tokens: int = knob(16384, "held-out tokens a source used while training (the final evaluation uses all)", low=1)
    sample_every: int = knob(None, "steps between samples", low=1, derived="steps / 4, at least 20")
    log_every: int = knob(1, "steps between log lines", low=1)
    trackers: tuple[str, ...] = knob((), "further log writers", choices=("tensorboard", "wandb"))


@dataclass(frozen=True)
class Recipe(Tree):
    """Everything a run depends on, in four sections.

    >>> recipe = Recipe.of(size="nano", steps=100)
    >>> Recipe.from_toml(recipe.to_toml()) == recipe
    True
    """

    run: RunPart = dataclasses.field(default_factory=RunPart)
    model: ModelPart = dataclasses.field(default_factory=ModelPart)
    data: DataPart = dataclasses.field(default_factory=DataPart)
    train: TrainPart = dataclasses.field(default_factory=TrainPart)

    @classmethod
    def verb(cls) -> str:
        return "pretrain"

    def refusals(self, values: Mapping[str, Any]) -> list[str]:
        if self.run.resolved and values.get("size", self.run.size) != self.run.size:
            return [f"this recipe is fixed at size {self.run.size}; start from flags to use another size"]
        return []

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        """On a resolved recipe a new length or batch replaces the old one, and what follows from it is derived again."""
        if not self.run.resolved or not values.keys() & {"steps", "tokens", "minutes", "batch_size", "seq_len"}:
            return values
        follows = "minutes tokens warmup save_every eval_every sample_every bias_update_speed micro_batch".split()
        steps = None if values.keys() & {"tokens", "minutes"} else self.train.steps
        return {**dict.fromkeys(follows), "steps": steps, "resolved": False, **values}

    def contradictions(self) -> list[str]:
        bad = []
        run, model, data, train = self.run, self.model, self.data, self.train
        if not run.resolved:
            bad += unused_by_schedule(train)
            given = [
                n for n, v in (("minutes", run.minutes), ("steps", train.steps), ("tokens", train.tokens)) if v is not None
            ]
            if len(given) > 1:
                bad.append(f"--{' and --'.join(given)} contradict each other: give one of them")
        if train.batch_size and train.micro_batch and train.batch_size % train.micro_batch:
            bad.append(f"micro_batch {train.micro_batch} does not divide batch_size {train.batch_size}")
        if train.steps is not None and train.warmup is not None and train.warmup > train.steps:
            bad.append(f"warmup {train.warmup} is longer than the whole run of {train.steps} steps; lower --warmup")
        if data.seq_len and model.max_position_embeddings and data.seq_len > model.max_position_embeddings:
            bad.append(
                f"seq_len {data.seq_len} is longer than the model's max_position_embeddings {model.max_position_embeddings}; "
                "lower --seq-len or raise --max-position-embeddings"
            )
        if model.dense and not run.resolved and (model.n_routed_experts or model.num_experts_per_tok):
            bad.append("--dense has no experts: drop --n-routed-experts and --num-experts-per-tok, or drop --dense")
        if data.corpus == "none" and not data.data:
            bad.append("--corpus none leaves nothing to read; add --data DIR")
        return bad


def unused_by_schedule(part: Any) -> list[str]:
    """What was set of a learning-rate schedule although the one chosen has no use for it."""
    bad, kind = [], part.schedule
    if kind in ("v3", "constant") and part.min_lr_ratio != type(part).min_lr_ratio:
        end = "V3's own tails" if kind == "v3" else "the rate it began with"
        bad.append(f"--min-lr-ratio has no use with --schedule {kind}, which ends at {end}: drop it, or use cosine or wsd")
    if kind != "wsd" and part.decay_fraction != type(part).decay_fraction:
        bad.append(f"--decay-fraction has no use with --schedule {kind}: drop it, or use wsd")
    return bad


SECTIONS = Recipe.sections()


def knobs() -> dict[str, Knob]:
    """Every field of the recipe by name."""
    return knobs_of(Recipe)


def from_args(args: argparse.Namespace, base: Recipe | None = None) -> Recipe:
    """The recipe the flags ask for, over ``base`` (a TOML file) or the defaults."""
    return Recipe.from_args(args, base)


def resolve(recipe: Recipe, machine: Any = None, say: Any = None) -> Recipe:
    """Fill in every derived field (see :mod:`seekling.resolve`, where this lives)."""
    from seekling.resolve import resolve as fill

    return fill(recipe, machine, say)


def model_config(recipe: Recipe) -> Any:
    """The ModelConfig of a resolved recipe (see :mod:`seekling.resolve`)."""
    from seekling.resolve import model_config as build

    return build(recipe)
