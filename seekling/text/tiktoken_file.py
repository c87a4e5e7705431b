"""Lists of byte strings with ranks (tiktoken: Qwen-1's, Llama 3's, GLM-4's files) and GPT-2's pair of files → tokenizer.json.

Such a list says which pairs merge, the lower rank first, but neither how text is cut into words nor the control tokens. Both
are known by the number of ranks; tokenizer_config.json's ``added_tokens_decoder`` takes precedence for the tokens.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.errors import DataError
from seekling.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer, splitter
from seekling.text.vocabulary import byte_letters

Ranks = dict[bytes, int]


def _llama3() -> list[str]:
    named = {
        0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id",
        8: "eom_id", 9: "eot_id", 10: "python_tag",
    }  # fmt: skip
    names, reserved = [], 0
    for number in range(256):
        if number in named:
            names.append(f"<|{named[number]}|>")
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return names


_GLM4 = "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> " + " ".join(
    f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")
)


@dataclass(frozen=True)
class Family:
    """What a list of ranks leaves out: the way to cut text, the control tokens in the order of their ids, those that begin a
    text, end one, and end a turn."""

    cut: str
    marks: list[str]
    bos: str | None
    eos: str
    turn_end: str


KNOWN: dict[int, Family] = {  # by the number of ranks
    151643: Family(
        "qwen2",
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))],
        None,
        "<|endoftext|>",
        "<|im_end|>",
    ),
    128000: Family("llama3", _llama3(), "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    151329: Family("glm4", _GLM4.split(), None, "<|endoftext|>", "<|user|>"),
}


def looks_like_ranks(data: bytes) -> bool:
    """Whether a file is a list of ranks: its first line is base64, a blank and a number."""
    return re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", data) is not None


def read_ranks(path: Path) -> Ranks:
    """The byte strings of a file with their ranks. DataError when it is anything else."""
    ranks: Ranks = {}
    try:
        for line in path.read_bytes().splitlines():
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (OSError, ValueError, binascii.Error):
        raise DataError(f"{path} is no list of tokens with ranks: fetch it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(f"{path} gives a rank twice or leaves one out: fetch it again")
    if any(bytes([b]) not in ranks for b in range(256)):
        raise DataError(f"{path} lacks single bytes: fetch it again")
    return ranks


def convert_file(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The tokenizer.json of a file with ranks, what tokenizer_config.json would say, and the token that ends a turn.

    Raises:
        DataError: the file is damaged, or no known family's.
    """
    ranks = read_ranks(path)
    if len(ranks) not in KNOWN:
        raise DataError(
            f"{path} has {len(ranks)} tokens; how such text is cut is known for {', '.join(map(str, KNOWN))}: "
            "use the model's tokenizer.json"
        )
    family = KNOWN[len(ranks)]
    if settings.get("added_tokens_decoder"):  # the control tokens follow from there
        return convert_ranks(ranks, PRE_TOKENIZERS[family.cut], []), {}, ""
    names = {"eos_token": family.eos} | ({"bos_token": family.bos, "add_bos_token": True} if family.bos else {})
    return convert_ranks(ranks, PRE_TOKENIZERS[family.cut], family.marks), names, family.turn_end


def convert_ranks(ranks: Ranks, pre: PreTokenizer, marks: Iterable[str]) -> dict[str, Any]:
    """The tokenizer.json of ranks with a way to cut text; control tokens get the ids after them.

    Every pair of tokens that together are one may merge, at that one's rank; a word that is a token stays whole.
    """
    letters = {byte[0]: letter for letter, byte in byte_letters().items()}
    written = {token: "".join(letters[b] for b in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], left, right))
    merges.sort()
    vocab = {written[token]: rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])}
    pairs = [[written[left], written[right]] for *_, left, right in merges]
    return _byte_level(vocab, pairs, splitter(pre), marks, whole_words=True)


def convert_gpt2(vocab_file: Path, merges_file: Path) -> dict[str, Any]:
    """The tokenizer.json of GPT-2's vocab.json and merges.txt. DataError when they are damaged."""
    try:
        vocab = json.loads(vocab_file.read_text("utf-8"))
        lines = merges_file.read_text("utf-8").split("\n")
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        if not isinstance(vocab, dict) or any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except (OSError, ValueError):
        raise DataError(f"{vocab_file} or {merges_file.name} beside it is damaged: fetch both again") from None
    return _byte_level(vocab, pairs, splitter(PRE_TOKENIZERS["gpt-2"]), [], whole_words=False)


def _byte_level(
    vocab: dict[str, int], merges: list[list[str]], pre_tokenizer: dict[str, Any], marks: Iterable[str], whole_words: bool
) -> dict[str, Any]:
    first = max(vocab.values(), default=-1) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": first + number, "content": mark, **flags} for number, mark in enumerate(marks)],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_words,
            "vocab": vocab,
            "merges": merges,
        },
    }
