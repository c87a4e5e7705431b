"""Rows of conversations: whole ones side by side, the loss on what the assistant says (its end-of-turn mark included).

Which tokens are the assistant's is found with the very encoder that serves: the conversation up to a reply, with the mark that
opens the reply, must be the beginning of the conversation with the reply. Where a template rewrites earlier turns (thinking
dropped from history), each reply becomes an example of its own, encoded as it would have been when it was given.

Shapes: B rows, T seq_len, S = T + 1 + extra.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from seekling.data.conversations import SHOWN, Conversation
from seekling.data.packed import Batch, epoch_order
from seekling.errors import DataError, SeeklingError, raise_all

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Example:
    """Token ids and which of them are targets."""

    ids: np.ndarray
    targets: np.ndarray
    where: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def encode_each(items: Sequence[A], encode: Callable[[A], B], what: str) -> list[B]:
    """``encode`` of every item. Raises DataError that lists what every one that fails says."""
    found, bad = [], []
    for item in items:
        try:
            found.append(encode(item))
        except SeeklingError as error:
            bad.append(str(error))
        if len(bad) == SHOWN and not found:  # then it is the model's format that fails, and with a slow template slowly
            bad.append("… and no other was tried: not one of these can be encoded")
            break
    if len(bad) > SHOWN and found:
        bad = [*bad[:SHOWN], f"… and {len(bad) - SHOWN} more"]
    raise_all(DataError, bad, f"{what} that this model's chat format cannot express; correct or remove their lines")
    return found


def examples_of(tokenizer: "Tokenizer", conversation: Conversation) -> list[Example]:
    """A conversation as one example, or one a reply where its template rewrites history.

    Raises:
        DataError: the template cannot encode it, or changes the beginning of a turn once it is answered.
    """
    messages, tools = list(conversation.messages), list(conversation.tools) or None
    replies = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    spans: list[tuple[list[int], int]] = []  # the conversation up to and with a reply, where the reply begins
    for i in replies:
        spans.append(reply_span(tokenizer, messages[: i + 1], tools, conversation.where))
    groups: list[tuple[list[int], list[tuple[int, int]]]] = []
    for upto, begin in spans:
        if groups and upto[: len(groups[-1][0])] == groups[-1][0]:
            groups[-1] = (upto, [*groups[-1][1], (begin, len(upto))])
        else:
            groups.append((upto, [(begin, len(upto))]))
    out = []
    for ids, parts in groups:
        targets = np.zeros(len(ids), bool)
        for begin, end in parts:
            targets[begin:end] = True
        out.append(Example(np.array(ids, np.int64), targets, conversation.where))
    return out


def reply_span(tokenizer: "Tokenizer", messages: list[Any], tools: Any, where: str) -> tuple[list[int], int]:
    """Ids of a conversation that ends with a reply, and where the reply begins.

    Raises:
        DataError: the template cannot encode it, or changes what comes before the reply once it is there.
    """
    think = bool(messages[-1].get("reasoning_content"))
    try:  # the whole first: what it says is of the data, what the question alone says may be of how it is encoded here
        upto = _encode(tokenizer, messages, tools, opened=False, thinking=think)
        before = _encode(tokenizer, messages[:-1], tools, opened=True, thinking=think)
    except SeeklingError as error:
        what, *several = str(error).split("\n  - ")
        raise DataError(f"{where}: {what}" + (f": {'; '.join(several)}" if several else "")) from None
    if upto[: len(before)] != before:
        raise DataError(
            f"{where}: this model's template changes what comes before message {len(messages) - 1} once that message answers, "
            "so the reply cannot be told from the question; give the model a template that keeps a conversation's beginning"
        )
    return upto, len(before)


def _encode(tokenizer: "Tokenizer", messages: list[Any], tools: Any, *, opened: bool, thinking: bool) -> list[int]:
    options: dict[str, Any] = {} if tools is None else {"tools": tools}
    return tokenizer.encode_chat(messages, add_generation_prompt=opened, thinking=thinking, **options)


def held_out(order: Sequence[int], keys: Sequence[Hashable], share: float) -> set[int]:
    """Numbers of the items kept for evaluation: the first of ``order`` up to the share, equals always on one side.

    Where even one set of equals exceeds the share, the smallest set; none where all are equal.
    """
    equal: dict[Hashable, list[int]] = {}
    for i in order:
        equal.setdefault(keys[i], []).append(i)
    wanted = round(share * len(order)) if len(equal) > 1 else 0
    out: set[int] = set()
    for numbers in equal.values():
        if len(out) + len(numbers) <= wanted:
            out.update(numbers)
    return out or set(min(equal.values(), key=len) if wanted else ())


class PackedConversations:
    """Random access to rows of whole examples over endless epochs; a row number is the whole data cursor, as in `Packed`.

    Args:
        examples: each no longer than ``seq_len`` + 1.
        pad: id that fills rows up; it is never a target and never seen by another example.
        extra: further tokens of a row (the MTP depth).
        seed: of the order of rows; None keeps it.

    Raises:
        DataError: examples that do not fit a row, listed with their lines.
    """

    def __init__(self, examples: Sequence[Example], seq_len: int, pad: int, extra: int = 0, seed: int | None = 0) -> None:
        long = [e for e in examples if len(e) > seq_len + 1]
        bad = [f"{e.where} takes {len(e)} tokens" for e in long[:SHOWN]]
        if len(long) > SHOWN:
            bad.append(f"… and {len(long) - SHOWN} more")
        raise_all(DataError, bad, f"conversations longer than the {seq_len + 1} tokens of a row; raise --seq-len or split them")
        self.examples, self.seq_len, self.pad, self.extra, self.seed = list(examples), seq_len, pad, extra, seed
        self.bins = fill_bins([len(e) for e in examples], seq_len + 1)
        self.n_rows = len(self.bins)

    def batch(self, first_row: int, n: int) -> Batch:
        """Rows ``first_row … first_row + n - 1`` of the endless sequence of epochs."""
        width = self.seq_len + 1 + self.extra
        tokens_BS = np.full((n, width), self.pad, np.int64)
        doc_BS = np.zeros((n, width), np.int32)
        mask_BS = np.zeros((n, width), bool)
        for b in range(n):
            epoch, place = divmod(first_row + b, self.n_rows)
            row = place if self.seed is None else int(epoch_order(self.seed, epoch, self.n_rows)[place])
            at = 0
            for number, i in enumerate(self.bins[row]):
                example = self.examples[i]
                end = at + len(example)
                tokens_BS[b, at:end], mask_BS[b, at:end], doc_BS[b, at:end] = example.ids, example.targets, number
                at = end
            doc_BS[b, at:] = len(self.bins[row])
        return Batch(torch.from_numpy(tokens_BS), torch.from_numpy(doc_BS), torch.from_numpy(mask_BS))


def fill_bins(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which examples share a row: the longest first, each into the fullest row it fits (best-fit decreasing).

    A row's examples keep their order. Deterministic, and never more than 11/9 of the fewest rows possible (plus one).
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [(space, b) for b, space in enumerate(left) if space >= lengths[i]]
        if fits:
            _, b = min(fits)
            bins[b].append(i)
            left[b] -= lengths[i]
        else:
            bins.append([i])
            left.append(room - lengths[i])
    return [sorted(row) for row in bins]
