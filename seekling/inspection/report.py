"""The result of an inspection: as data, and as the lines that people read."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from seekling.plan import count, size_text


@dataclass
class Inspection:
    """What a model folder or file holds, and whether it would load.

    Attributes:
        path: what was looked at; ``kind``: "checkpoint", "run", "gguf", "adapter", "config" or "weights".
        model: architecture, counts and context; empty where no config could be understood.
        weights: stored bytes and numbers by dtype.
        licence: name and where it is stated, None where it is not.
        tokenizer, template: kind and size; hash and who encodes conversations.
        files: name, bytes and role of each.
        refused: what keeps the model from loading, and why; ``ignored``: what is there and will not be opened or run.
        notes: what is worth knowing.
        loads: whether `seekling.load` would open it (an adapter: onto its base); None where the question makes no sense.
    """

    path: str
    kind: str
    name: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    licence: dict[str, str] | None = None
    tokenizer: dict[str, Any] | None = None
    template: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loads: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``; keys without content are left in, so that a program finds them always."""
        return dataclasses.asdict(self)


def render(found: Inspection) -> str:
    """Aligned rows, then what is refused and why."""
    rows = [("path", found.path), ("kind", found.kind + (f", {found.name}" if found.name else ""))]
    rows += _model_rows(found.model) + _weight_rows(found.weights) + _adapter_rows(found.adapter)
    licence = found.licence
    rows.append(("licence", f"{licence['name']} ({licence['source']})" if licence else "not stated"))
    if found.tokenizer:
        t = found.tokenizer
        rows.append(("tokenizer", f"{t['kind']}, {t['vocabulary']:,} tokens, {t['control']:,} of them control ({t['source']})"))
    if found.template:
        t = found.template
        rows.append(("chat", t["encoding"] + (f"; template sha256 {t['sha256'][:16]}…" if t["sha256"] else "")))
    if found.files:
        total = sum(f["bytes"] for f in found.files)
        rows.append(("files", f"{len(found.files)}, {size_text(total)}"))
    if found.loads is not None:
        rows.append(("loads", "yes" if found.loads else "no"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for title, texts in (("refused", found.refused), ("never opened or run", found.ignored), ("note", found.notes)):
        if texts:
            lines += ["", f"{title}:", *(f"  - {text}" for text in texts[:SHOWN])]
            if len(texts) > SHOWN:
                lines.append(f"  … and {len(texts) - SHOWN} more (--json lists them all)")
    return "\n".join(lines)


SHOWN = 12


def _model_rows(m: dict[str, Any]) -> list[tuple[str, str]]:
    if not m:
        return []
    rows = [("model", " ".join(str(x) for x in (m["model_type"], m.get("architecture") and f"({m['architecture']})") if x))]
    if "parameters" not in m:
        return rows
    mtp = f" (+ {count(m['parameters_mtp'])} MTP)" if m["parameters_mtp"] else ""
    rows.append(("parameters", f"{count(m['parameters'])}{mtp}, active a token {count(m['parameters_active'])}"))
    layers = f"{m['layers']}"
    if m["moe_layers"]:
        layers += f", {m['moe_layers']} of them MoE"
    if m["mtp_layers"]:
        layers += f", and {m['mtp_layers']} for multi-token prediction"
    kinds = {kind: n for kind, n in m["layer_types"].items() if kind != "full_attention"}
    layers += "".join(f", {n} {kind.replace('_', ' ')}" for kind, n in kinds.items())
    rows.append(("layers", layers))
    tied = ", head tied to it" if m["tied"] else ""
    rows.append(("width", f"{m['hidden_size']:,}, MLP {m['intermediate_size']:,}, vocabulary {m['vocab_size']:,}{tied}"))
    rows.append(("attention", m["attention"]))
    if m["experts"]:
        rows.append(("experts", m["experts"]))
    scaling = f", {m['rope_scaling']}" if m["rope_scaling"] else ""
    rows.append(("context", f"{m['context']:,} tokens, rope theta {m['rope_theta']:g}{scaling}"))
    kv = m["kv_bytes_per_token"]
    rows.append(("KV cache", f"{kv:,} B a token in bf16, {size_text(kv * m['context'])} for a full context"))
    rows.append(
        ("memory to load", f"{size_text(m['parameters'] * 2)} in bfloat16, {size_text(m['parameters'] * 4)} in float32")
    )
    return rows


def _weight_rows(w: dict[str, Any]) -> list[tuple[str, str]]:
    if not w:
        return []
    each = sorted(w["dtypes"].items(), key=lambda item: -item[1]["bytes"])
    parts = ", ".join(f"{dtype} {size_text(d['bytes'])} ({d['tensors']:,} tensors)" for dtype, d in each)
    bits = f"; {w['bits_per_weight']:.2f} bits a weight" if w.get("bits_per_weight") else ""
    rows = [("weights", f"{size_text(w['bytes'])} in {w['tensors']:,} tensors: {parts}{bits}")]
    if w.get("quantisation"):
        rows.append(("quantisation", w["quantisation"]))
    return rows


def _adapter_rows(a: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not a:
        return []
    return [
        ("adapter", f"{a['kind']}, rank {a['rank']}, alpha {a['alpha']:g}, {count(a['parameters'])} parameters"),
        ("base model", str(a["base"] or "not named")),
        ("on", ", ".join(a["targets"])),
    ]
