"""``report.md`` from the report's facts. Every section is there in every report; one without numbers says why."""

from typing import Any

from seekling.plan import count
from seekling.release.escape import code, fence, inline, table
from seekling.release.sections import configuration, curves, data, evaluation, picture, samples
from seekling.release.teaching import teaching

MOST_EVENTS = 30


def render(facts: dict[str, Any]) -> str:
    """The whole document."""
    run = facts["run"]
    state = "" if run["finished"] else f" (unfinished: step {run['steps_done']:,} of {run['steps']:,})"
    parts = [f"# Run {inline(run['name'])}{state}", *warnings(facts)]
    parts += ["## In ten numbers", numbers_table(facts)]
    for title, section in SECTIONS.items():
        parts += [f"## {title}", *section(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def warnings(facts: dict[str, Any]) -> list[str]:
    """What makes the rest of the report incomplete, before anything else."""
    lines = list(facts["problems"])
    if facts["figures"] is None:
        lines.append("there are no figures, since matplotlib is not installed (pip install matplotlib)")
    if facts["training"]["not_finite"]:
        lines.append(f"{facts['training']['not_finite']:,} log lines have a loss that is not a finite number")
    return ["> **This report is incomplete.**\n" + "\n".join(f"> - {inline(line)}" for line in lines)] if lines else []


def numbers_table(facts: dict[str, Any]) -> str:
    rows: list[list[object]] = [[row["name"], row["text"]] for row in facts["ten_numbers"]]
    return table(["", ""], rows, right=2)


# ---- short sections ---------------------------------------------------------------------------------------------------


def events(facts: dict[str, Any]) -> list[str]:
    every = facts["events"]
    rows: list[list[object]] = [
        [f"{e['step']:,}", e["what"], ", ".join(f"{k} {v}" for k, v in e.items() if k not in ("step", "what"))]
        for e in every[:MOST_EVENTS]
    ]
    out = (
        [table(["step", "what", "details"], rows, right=3)]
        if rows
        else ["Nothing out of the ordinary is in the log: no step was skipped."]
    )
    if len(every) > MOST_EVENTS:
        out.append(f"… and {len(every) - MOST_EVENTS:,} more in [log.jsonl](log.jsonl).")
    return [*out, "A resumed run goes on bit for bit, and its log shows no seam: stops and resumes are not listed."]


def cost(facts: dict[str, Any]) -> list[str]:
    c = facts["cost"]
    if c["seconds"] is None:
        return ["No training time is in the log."]
    ranked = sorted(c["phases"].items(), key=lambda pair: -pair[1])
    rows: list[list[object]] = [[name, f"{s:,.1f}", f"{s / max(1e-9, c['seconds']):.1%}"] for name, s in ranked]
    energy = (
        "not estimated"
        if c["watt_hours"] is None
        else f"about {c['watt_hours']:.3g} Wh at {c['watts']:g} W ({inline(c['watts_from'])}; not measured)"
    )
    money = (
        "no price is known for this device" if c["dollars"] is None else f"about ${c['dollars']:.2g} at ${c['price']:g} an hour"
    )
    return [
        picture(facts, "time"),
        table(["phase", "seconds", "share"], rows),
        f"- Wall time of training: {c['seconds']:,.1f} s in all sessions; preparing the text and the final evaluation "
        "come on top.\n"
        f"- Arithmetic: {c['flops']:.4g} FLOP, {count(c['flops_per_token'])} FLOP a token "
        "(6 × active weights + attention + MTP).\n"
        f"- Energy: {energy}.\n- Money: {money}.".replace("$", "\\$"),
    ]


def repeat(facts: dict[str, Any]) -> list[str]:
    r, v = facts["repeat"], facts["versions"]
    out = [f"Seed {r['seed']}. With this run's recipe at hand:", fence(r["from_recipe"], "sh")]
    if r["command"]:
        out += ["Without it:", fence(r["command"], "sh")]
    if r["typed"]:
        out += ["As it was typed:", fence(r["typed"], "sh")]
    names = (
        "seekling",
        "python",
        "torch",
        "numpy",
        "tokenizers",
        "safetensors",
        "matplotlib",
        "kernels",
        "processor",
        "usable_cores",
        "system",
    )
    rows: list[list[object]] = [[name.replace("_", " "), v[name] if v[name] is not None else "not installed"] for name in names]
    trained = v["trained_with"]
    if isinstance(trained, dict):
        rows.append(["trained with", ", ".join(f"{k} {value}" for k, value in trained.items())])
    return [
        *out,
        "Equal numbers need equal versions, threads and processor; elsewhere they agree to rounding. This report was written "
        "with:",
        table(["", ""], rows, right=2),
    ]


def limits(facts: dict[str, Any]) -> list[str]:
    return ["\n".join(f"- {inline(line)}" for line in facts["limits"])]


def files(facts: dict[str, Any]) -> list[str]:
    return [
        "[report.json](report.json) holds every number above, [log.jsonl](log.jsonl) every step. The newest weights are in "
        f"{code('checkpoints/')}, in Hugging Face layout."
    ]


SECTIONS = {
    "What this model cannot do": limits,
    "Data": data,
    "Configuration": configuration,
    "Curves": curves,
    "Bits per byte": evaluation,
    "Teaching": teaching,
    "Samples": samples,
    "Events": events,
    "Cost": cost,
    "Repeat it": repeat,
    "Files": files,
}
