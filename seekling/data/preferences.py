"""Pairs of a better and a worse answer, from files; every problem is named with its file and line.

{"prompt": … or messages, "chosen": … or [message], "rejected": … or [message]}
{"chosen": [messages], "rejected": [messages]}                               equal up to their last message
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.data.conversations import Conversation, conversation_of, read_each


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
    if not isinstance(record, Mapping):
        raise ValueError(f"is a {type(record).__name__}, not a JSON object")
    missing = [name for name in ("chosen", "rejected") if not record.get(name)]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)} (it has {', '.join(map(str, record)) or 'nothing'})")
    sides = [_side(record, name, where) for name in ("chosen", "rejected")]
    if sides[0].messages[:-1] != sides[1].messages[:-1]:
        raise ValueError("chosen and rejected answer different conversations: all but their last messages must be equal")
    if sides[0].messages == sides[1].messages:
        raise ValueError("chosen and rejected are the same answer: there is nothing to prefer")
    return Preference(*sides)


def _side(record: Mapping[str, Any], name: str, where: str) -> Conversation:
    value = record[name]
    if "prompt" in record:
        talk = conversation_of({"prompt": record["prompt"], "completion": value}, where)
    else:
        talk = conversation_of({"messages": value}, where)
    talk = Conversation(talk.messages, conversation_of({**record, "messages": list(talk.messages)}, where).tools, where)
    if talk.messages[-1]["role"] != "assistant" or len(talk.messages) < 2:
        raise ValueError(f"{name} must end with the assistant's answer to something")
    return talk
