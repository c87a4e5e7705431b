"""From what the user said to every number of the run: the one dial at work.

``resolve`` fills each None of a recipe from the size, the time budget and the machine; ``explain`` says what it filled and from
what. A resolved recipe is fixed: ``--resume`` and ``--recipe RUN`` use its numbers wherever they run.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import RecipeError, raise_all
from seekling.recipe import Recipe, knobs
from seekling.sizes import get_size

if TYPE_CHECKING:
    from seekling.machine import Machine
    from seekling.model.config import ModelConfig

TOKENS_PER_ACTIVE_PARAMETER = 20  # the length at which model and data are in balance for a given compute (Hoffmann et al. 2022)
MICRO_BATCH_TOKENS = 8192  # more at once costs memory and gains no speed on a CPU
ROUTERS = {"deepseek_v3": ("sigmoid", "noaux_tc", True), "deepseek_v2": ("softmax", "greedy", False)}


def resolve(recipe: Recipe, machine: "Machine | None" = None, say: Callable[[str], None] | None = None) -> Recipe:
    """Fill in every derived field.

    Args:
        recipe: what the user asked for; a resolved recipe comes back unchanged.
        machine: what to run on; None looks at this machine without timing anything.
        say: called with a line for each size that the time dial measures.

    With ``minutes`` and no length this measures the machine for some seconds (:mod:`seekling.dial`).

    Raises:
        RecipeError: the fields contradict each other; all problems are listed.
        MachineError: nothing useful fits into the time budget.
    """
    if recipe.run.resolved:
        return recipe
    raise_all(RecipeError, recipe.problems(), "")
    if machine is None:
        from seekling.machine import look

        machine = look()
    if recipe.run.minutes is not None and recipe.train.steps is None and recipe.train.tokens is None:
        from seekling.dial import choose

        choice = choose(recipe, machine, say=say)
        recipe = _with(recipe, size=choice.size, tokens=choice.tokens)
    recipe = _fill(recipe, **_basics(recipe, machine))
    recipe = _fill(recipe, **_model(recipe))
    length = _length(recipe)
    recipe = _with(_fill(recipe, **length), tokens=length["tokens"])  # what was asked, rounded up to whole steps
    recipe = _fill(recipe, **_rhythm(recipe))
    out = recipe.run.out or free_folder(Path("runs"), recipe.run.size or "run")
    recipe = _with(recipe, out=str(out), resolved=True)
    problems = recipe.problems() or model_problems(recipe)
    raise_all(RecipeError, problems, "")
    return recipe


# Muon's orthogonal updates stand twice AdamW's rate: nano, 300 steps, held-out 3.299 at 6e-3 against 3.411 at 3e-3 and AdamW's
# best of 3.416 (docs/log.md).
MUON_LR = 2.0


def _basics(recipe: Recipe, machine: "Machine") -> dict[str, Any]:
    """What does not depend on other derived fields."""
    size = get_size(recipe.run.size or "nano")
    own_text = bool(recipe.data.data)
    corpus = recipe.data.corpus or ("none" if own_text else "default")
    share = {"default": 0.25, "generated": 1.0}.get(corpus, 0.0)
    if any(path.endswith(".toml") for path in recipe.data.data):
        share = max(share, _declared_share(recipe.data.data, corpus))
    dtype = recipe.train.dtype
    if dtype == "auto":
        dtype = "bfloat16" if recipe.run.device == "cuda" or machine.native_bfloat16 else "float32"
    return dict(
        size=size.name,
        threads=machine.usable_cores,
        vocab_size=size.vocab_size,
        seq_len=size.seq_len,
        batch_size=size.batch_size,
        lr=size.lr * (MUON_LR if recipe.train.optimizer == "muon" else 1.0),
        corpus=corpus,
        generated_share=share,
        data_seed=recipe.run.seed,
        dtype=dtype,
    )


def _declared_share(paths: tuple[str, ...], corpus: str) -> float:
    """Share of generated text where the user's own source files declare some."""
    from seekling.data.sources import own_sources

    kinds = {source.kind for source in own_sources(paths)}
    if "generated" not in kinds:
        return 0.0
    return 0.25 if len(kinds) > 1 or corpus != "none" else 1.0


