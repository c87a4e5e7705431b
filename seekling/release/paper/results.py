"""The technical report on what came of it: evaluation, what each stage changed, samples, ablations, what did not work."""

from typing import TYPE_CHECKING

from seekling.plan import count
from seekling.release import cards, score_table
from seekling.release.escape import fence, inline, table
from seekling.release.paper.figures import picture
from seekling.release.teaching import teaching as section

if TYPE_CHECKING:
    from seekling.release.material import Release

FORGOTTEN = 0.005  # bits per byte; less is no news


def evaluation(release: "Release", figures: dict[str, str]) -> list[str]:
    """What the released weights reach, measured while the release was made."""
    asked = [s for s in release.scores if "not asked again" not in s.what]
    told = "Scores are of the files in this release, computed while it was made"
    told += "." if len(asked) == len(release.scores) else ", but for those that say that they are from a log."
    agrees = [
        f"{inline(s.task)} {score_table.NAMES.get(name, name)} {score_table.form_of(name).format(s.logged[name])} there and "
        f"{score_table.form_of(name).format(s.metrics[name][0])} here"
        for s in release.scores
        for name in list(s.metrics)[:1]
        if name in s.logged
    ]
    if agrees:
        told += f" Beside what the run logged at its end: {'; '.join(agrees)}."
    return [
        told,
        picture(figures, "scores"),
        score_table.scores_table(release.scores, drawn=release.chain.last.story is None),  # else the next section has them
        cards.EVALUATION_NOTE
        + " *Uniform*: every token equally likely; *token frequency*: as often as in the training text; *xz*: what a "
        "general compressor makes of the same bytes.",
    ]


def teaching(release: "Release", figures: dict[str, str]) -> list[str]:
    """Scores of the same problems after every stage of ``seekling run``, as it took them."""
    first = release.pretraining
    if first is None or not first["report"]["stages"] or release.chain.last.story is None:
        return []
    return section(first["report"] | {"figures": figures})


def samples(release: "Release", figures: dict[str, str]) -> list[str]:
    if not release.samples:
        return ["No sample was drawn."]
    out = ["Fixed prompts, temperature 0.7, seed 0; ┃ is where the model's own words begin. Nobody chose among the answers."]
    for row in release.samples:
        out += [fence(f"{row['prompt']}┃{row['text']}")]
    answers = release.answers if release.chain.last.story is None else []  # else the section before shows them by stage
    if answers:
        out.append("The first unseen problems of each task, answered greedily:")
    for row in answers:
        mark = "right" if row["right"] else f"wrong: {row['answer']}"
        out += [fence(f"{row['question']}\n┃{row['text']}\n[{mark}]")]
    return out


def ablations(release: "Release", figures: dict[str, str]) -> list[str]:
    if not release.ablations:
        return [
            "None were run for this release; one seed was trained. Differences between kinds of model are in the project's "
            "docs/results.md."
        ]
    rows: list[list[object]] = []
    for row in (
        {
            "name": f"this model ({release.name})",
            "about": "",
            "facts": release.stage_facts[-1],
            "final": release.stage_facts[-1]["final"],
        },
        *release.ablations,
    ):
        f, final = row["facts"], row["final"]
        score = "not evaluated" if final is None else f"{final['metric'].replace('_', ' ')} {final['value']:.4f}"
        rows.append([row["name"], f"{f['steps']:,}", count(f["tokens"] or 0), f["seed"], score, row["about"]])
    return [
        table(["run", "steps", "tokens", "seed", "final score", "what differs"], rows, right=9),
        "One seed each: small differences may be chance.",
    ]


def did_not_work(release: "Release", figures: dict[str, str]) -> list[str]:
    """What the publisher says, and what the numbers say by themselves."""
    lines = [inline(line) for line in release.about.did_not_work]
    for facts in release.stage_facts:
        report = facts.get("report")
        skipped = [e for e in release.chain.stages[facts["number"] - 1].log.events if e.get("what") == "skipped step"]
        if skipped:
            lines.append(
                f"{len(skipped):,} steps of {facts['verb']} were skipped, the first because "
                f"{inline(skipped[0].get('why', 'unknown'))}."
            )
        if report is None:
            continue
        share = report["training"]["utilisation"]
        if share is not None and share < 0.5:
            lines.append(
                f"Training used {share:.0%} of what the machine's matrix products reached as the run began: the rest went into "
                "everything around them, or to other work on the machine."
            )
        load = report["expert_load"]
        if load:
            idle = [(name, sum(v < 0.25 for v in values), len(values)) for name, values in load["relative"].items()]
            lazy = [f"{n} of {m} in {name}" for name, n, m in idle if n]
            if lazy:
                lines.append(f"Some experts get less than a quarter of an even share of held-out tokens: {', '.join(lazy)}.")
        tokens = (facts["tokens"] or 0) / max(1, release.config.parameters().active)
        if tokens < 20:
            lines.append(
                f"It is short of data for its size: {tokens:.1f} tokens an active parameter, where about 20 balance size and "
                f"data [4]."
            )
    for score in release.scores:
        for name, (value, _, low, _) in score.metrics.items():
            earlier = [b for when, b in score.chance.items() if when.startswith(("before", "after"))]
            before = earlier[-1].get(name) if earlier else None
            if before is not None and name == "bits_per_byte" and value > before + FORGOTTEN:
                went = f"{inline(score.task)} went from {before:.3f} to {value:.3f} bits per byte"
                lines.append(f"Teaching cost it some of its text: {went}.")
            if (
                before is not None
                and name in ("acc", "exact_match")
                and (value <= before or (low is not None and low <= before))
            ):
                lines.append(f"{inline(score.task)} did not clearly improve: {before:.1%} before the stage, {value:.1%} after.")
    bits = [s for s in release.scores if "bits_per_byte" in s.chance.get("xz -9", {})]
    pairs = [(s.task, s.metrics["bits_per_byte"][0], s.chance["xz -9"]["bits_per_byte"]) for s in bits]
    worse = [f"{task} ({mine:.3f} against {xz:.3f} bits per byte)" for task, mine, xz in pairs if mine > xz]
    if worse:
        lines.append(f"It predicts worse than xz compresses on {len(worse)} of {len(bits)}: {inline(', '.join(worse))}.")
    return ["\n".join(f"- {line}" for line in lines) or "Nothing that the logs or the publisher know of."]
