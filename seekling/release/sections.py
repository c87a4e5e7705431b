"""The report's longer sections in Markdown: data, configuration, curves, evaluation, samples. Each takes the facts and gives
paragraphs; where a run has no numbers for it, one that says so."""

from typing import Any

from seekling.release.escape import fence, inline, table
from seekling.release.headline import best_evaluation, disk_text, share_text

PLACES = 5  # steps whose samples are shown; all are in report.json
SETTINGS = {
    "run": ("size", "minutes", "seed", "device", "threads"),
    "model": (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "num_experts_per_tok", "n_shared_experts",
        "moe_intermediate_size", "intermediate_size", "first_k_dense_replace", "num_nextn_predict_layers",
    ),
    "data": ("corpus", "data", "vocab_size", "seq_len", "heldout", "generated_share", "fim_rate", "document_mask"),
    "train": ("steps", "batch_size", "optimizer", "lr", "schedule", "warmup", "weight_decay", "mtp_weight", "bias_update_speed",
        "dtype"),
}  # fmt: skip
TITLES = {
    "loss": "Loss in training, left, and bits per byte on held-out text, right (MTP: the token after "
    "the next); evaluations on the way use the beginning of each source, the final one (diamond) all of it.",
    "sources": "Bits per byte of each held-out source.",
    "optimisation": "Learning rate and gradient norm.",
    "speed": "Tokens a second of every step and the share of the matrix-product peak that this is.",
    "balance": "How unevenly the experts of each layer are used, step by step.",
    "experts": "Load of every expert on held-out text.",
    "time": "Where the wall time went.",
}


def picture(facts: dict[str, Any], name: str) -> str:
    """A figure with its caption as alternative text, or nothing."""
    path = (facts["figures"] or {}).get(name)
    return f"![{TITLES[name]}]({path})\n\n*{TITLES[name]}*" if path else ""


def cell(value: Any, form: str = ",.0f") -> str:
    return "–" if value is None else format(value, form)


# ---- sections --------------------------------------------------------------------------------------------------------


def data(facts: dict[str, Any]) -> list[str]:
    found = facts["data"]
    if found is None:
        return ["There is no data manifest in this run."]
    notes = [f"- {inline(note)}" for note in found["notes"]]
    rows: list[list[object]] = [
        [
            s["name"],
            s["licence"] or "not stated",
            _origin(s),
            cell(s["documents"]),
            disk_text(s["bytes"]),
            cell(s["tokens"]),
            cell(s["share"], ".1%"),
            cell(s["heldout"]["tokens"]),
        ]
        for s in found["sources"]
    ]
    whole = found["train"]
    rows.append(
        [
            "all",
            "",
            "",
            cell(whole["documents"]),
            disk_text(whole["bytes"]),
            cell(whole["tokens"]),
            "",
            cell(found["heldout"]["tokens"]),
        ]
    )
    head = ["source", "licence", "from", "documents", "bytes", "tokens", "share", "held-out tokens"]
    tokenizer = found["tokenizer"]
    return [
        "\n".join(notes),
        table(head, rows, right=3),
        _attributions(found["sources"]),
        f"Tokenizer: {cell(tokenizer['vocab_size'])} tokens, {inline(tokenizer['about'] or 'origin not stated')}. Tokens count "
        "repetitions of a source; held-out documents were set apart before anything was learned from them. Files and hashes: "
        "[data_manifest.json](data_manifest.json).",
    ]


def _origin(source: dict[str, Any]) -> str:
    parts = (source["kind"], source["where"], source["version"])
    return " ".join(str(p) for p in dict.fromkeys(p for p in parts if p not in (None, ""))) or "not stated"


def _attributions(sources: list[dict[str, Any]]) -> str:
    """Who made the text, one line each author."""
    by: dict[str, list[str]] = {}
    for source in sources:
        if source["attribution"]:
            by.setdefault(str(source["attribution"]), []).append(source["name"])
    return "\n".join(f"- {inline(', '.join(names))}: {inline(who)}" for who, names in by.items())


