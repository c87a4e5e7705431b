"""Scores as a reader wants them: a table for each measure, with intervals and baselines."""

from typing import TYPE_CHECKING

from seekling.release.escape import table

if TYPE_CHECKING:
    from seekling.release.scores import Score

FORMS = {"bits_per_byte": "{:.3f}", "ce": "{:.4f}", "acc": "{:.1%}", "exact_match": "{:.1%}"}
NAMES = {
    "bits_per_byte": "bits per byte",
    "acc": "next token right",
    "exact_match": "exact answers",
    "ce": "cross-entropy (nats)",
}


def scores_table(scores: list["Score"], drawn: bool = True) -> str:
    """A table for each measure: every task's score with its interval, and each baseline in a column beside it.

    Args:
        drawn: with the measures of several drawn answers (pass@k, maj@k).
    """
    out = []
    for name in dict.fromkeys(name for score in scores for name in score.metrics if drawn or "@" not in name):
        held = [score for score in scores if name in score.metrics]
        baselines = list(dict.fromkeys(who for score in held for who, values in score.chance.items() if name in values))
        rows: list[list[object]] = []
        for score in held:
            beside = [
                form_of(name).format(score.chance[b][name]) if name in score.chance.get(b, {}) else "–" for b in baselines
            ]
            rows.append([score.task, score_text(score, name), *beside, score.what])
        out.append(table(["task", NAMES.get(name, name), *baselines, "measured on"], rows, right=9))
    return "\n\n".join(out)


def form_of(name: str) -> str:
    """How a measure is written; shares of problems are per cents."""
    return FORMS.get(name, "{:.1%}")


def score_text(score: "Score", name: str) -> str:
    """The score with its interval."""
    value, _, low, high = score.metrics[name]
    form = form_of(name)
    return form.format(value) + ("" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]")


def chance_text(score: "Score", name: str) -> str:
    """The baselines in a line."""
    found = [f"{who} {form_of(name).format(values[name])}" for who, values in score.chance.items() if name in values]
    return ", ".join(found) or "–"
