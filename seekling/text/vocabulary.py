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
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from seekling.errors import DataError
from seekling.text.special import is_control

# Digits only: no normalizer of any family changes them, no combining character composes with them.
SECRET = f"{secrets.randbelow(10**39):039d}"


class Vocabulary:
    """The encoder and tables of a tokenizer.json.

    Attributes:
        text: the file's content; as objects, a vocabulary of 50,000 is 13 MB, and few ask for them again.
        encoder: the `tokenizers` object that sees secret names in place of control tokens.
        control: control token text → id.
        names: control token text → secret name.
        hidden: ids left out of decoded text.
        bytes: the bytes each id stands for.
        strips_first: decoding drops a blank at the very beginning.

    Raises:
        DataError: the file is of a kind that cannot be read.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        merges = _merges_text(spec)  # is written once for both
        self.text = _spec_text(spec, merges)
        added = spec.get("added_tokens") or []
        control = [token for token in added if is_control(token)]
        self.control: dict[str, int] = {token["content"]: token["id"] for token in control}
        self.names = {mark: f"{SECRET}{number:06d}" for number, mark in enumerate(self.control)}
        self.hidden = frozenset(token["id"] for token in added if token.get("special"))
        self.encoder = _encoder(spec, self.names, merges)
        self.bytes = ByteTable(spec, added)
        self.strips_first = _strips_first_space(spec)
        written = {self.names.get(token["content"], token["content"]): token["id"] for token in added}
        found = {name: self.encoder.token_to_id(name) for name in written}
        self._ids = {found[name]: number for name, number in written.items() if found[name] not in (None, number)}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that may hold secret names. The library numbers added tokens by itself; here the file's ids count."""
        encoded = [encoding.ids for encoding in self.encoder.encode_batch_fast(texts, add_special_tokens=False)]
        return [[self._ids.get(i, i) for i in ids] for ids in encoded] if self._ids else encoded


def _merges_text(spec: dict[str, Any]) -> str | None:
    """The merges of a BPE as JSON; None where there are none."""
    merges = (spec.get("model") or {}).get("merges")
    return None if merges is None else json.dumps(merges)


def _spec_text(spec: dict[str, Any], merges: str | None) -> str:
    """The spec as JSON, with its merges already written."""
    if merges is None:
        return json.dumps(spec)
    place = f"{SECRET}merges"
    return json.dumps({**spec, "model": {**spec["model"], "merges": place}}).replace(f'"{place}"', merges, 1)


def _encoder(spec: dict[str, Any], names: dict[str, str], merges: str | None) -> tokenizers.Tokenizer:
    """The library's object over the renamed spec, without a template that would add tokens by itself."""
    # Secret names are found before any normalizer: one that puts a blank in front would hide the second of two marks.
    added = [
        {**t, "content": names[t["content"]], "normalized": False} if t["content"] in names else t
        for t in spec.get("added_tokens") or []
    ]
    model = spec.get("model") or {}
    changed = _renamed(model, names)
    renamed = {
        **spec,
        "added_tokens": added,
        "model": changed,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    try:
        same = changed.get("merges") is model.get("merges")
        return tokenizers.Tokenizer.from_str(_spec_text(renamed, merges if same else None))
    except BaseException as error:  # the library raises bare Exception, and its panics are not even that
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"tokenizer.json cannot be read: {error}: fetch it again") from None


def _renamed(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The model with control tokens of its own vocabulary renamed as well, and no merge that would build one."""
    vocabulary, changed = model.get("vocab"), dict(model)
    if isinstance(vocabulary, dict):
        changed["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
        taken, merges = {mark for mark in names if mark in vocabulary}, model.get("merges") or []
        built = _joined(merges) if taken else ""
        if any(mark in built for mark in taken):
            changed["merges"] = [merge for merge in merges if not _touches(merge, taken)]
    elif isinstance(vocabulary, list):
        changed["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        changed["unk_token"] = names[model["unk_token"]]
    return changed


def _joined(merges: list[Any]) -> str:
    """What the merges build, line by line; no mark in it, no merge that touches one."""
    return "\n".join(merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge) for merge in merges)


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


class ByteTable:
    """The bytes each token stands for; vocabularies are byte-level, or have ``▁`` for space and ``<0x0A>`` for a lone byte.

    Worked out token by token when asked for: a hundred thousand at once would keep a user waiting.

    Attributes: ``size`` (one more than the highest id).
    """

    def __init__(self, spec: dict[str, Any], added: list[dict[str, Any]]) -> None:
        vocabulary = tokens_of(spec)
        kinds = {step.get("type") for step in _steps(spec.get("decoder"))}
        if not vocabulary or not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            raise DataError(
                f"tokenizer.json is of a kind that is not supported ({(spec.get('model') or {}).get('type')}, decoder "
                f"{', '.join(map(str, kinds)) or 'none'}): use a byte-level BPE, or a SentencePiece-style BPE or Unigram"
            )
        self._read = letters_bytes if "ByteLevel" in kinds else _fallback_bytes
        self._texts = dict(zip(vocabulary.values(), vocabulary, strict=True))
        self._known: dict[int, bytes] = {token["id"]: token["content"].encode() for token in added}
        self.size = max(max(self._texts), max(self._known, default=-1)) + 1

    def __getitem__(self, token: int) -> bytes:
        """KeyError for an id that stands for nothing."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._read(self._texts[token])
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts.keys() | self._known.keys())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByteTable):
            return NotImplemented
        return set(self) == set(other) and all(self[token] == other[token] for token in self)


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