def _model(recipe: Recipe) -> dict[str, Any]:
    """Model fields: the size's, with what follows from the fields the user set."""
    size = get_size(recipe.run.size or "nano")
    model = recipe.model
    fields = dict(size.model)
    scoring, method, norm = ROUTERS[model.model_type]
    if method == "greedy" and (model.n_group or 1) > 1:
        method = "group_limited_greedy"
    if model.model_type == "deepseek_v2":
        fields["num_nextn_predict_layers"] = 0  # MTP came with V3
    chosen = model.num_experts_per_tok or fields["num_experts_per_tok"]
    layers = model.num_hidden_layers or fields["num_hidden_layers"]
    fields.update(
        scoring_func=scoring,
        topk_method=method,
        norm_topk_prob=norm,
        routed_scaling_factor=round(chosen**0.5, 3) if norm else 1.0,
        max_position_embeddings=min(recipe.data.seq_len or size.seq_len, size.max_seq_len),
    )
    if model.dense:
        first = fields["first_k_dense_replace"] if model.first_k_dense_replace is None else model.first_k_dense_replace
        shared = fields["n_shared_experts"] if model.n_shared_experts is None else model.n_shared_experts
        expert = model.moe_intermediate_size or fields["moe_intermediate_size"]
        wide = model.intermediate_size or fields["intermediate_size"]
        first = min(first, layers)
        mean = (first * wide + (layers - first) * (chosen + shared) * expert) / layers
        width = max(8, round(mean / 8) * 8)
        fields.update(
            n_routed_experts=0, num_experts_per_tok=0, n_shared_experts=0, first_k_dense_replace=layers, intermediate_size=width
        )
    return fields


def _length(recipe: Recipe) -> dict[str, Any]:
    """Steps and tokens; tokens are rounded up to whole steps."""
    per_step = recipe.train.batch_size * recipe.data.seq_len
    steps = recipe.train.steps
    if steps is None:
        tokens = recipe.train.tokens
        if tokens is None:
            tokens = TOKENS_PER_ACTIVE_PARAMETER * model_config(recipe).parameters().active
        steps = max(1, -(-tokens // per_step))
    fits = max(1, MICRO_BATCH_TOKENS // recipe.data.seq_len)
    micro = max(n for n in range(1, min(recipe.train.batch_size, fits) + 1) if recipe.train.batch_size % n == 0)
    return dict(steps=steps, tokens=steps * per_step, micro_batch=micro)


def _rhythm(recipe: Recipe) -> dict[str, Any]:
    """What depends on the number of steps."""
    steps = recipe.train.steps
    return dict(
        warmup=min(2000, round(0.04 * steps)),
        # A bias must be able to travel the spread of the scores (a few tenths) within the run, yet 0.01 already oscillates.
        bias_update_speed=min(0.01, max(0.001, 5 / steps)),
        save_every=min(1000, max(10, steps // 5)),
        eval_every=max(20, steps // 8),
        sample_every=max(20, steps // 4),
    )


def model_config(recipe: Recipe) -> "ModelConfig":
    """The ModelConfig of a recipe whose model and data sections are filled in. Raises ConfigError."""
    from seekling.model.config import ModelConfig

    names = {f.name for f in dataclasses.fields(ModelConfig)}
    fields = {k: v for k, v in dataclasses.asdict(recipe.model).items() if k in names}
    fields["q_lora_rank"] = fields["q_lora_rank"] or None
    # Ids of the tokenizer's first three tokens: begin, end, padding.
    return ModelConfig(**fields, vocab_size=recipe.data.vocab_size, bos_token_id=0, eos_token_id=1, pad_token_id=2)


def model_problems(recipe: Recipe) -> list[str]:
    """Contradictions between model fields, as lines for one message."""
    from seekling.errors import ConfigError

    try:
        model_config(recipe)
    except ConfigError as error:
        return [line.removeprefix("  - ") for line in str(error).removeprefix("model config: ").splitlines()]
    return []


def explain(asked: Recipe, resolved: Recipe) -> list[tuple[str, Any, str]]:
    """(name, value, where it came from) of every field that ``resolve`` filled in, in the recipe's order."""
    before, after = asked.flat(), resolved.flat()
    return [
        (name, after[name], spec.meta["derived"])
        for name, spec in knobs().items()
        if spec.meta["flag"] and before[name] != after[name]
    ]


def free_folder(parent: Path, stem: str) -> Path:
    """``parent/stem-1``, or the first number that is free."""
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


def _with(recipe: Recipe, **values: Any) -> Recipe:
    """Replace fields by flat name, without checks."""
    sections = {knobs()[name].section for name in values}
    parts = {
        s: dataclasses.replace(getattr(recipe, s), **{n: v for n, v in values.items() if knobs()[n].section == s})
        for s in sections
    }
    return dataclasses.replace(recipe, **parts)


def _fill(recipe: Recipe, **values: Any) -> Recipe:
    """Replace those of the named fields that are still None (or ``auto``)."""
    flat = recipe.flat()
    return _with(recipe, **{name: value for name, value in values.items() if flat[name] is None or flat[name] == "auto"})
