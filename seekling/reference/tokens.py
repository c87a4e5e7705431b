"""The reference models' tokenizer: DeepSeek's control tokens, the 256 bytes, and merges learned in plain Python from a page.

The library's trainer may order equal counts otherwise from version to version; here ties go to the first pair in order.
"""

import itertools
import json
from collections import Counter
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from seekling.errors import DataError
from seekling.text.bpe import SETTINGS, word_splitter
from seekling.text.chat import CHAT_TEMPLATE
from seekling.text.special import CONTROL, STRUCTURE
from seekling.text.tokenizer import Tokenizer

PAGE = """\
Once upon a time a small seedling stood by the river. Every morning it looked at the sun, and every evening it counted
the stars: one, two, three. "What will you be?" asked the wind. "I will be a tree," said the seedling, "and you will have to go
around me." The wind laughed, and the river laughed with it, and the seedling grew a little.
从前，河边有一棵小小的树苗。每天早上它看着太阳，每天晚上它数着星星：一、二、三。风问：“你会变成什么？”树苗说：“我会变成一棵树。”
def add(first, second):
    return first + second
The answer is 7. The question was: what is 3 plus 4? The model thinks, and then the model answers.
"""


def tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly ``vocab_size`` tokens.

    Raises:
        DataError: the page has too few pairs for so many tokens.
    """
    splitter = word_splitter()
    words = Counter(tuple(piece) for piece, _ in splitter.pre_tokenize_str(PAGE))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*CONTROL, *alphabet))}
    merges: list[tuple[str, str]] = []
    while len(vocabulary) < vocab_size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            raise DataError(f"a vocabulary of {vocab_size} is more than the page gives ({len(vocabulary)})")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        vocabulary["".join(best)] = len(vocabulary)
        words = Counter(_merged(word, best) for word in words.elements())
    return Tokenizer(_spec(vocabulary, merges), SETTINGS, CHAT_TEMPLATE)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def _spec(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    built = Library(models.BPE(vocab=vocabulary, merges=merges))
    built.pre_tokenizer = word_splitter()
    built.decoder = decoders.ByteLevel()
    spec = json.loads(built.to_str())
    spec["added_tokens"] = [
        {
            "id": i, "content": mark, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": mark in STRUCTURE,
        }
        for i, mark in enumerate(CONTROL)
    ]  # fmt: skip
    return spec
