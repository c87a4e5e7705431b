"""The technical report on data, training and cost."""

from typing import TYPE_CHECKING, Any

from seekling.release import cards
from seekling.release.chain import WORDS
from seekling.release.escape import inline, table
from seekling.release.headline import disk_text
from seekling.release.material import eu_lines
from seekling.release.paper.figures import picture
from seekling.release.sections import SETTINGS, cell

if TYPE_CHECKING:
    from seekling.release.material import Release


def data(release: "Release", figures: dict[str, str]) -> list[str]:
    rows: list[list[object]] = [
        [s.name, s.stage, s.licence, s.osaid_kind, cell(s.documents), disk_text(s.bytes), cell(s.tokens), cell(s.share, ".1%")]
        for s in release.chain.sources
    ]
    described = [f"- {inline(s.name)}: {inline(s.about)}. {inline(s.attribution)}." for s in release.chain.sources if s.about]
    out = [
        "Every source is declared with origin, licence and hash before it is read; a source without a licence stops the "
        "release. The full "
        "list with files and filters is [data/manifest.json](data/manifest.json).",
        picture(figures, "mixture"),
        table(["source", "stage", "licence", "kind", "documents", "bytes", "tokens", "share"], rows, right=4),
        "\n".join(described),
    ]
    first = release.pretraining
    if first is not None and first["report"]["data"]:
        found = first["report"]["data"]
        out.append(
            f"Tokenizer: {cell(found['tokenizer']['vocab_size'])} tokens, "
            f"{inline(found['tokenizer']['about'] or 'origin not stated')}. Held "
            f"out: {cell(found['heldout']['documents'])} documents, {cell(found['heldout']['tokens'])} tokens, set apart by "
            f"a hash of the "
            "text before anything was learned; duplicates go together."
        )
        out += [f"- {inline(note)}" for note in (*found["notes"], *(f"left out: {m}" for m in found["missing"]))]
    return out


def training(release: "Release", figures: dict[str, str]) -> list[str]:
    out = list(cards.training(release))
    for facts in release.stage_facts:
        if len(release.stage_facts) > 1:
            out.append(f"### Stage {facts['number']}: {WORDS[facts['verb']]}")
        if "report" not in facts:
            out += later_stage(release, facts)
            continue
        report = facts["report"]
        rows: list[list[object]] = []
        for section in ("data", "train"):
            values = report["configuration"].get(section, {})
            told = [f"{n} {_value(values[n])}" for n in SETTINGS[section] if values.get(n) not in (None, "", (), [])]
            rows.append([section, ", ".join(told)])
        out += [table(["section", "settings"], rows, right=2)]
        out += [picture(figures, name) for name in ("optimisation", "speed", "balance", "experts")]
        trained = report["training"]
        clipped = (
            ""
            if trained["clipped_share"] is None
            else f"The gradient was clipped in {trained['clipped_share']:.0%} of the steps. "
        )
        maxvio = [f"{n} {cell(v, '.2f')}" for n, v in zip(report["routers"], trained["maxvio"], strict=False)]
        out.append(
            clipped
            + (f"MaxVio (largest load over the mean, minus one) in the last step: {', '.join(maxvio)}." if maxvio else "")
        )
    out.append(picture(figures, "stages"))
    return out


def later_stage(release: "Release", facts: dict[str, Any]) -> list[str]:
    """Settings of a stage after pretraining, why it ended, and what a reward is there."""
    settings = {k: v for k, v in stage_settings(release, facts["number"]).items() if v not in (None, "", ())}
    out = [table(["setting", "value"], [[k, v] for k, v in settings.items()], right=2)]
    stage = release.chain.stages[facts["number"] - 1]
    if facts["steps"] < facts["planned"]:
        out.append(
            f"It ended after {facts['steps']:,} of at most {facts['planned']:,} steps, as planned: enough problems of practice "
            "came out right by then, and from there trying teaches more than telling."
        )
    if stage.verb == "grpo":
        from seekling.release.practice import reward_text

        out.append(
            f"Reward of an answer: {inline(reward_text(stage.recipe))}. Its advantage is over the other answers to the "
            "same problem."
        )
    return out


def stage_settings(release: "Release", number: int) -> dict[str, Any]:
    names = (
        "steps",
        "batch_size",
        "seq_len",
        "lr",
        "optimizer",
        "schedule",
        "lora",
        "lora_alpha",
        "tasks",
        "level",
        "problems",
        "group",
        "kl",
    )
    stage = release.chain.stages[number - 1]
    return {name: _value(stage.value(name)) for name in names if stage.value(name) is not None}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        " ".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def cost(release: "Release", figures: dict[str, str]) -> list[str]:
    rows: list[list[object]] = [
        [
            f"{f['number']} {WORDS[f['verb']]}",
            cell(f["seconds"], ",.0f"),
            cell(f["flops"], ".3g"),
            cell(f["watt_hours"], ".3g"),
            f["threads"] or "–",
        ]
        for f in release.stage_facts
    ]
    return [
        picture(figures, "time"),
        table(["stage", "seconds", "FLOP", "Wh", "threads"], rows),
        "Energy is reckoned at 10 W a core, memory and losses included; it was not measured. FLOP count the arithmetic of "
        "the model, not "
        "what the machine did.",
        *(inline(line) for line in eu_lines(release.compute)),
    ]
