"""A `Tokenizer` from the metadata of a GGUF file: byte-level BPE (``gpt2``) and SentencePiece-style BPE (``llama``).

The file holds tokens, their types, merges or scores, and the name of a pre-tokenizer; from these the content of a
``tokenizer.json`` is put together.
"""

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, DataError
from seekling.text.pretokenizers import PRE_TOKENIZERS, splitter

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_ADDED = (UNKNOWN, CONTROL, USER_DEFINED, UNUSED)
_COMPOSED = ("qwen2",)  # whose own tokenizer.json composes characters first (llama.cpp does not)
MAX_TOKEN = 4096  # characters; real ones have at most some hundred blanks
_AGAIN = "use another conversion of the model"


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str) -> "Tokenizer | None":
    """The file's tokenizer with its begin, end and padding tokens and its chat template; None where it has none.

    Raises:
        CheckpointError: it contradicts itself, or it is of a kind that is not supported.
    """
    from seekling.text.tokenizer import Tokenizer

    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    tokens, types = _vocabulary(metadata, where)
    if kind == "gpt2":
        spec, bos = _byte_level(metadata, tokens, types, where)
    elif kind == "llama":
        spec, bos = _sentencepiece(metadata, tokens, types, where)
    else:
        raise CheckpointError(
            f"{where}: tokenizer kind {kind!r} is not supported (gpt2 and llama are); use the model's safetensors folder"
        )
    settings = _settings(metadata, tokens, bos, where)
    spec["post_processor"] = _post_processor(settings, tokens)
    spec = _own_spec(metadata, tokens, where) or spec
    templates, ends = _templates(metadata), _end_ids(metadata, tokens, types)
    try:
        return Tokenizer(spec, settings, templates=templates, end_ids=ends, source=where)
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where}: its tokenizer cannot be used ({error}); {_AGAIN}") from None


