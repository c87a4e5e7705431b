"""Conversations from files, in the shapes people have them; every problem is named with its file and line.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}           ShareGPT
    {"instruction": …, "input": …, "output": …, "history": [[question, answer], …]}          Alpaca
    {"prompt": … or messages, "completion": … or messages}                                  prompt and completion

Each may have "system" (text of a system message in front) and "tools" (a list, or that list as JSON text). Notes on a
conversation (`is_note`) are not read; any other key could be something to learn, so it is refused.

One JSON object a line (.jsonl), or a list of them (.json).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seekling.errors import DataError, raise_all

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool",
}  # fmt: skip
CONTEXT = ("system", "tools")
PAIR = ("chosen", "rejected")  # a file may serve seekling dpo too
NOTES = frozenset(
    """id idx index uuid key hash sha256 source sources dataset origin url uri link title date time timestamp created created_at
    updated_at version split license licence lang language locale category categories topic topics subject domain field tag tags
    type task task_type task_name difficulty level quality rating ratings score scores rank reward accuracy margin
    votes views likes model model_name generator teacher author annotator turn turns length tokens metadata meta info
    comment comments note notes""".split()
)
SHOWN = 8  # problems told one by one
T = TypeVar("T")


@dataclass(frozen=True)
class Conversation:
    """Messages as the chat encoding takes them, the tools they may call, and where they stand (``file:line``)."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    where: str = ""


def read_conversations(paths: Iterable[str | Path]) -> list[Conversation]:
    """Every conversation of the files, in order.

    Raises:
        DataError: no such file, and every line that is broken, of an unknown shape or role, or has nothing to learn from.
    """
    remedy = "give .jsonl lines with messages, conversations, instruction or prompt"
    return read_each(paths, conversation_of, "conversations", remedy)


def read_each(paths: Iterable[str | Path], read: Callable[[Any, str], T], what: str, remedy: str) -> list[T]:
    """Every record of the files as ``read(record, where)`` makes it. Raises DataError for all that raise ValueError."""
    found, bad = [], []
    for path in map(Path, paths):
        if not path.is_file():
            bad.append(f"there is no file {path}")
            continue
        for where, record in _records(path):
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                found.append(read(record, where))
            except ValueError as error:
                bad.append(f"{where}: {error}")
    if len(bad) > SHOWN:
        bad = [*bad[:SHOWN], f"… and {len(bad) - SHOWN} more"]
    raise_all(DataError, bad, what)
    if not found:
        raise DataError(f"the files hold no {what}: {remedy}")
    return found


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record) pairs; a record that is a string says what is wrong with its line."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        yield str(path), f"cannot be read as UTF-8 text ({error})"
        return
    if path.suffix == ".json":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield str(path), f"is not valid JSON ({error})"
            return
        for number, record in enumerate(whole if isinstance(whole, list) else [whole], 1):
            yield f"{path}:#{number}", record if not isinstance(record, str) else "is text, not a JSON object"
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            record = f"is not valid JSON ({error})"
        yield f"{path}:{number}", record if not isinstance(record, str) or "not valid" in record else "is no JSON object"


def conversation_of(record: Any, where: str = "") -> Conversation:
    """One record in any of the shapes. ValueError says what is wrong with it."""
    record = without_nulls(record)
    if "messages" in record:
        messages, own = _messages(record["messages"]), {"messages"}
        if record.get("prompt") in [m.get("content") for m in messages]:
            own.add("prompt")  # some data sets repeat the question beside the conversation
    elif "conversations" in record:
        messages, own = _sharegpt(record["conversations"]), {"conversations"}
    elif "instruction" in record:
        messages, own = _alpaca(record), {"instruction", "input", "output", "history"}
        own.add("text")  # Stanford's is the same again
    elif "prompt" in record and "completion" in record:
        messages, own = [*_side(record["prompt"], "user"), *_side(record["completion"], "assistant")], {"prompt", "completion"}
    else:
        raise ValueError(
            "has none of messages, conversations, instruction, prompt + completion "
            f"(it has {', '.join(map(str, record)) or 'nothing'})"
        )
    refuse_unknown(record, own.union(PAIR))
    return in_context(record, messages, where)


