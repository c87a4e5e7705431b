"""What a streaming reply parser says, and how events become a message."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Reasoning:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """Tool call number ``index`` begins."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A call is complete, or ended with a ``problem`` (only where calls are told early)."""

    index: int
    problem: str = ""


@dataclass(frozen=True)
class Note:
    """Something the caller may want to tell: what looked like a tool call and was none."""

    text: str


Event = Reasoning | Content | CallStart | CallArguments | CallEnd | Note


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring texts of one kind joined: what does not depend on how the text came in."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Reasoning | Content) and type(last) is type(event):
            out[-1] = replace(last, text=last.text + event.text)  # type: ignore[union-attr]
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            out[-1] = replace(last, text=last.text + event.text)
        else:
            out.append(event)
    return out


def to_message(events: Iterable[Event]) -> dict[str, Any]:
    """An assistant message in the OpenAI form, with ``reasoning_content`` and ``tool_calls`` where there are any."""
    content, reasoning = "", ""
    calls: dict[int, dict[str, Any]] = {}
    broken: set[int] = set()
    for event in events:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, Reasoning):
            reasoning += event.text
        elif isinstance(event, CallStart):
            calls[event.index] = {"type": "function", "function": {"name": event.name, "arguments": ""}}
        elif isinstance(event, CallArguments):
            calls[event.index]["function"]["arguments"] += event.text
        elif isinstance(event, CallEnd) and event.problem:
            broken.add(event.index)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls.keys() - broken:
        message["tool_calls"] = [call for index, call in calls.items() if index not in broken]
    return message
