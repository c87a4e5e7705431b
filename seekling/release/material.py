"""Everything a release says, gathered before a file is written: all that is wrong is found here, and told at once."""

import datetime
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, RecipeError, raise_all
from seekling.release.about import About, read_about
from seekling.release.chain import Chain, Stage, open_chain
from seekling.release.licences import LicenceError, ids_of, problems_of
from seekling.release.scores import Score
from seekling.release.terms import refusals, text_refusals

if TYPE_CHECKING:
    from seekling.model.config import ModelConfig

FIRST_LOSSES = 20  # step lines whose loss release.json holds
TOLERANCE = 0.02  # ± of those losses on another kind of machine; nats
BAND = {
    "bpb": 0.02,
    "ce": 0.05,
    "accuracy": 0.15,
}  # ± of a final score; five standard deviations between seeds at nano (docs/results.md)
METRICS = {"bpb": "bits_per_byte", "ce": "ce", "accuracy": "accuracy"}
GPAI, SYSTEMIC = 1e23, 1e25  # FLOP: the EU's indicative threshold for general-purpose models, and for systemic risk


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    licence: str = "MIT"
    documents: str = "CC-BY-4.0"
    name: str | None = None
    version: str = "1.0"
    about: str | None = None
    gguf: bool = False
    int8: bool = False
    git: bool = False
    key: str | None = None
    with_data: bool = False
    checkpoints: bool = True
    offline: bool = False
    watts: float | None = None


@dataclass
class Release:
    """The material. ``scores``, ``samples`` and ``answers`` come from the very weights that are released."""

    name: str
    options: Options
    about: About
    chain: Chain
    config: "ModelConfig"
    released: datetime.datetime
    stage_facts: list[dict[str, Any]]
    compute: dict[str, Any]
    ablations: list[dict[str, Any]] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)  # to the first problems of every task
    code: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return self.options.version

    @property
    def date(self) -> str:
        return self.released.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def producer(self) -> str:
        return self.about.producer.get("name") or "not stated"

    @property
    def data_licence(self) -> str:
        """One expression over all sources."""
        found = sorted({s.licence for s in self.chain.sources})
        return " AND ".join(f"({one})" if " OR " in one else one for one in found) or self.options.licence

    @property
    def pretraining(self) -> dict[str, Any] | None:
        """The report's facts of the stage that trained from random weights; None where the base is somebody else's."""
        return next((f for f in self.stage_facts if f["verb"] == "pretrain"), None)

    @property
    def languages(self) -> list[str]:
        return sorted({s.language for s in self.chain.sources if s.language}) or ["en"]

    def licence_ids(self) -> list[str]:
        """Every id named anywhere, so that each has its text."""
        ancestors = (*self.chain.base_models, *self.chain.teachers, *self.chain.merged)
        said = [self.options.licence, CODE_LICENCE, self.options.documents, *(s.licence for s in self.chain.sources)]
        said += [a.licence for a in ancestors if a.licence]
        return list(dict.fromkeys(name for expression in said for name in ids_of(expression)))


CODE_LICENCE = "MIT"


def gather(run: str | Path, options: Options, say: Callable[[str], None]) -> Release:
    """Read the run and everything behind it, and judge whether it may and can be released.

    Raises:
        CheckpointError, RecipeError, LicenceError: listing every problem of its kind.
    """
    about = read_about(options.about)
    raise_all(LicenceError, [*problems_of(options.licence, "--licence"), *problems_of(options.documents, "--documents")])
    say(f"reading {run} and what it was made from")
    chain = open_chain(run, about)
    name = options.name or Path(run).resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise RecipeError(f"--name {name!r}: letters, digits, '.', '_' and '-' only, as model hubs take it")
    evaluated(chain)
    licensed(chain, options, name)
    facts = [stage_facts(stage, options.watts) for stage in chain.stages]
    if options.with_data:
        chain = replace(chain, sources=tuple(replace(s, in_release=s.kind != "task") for s in chain.sources))
    return Release(
        name=name,
        options=options,
        about=about,
        chain=chain,
        config=config_of(chain),
        released=moment(),
        stage_facts=facts,
        compute=compute(chain, facts),
        ablations=ablations(about),
        notes=list(chain.notes),
    )


