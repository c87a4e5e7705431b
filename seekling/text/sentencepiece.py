"""SentencePiece's ``tokenizer.model`` → the content of a tokenizer.json. The file is read here, the package is not needed.

It is a protocol buffer: pieces with score and type, the trainer's settings, the normalizer's. BPE models become merges in the
order of the scores; unigram models keep their scores.
"""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from seekling.errors import DataError
from seekling.text.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, merges_from_scores

UNIGRAM, BPE = 1, 2  # model types; words and characters are not used by any family
SPACE = "▁"


@dataclass
class Model:
    """What a file holds that matters for encoding."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    bos: int = 1
    eos: int = 2
    space_behind: bool = False
    rule: str = ""
    charsmap: bytes = b""
    add_prefix: bool = True
    collapse_spaces: bool = True
    escape_spaces: bool = True


def convert(data: bytes, where: str, *, legacy: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokenizer.json of a SentencePiece file, and the begin and end tokens it names (for tokenizer_config.json).

    Args:
        where: the file, for messages.
        legacy: every text between control tokens gets the leading blank (as Llama 2's does), else only the first.

    Raises:
        DataError: the file is damaged, or of a kind that no family uses.
    """
    try:
        model = read_model(data)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError):
        raise DataError(f"{where} is no SentencePiece model, or is damaged: fetch it again") from None
    if not model.pieces or len(set(model.pieces)) != len(model.pieces):
        raise DataError(f"{where} holds no pieces, or one twice: fetch it again")
    if model.model_type not in (UNIGRAM, BPE) or model.space_behind or not model.escape_spaces:
        raise DataError(f"{where}: SentencePiece models of this kind are not supported; use the model's tokenizer.json")
    unknown = model.types.index(UNKNOWN) if UNKNOWN in model.types else None
    names = {"bos_token": model.bos, "eos_token": model.eos}
    tokens = {key: model.pieces[i] for key, i in names.items() if 0 <= i < len(model.pieces) and model.types[i] == CONTROL}
    named: dict[str, Any] = tokens | ({"add_bos_token": True} if "bos_token" in tokens else {})  # as such models are trained
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(model),
        "normalizer": _normalizer(model, legacy),
        "pre_tokenizer": _pre_tokenizer(model, legacy),
        "post_processor": None,
        "decoder": _decoder(model),
        "model": _bpe(model, unknown) if model.model_type == BPE else _unigram(model, unknown),
    }
    return spec, named


# ---- parts of the tokenizer.json -------------------------------------------------------------------------------------


def _added(model: Model) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": piece, **flags, "special": kind != USER_DEFINED}
        for i, (piece, kind) in enumerate(zip(model.pieces, model.types, strict=True))
        if kind in (UNKNOWN, CONTROL) or (kind == USER_DEFINED and SPACE not in piece)
    ]


def _normalizer(model: Model, legacy: bool) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.charsmap and model.rule.startswith("nmt"):  # both become blanks; the library takes the pair for one character
        steps.append({"type": "Replace", "pattern": {"String": "\r\n"}, "content": "\n\n"})
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.collapse_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})  # blanks only, not line breaks
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if legacy:
        if model.add_prefix:
            steps.append({"type": "Prepend", "prepend": SPACE})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _pre_tokenizer(model: Model, legacy: bool) -> dict[str, Any] | None:
    if legacy:
        return None
    scheme = "first" if model.add_prefix else "never"
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}


def _decoder(model: Model) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _bpe(model: Model, unknown: int | None) -> dict[str, Any]:
    scores = list(model.scores)
    for i, kind in enumerate(model.types):  # SentencePiece takes these before all others
        if kind == USER_DEFINED:
            scores[i] = float("inf")
    types = [NORMAL if kind == USER_DEFINED and SPACE in model.pieces[i] else kind for i, kind in enumerate(model.types)]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else model.pieces[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(model.pieces)},
        "merges": merges_from_scores(model.pieces, types, scores),
    }


def _unigram(model: Model, unknown: int | None) -> dict[str, Any]:
    """Scores as in the file, but for pieces that no text may become: those of bytes, and unused ones."""
    normal = [s for s, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL] or [0.0]
    low, high = min(normal), max(normal)
    vocab = []
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        if kind == USER_DEFINED:
            score = len(piece) * high - 0.1  # SentencePiece's own bonus
        elif kind in (BYTE, UNUSED):
            score = 10 * low - 100
        vocab.append([piece, score])
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": model.byte_fallback}


# ---- the protocol buffer ---------------------------------------------------------------------------------------------


def read_model(data: bytes) -> Model:
    """The fields that matter. Raises IndexError, ValueError or struct.error for anything that is no such file."""
    model = Model()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece, score, kind = "", 0.0, NORMAL
            for inner, part in _fields(value):
                if inner == 1 and isinstance(part, bytes):
                    piece = part.decode("utf-8")
                elif inner == 2 and isinstance(part, float):
                    score = part
                elif inner == 3 and isinstance(part, int):
                    kind = part
            model.pieces.append(piece)
            model.scores.append(score)
            model.types.append(kind)
        elif number == 2 and isinstance(value, bytes):
            settings = dict(_fields(value))
            model.model_type = int(settings.get(3, UNIGRAM))
            model.space_behind = bool(settings.get(24, 0))
            model.byte_fallback = bool(settings.get(35, 0))
            model.bos, model.eos = (_signed(settings.get(number, default)) for number, default in ((41, 1), (42, 2)))
        elif number == 3 and isinstance(value, bytes):
            settings = dict(_fields(value))
            rule, charsmap = settings.get(1, b""), settings.get(2, b"")
            model.rule = rule.decode("utf-8") if isinstance(rule, bytes) else ""
            model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
            model.add_prefix = bool(settings.get(3, 1))
            model.collapse_spaces = bool(settings.get(4, 1))
            model.escape_spaces = bool(settings.get(5, 1))
    return model


def _signed(value: int | float | bytes) -> int:
    """-1 (no such token) is written as a 64-bit number."""
    number = int(value)
    return number - (1 << 64) if number >> 63 else number


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) of a message: whole numbers, 4-byte floats, byte strings."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        value: int | float | bytes
        if kind == 0:
            value, position = _varint(data, position)
        elif kind == 5:
            (value,) = struct.unpack_from("<f", data, position)
            position += 4
        elif kind == 1:
            (value,) = struct.unpack_from("<d", data, position)
            position += 8
        elif kind == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError
            value = data[position : position + length]
            position += length
        else:
            raise ValueError
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError
