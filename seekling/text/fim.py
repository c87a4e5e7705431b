"""Filling in the middle: the marks of each family around what stands before and after the gap."""

from typing import TYPE_CHECKING

from seekling.errors import DataError
from seekling.text import special as s
from seekling.text.special import Mark

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

# (before the prefix, between, after the suffix); the model then writes the middle.
STYLES = (
    (s.FIM_BEGIN, s.FIM_HOLE, s.FIM_END),  # DeepSeek
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, SmolLM, MiniMax
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)


def fim_pieces(tokenizer: "Tokenizer", prefix: str, suffix: str) -> list[str]:
    """Text and marks of a prompt whose answer stands between ``prefix`` and ``suffix``.

    Raises:
        DataError: the vocabulary has no marks for it.
    """
    for marks in STYLES:
        if all(mark in tokenizer.special for mark in marks):
            begin, hole, end = map(Mark, marks)
            return [piece for piece in (begin, prefix, hole, suffix, end) if piece]
    raise DataError("this model has no marks for filling in the middle: give a prompt without suffix")
