"""Train a byte-level BPE with DeepSeek's control tokens and the kind of word splitting its tokenizers use.

Digits stand alone (arithmetic sees one token a digit), runs of Han and kana are cut from what surrounds them, a word takes the
blank before it, punctuation joins the line break after it.
"""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from seekling.errors import DataError
from seekling.text.chat import CHAT_TEMPLATE
from seekling.text.special import BOS, CONTROL, EOS, PAD, STRUCTURE
from seekling.text.tokenizer import Tokenizer

SMALLEST = 256 + len(CONTROL)

DIGIT = r"\p{N}"
HAN_KANA = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
WORDS = "|".join(
    (
        r"['’](?:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])",  # don't, we'll
        r" ?[\p{L}\p{M}]+",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",  # punctuation and symbols
        r"\s*[\r\n]+",
        r"\s+(?!\S)",  # blanks, but for the one that the next word takes
        r"\s+",
    )
)
LONGEST_TOKEN = 32

SETTINGS = {  # tokenizer_config.json
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": PAD,
    "add_bos_token": False,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
}


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer: three splits one after the other, then bytes."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (DIGIT, HAN_KANA, WORDS)]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of exactly ``vocab_size`` tokens: control marks, the 256 bytes, then merges.

    Raises:
        DataError: there is no text, or too little variety in it for so many tokens; the message has the largest size it gives.
    """
    if vocab_size < SMALLEST:
        raise DataError(f"vocab_size {vocab_size} is too small: bytes and control tokens alone are {SMALLEST}")
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += bool(text)
            yield text

    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = word_splitter()
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(mark, normalized=False) for mark in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=LONGEST_TOKEN,
    )
    try:
        trained.train_from_iterator(counted(), trainer)
    except (UnicodeEncodeError, TypeError):
        raise DataError("the training text is not valid Unicode (half a surrogate pair): clean it first") from None
    if not seen:
        raise DataError("there is no text to train a tokenizer on: name a folder with text, or another corpus")
    size = trained.get_vocab_size()
    if size < vocab_size:
        raise DataError(
            f"vocab_size {vocab_size} is more than this text allows (it gives at most {size}): "
            f"use --vocab-size {size} or less, or more text"
        )
    spec = json.loads(trained.to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] in STRUCTURE  # the trainer marks all of them
    return Tokenizer(spec, SETTINGS, CHAT_TEMPLATE)
