"""Chat messages as callers give them (the OpenAI form) → checked turns, every problem listed by the message's index."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seekling.errors import DataError, raise_all

Message = Mapping[str, Any]

KEYS = {
    "system": {"content"},
    "user": {"content"},
    "assistant": {"content", "reasoning_content", "tool_calls"},
    "tool": {"content", "tool_call_id", "name"},
}


@dataclass(frozen=True)
class Call:
    """A tool call: ``arguments`` is JSON text as the model wrote it."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Turn:
    """One message. ``answers`` is the number of the call that a tool's result belongs to."""

    role: str
    content: str = ""
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    answers: int = 0


def read_turns(messages: Sequence[Message], *, generation_prompt: bool, continue_final: bool = False) -> list[Turn]:
    """Checked turns of a conversation; the results of one answer's calls are put in the order of the calls.

    Args:
        generation_prompt: an answer is to follow: the last turn must be a user's or a tool's.
        continue_final: the last turn is the assistant's and is to be continued.

    Raises:
        DataError: lists every message that cannot be encoded, by its index.
    """
    reader = _Reader()
    problems = list(reader.read(messages, generation_prompt, continue_final))
    raise_all(DataError, problems, "messages")
    return reader.turns


class _Reader:
    """Goes through the messages once, remembering which calls still wait for a result."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.calls: tuple[Call, ...] = ()  # of the last answer
        self.waiting: list[int] = []
        self.previous = ""  # role of the last message that is not the system's

    def read(self, messages: Any, generation_prompt: bool, continue_final: bool) -> Iterator[str]:
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            yield f"must be a list of messages, not a {type(messages).__name__}"
            return
        if not messages:
            yield "the list is empty: give at least one message"
            return
        for index, message in enumerate(messages):
            if not isinstance(message, Mapping):
                yield f"message {index} is a {type(message).__name__}, not an object with role and content"
                continue
            yield from (f"message {index} {problem}" for problem in self._message(message))
        last = len(messages) - 1
        if self.waiting and self.previous == "tool":
            yield f"message {last}: the calls before it have more than these results; give one result a call"
        if generation_prompt and self.previous not in ("user", "tool"):
            yield f"message {last} is not the user's: end with a question, or ask for no generation prompt"
        if continue_final and (not self.turns or self.turns[-1].role != "assistant" or self.turns[-1].calls):
            yield f"message {last} cannot be continued: the last must be the assistant's, without tool calls"

    def _message(self, message: Message) -> Iterator[str]:
        role = message.get("role")
        if role not in KEYS:
            yield f"has role {role!r}; known are {', '.join(KEYS)}"
            return
        content = message.get("content")
        if content is None and role == "assistant" and (message.get("tool_calls") or message.get("reasoning_content")):
            content = ""
        if not isinstance(content, str):
            yield "has no text: 'content' must be a string"
            content = ""
        unknown = sorted(str(k) for k, v in message.items() if k not in KEYS[role] | {"role"} and v is not None)
        reasoning = message.get("reasoning_content")
        if "reasoning_content" in unknown:
            unknown.remove("reasoning_content")
            yield "has 'reasoning_content', which is text of the assistant only"
        elif reasoning is not None and not isinstance(reasoning, str):
            yield "has a 'reasoning_content' that is no string"
            reasoning = None
        if unknown:
            yield f"has keys this encoding does not know: {', '.join(unknown)}"
        yield from self._in_order(role)
        calls: tuple[Call, ...] = ()
        if role == "assistant":
            calls, problems = read_calls(message.get("tool_calls"))
            yield from problems
            self.calls, self.waiting = calls, list(range(len(calls)))
        answers = 0
        if role == "tool" and self.calls:
            answers, problem = self._answered(message.get("tool_call_id"))
            if problem:
                yield problem
            elif message.get("name") not in (None, self.calls[answers].name):
                yield f"is the result of {message['name']!r}, but its call is of {self.calls[answers].name!r}"
        if role != "system":
            self.previous = role
        self._add(Turn(role, content, reasoning, calls, answers))

    def _in_order(self, role: str) -> Iterator[str]:
        if role == "assistant" and self.previous not in ("user", "tool"):
            yield "is an answer without a question: a message of the user must come before it"
        if role == "tool" and not (self.calls and self.previous in ("assistant", "tool")):
            yield "is a tool's result without a call: an answer with 'tool_calls' must come before it"
        if role in ("user", "assistant") and self.waiting:
            if self.previous in ("assistant", "tool"):
                yield f"comes while {len(self.waiting)} tool call(s) before it have no result: give one result a call"
            self.waiting = []

    def _answered(self, call_id: Any) -> tuple[int, str]:
        """Which of the last answer's calls a result belongs to: by its id, else the next one."""
        if not self.waiting:
            return 0, "is one tool result more than there are calls"
        if call_id:
            named = [number for number in self.waiting if self.calls[number].id == call_id]
            if not named and any(call.id for call in self.calls):
                return 0, f"answers the call {call_id!r}, which is not among those before it"
            number = named[0] if named else self.waiting[0]
        else:
            number = self.waiting[0]
        self.waiting.remove(number)
        return number, ""

    def _add(self, turn: Turn) -> None:
        """Results of one answer's calls stand in the order of the calls."""
        place = len(self.turns)
        if turn.role == "tool":
            while place and self.turns[place - 1].role == "tool" and self.turns[place - 1].answers > turn.answers:
                place -= 1
        self.turns.insert(place, turn)