def without_nulls(record: Any) -> dict[str, Any]:
    """A record without the empty columns that tables give it. ValueError where it is none."""
    if not isinstance(record, Mapping):
        raise ValueError(f"is a {type(record).__name__}, not a JSON object")
    return {key: value for key, value in record.items() if value is not None}


def is_note(key: str) -> bool:
    """Whether a key says something about a conversation and is no part of it: ids, sources, scores, and what begins with _."""
    key = key.lower()
    return key in NOTES or key.startswith(("_", "score_", "num_", "n_", "meta_")) or key.endswith(("_id", "_score", "_url"))


def refuse_unknown(record: Mapping[str, Any], own: set[str]) -> None:
    """ValueError for keys that are neither the shape's own, nor context, nor notes, nor empty."""
    known = own.union(CONTEXT)
    unknown = [str(k) for k, v in record.items() if k not in known and not is_note(str(k)) and v not in ("", [], {})]
    if unknown:
        raise ValueError(f"has keys that cannot be learned from: {', '.join(unknown)}; remove them, or put notes into metadata")


def in_context(record: Mapping[str, Any], messages: list[dict[str, Any]], where: str) -> Conversation:
    """Messages with the record's ``system`` before them and its ``tools``."""
    system = record.get("system", "")
    if not isinstance(system, str):
        raise ValueError(f"system must be text, not a {type(system).__name__}")
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    elif system and messages[0]["content"] != system:
        raise ValueError("has a system text and another system message: keep one of them")
    if not any(m["role"] == "assistant" and (m.get("content") or m.get("tool_calls")) for m in messages):
        raise ValueError("has no assistant message with content: there is nothing to learn from")
    return Conversation(tuple(messages), _tools(record.get("tools")), where)


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages must be a list of messages and not empty")
    out = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError(f"message {number} has no role")
        role = message["role"]
        if role not in ROLES:
            raise ValueError(f"message {number} has the unknown role {role!r}; known are {', '.join(ROLES)}")
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise ValueError(f"message {number} has content of type {type(content).__name__}; only text can be learned")
        if content is None and not message.get("tool_calls"):
            raise ValueError(f"message {number} has neither content nor tool_calls")
        out.append(dict(message))
    return out


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    if isinstance(value, str) and value.strip():  # some data sets keep the definitions as a JSON text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"tools is text, but not valid JSON ({error})") from None
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError("tools must be a list of tool definitions")
    bare = [{"type": "function", "function": tool} if "name" in tool and "function" not in tool else tool for tool in value]
    return tuple(bare)


def _sharegpt(turns: Any) -> list[dict[str, Any]]:
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations must be a list of turns and not empty")
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise ValueError(f"turn {number} needs from and value")
        if not isinstance(turn["from"], str) or turn["from"] not in SHAREGPT:
            raise ValueError(f"turn {number} is from {turn['from']!r}; known are {', '.join(SHAREGPT)}")
        unknown = [str(k) for k, v in turn.items() if k not in ("from", "value") and not is_note(str(k)) and v is not None]
        if unknown:
            raise ValueError(f"turn {number} has keys that cannot be learned from: {', '.join(unknown)}; remove them")
        messages.append({"role": SHAREGPT[turn["from"]], "content": turn["value"]})
    return _messages(messages)


def _alpaca(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    for key in ("instruction", "output"):
        if not isinstance(record.get(key), str) or not record[key]:
            raise ValueError(f"{key} must be text and not empty")
    history, more = record.get("history", []), record.get("input", "")
    if not isinstance(more, str):
        raise ValueError(f"input must be text, not a {type(more).__name__}")
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise ValueError("history must be a list of [question, answer]")
    messages = []
    for question, answer in [*history, [record["instruction"] + (f"\n\n{more}" if more else ""), record["output"]]]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return _messages(messages)


def _side(value: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        if not value:
            raise ValueError(f"the {'prompt' if role == 'user' else 'completion'} is empty")
        return [{"role": role, "content": value}]
    return _messages(value)
