"""gpt-oss answers (harmony): messages with a channel each; a recipient makes one a tool call."""

import re
from collections.abc import Generator
from typing import TYPE_CHECKING

from seekling.text.events import CallArguments, CallEnd, CallStart, Event, Note, Reasoning
from seekling.text.grammar import Channels
from seekling.text.messages import is_tool_name
from seekling.text.reading import json_value

if TYPE_CHECKING:
    from seekling.text.reply import ReplyParser


def read_channels(parser: "ReplyParser", style: Channels) -> Generator[None, None, None]:
    """Every message of the answer, until a mark that ends it or the end of the text."""
    reader, marks = parser.reader, parser.marks
    start, message = marks.char[style.start], marks.char[style.message]
    ends = tuple(marks.char[mark] for mark in style.ends)
    last = ends[1:]
    head = parser.channel and marks.char[style.channel] + parser.channel
    count = 0
    while True:
        if not head:
            reader.seen = ""
            parts: list[str] = []
            sign = yield from reader.until((message, *ends), parts.append)
            head = "".join(parts)
            if sign != message:
                if head.strip():
                    parser.events.append(Note("an answer's channel is damaged"))
                    parser.content(reader.seen.removesuffix(sign) if sign else reader.seen)
                if not sign or sign in last:
                    return
                head = ""
                continue
        channel, recipient = _read_head(head, marks.char[style.channel], marks.char[style.constrain])
        reader.seen = ""
        name = recipient.removeprefix(style.prefix)
        if recipient.startswith(style.prefix) and is_tool_name(name):
            sign, count = yield from _call(parser, name, count, (*ends, start))
        elif channel == style.reasoning:
            if any(isinstance(event, Reasoning) for event in parser.events):
                parser.reasoning("\n")
            sign = yield from reader.until((*ends, start), parser.reasoning)
        else:
            if recipient:
                parser.events.append(Note(f"the recipient {recipient[:40]!r} is no function: its message is shown as text"))
            sign = yield from reader.until((*ends, start), parser.content)
        if not sign or sign in last:
            return
        head = ""


def _call(parser: "ReplyParser", name: str, index: int, signs: tuple[str, ...]) -> Generator[None, None, tuple[str, int]]:
    """One call's arguments; (the sign that ended it, the number of the next call)."""
    text = ""
    kept: list[Event] = []

    def take(part: str) -> None:
        nonlocal text
        text += part
        (parser.events if parser.early_calls else kept).append(CallArguments(index, parser.marks.plain(part)))

    first: Event = CallStart(index, name)
    (parser.events if parser.early_calls else kept).append(first)
    sign = yield from parser.reader.until(signs, take)
    try:
        whole = isinstance(json_value(text), dict)  # its end mark may have ended the answer and not be shown
    except ValueError:
        whole = False
    problem = "" if whole else "its arguments are no JSON object" if sign else "it is cut off"
    if problem:
        parser.events.append(Note(f"a tool call is broken ({problem})"))
        if not parser.early_calls:
            parser.content(text)
            return sign, index
    parser.events += [*kept, CallEnd(index, problem)]
    return sign, index + 1


def _read_head(head: str, channel: str, constrain: str) -> tuple[str, str]:
    """Channel and recipient of a message's head, in whichever order they were written."""
    recipient = re.search(r"to=(\S+?)(?=[\s\ud800-\udfff]|$)", head)
    named = re.search(re.escape(channel) + r"\s*([^\s\ud800-\udfff]*)", head)
    return (named[1] if named else ""), (recipient[1] if recipient else "")
