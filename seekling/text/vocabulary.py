"""A ``tokenizer.json`` spec made safe: control tokens answer only to secret names, every token's bytes are known.

The `tokenizers` library finds added tokens wherever their text occurs, so a user who types ``<｜User｜>`` would write a control
token. Here each control token is renamed to a number drawn at random when the process starts. Text cannot guess it; a caller
who wants the token writes the name from `Vocabulary.names`. All the rest (ids, flags, normalizers that look at what stands
before) works as in the file, so ids are those of the library for any text without marks, and for marks where they belong.
"""

import functools
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

import tokenizers

from seekling.errors import DataError
from seekling.text.special import is_control

# Digits only: no normalizer of any family changes them, no combining character composes with them.
SECRET = f"{secrets.randbelow(10**39):039d}"


class Vocabulary:
    """The encoder and tables of a tokenizer.json.

    Attributes:
        encoder: the `tokenizers` object that sees secret names in place of control tokens.
        control: control token text → id.
        names: control token text → secret name.
        hidden: ids left out of decoded text.
        bytes: id → the bytes it stands for.
        strips_first: decoding drops a blank at the very beginning.

    Raises:
        DataError: the file is of a kind that cannot be read.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        added = spec.get("added_tokens") or []
        control = [token for token in added if is_control(token)]
        self.control: dict[str, int] = {token["content"]: token["id"] for token in control}
        self.names = {mark: f"{SECRET}{number:06d}" for number, mark in enumerate(self.control)}
        self.hidden = frozenset(token["id"] for token in added if token.get("special"))
        self.encoder = _encoder(spec, self.names)
        self.bytes = _byte_table(spec, added)
        self.strips_first = _strips_first_space(spec)
        written = {self.names.get(token["content"], token["content"]): token["id"] for token in added}
        found = {name: self.encoder.token_to_id(name) for name in written}
        self._ids = {found[name]: number for name, number in written.items() if found[name] not in (None, number)}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that may hold secret names. The library numbers added tokens by itself; here the file's ids count."""
        encoded = [encoding.ids for encoding in self.encoder.encode_batch_fast(texts, add_special_tokens=False)]
        return [[self._ids.get(i, i) for i in ids] for ids in encoded] if self._ids else encoded


def _encoder(spec: dict[str, Any], names: dict[str, str]) -> tokenizers.Tokenizer:
    """The library's object over the renamed spec, without a template that would add tokens by itself."""
    # Secret names are found before any normalizer: one that puts a blank in front would hide the second of two marks.
    added = [
        {**t, "content": names[t["content"]], "normalized": False} if t["content"] in names else t
        for t in spec.get("added_tokens") or []
    ]
    renamed = {
        **spec,
        "added_tokens": added,
        "model": _renamed(spec.get("model") or {}, names),
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(renamed))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"tokenizer.json cannot be read: {error}") from None


def _renamed(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The model with control tokens of its own vocabulary renamed as well, and no merge that would build one."""
    vocabulary, changed = model.get("vocab"), dict(model)
    if isinstance(vocabulary, dict):
        changed["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
        taken = {mark for mark in names if mark in vocabulary}
        if taken:
            changed["merges"] = [merge for merge in model.get("merges") or [] if not _touches(merge, taken)]
    elif isinstance(vocabulary, list):
        changed["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        changed["unk_token"] = names[model["unk_token"]]
    return changed


def _touches(merge: str | list[str], marks: set[str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left + right in marks or left in marks or right in marks


def tokens_of(spec: dict[str, Any]) -> dict[str, int]:
    """Text → id of the model's own vocabulary (without added tokens), whichever way the file writes it."""
    vocabulary = (spec.get("model") or {}).get("vocab")
    if isinstance(vocabulary, list):
        return {token: i for i, (token, _) in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, dict) else {}


# ---- ids → bytes -----------------------------------------------------------------------------------------------------


def _byte_table(spec: dict[str, Any], added: list[dict[str, Any]]) -> dict[int, bytes]:
    """Id → bytes, for byte-level vocabularies and those with ``▁`` for space and ``<0x0A>`` for a lone byte."""
    vocabulary = tokens_of(spec)
    kinds = {step.get("type") for step in _steps(spec.get("decoder"))}
    if not vocabulary or not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        raise DataError(
            f"tokenizer.json is of a kind that is not supported ({(spec.get('model') or {}).get('type')}, decoder "
            f"{', '.join(map(str, kinds)) or 'none'}): use a byte-level BPE, or a SentencePiece-style BPE or Unigram"
        )
    if "ByteLevel" in kinds:
        table = {i: letters_bytes(token) for token, i in vocabulary.items()}
    else:
        table = {i: _fallback_bytes(token) for token, i in vocabulary.items()}
    table.update((token["id"], token["content"].encode()) for token in added)
    return table


def letters_bytes(token: str) -> bytes:
    """Bytes of a byte-level token; what is no letter of a byte stands for itself."""
    try:
        return token.translate(_letter_codes()).encode("latin-1")  # a hundred thousand tokens must not keep a user waiting
    except UnicodeEncodeError:
        letters = byte_letters()
        return b"".join(letters.get(c) or c.encode() for c in token)


@functools.cache
def _letter_codes() -> dict[int, int]:
    """Letter → byte, and every other character of Latin-1 to one beyond it."""
    return {**dict.fromkeys(range(256), 0x100), **{ord(letter): byte[0] for letter, byte in byte_letters().items()}}


def _fallback_bytes(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


@functools.cache
def byte_letters() -> dict[str, bytes]:
    """The letter that stands for each byte in a byte-level vocabulary: printable Latin-1 itself, the rest from U+0100 on."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


def _strips_first_space(spec: dict[str, Any]) -> bool:
    return any(
        (step.get("type") == "Strip" and step.get("start", 0) > 0)
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in _steps(spec.get("decoder"))
    )


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not decoder:
        return []
    return decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
