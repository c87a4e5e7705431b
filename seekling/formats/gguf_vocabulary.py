"""A `Tokenizer` as the metadata of a GGUF file.

The whole ``tokenizer.json`` goes in as ``tokenizer.huggingface.json``, from which Seekling reads it back unchanged.  For
llama.cpp there are its own keys: tokens, types, merges or scores, and the name of one of the pre-tokenizers it knows.  Where
none is exactly the tokenizer's, the one that gives the same ids on a set of trial texts is named, and that is said.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError
from seekling.formats.gguf_out import Key
from seekling.text.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from seekling.text.pretokenizers import GPT2, PRE_TOKENIZERS, PreTokenizer, splitter

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

HUGGINGFACE = "tokenizer.huggingface.json"
# Texts on which pre-tokenizers part ways: blanks, lines, digits, contractions, capitals, code, scripts, marks, emoji.
TRIALS = (
    "Hello, world! It's Anna's book; they'll say we've won.",
    "I'M SURE 'TIS \"quoted\" (and bracketed) text... ok?!",
    "12 345 6789 1000000 3.14 1,000 2nd x2 v1.2.3",
    "  two blanks,\tand\t\ttabs   at the end   ",
    "line\nline\n\n\n  indented\r\n\r\nend\n",
    "def f(x_1, *args):\n    return {'a': x_1[0]**2}  # done\n\n\tif (a&&b||!c){i++;}",
    "https://example.org/a?b=c#d user@mail.net",
    "naïve café Ünlü straße ÀÉÎ œuvre",
    "Привет, мир! Ёлка",
    "你好，世界！我在2024年吃了3个苹果abc。",
    "ひらがなカタカナ漢字 mixed テキスト",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "हिन्दी में लिखा हुआ",
    "ภาษาไทย",
    "🚀🦙 emoji 👩‍👩‍👧‍👦 ❤️!",
    "e\u0301te\u0301 n\u0303",
    "$5 + 10% = £3 × 2 ÷ ½ ≈ ∞",
    "CamelCaseWord snake_case_word kebab-case-word",
    "don’t I’m we’ll ’s",
    '<tag attr="v">text</tag>',
)


# Candidates where no pre-tokenizer is exactly the tokenizer's, the most usual first.
_NEAREST = (
    "qwen2", "qwen35", "deepseek-v3", "gpt-2", "smollm", "dbrx", "gpt-4o", "deepseek-coder", "deepseek-llm", "falcon",
    "llama-bpe", "tekken",
)  # fmt: skip


def vocabulary_keys(tokenizer: "Tokenizer", size: int, notes: list[str], where: str) -> dict[str, Key]:
    """The keys of a tokenizer for a model with ``size`` embeddings; what llama.cpp will do differently goes to ``notes``.

    Raises:
        CheckpointError: llama.cpp has no counterpart for this kind of tokenizer.
    """
    spec = tokenizer.spec
    model = spec.get("model") or {}
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if model.get("type") != "BPE" or not isinstance(vocabulary, dict) or merges is None:
        raise CheckpointError(f"{where}: a GGUF cannot hold this tokenizer ({model.get('type')}); only BPE vocabularies fit")
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else (pair[0], pair[1]) for pair in merges]
    tokens, types = _tokens(spec, vocabulary, size, where)
    if model.get("byte_fallback") or _space_mark(spec):
        keys = _sentencepiece(spec, tokens, types, pairs, where)
    else:
        name = pre_tokenizer_name(spec, notes, where)
        keys = {
            "tokenizer.ggml.model": Key("str", "gpt2"),
            "tokenizer.ggml.pre": Key("str", name),
            "tokenizer.ggml.merges": Key("str", [f"{left} {right}" for left, right in pairs], many=True),
        }
    normalizer = spec.get("normalizer")
    if normalizer and not _space_mark(spec) and (normalizer.get("type") != "Sequence" or normalizer.get("normalizers")):
        notes.append(f"llama.cpp does not normalise texts ({normalizer.get('type')}) as this tokenizer does")
    keys["tokenizer.ggml.tokens"] = Key("str", tokens, many=True)
    keys["tokenizer.ggml.token_type"] = Key("i32", types, many=True)
    for key, token in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("padding", tokenizer.pad_id)):
        if token is not None and token < size:
            keys[f"tokenizer.ggml.{key}_token_id"] = Key("u32", token)
    others = [token for token in tokenizer.end_ids if token != tokenizer.eos_id and token < size]
    if others:
        keys["tokenizer.ggml.eot_token_id"] = Key("u32", others[-1])
    if others[:-1]:
        keys["tokenizer.ggml.eom_token_id"] = Key("u32", others[-2])
    if lost := ", ".join(map(str, others[:-2])):
        notes.append(f"a GGUF file names three end tokens; answers will not end at {lost}")
    unknown = vocabulary.get(model.get("unk_token"))
    if unknown is not None:
        keys["tokenizer.ggml.unknown_token_id"] = Key("u32", unknown)
    keys["tokenizer.ggml.add_bos_token"] = Key("bool", tokenizer.bos_id is not None and tokenizer.adds_bos)
    keys["tokenizer.ggml.add_eos_token"] = Key("bool", bool(tokenizer.settings.get("add_eos_token")))
    for name, text in tokenizer.templates.items():
        keys["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = Key("str", text)
    named = [name for name in tokenizer.templates if name != "default"]
    if named:
        keys["tokenizer.chat_templates"] = Key("str", named, many=True)
    keys[HUGGINGFACE] = Key("str", json.dumps(spec, ensure_ascii=False, separators=(",", ":")))
    return keys


def _tokens(spec: Mapping[str, Any], vocabulary: Mapping[str, int], size: int, where: str) -> tuple[list[str], list[int]]:
    """Text and type of every id below ``size``; ids without a token are unused."""
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    fallback = bool((spec.get("model") or {}).get("byte_fallback"))
    unknown = (spec.get("model") or {}).get("unk_token")
    beyond = 0
    for token, i in vocabulary.items():
        if i >= size:
            beyond += 1
            continue
        tokens[i] = token
        types[i] = BYTE if fallback and re.fullmatch("<0x[0-9A-F]{2}>", token) else UNKNOWN if token == unknown else NORMAL
    for added in spec.get("added_tokens") or []:
        i = added["id"]
        if i >= size:
            beyond += 1
        elif types[i] != UNKNOWN:
            tokens[i], types[i] = added["content"], CONTROL if added.get("special") else USER_DEFINED
    if beyond:
        raise CheckpointError(f"{where}: {beyond} tokens have ids beyond the model's {size} embeddings; it is another model's")
    return tokens, types


# ---- byte-level ----------------------------------------------------------------------------------------------------------


def _patterns(step: Mapping[str, Any] | None) -> list[str] | None:
    """A pre-tokenizer as splits one after the other; None where it is of another kind."""
    if step is None:
        return []
    kind = step.get("type")
    if kind == "Sequence":
        parts = [_patterns(part) for part in step["pretokenizers"]]
        return None if any(part is None for part in parts) else [pattern for part in parts for pattern in part or []]
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
        return [step["pattern"]["Regex"]]
    if kind == "Digits":
        return [r"\p{N}"] if step.get("individual_digits") else [r"\p{N}+"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [GPT2] if step.get("use_regex", True) else []
    return None


def _plain(patterns: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Patterns with their escapes written one way."""
    return tuple(pattern.replace("\\r", "\r").replace("\\n", "\n").replace("\\u3040", "\u3040") for pattern in patterns)


