"""Tool calls read while they arrive, each style of `seekling.text.grammar` by one method."""

import json
import re
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from seekling.text.events import CallArguments, CallEnd, CallStart, Event, Note
from seekling.text.grammar import Calls, ElementCalls, JsonCalls, MarkedCalls, listed_texts
from seekling.text.messages import is_tool_name, to_json
from seekling.text.reading import Malformed, json_value, no_constant

if TYPE_CHECKING:
    from seekling.text.reply import ReplyParser

Wait = Generator[None, None, None]
_FIRST_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


class CallReader:
    """Reads blocks of calls for a parser. A call's events are kept back until it is complete, unless told early."""

    def __init__(self, parser: "ReplyParser") -> None:
        self.parser, self.reader, self.marks = parser, parser.reader, parser.marks
        self.count = 0
        self._kept: list[Event] = []
        self._open = False
        self._arguments = ""

    def read(self, styles: list[Calls]) -> Wait:
        """The block whose begin was just taken. Several styles may share one begin: the next sign decides."""
        elements = [style for style in styles if isinstance(style, ElementCalls)]
        objects = [style for style in styles if isinstance(style, JsonCalls)]
        if elements and objects:
            yield from self.reader.space()
            while not self.reader.buffer and not self.reader.closed:
                yield
            styles = [*objects] if self.reader.buffer.startswith("{") else [*elements]
        style = styles[0]
        if isinstance(style, MarkedCalls):
            yield from self._marked(style)
        elif isinstance(style, ElementCalls):
            yield from self._elements(style)
        else:
            yield from self._object(style)

    def drop(self, problem: str) -> bool:
        """Give up the open call. True when nothing of it was told, so that its text has to be."""
        told = self._open and self.parser.early_calls
        if told:
            self.parser.events.append(CallEnd(self.count, problem))
            self.count += 1
        self._kept, self._open = [], False
        return not told

    # ---- events --------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        (self.parser.events if self.parser.early_calls else self._kept).append(event)

    def _start(self, name: str) -> None:
        if not is_tool_name(name):
            raise Malformed(f"{name[:40]!r} is no name of a tool")
        self._open, self._arguments = True, ""
        self._tell(CallStart(self.count, name))

    def _more(self, text: str) -> None:
        text = self.marks.plain(text)
        self._arguments += text
        self._tell(CallArguments(self.count, text))

    def _end(self) -> None:
        try:
            value = json_value(self._arguments)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Malformed("its arguments are no JSON object")
        self.parser.events += [*self._kept, CallEnd(self.count)]
        self._kept, self._open = [], False
        self.count += 1
        self.reader.seen = ""  # a later call that is broken gives back itself only

    # ---- styles --------------------------------------------------------------------------------------------------

    def _marked(self, style: MarkedCalls) -> Wait:
        call, name_end, call_end, end = map(self.marks.compiled, (style.call, style.name_end, style.call_end, style.end))
        stop = call_end[-1]  # the mark alone, where a model forgets its fence
        stops = tuple(dict.fromkeys((call_end, call_end.lstrip("\n"), stop)))
        first = True
        while True:
            sign = yield from self.reader.one_of((call, end))
            if sign != call:
                if first:
                    raise Malformed("the block holds no call")
                return
            name, sign = yield from self._text((name_end, stop, end))
            if sign != name_end:
                raise Malformed("it has no name")
            self._start(name)
            sign = yield from self.reader.until((*stops, end), self._more)
            if sign not in stops:
                raise Malformed("it is cut off")
            self._end()
            first = False

    def _elements(self, style: ElementCalls) -> Wait:
        call, call_end, parameter, end = map(self.marks.compiled, (style.call, style.call_end, style.parameter, style.end))
        first = True
        while True:
            sign = yield from self.reader.one_of((call, end))
            if sign != call:
                if first:
                    raise Malformed("the block holds no call")
                return
            name, sign = yield from self._text((self.marks.compiled(style.name_end), call_end, end))
            if sign != style.name_end:
                raise Malformed("it has no name")
            self._start(name)
            keys: set[str] = set()
            self._more("{")
            while True:
                sign = yield from self.reader.one_of((parameter, call_end))
                if sign != parameter:
                    break
                yield from self._parameter(style, name, keys)
            if sign != call_end:
                raise Malformed("it is cut off" if self.reader.closed else "there is text between its parameters")
            self._more("}")
            self._end()
            first = False

    def _parameter(self, style: ElementCalls, name: str, keys: set[str]) -> Wait:
        end = self.marks.compiled(style.parameter_end)
        key, sign = yield from self._text((style.middle or style.key_end, end))
        kind = ""
        if style.typed and sign == style.middle:
            kind, sign = yield from self._text((style.key_end, end))
        if sign != style.key_end or kind not in ("", "true", "false"):
            raise Malformed("a parameter's head is damaged")
        if key in keys:
            raise Malformed(f"parameter {key!r} occurs twice")
        self._more((", " if keys else "") + to_json(key) + ": ")
        keys.add(key)
        yield from self.reader.optional(style.pad)
        ends = tuple(dict.fromkeys((style.pad + end, end)))
        if not style.typed:
            kind = {True: "true", False: "false", None: ""}[self._is_text(name, key)]
        if kind == "true":
            self._more('"')
            sign = yield from self.reader.until(ends, lambda text: self._more(to_json(self.marks.plain(text))[1:-1]))
            self._more('"')
        else:
            value, sign = yield from self._text(ends)
            self._more(value if _is_json(value) else self._not_json(kind, style, value))
        if not sign:
            raise Malformed("it is cut off")

    @staticmethod
    def _not_json(kind: str, style: ElementCalls, value: str) -> str:
        if style.typed:
            raise Malformed("a parameter is neither text nor JSON")
        return to_json(value)

    def _is_text(self, name: str, key: str) -> bool | None:
        """What the tool's schema says of a parameter: text, something else, or nothing."""
        for function in self.parser.tools:
            if function.get("name") == name:
                schema: Any = function.get("parameters")
                for step in ("properties", key):
                    schema = schema.get(step) if isinstance(schema, Mapping) else None
                if not isinstance(schema, Mapping):
                    return None
                if listed_texts(schema):
                    return True
                return None if schema.get("type") is None else schema["type"] == "string"
        return None

    def _object(self, style: JsonCalls) -> Wait:
        end = self.marks.compiled(style.end)
        text, held = "", ""

        def take(part: str) -> None:
            nonlocal text, held
            text += part
            if not self._open:
                head = _FIRST_NAME.match(text) if self.parser.early_calls else None
                if head is None:
                    return
                self._start(json.loads(head[1]))
                part = text[head.end() :]
            held += part
            sure = held.rstrip("} \t\r\n")  # the last brace closes the call, not its arguments
            if sure:
                self._more(sure)
                held = held[len(sure) :]

        sign = yield from self.reader.until((end,), take)
        if not sign:
            raise Malformed("it is cut off")
        if self._open:
            rest = held.rstrip()
            self._more(rest[:-1].rstrip())
            if not rest.endswith("}"):
                raise Malformed("it is no JSON object with a name and arguments")
        else:
            self._told_at_once(_object_call(self.marks.plain(text), style))
        self._end()

    def _told_at_once(self, call: tuple[str, str]) -> None:
        self._start(call[0])
        self._more(call[1])

    def whole_answer(self, style: JsonCalls, ends: tuple[str, ...]) -> Generator[None, None, bool]:
        """Llama 3: the answer is a call if it begins with a brace (or the mark for tools). False: it is an ordinary answer."""
        reader, parser = self.reader, self.parser
        reader.seen = ""
        mark = yield from reader.one_of((self.marks.compiled(style.optional),))
        yield from reader.space()
        if not mark and not reader.buffer.startswith("{"):
            reader.buffer, reader.seen = reader.seen + reader.buffer, ""
            return False
        text, _ = yield from self._text(ends)
        raw = reader.seen[: len(reader.seen) - 1] if reader.seen.endswith(ends) else reader.seen
        try:
            for name, arguments in _object_calls(text, style, {function.get("name") for function in parser.tools}):
                self._told_at_once((name, arguments))
                self._end()
        except Malformed as problem:
            self._kept, self._open = [], False
            if mark:
                parser.events.append(Note(f"a tool call is broken ({problem})"))
            parser.content(raw)
        return True

    def _text(self, signs: tuple[str, ...]) -> Generator[None, None, tuple[str, str]]:
        """All text before one of the signs, and the sign."""
        parts: list[str] = []
        sign = yield from self.reader.until(signs, parts.append)
        return self.marks.plain("".join(parts)), sign