def configuration(facts: dict[str, Any]) -> list[str]:
    rows: list[list[object]] = []
    for section, names in SETTINGS.items():
        values = facts["configuration"].get(section, {})
        told = [f"{name} {_setting(values[name])}" for name in names if values.get(name) not in (None, "", ())]
        rows.append([section, ", ".join(told)])
    return [table(["section", "settings"], rows, right=2), "Every setting: [recipe.toml](recipe.toml)."]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        " ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def curves(facts: dict[str, Any]) -> list[str]:
    training = facts["training"]
    if not training["log_lines"]:
        return ["No training step is in the log."]
    head = ["step", "tokens", "cross-entropy", "MTP", "learning rate", "gradient norm", "tokens/s"]
    forms = (
        ("tokens", ",.0f"),
        ("ce", ".4f"),
        ("mtp_ce", ".4f"),
        ("lr", ".3g"),
        ("grad_norm", ".3g"),
        ("tokens_per_second", ",.0f"),
    )
    rows: list[list[object]] = [[f"{p['step']:,}", *(cell(p[key], form) for key, form in forms)] for p in training["points"]]
    pictures = [picture(facts, name) for name in ("loss", "optimisation", "speed", "balance", "experts")]
    clipped = training["clipped_share"]
    said = "" if clipped is None else f"The gradient was clipped in {clipped:.0%} of the logged steps."
    maxvio = [f"{name} {cell(v, '.2f')}" for name, v in zip(facts["routers"], training["maxvio"], strict=False)]
    balance = (
        f"MaxVio in the last step: {', '.join(maxvio)}." if maxvio else "The model has no routers whose balance could be shown."
    )
    return [*pictures, table(head, rows, right=0), f"{said} {balance} Cross-entropy in nats a token.".strip()]


def evaluation(facts: dict[str, Any]) -> list[str]:
    found = best_evaluation(facts)
    if found is None:
        return ["No evaluation was run."]
    when = "Final evaluation" if found["final"] else f"Newest evaluation, at step {found['step']:,} (there is no final one)"
    rows: list[list[object]] = [_score(name, s) for name, s in found["sources"].items()]
    rows.append(_score("all", found))
    head = ["source", "bits per byte", "next token right", "tokens", "bytes", "share evaluated"]
    way: list[list[object]] = [
        [f"{e['step']:,}", cell(e["bits_per_byte"], ".4f"), cell(e["accuracy"], ".1%"), share_text(e["share"])]
        for e in facts["evaluations"]
    ]
    return [
        f"{when}: {share_text(found['share'])}. Bits per byte do not depend on the tokenizer; lower is better.",
        picture(facts, "sources"),
        table(head, rows),
        "On the way:" if len(way) > 1 else "",
        table(["step", "bits per byte", "next token right", "used"], way, right=1) if len(way) > 1 else "",
    ]


def _score(name: str, s: dict[str, Any]) -> list[object]:
    return [
        name,
        cell(s["bits_per_byte"], ".4f"),
        cell(s["accuracy"], ".1%"),
        cell(s["tokens"]),
        disk_text(s["bytes"]),
        cell(s["share"], ".1%"),
    ]


def samples(facts: dict[str, Any]) -> list[str]:
    every = facts["samples"]
    if not every:
        return ["No sample was drawn."]
    steps = sorted({s["step"] for s in every})
    last = len(steps) - 1
    chosen = [steps[i] for i in sorted({round(i * last / (PLACES - 1)) for i in range(PLACES)})]
    out = [
        "Beginnings of held-out documents and what the model made of them; ┃ is where its own words begin. Chosen by nobody."
    ]
    for step in reversed(chosen):
        out.append(f"### After {step:,} steps")
        for s in (s for s in every if s["step"] == step):
            out += [f"{inline(s['source'])}:", fence(f"{s['prompt']}┃{s['text']}")]
    return out