def pre_tokenizer_name(spec: Mapping[str, Any], notes: list[str], where: str) -> str:
    """llama.cpp's name of a tokenizer's pre-tokenizer, or of the one that cuts the trial texts into the same ids.

    Raises:
        CheckpointError: none comes near.
    """
    patterns = _patterns(spec.get("pre_tokenizer"))
    whole = bool((spec.get("model") or {}).get("ignore_merges"))
    if patterns is not None:
        for name, kind in PRE_TOKENIZERS.items():
            if kind.whole_words == whole and _plain(kind.patterns) == _plain(patterns):
                return name
    wanted = _ids(spec, spec.get("pre_tokenizer"))
    wrong: dict[str, list[int]] = {}
    for name in (name for name in _NEAREST if PRE_TOKENIZERS[name].whole_words == whole):
        got = _ids(spec, splitter(PRE_TOKENIZERS[name]))
        wrong[name] = [i for i, ids in enumerate(got) if ids != wanted[i]]
    name = min(wrong, key=lambda n: len(wrong[n]))  # the first of equals
    if len(wrong[name]) > len(TRIALS) // 4:
        raise CheckpointError(f"{where}: llama.cpp has no pre-tokenizer like this model's; save a safetensors folder")
    said = "the same ids on all trial texts" if not wrong[name] else f"other ids on texts like {TRIALS[wrong[name][0]][:40]!r}"
    notes.append(f"llama.cpp does not know this tokenizer's way of cutting words; the file names {name}, which gives {said}")
    return name


def _ids(spec: Mapping[str, Any], pre: PreTokenizer | Mapping[str, Any] | None) -> list[list[int]]:
    import tokenizers

    bare = {**spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None, "pre_tokenizer": pre}
    encoder = tokenizers.Tokenizer.from_str(json.dumps(bare))
    return [encoding.ids for encoding in encoder.encode_batch(list(TRIALS), add_special_tokens=False)]


# ---- SentencePiece style -------------------------------------------------------------------------------------------------


def _space_mark(spec: Mapping[str, Any]) -> bool | None:
    """Whether a blank is put before a text, None where blanks are not written as ``▁``."""
    pre, normalizer = spec.get("pre_tokenizer") or {}, spec.get("normalizer") or {}
    if pre.get("type") == "Metaspace" and pre.get("replacement") == "▁" and not pre.get("split", True):
        return pre.get("prepend_scheme", "always") != "never"
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]
    kinds = [step.get("type") for step in steps]
    if pre or not any(step.get("type") == "Replace" and step.get("content") == "▁" for step in steps):
        return None
    return "Prepend" in kinds if set(kinds) <= {"Prepend", "Replace"} else None


def _sentencepiece(
    spec: Mapping[str, Any], tokens: list[str], types: list[int], pairs: list[tuple[str, ...]], where: str
) -> dict[str, Key]:
    prefix = _space_mark(spec)
    if prefix is None:
        raise CheckpointError(f"{where}: llama.cpp has no normalizer like this tokenizer's; save a safetensors folder")
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, i)
    # SentencePiece merges the pair with the best score; single characters never are the result of a merge
    scores = [float(-rank.get(token, len(pairs))) if kind == NORMAL else 0.0 for token, kind in zip(tokens, types, strict=True)]
    return {
        "tokenizer.ggml.model": Key("str", "llama"),
        "tokenizer.ggml.pre": Key("str", "default"),
        "tokenizer.ggml.scores": Key("f32", scores, many=True),
        "tokenizer.ggml.add_space_prefix": Key("bool", prefix),
    }
