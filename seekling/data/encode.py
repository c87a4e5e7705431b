"""Documents → token ids, many at once: text between begin and end, messages in the chat encoding, some re-ordered for FIM."""

from collections.abc import Iterable, Iterator

from seekling.data.documents import Draw
from seekling.data.filters import Content
from seekling.data.generate import Dice
from seekling.text.chat import Mark, chat_pieces
from seekling.text.special import FIM_BEGIN, FIM_END, FIM_HOLE
from seekling.text.tokenizer import Tokenizer
from seekling.text.words import BulkEncoder

CHUNK_CHARS = 2**21


def pieces_of(content: Content, fim: Draw | None = None) -> list[str]:
    """Text and marks of a document, without its begin and end.

    Args:
        fim: re-order the text as prefix, suffix, middle (DeepSeek's order and marks), cut where this draw says.
    """
    if isinstance(content, list):
        return chat_pieces(content, add_generation_prompt=False)[1:]
    if fim is None or len(content) < 3:
        return [content]
    dice = Dice("fim", fim.key)
    first, second = sorted(dice.number(0, len(content)) for _ in range(2))
    prefix, middle, suffix = content[:first], content[first:second], content[second:]
    return [piece for piece in (Mark(FIM_BEGIN), prefix, Mark(FIM_HOLE), suffix, Mark(FIM_END), middle) if piece]


def encode_documents(tokenizer: Tokenizer, documents: Iterable[list[str]]) -> Iterator[list[int]]:
    """Token ids of each document given as pieces, from the begin token to the end token, in order."""
    bulk = BulkEncoder(tokenizer)
    chunk: list[list[str]] = []
    chars = 0
    for pieces in documents:
        chunk.append(pieces)
        chars += sum(map(len, pieces))
        if chars > CHUNK_CHARS:
            yield from _encode_chunk(tokenizer, bulk, chunk)
            chunk, chars = [], 0
    yield from _encode_chunk(tokenizer, bulk, chunk)


def _encode_chunk(tokenizer: Tokenizer, bulk: BulkEncoder, chunk: list[list[str]]) -> Iterator[list[int]]:
    texts = [piece for pieces in chunk for piece in pieces if not isinstance(piece, Mark)]
    encoded = iter(bulk.encode_batch(texts))
    for pieces in chunk:
        ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        for piece in pieces:
            ids += [tokenizer.mark(piece)] if isinstance(piece, Mark) else next(encoded)
        if tokenizer.eos_id is not None and ids[-1] != tokenizer.eos_id:
            ids.append(tokenizer.eos_id)
        yield ids