def read_calls(value: Any) -> tuple[tuple[Call, ...], list[str]]:
    """The ``tool_calls`` of a message and what is wrong with them."""
    if value is None:
        return (), []
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (), ["has 'tool_calls' that are no list"]
    calls, problems = [], []
    for number, entry in enumerate(value):
        function = entry.get("function") if isinstance(entry, Mapping) else None
        if not isinstance(function, Mapping):
            problems.append(f"has a tool call {number} without a 'function'")
            continue
        if entry.get("type", "function") != "function":
            problems.append(f"has a tool call {number} of type {entry['type']!r}; known is 'function'")
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not isinstance(name, str) or not is_tool_name(name):
            problems.append(f"has a tool call {number} with the name {name!r}: use letters, digits, '_', '-', '.', ':' or '/'")
            continue
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            problems.append(f"has a tool call {number} whose arguments are neither JSON text nor an object")
            continue
        calls.append(Call(name, arguments, str(entry.get("id") or "")))
    return tuple(calls), problems


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """The functions of ``tools`` in the OpenAI form (each with its name). DataError lists what is wrong."""
    if tools is None:
        return []
    problems: list[str] = []
    functions: list[dict[str, Any]] = []
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        problems.append(f"must be a list of functions, not a {type(tools).__name__}")
        tools = []
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            problems.append(f"tool {number} is not of the form {{'type': 'function', 'function': {{…}}}}")
        elif not is_tool_name(function.get("name")):
            problems.append(
                f"tool {number} has the name {function.get('name')!r}: use letters, digits, '_', '-', '.', ':' or '/'"
            )
        else:
            functions.append(dict(function))
    names = [function["name"] for function in functions]
    problems += [f"tool name {name!r} occurs twice" for name in sorted({n for n in names if names.count(n) > 1})]
    raise_all(DataError, problems, "tools")
    return functions


def is_tool_name(name: Any) -> bool:
    """Names that every family can write without quoting."""
    return isinstance(name, str) and 0 < len(name) <= 256 and all(c.isalnum() or c in "_-.:/" for c in name)


def to_json(value: Any) -> str:
    """JSON as every family's published encoder writes it: real characters, a blank after ',' and ':'."""
    return json.dumps(value, ensure_ascii=False)


def arguments_of(call: Call) -> dict[str, Any]:
    """A call's arguments as an object. DataError when they are none."""
    try:
        value = json.loads(call.arguments)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(f"the arguments of the call of {call.name!r} are no JSON object: {call.arguments[:80]!r}")
    return value
