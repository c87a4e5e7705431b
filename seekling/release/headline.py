"""The model in ten numbers: what the report opens with and what the terminal prints when a run ends."""

from typing import TYPE_CHECKING, Any

from seekling.plan import count, hours_text, size_text

if TYPE_CHECKING:
    from seekling.release.facts import Run


def ten_numbers(run: "Run", facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Ten entries ``{key, name, value, unit, text}``; ``value`` None where the number is not known, and ``text`` says why."""
    p, cost, training = run.config.parameters(), facts["cost"], facts["training"]
    tokens = training["tokens"] if run.log.steps else 0
    rows = [
        ("parameters", "parameters", p.total, "parameters", parameter_text(p.total, p.mtp)),
        ("active", "active a token", p.active, "parameters", f"{count(p.active)} ({p.active / p.total:.0%} of all)"),
        ("tokens", "training tokens", tokens, "tokens", token_text(run, facts, tokens, p.active)),
        ("bits_per_byte", "held-out text", *bits_text(facts)),
        ("time", "training time", cost["seconds"], "s", time_text(cost["seconds"])),
        ("tokens_per_second", "speed", training["tokens_per_second"], "tokens/s", speed_text(training, cost)),
        (
            "flops",
            "arithmetic",
            cost["flops"],
            "FLOP",
            f"{cost['flops']:.3g} FLOP ({count(cost['flops_per_token'])} FLOP a token)",
        ),
        ("utilisation", "utilisation", training["utilisation"], "share", utilisation_text(run, training["utilisation"])),
        ("kv_bytes", "cache a token", cost["kv_bytes_per_token"], "bytes", cache_text(cost)),
        ("energy", "energy", cost["watt_hours"], "Wh", energy_text(cost)),
    ]
    return [dict(zip(("key", "name", "value", "unit", "text"), row, strict=True)) for row in rows]


def parameter_text(total: int, mtp: int) -> str:
    return count(total) + (f" (and {count(mtp)} of MTP, used only while training)" if mtp else "")


def token_text(run: "Run", facts: dict[str, Any], tokens: int, active: int) -> str:
    if not run.log.steps:
        return "none: no training step is in the log"
    available = (facts["data"] or {}).get("train", {}).get("tokens")
    epochs = f", {tokens / available:.2f} epochs" if available else ""
    unfinished = "" if facts["run"]["finished"] else f"; so far: step {run.steps_done:,} of {run.recipe.train.steps:,}"
    return f"{count(tokens)} ({tokens / max(1, active):.1f} an active parameter{epochs}{unfinished})"


def best_evaluation(facts: dict[str, Any]) -> dict[str, Any] | None:
    """The final evaluation, or the newest there is."""
    made = [e for e in facts["evaluations"] if e["bits_per_byte"] is not None]
    final = [e for e in made if e["final"]]
    return (final or made or [None])[-1]


def bits_text(facts: dict[str, Any]) -> tuple[float | None, str, str]:
    """(value, unit, text)"""
    found = best_evaluation(facts)
    if found is None:
        return None, "bits/byte", "no evaluation was run"
    what = share_text(found["share"])
    when = "" if found["final"] else f", at step {found['step']:,}"
    return found["bits_per_byte"], "bits/byte", f"{found['bits_per_byte']:.4f} bits per byte ({what}{when})"


def share_text(share: float | None) -> str:
    """How much of the held-out text an evaluation used."""
    if share is None:
        return "share evaluated unknown"
    return (
        "all held-out text"
        if share >= 1
        else f"{share:.3g} of the held-out text"
        if share < 0.01
        else f"{share:.0%} of the held-out text"
    )


def time_text(seconds: float | None) -> str:
    return "not in the log" if seconds is None else f"{hours_text(seconds / 3600)}, saving and evaluating on the way included"


def speed_text(training: dict[str, Any], cost: dict[str, Any]) -> str:
    speed, overall = training["tokens_per_second"], cost["tokens_per_second_overall"]
    if speed is None:
        return "not in the log"
    return f"{speed:,.0f} tokens/s (median step" + (f"; {overall:,.0f} over the whole time)" if overall else ")")


def utilisation_text(run: "Run", share: float | None) -> str:
    if share is None:
        return f"not known: the matrix peak of device {run.recipe.run.device} was not measured"
    return f"{share:.1%} of the {run.recipe.train.dtype} matrix-product peak measured as the run started (median step)"


def cache_text(cost: dict[str, Any]) -> str:
    mine, plain = cost["kv_bytes_per_token"], cost["mha_bytes_per_token"]
    return (
        f"{mine:,} bytes in bfloat16, {plain / mine:.1f} times less than plain multi-head attention of this shape ({plain:,})"
    )


def energy_text(cost: dict[str, Any]) -> str:
    if cost["watt_hours"] is None:
        return "not estimated: " + (
            "no training time in the log" if cost["seconds"] is None else "no wattage is known for this device"
        )
    how = f"{cost['watts']:g} W ({cost['watts_from']}; not measured)"
    return f"about {cost['watt_hours']:.3g} Wh at {how}"


def disk_text(n: float | None) -> str:
    """Bytes for people; a dash where unknown."""
    return "–" if n is None else size_text(n)
