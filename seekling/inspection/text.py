"""What a folder says about its tokenizer, chat format and licence."""

import json
import re
from pathlib import Path
from typing import Any

from seekling.errors import SeeklingError
from seekling.inspection.headers import error_lines
from seekling.inspection.report import Inspection


def read_text(place: Path, out: Inspection) -> None:
    """Tokenizer and template of a folder."""
    from seekling.lm import tokenizer_of

    try:
        tokenizer = tokenizer_of(place)
        if tokenizer is None and any(f["role"] == "tokenizer" for f in out.files):
            from seekling.text.tokenizer import Tokenizer

            tokenizer = Tokenizer.load(place)
    except SeeklingError as error:
        out.refused += [f"tokenizer: {line}" for line in error_lines(error)]
        return
    if tokenizer is None:
        out.notes.append("there is no tokenizer: only token ids can be given to this model")
        return
    describe_text(tokenizer, out)


def describe_text(tokenizer: Any, out: Inspection) -> None:
    spec = tokenizer.spec
    model = spec.get("model") or {}
    decoder = json.dumps(spec.get("decoder") or {})
    style = "byte-level" if "ByteLevel" in decoder else "SentencePiece-style" if "▁" in decoder else ""
    kind = " ".join(x for x in (style, model.get("type") or "BPE") if x)
    out.tokenizer = {
        "kind": kind, "vocabulary": tokenizer.vocab_size, "control": len(tokenizer.special),
        "source": getattr(tokenizer, "source", "tokenizer.json"), "bos": tokenizer.bos_id, "eos": tokenizer.eos_id,
    }  # fmt: skip
    size = out.model.get("vocab_size")
    if size and tokenizer.vocab_size > size:
        out.refused.append(f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocabulary {size}")
    encoding = tokenizer.chat
    builtin = type(encoding).__name__ == "DeepSeekChat"
    has = tokenizer.chat_template is not None
    words = encoding.name if builtin else "its own template, rendered in a sandbox" if has else "no chat format"
    digest = tokenizer.template_hash if has else None
    out.template = {"sha256": digest, "built_in": builtin, "encoding": words, "thinks": encoding.thinks}


_KNOWN_LICENCES = (
    ("apache-2.0", r"Apache License\s+Version 2\.0"), ("mit", r"\bMIT License\b|Permission is hereby granted, free of charge"),
    ("bsd-3-clause", r"Redistribution and use in source and binary forms.*Neither the name"),
    ("gpl-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"), ("deepseek", r"DEEPSEEK LICENSE AGREEMENT"),
    ("llama", r"LLAMA [\d.]+ COMMUNITY LICENSE"), ("cc0-1.0", r"CC0 1\.0 Universal"),
)  # fmt: skip


def licence_of(place: Path) -> dict[str, str] | None:
    """The licence that the card, the pull's record or a LICENSE file states."""
    from seekling.hub.names import read_record
    from seekling.hub.repository import card_licence
    from seekling.release.licence_match import identify

    stated = card_licence(place)
    if stated:
        return {"name": stated, "source": "README.md"}
    record = read_record(place)
    if record and record.get("licence"):
        return {"name": str(record["licence"]), "source": "as pulled"}
    for path in sorted([*place.glob("LICEN[SC]E*"), *place.glob("licen[sc]e*")]):
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(1 << 17)
            match = identify(text)
            if match.id is not None and (match.exact or match.changes):
                name = match.id.lower()
                return {"name": name if match.exact else f"{name} with other words in it", "source": path.name}
            for name, pattern in _KNOWN_LICENCES:
                if re.search(pattern, text, re.IGNORECASE | re.DOTALL):
                    return {"name": name, "source": path.name}
            first = next((line.strip() for line in text.splitlines() if line.strip()), "")
            return {"name": first[:80] or "empty file", "source": path.name}
    return None