def evaluated(chain: Chain) -> None:
    """Refuse a run whose last stage was never evaluated."""
    if not chain.stages:
        raise CheckpointError("these weights were merged from models without a run here, so there is no evaluation to release")
    if chain.last.final is None:
        run = chain.last.run
        raise CheckpointError(
            f"{run} has no evaluation after its last step: a release states what the model reaches. Repeat it with held-out "
            f"data "
            "(--heldout above 0), which is evaluated at the end"
        )


def licensed(chain: Chain, options: Options, name: str) -> None:
    """Refuse what has no licence, an unknown one, or one that forbids this."""
    hint = 'declare it in --about FILE: [sources."{0}"] licence = "…"'
    bad: list[str] = []
    for source in chain.sources:
        found = problems_of(source.licence, f"source {source.name}")
        bad += [f"{line}; {hint.format(source.name)}" if "states no licence" in line else line for line in found]
    ancestors = (*chain.base_models, *chain.teachers, *chain.merged)
    bad += [line for a in ancestors if a.licence for line in problems_of(a.licence, f"model {a.name}")]
    bad += refusals(options.licence, name, chain.base_models, chain.teachers, chain.merged)
    if options.with_data:
        bad += text_refusals(chain.sources)
    raise_all(LicenceError, bad, "this cannot be released")


