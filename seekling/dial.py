"""The time dial: from ``--minutes N`` to a model size and a number of training tokens.

Which size is best for a time budget? Training speed falls about as fast as the active parameters N grow, so a size up means
fewer tokens D. With the loss fit of Hoffmann et al. (2022, arXiv 2203.15556), L = 1.69 + 406.4/N^0.34 + 410.7/D^0.28, and speed
falling as FLOPs grow, a step up in our table breaks even when the bigger size sees 3 tokens an active parameter (nano to
micro) or 6 to 10 (later steps). Bigger sizes reach more of the machine's matrix peak than that assumes, and experts add
capacity that N does not count, so both move the break-even down. Hence the rule: **the biggest size that still sees at least 3
tokens for each active parameter**. The loss is flat around the best size, so the rule need not be exact. When even the
smallest size stays below 3, the smallest is taken.

The speed is not guessed from FLOPs: real optimizer steps of each candidate are timed, smallest first, until one falls short.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seekling.errors import MachineError
from seekling.recipe import Recipe
from seekling.sizes import SIZES

if TYPE_CHECKING:
    from seekling.machine import Machine

MIN_TOKENS_PER_PARAMETER = 3.0
# Not training: fetching and reading text and training the tokenizer (half a minute on two cores), measuring, and the last
# evaluation, samples and report. Short budgets give up at most 40 %.
SETUP_SECONDS = 60.0
SETUP_SHARE = 0.4
EVALUATION_SHARE = 0.05
MEMORY_SHARE = 0.8
MIN_STEPS = 20


@dataclass(frozen=True)
class Choice:
    """What the dial picked: tokens a second as measured, seconds left for optimizer steps, and one line for each candidate."""

    size: str
    tokens: int
    rate: float
    seconds: float
    tried: tuple[str, ...]


def training_seconds(minutes: float) -> float:
    """Seconds of a budget that remain for optimizer steps."""
    total = minutes * 60
    return (total - min(SETUP_SECONDS, SETUP_SHARE * total)) * (1 - EVALUATION_SHARE)


def pick(rates: list[tuple[str, int, float]], seconds: float) -> tuple[str, int, float]:
    """(size, tokens, rate) of the biggest candidate with enough tokens, else the first.

    Args:
        rates: (size, active parameters, tokens a second), smallest size first.
        seconds: time for optimizer steps.
    """
    best = rates[0]
    for name, active, rate in rates:
        if rate * seconds / active >= MIN_TOKENS_PER_PARAMETER:
            best = (name, active, rate)
    return best[0], int(best[2] * seconds), best[2]


def choose(
    recipe: Recipe,
    machine: "Machine",
    rate_of: Callable[[Recipe], float] | None = None,
    say: Callable[[str], None] | None = None,
) -> Choice:
    """Measure candidates and pick size and tokens for ``recipe.run.minutes``.

    Args:
        recipe: not resolved, with ``minutes``; a given size is the only candidate.
        rate_of: tokens a second of a resolved recipe; default: a few real optimizer steps.
        say: called with one line for each candidate.

    Raises:
        MachineError: the budget is too short for even a few steps of the smallest candidate.
    """
    from seekling.plan import count
    from seekling.resolve import model_config, resolve

    rate_of = rate_of or step_rate
    minutes = recipe.run.minutes or 0.0
    seconds = training_seconds(minutes)
    names = [recipe.run.size] if recipe.run.size else list(SIZES)
    rates: list[tuple[str, int, float]] = []
    lines: list[str] = []
    least = 0  # tokens of MIN_STEPS steps of the smallest candidate
    for name in names:
        probe = resolve(recipe.override(dict(minutes=None, size=name, steps=MIN_STEPS, out=recipe.run.out or "probe")), machine)
        if rates and not fits_in_memory(probe, machine):
            lines.append(f"{name}: needs more memory than this machine has")
            break
        active = model_config(probe).parameters().active
        rate = rate_of(probe)
        needed = MIN_STEPS * (probe.train.batch_size or 1) * (probe.data.seq_len or 1)
        if not rates and rate * seconds < needed:  # before the budget is refused: somebody else may have been busy
            rate = max(rate, rate_of(probe))
        if not rates:
            least = needed
        rates.append((name, active, rate))
        share = rate * seconds / active
        lines.append(f"{name}: {rate:,.0f} tokens/s, {count(rate * seconds)} tokens, {share:.1f} an active parameter")
        if say:
            say(lines[-1])
        if share < MIN_TOKENS_PER_PARAMETER:
            break
    size, tokens, rate = pick(rates, seconds)
    if tokens < least:
        enough = least / rates[0][2] / (1 - EVALUATION_SHARE) / (1 - SETUP_SHARE) / 60
        raise MachineError(
            f"{minutes:g} minutes are too short for {MIN_STEPS} steps of {rates[0][0]} here; "
            f"give --minutes {max(0.1, round(enough * 1.1, 1)):g} or more, or --steps N"
        )
    return Choice(size, tokens, rate, seconds, tuple(lines))


def fits_in_memory(recipe: Recipe, machine: "Machine") -> bool:
    """Whether training would stay within four fifths of the memory that is available."""
    from seekling.plan import training_memory
    from seekling.resolve import model_config

    train = recipe.train
    micro_tokens = (train.micro_batch or 1) * (recipe.data.seq_len or 1)
    memory = training_memory(model_config(recipe), train.dtype, train.optimizer, micro_tokens, train.loss_chunk)
    return memory.total <= MEMORY_SHARE * machine.memory_available


def step_rate(recipe: Recipe) -> float:
    """Tokens a second of a few real optimizer steps of a resolved recipe."""
    from seekling.train.pretrain import measure_step_rate

    return float(measure_step_rate(recipe))
