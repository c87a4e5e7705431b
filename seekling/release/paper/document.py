"""The technical report of a release in Markdown (``report.md``), from which :mod:`seekling.release.pdf` sets ``report.pdf``.

It is written as a paper: abstract, the model in ten numbers, model, data, training, evaluation, samples, ablations, cost, what
did not work, limits, how to repeat it, licences, references.
"""

from typing import TYPE_CHECKING

from seekling.plan import count, hours_text
from seekling.release import cards
from seekling.release.chain import WORDS
from seekling.release.escape import inline
from seekling.release.paper.figures import picture
from seekling.release.paper.model import model
from seekling.release.paper.repeat import repeat
from seekling.release.paper.results import ablations, did_not_work, evaluation, samples, teaching
from seekling.release.paper.training import cost, data, training
from seekling.release.score_table import NAMES, chance_text, score_text

if TYPE_CHECKING:
    from seekling.release.material import Release

MODEL_NAMES = {"deepseek_v3": "DeepSeek-V3", "deepseek_v2": "DeepSeek-V2"}
REFERENCES = (
    "DeepSeek-AI. DeepSeek-V2: A strong, economical, and efficient mixture-of-experts language model. arXiv:2405.04434, 2024.",
    "DeepSeek-AI. DeepSeek-V3 technical report. arXiv:2412.19437, 2024.",
    "Wang et al. Auxiliary-loss-free load balancing strategy for mixture-of-experts. arXiv:2408.15664, 2024.",
    "Hoffmann et al. Training compute-optimal large language models. arXiv:2203.15556, 2022.",
    "Jordan et al. Muon: An optimizer for hidden layers in neural networks. 2024.",
    "White et al. The Model Openness Framework. arXiv:2403.13784, 2024.",
)


def write(release: "Release", figures: dict[str, str]) -> str:
    """The document.

    Args:
        figures: name -> path relative to the release.
    """
    parts = [
        f"# {inline(release.name)}: technical report",
        f"{'' if release.producer == 'not stated' else inline(release.producer) + ' · '}version {inline(release.version)} · "
        f"{release.date[:10]} · weights {inline(release.options.licence)}, "
        f"this report {inline(release.options.documents)}",
        "## Abstract",
        abstract(release),
        "## The model in ten numbers",
        cards.numbers(release),
        picture(figures, "loss"),
    ]
    for title, section in SECTIONS:
        body = section(release, figures)
        if body:
            parts += [f"## {title}", *body]
    return "\n\n".join(part for part in parts if part) + "\n"


def abstract(release: "Release") -> str:
    """Four sentences that every number of is further down."""
    p = release.config.parameters()
    kind = f"{MODEL_NAMES.get(release.config.model_type, release.config.model_type)}-style"
    described = release.about.model.get("description")
    start = f"{inline(described)} " if described else ""
    active = f", of which {count(p.active)} work on a token" if p.active < p.total else ""
    seconds = release.compute["seconds"]
    where = f"on one {release.stage_facts[0]['device'].upper()} machine"
    spent = "" if seconds is None else f" All training took {hours_text(seconds / 3600)} {where}."
    return (
        f"{start}{inline(release.name)} is a {kind} language model of {count(p.total)} parameters{active}. "
        f"{_born(release)}.{spent}{''.join(_scored(release))} "
        "Weights, code, data information, logs and the means to check and repeat all of it are in this release."
    )


def _born(release: "Release") -> str:
    """From what it was made, stage by stage."""
    facts, chain = release.stage_facts, release.chain
    later = [f"{WORDS[f['verb']]} ({count(f['tokens'] or 0)} tokens)" for f in facts if f["verb"] != "pretrain"]
    taught = " and ".join(later)
    if chain.base_models:
        return f"It descends from {inline(', '.join(a.name for a in chain.base_models))} by {taught}"
    first = facts[0]
    sources = sum(s.stage == first["verb"] for s in chain.sources)
    born = f"It was trained from random weights on {count(first['tokens'] or 0)} tokens of {sources} declared sources"
    return f"{born}, then taught by {taught}" if later else born


def _scored(release: "Release") -> list[str]:
    """What it reaches: its tasks, and all held-out text."""
    out = []
    tasks = [s for s in release.scores if "exact_match" in s.metrics]
    if tasks:
        told = [f"{score_text(s, 'exact_match')} of {s.task} ({chance_text(s, 'exact_match')})" for s in tasks]
        out.append(f" Of problems that training never showed it solves {inline(', '.join(told))}.")
    whole = next((s for s in release.scores if "bits_per_byte" in s.metrics), None)
    best = whole or (release.scores[0] if release.scores and not tasks else None)
    if best is not None:
        name = next(iter(best.metrics))
        beside = chance_text(best, name)
        score = f"{inline(score_text(best, name))} {NAMES.get(name, name)}"
        out.append(f" On {inline(best.what)} it reaches {score}" + (f" ({inline(beside)})." if beside != "–" else "."))
    return out


# ---- sections --------------------------------------------------------------------------------------------------------


def limits(release: "Release", figures: dict[str, str]) -> list[str]:
    return ["\n".join(f"- {inline(line)}" for line in cards.limits(release))]


def licences(release: "Release", figures: dict[str, str]) -> list[str]:
    return cards.origin(release)


def references(release: "Release", figures: dict[str, str]) -> list[str]:
    return ["\n".join(f"{i}. {text}" for i, text in enumerate(REFERENCES, 1))]


SECTIONS = (
    ("Model", model),
    ("Data", data),
    ("Training", training),
    ("Evaluation", evaluation),
    ("What each stage changed", teaching),
    ("Samples", samples),
    ("Ablations", ablations),
    ("Cost, energy and the EU's thresholds", cost),
    ("What did not work", did_not_work),
    ("What this model cannot do", limits),
    ("Repeat it", repeat),
    ("Licences and origin", licences),
    ("References", references),
)