def _is_json(text: str) -> bool:
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def _object_call(text: str, style: JsonCalls) -> tuple[str, str]:
    """Name and arguments (JSON text, as written where that is possible) of one call."""
    try:
        value = json_value(text)
    except ValueError:
        raise Malformed("it is no JSON object with a name and arguments") from None
    return _named(value, text)


def _named(value: Any, text: str) -> tuple[str, str]:
    arguments = value.get("arguments", value.get("parameters")) if isinstance(value, dict) else None
    if isinstance(arguments, str):
        return str(value.get("name", "")), arguments
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(arguments, dict):
        raise Malformed("it is no JSON object with a name and arguments")
    head = _FIRST_NAME.match(text)
    if head and len(value) == 2:
        return value["name"], text[head.end() :].rstrip()[:-1].rstrip()
    return value["name"], to_json(arguments)


def _object_calls(text: str, style: JsonCalls, names: set[Any]) -> list[tuple[str, str]]:
    """Calls one after the other, with blanks, ',' or ';' between."""
    decoder, calls, position = json.JSONDecoder(parse_constant=no_constant), [], 0
    text = text.strip()
    while position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            raise Malformed("it is no JSON object with a name and arguments") from None
        calls.append(_named(value, text[position:end]))
        if calls[-1][0] not in names:
            raise Malformed(f"there is no tool {calls[-1][0][:40]!r}")
        position = end + len(text[end:]) - len(text[end:].lstrip(" \r\n\t,;"))
    return calls