def moment() -> datetime.datetime:
    """Now, or SOURCE_DATE_EPOCH for a release that is built again bit for bit."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdecimal():
        raise RecipeError(f"SOURCE_DATE_EPOCH must be seconds since 1970, not {text!r}")
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return datetime.datetime.fromtimestamp(int(text), datetime.UTC) if text else now


def config_of(chain: Chain) -> "ModelConfig":
    """The shape of the released model; an adapter's is its base's."""
    from seekling.formats.families import read_config
    from seekling.formats.folder import CONFIG, read_json
    from seekling.lm import load

    if chain.is_adapter:
        return load(chain.weights).config
    return read_config(read_json(chain.weights, CONFIG))


# ---- stages ----------------------------------------------------------------------------------------------------------


def stage_facts(stage: Stage, watts: float | None) -> dict[str, Any]:
    """What the report says of a stage; of pretraining all that :mod:`seekling.release.facts` gathers, as ``report``."""
    facts: dict[str, Any] = {
        "number": stage.number,
        "verb": stage.verb,
        "folder": stage.folder,
        "run": stage.run.name,
        "steps": stage.steps,
        "planned": stage.planned,
        "seed": stage.value("seed", 0),
        "threads": stage.value("threads"),
        "dtype": stage.value("dtype"),
        "device": stage.value("device", "cpu"),
        "tokens": stage.state.get("tokens"),
        "seconds": stage.state.get("elapsed"),
        "command": stage.value("command", ""),
        "final": final_of(stage),
        "versions": stage.state.get("versions", {}),
    }
    if stage.verb == "pretrain":
        from seekling.release.report import facts_of

        _, report = facts_of(stage.run, watts, None)
        report["run"]["name"] = stage.run.name
        cost = report["cost"]
        return facts | {"report": report, "flops": cost["flops"], "watt_hours": cost["watt_hours"], "watts": cost["watts"]}
    return facts | later_cost(stage, watts)


def later_cost(stage: Stage, watts: float | None) -> dict[str, Any]:
    """Operations and energy of a stage after pretraining, estimated from its tokens.

    Every trained token counts as in full training, which is more than LoRA needs; a roll-out costs one forward pass a token.
    """
    from seekling.lm import load
    from seekling.plan import flops_per_token
    from seekling.release.facts import WATTS_PER_CORE

    tokens, seconds = stage.state.get("tokens") or 0, stage.state.get("elapsed")
    length = int(stage.value("seq_len") or 256)
    per_token = flops_per_token(load(stage.checkpoint).config, length)
    each = per_token.main + (per_token.main / 3 if stage.verb == "grpo" else 0.0)
    if watts is None and stage.value("device", "cpu") == "cpu":
        watts = WATTS_PER_CORE * (stage.value("threads") or 1)
    hours = seconds / 3600 if seconds is not None else None
    return {"flops": each * tokens, "watts": watts, "watt_hours": watts * hours if watts and hours is not None else None}


def final_of(stage: Stage) -> dict[str, Any] | None:
    """Metric, value and band of the last evaluation, for release.json."""
    found = stage.final or {}
    for key, band in BAND.items():
        if isinstance(found.get(key), int | float):
            return {"metric": METRICS[key], "value": float(found[key]), "band": band}
    return None


def first_losses(stage: Stage) -> list[dict[str, Any]]:
    """``loss`` of the first step lines as logged."""
    rows = [r for r in stage.log.steps if isinstance(r.get("loss"), int | float)]
    return [{"step": r["step"], "loss": r["loss"]} for r in rows[:FIRST_LOSSES]]


def compute(chain: Chain, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Operations, energy and time of all stages, and where that stands against the EU's thresholds."""

    def total(key: str) -> float | None:
        known = [f[key] for f in facts if f.get(key) is not None]
        return float(sum(known)) if known else None

    own = total("flops") or 0.0
    base = chain.base_flops
    whole = own + base if base is not None else own if not chain.base_models else None
    third = (base if base is not None else GPAI) / 3
    eu: dict[str, Any] = {"general_purpose_threshold": GPAI, "systemic_risk_threshold": SYSTEMIC}
    eu["share_of_general_purpose"] = None if whole is None else whole / GPAI
    eu["share_of_systemic_risk"] = None if whole is None else whole / SYSTEMIC
    eu["general_purpose"] = None if whole is None else whole > GPAI
    if chain.base_models:
        eu |= {"modification_threshold": third, "share_of_modification": own / third, "modifier_is_provider": own > third}
    return {
        "flops": whole,
        "own_flops": own,
        "watt_hours": total("watt_hours"),
        "seconds": total("seconds"),
        "eu": eu,
    }


def eu_lines(compute: dict[str, Any]) -> list[str]:
    """The thresholds in words."""
    eu, own = compute["eu"], compute["own_flops"]
    if compute["flops"] is None:
        lines = [f"This release's own training took {own:.3g} FLOP; what its base model took is not stated."]
    else:
        share = eu["share_of_general_purpose"]
        side = "above" if eu["general_purpose"] else "below"
        lines = [
            f"All training took {compute['flops']:.3g} FLOP: {share:.2g} of the 1e23 above which the EU takes a model that "
            f"writes text for general-purpose ({side} it), and {eu['share_of_systemic_risk']:.2g} of the 1e25 of systemic risk."
        ]
    if "modification_threshold" in eu:
        known = (
            "a third of the base model's compute"
            if compute["flops"] is not None
            else "a third of 1e23, the base's being unknown"
        )
        side = "so whoever modified it becomes a provider" if eu["modifier_is_provider"] else "so it creates no provider duties"
        lines.append(
            f"The modification took {eu['share_of_modification']:.2g} of {known} ({eu['modification_threshold']:.3g}), {side}."
        )
    return lines


def ablations(about: About) -> list[dict[str, Any]]:
    """The further runs that ``--about`` names, each with its size, tokens and final score."""
    from seekling.release.chain import read_stage

    out = []
    for row in about.ablations:
        path = Path(row["run"])
        stage = read_stage(path if path.is_absolute() else about.folder / path)
        facts = stage_facts(stage, None)
        out.append({"name": row["name"], "about": row.get("about", ""), "facts": facts, "final": facts["final"]})
    return out
