"""Conversations from files, in the shapes people have them; every problem is named with its file and line.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}], "tools": […]}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}           ShareGPT
    {"instruction": …, "input": …, "output": …}                                             Alpaca
    {"prompt": … or messages, "completion": … or messages}                                  prompt and completion

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
        except ValueError as error:
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
        except ValueError as error:
            record = f"is not valid JSON ({error})"
        yield f"{path}:{number}", record if not isinstance(record, str) or "not valid" in record else "is no JSON object"


def conversation_of(record: Any, where: str = "") -> Conversation:
    """One record in any of the shapes. ValueError says what is wrong with it."""
    if not isinstance(record, Mapping):
        raise ValueError(f"is a {type(record).__name__}, not a JSON object")
    tools: tuple[Mapping[str, Any], ...] = ()
    if "messages" in record:
        messages = _messages(record["messages"])
        tools = _tools(record.get("tools"))
    elif "conversations" in record:
        messages = _sharegpt(record)
    elif "instruction" in record:
        messages = _alpaca(record)
    elif "prompt" in record and "completion" in record:
        messages = [*_side(record["prompt"], "user"), *_side(record["completion"], "assistant")]
    else:
        raise ValueError(
            "has none of messages, conversations, instruction, prompt + completion "
            f"(it has {', '.join(map(str, record)) or 'nothing'})"
        )
    if not any(m["role"] == "assistant" and (m.get("content") or m.get("tool_calls")) for m in messages):
        raise ValueError("has no assistant message with content: there is nothing to learn from")
    return Conversation(tuple(messages), tools, where)


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
    if value is None:
        return ()
    if isinstance(value, str):  # some data sets keep the definitions as a JSON text
        value = json.loads(value)
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError("tools must be a list of tool definitions")
    return tuple(value)


def _sharegpt(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations must be a list of turns and not empty")
    messages = []
    if isinstance(record.get("system"), str) and record["system"]:
        messages.append({"role": "system", "content": record["system"]})
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
            raise ValueError(f"turn {number} needs from and value")
        if turn["from"] not in SHAREGPT:
            raise ValueError(f"turn {number} is from {turn['from']!r}; known are {', '.join(SHAREGPT)}")
        messages.append({"role": SHAREGPT[turn["from"]], "content": turn["value"]})
    return _messages(messages)


def _alpaca(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    for key in ("instruction", "output"):
        if not isinstance(record.get(key), str) or not record[key]:
            raise ValueError(f"{key} must be text and not empty")
    question = record["instruction"] + (f"\n\n{record['input']}" if record.get("input") else "")
    system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    return _messages([*system, {"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}])


def _side(value: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        if not value:
            raise ValueError(f"the {'prompt' if role == 'user' else 'completion'} is empty")
        return [{"role": role, "content": value}]
    return _messages(value)
