"""Pairs of a better and a worse answer, from files; every problem is named with its file and line.

{"prompt": … or messages, "chosen": … or [message], "rejected": … or [message]}
{"chosen": [messages], "rejected": [messages]}                               equal up to their last message

Each may have "system" and "tools"; notes are not read and other keys refused, as in `seekling.data.conversations`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

from seekling.data.conversations import Conversation, conversation_of, in_context, read_each, refuse_unknown, without_nulls


@dataclass(frozen=True)
class Preference:
    """Two conversations that differ in their last message, the assistant's."""

    chosen: Conversation
    rejected: Conversation


def read_preferences(paths: Iterable[str | Path]) -> list[Preference]:
    """Every pair of the files, in order. Raises DataError listing every line that is none."""
    return read_each(paths, preference_of, "preferences", "give .jsonl lines with prompt, chosen and rejected")


def preference_of(record: Any, where: str = "") -> Preference:
    """One record. ValueError says what is wrong with it."""
    record = without_nulls(record)
    missing = [name for name in ("chosen", "rejected") if not record.get(name)]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)} (it has {', '.join(map(str, record)) or 'nothing'})")
    again = {"messages"} if record.get("messages") == record["chosen"] else set()  # some data sets repeat the better one
    refuse_unknown(record, {"prompt", "chosen", "rejected", "completion"} | again)  # a file may serve seekling sft too
    sides = [_side(record, name, where) for name in ("chosen", "rejected")]
    if sides[0].messages[:-1] != sides[1].messages[:-1]:
        raise ValueError("chosen and rejected answer different conversations: all but their last messages must be equal")
    if sides[0].messages == sides[1].messages:
        raise ValueError("chosen and rejected are the same answer: there is nothing to prefer")
    return Preference(*sides)


def _side(record: Mapping[str, Any], name: str, where: str) -> Conversation:
    value, prompt = record[name], record.get("prompt")
    if prompt is None or _repeats(value, prompt):
        talk = conversation_of({"messages": value})
    else:
        talk = conversation_of({"prompt": prompt, "completion": value})
    talk = in_context(record, [dict(m) for m in talk.messages], where)
    if talk.messages[-1]["role"] != "assistant" or len(talk.messages) < 2:
        raise ValueError(f"{name} must end with the assistant's answer to something")
    return talk


def _repeats(value: Any, prompt: Any) -> bool:
    """Whether an answer is the whole conversation, its question included; a system turn may stand before either."""
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        return False
    if isinstance(prompt, list):
        asked, talk = (list(dropwhile(_is_system, turns)) for turns in (prompt, value))
        return bool(asked) and talk[: len(asked)] == asked
    return any(message.get("role") == "user" and message.get("content") == prompt for message in value[:-1])


def _is_system(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "system"
