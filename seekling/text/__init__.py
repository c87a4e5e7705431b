"""Tokenizer, chat encoding and the text of both."""

from seekling.text.bpe import train_tokenizer
from seekling.text.chat import CHAT_TEMPLATE, Mark, chat_pieces, message_problems
from seekling.text.tokenizer import StreamDecoder, Tokenizer

__all__ = ["CHAT_TEMPLATE", "Mark", "StreamDecoder", "Tokenizer", "chat_pieces", "message_problems", "train_tokenizer"]