def _own_spec(metadata: Mapping[str, Any], tokens: list[str], where: str) -> dict[str, Any] | None:
    """The ``tokenizer.json`` that some files carry whole, if it is about the same tokens."""
    text = metadata.get("tokenizer.huggingface.json")
    if not isinstance(text, str):
        return None
    try:
        spec = json.loads(text)
        vocabulary = {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec["added_tokens"]}}
        same = all(tokens[i] == token for token, i in vocabulary.items())
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        same = False
    if not same:
        raise CheckpointError(f"{where}: tokenizer.huggingface.json does not fit tokenizer.ggml.tokens; {_AGAIN}")
    return spec


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; the main one is ``default``."""
    prefix = "tokenizer.chat_template"
    found = {key.removeprefix(prefix).removeprefix("."): text for key, text in metadata.items() if key.startswith(prefix)}
    return {name or "default": text for name, text in found.items() if isinstance(text, str) and name != "s"}


def _end_ids(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[int]:
    """Tokens that end an answer beside the end token: end of turn, of message, and those known by their text."""
    named = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    found = {i for i in named if isinstance(i, int) and 0 <= i < len(tokens)}
    control = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == CONTROL}
    found |= {control[token] for token in _ENDS if token in control}
    if "<|return|>" in control and "<|call|>" in control:  # gpt-oss goes on after <|end|>
        found.discard(control.get("<|end|>", -1))
    return sorted(found)


_ENDS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "<|return|>", "<|call|>",
    "<｜end▁of▁sentence｜>",
)  # fmt: skip


def _list(metadata: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> list[Any] | None:
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise CheckpointError(f"{where}: {key} is not a list of the right kind; {_AGAIN}")
    return value


def _vocabulary(metadata: Mapping[str, Any], where: str) -> tuple[list[str], list[int]]:
    tokens = _list(metadata, "tokenizer.ggml.tokens", str, where)
    if not tokens:
        raise CheckpointError(f"{where}: tokenizer.ggml.tokens is missing; {_AGAIN}")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    types = _list(metadata, "tokenizer.ggml.token_type", int, where) or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{where}: {len(types)} token types for {len(tokens)} tokens; {_AGAIN}")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise CheckpointError(f"{where}: the token {twice[:40]!r} is there twice; {_AGAIN}")
    longest = max(tokens, key=len)
    if len(longest) > MAX_TOKEN:
        raise CheckpointError(f"{where}: a token has {len(longest)} characters (the limit is {MAX_TOKEN}); {_AGAIN}")
    return tokens, types


def _split_vocabulary(tokens: list[str], types: list[int]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """(vocabulary of the model, added tokens).

    An added token behind the last ordinary one is left out of the vocabulary, as in most models' own files; one before it
    has to stay, because the library numbers added tokens after the vocabulary.
    """
    ordinary = max((i for i, kind in enumerate(types) if kind not in _ADDED), default=-1)
    vocabulary = {token: i for i, token in enumerate(tokens[: ordinary + 1])}
    added = [
        {
            "id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in _ADDED
    ]  # fmt: skip
    return vocabulary, added


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int], where: str) -> tuple[dict[str, Any], bool]:
    name = metadata.get("tokenizer.ggml.pre")
    if name is None:
        name = "default"
        warnings.warn(
            f"{where} names no pre-tokenizer; words are cut in a general way, which may not be the model's", stacklevel=4
        )
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{where}: pre-tokenizer {str(name)[:40]!r} is not known; use the model's folder with its tokenizer.json"
        )
    pre = PRE_TOKENIZERS[name]
    pairs = _list(metadata, "tokenizer.ggml.merges", str, where)
    if pairs is None:
        raise CheckpointError(f"{where}: tokenizer.ggml.merges is missing; {_AGAIN}")
    cuts = [pair.find(" ", 1) for pair in pairs]
    for pair, cut in zip(pairs, cuts, strict=True):
        if cut < 0 or cut == len(pair) - 1:
            raise CheckpointError(f"{where}: the merge {pair[:40]!r} is not two tokens; {_AGAIN}")
    merges: list[Any] = pairs  # as they are, unless the library would read them otherwise: a list of pairs takes far longer
    if "".join(pairs).count(" ") > len(pairs) or any(pair.startswith("#version") for pair in pairs):
        merges = [[pair[:cut], pair[cut + 1 :]] for pair, cut in zip(pairs, cuts, strict=True)]
    vocabulary, added = _split_vocabulary(tokens, types)
    spec = _spec(
        {**_MODEL, "ignore_merges": pre.whole_words, "vocab": vocabulary, "merges": merges},
        added,
        normalizer={"type": "NFC"} if name in _COMPOSED else None,
        pre_tokenizer=splitter(pre),
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )
    return spec, pre.bos


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int], where: str) -> tuple[dict[str, Any], bool]:
    scores = _list(metadata, "tokenizer.ggml.scores", (int, float), where)
    if scores is None or len(scores) != len(tokens):
        raise CheckpointError(f"{where}: tokenizer.ggml.scores does not have a score for each token; {_AGAIN}")
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    undo: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if prefix:
        undo.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    _, added = _split_vocabulary(tokens, types)
    spec = _spec(
        {
            **_MODEL, "unk_token": unknown, "fuse_unk": True, "byte_fallback": True,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges_from_scores(tokens, types, scores),
        },
        added,
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": undo},
    )  # fmt: skip
    return spec, True


def merges_from_scores(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """Merges in the order in which SentencePiece would make them: the pair whose union has the best score first."""
    ids = {token: i for i, token in enumerate(tokens) if types[i] in (NORMAL, USER_DEFINED)}
    found = []
    for token, i in ids.items():
        if types[i] != NORMAL or len(token) > 512:
            continue
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[i], i, left, right))
    found.sort()
    return [[tokens[left], tokens[right]] for _, _, left, right in found]


_MODEL: dict[str, Any] = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip


def _spec(model: dict[str, Any], added: list[dict[str, Any]], **steps: dict[str, Any] | None) -> dict[str, Any]:
    common = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return {**common, **steps, "post_processor": None, "model": model}


def _settings(metadata: Mapping[str, Any], tokens: list[str], bos: bool, where: str) -> dict[str, Any]:
    """tokenizer_config.json."""
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in names.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token is None:
            continue
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < len(tokens):
            raise CheckpointError(
                f"{where}: tokenizer.ggml.{key}_token_id {token!r} is not one of {len(tokens)} tokens; {_AGAIN}"
            )
        settings[name] = tokens[token]
    wanted = metadata.get("tokenizer.ggml.add_bos_token", bos)
    settings["add_bos_token"] = wanted is True and "bos_token" in settings
    settings["add_eos_token"] = metadata.get("tokenizer.ggml.add_eos_token", False) is True and "eos_token" in settings
    settings["clean_up_tokenization_spaces"] = False
    return settings


def _post_processor(settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """What makes other programs put the begin and end tokens around a text."""
    bos = settings["bos_token"] if settings["add_bos_token"] else None
    eos = settings["eos_token"] if settings["add_eos_token"] else None
    if bos is None and eos is None:
        return None
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = {"Sequence": {"id": "B", "type_id": 1}}

    def around(body: dict[str, Any], type_id: int) -> list[dict[str, Any]]:
        marks = [{"SpecialToken": {"id": mark, "type_id": type_id}} if mark else None for mark in (bos, eos)]
        return [step for step in (marks[0], body, marks[1]) if step]

    special = {mark: {"id": mark, "ids": [tokens.index(mark)], "tokens": [mark]} for mark in (bos, eos) if mark}
    return {
        "type": "TemplateProcessing",
        "single": around(text, 0),
        "pair": around(text, 0) + around(pair, 1),
        "special_tokens": special,
    }
