"""Tool calls that are always well formed: the family's way of writing them (`seekling.text.grammar`) as a constraint.

>>> constraint = tool_constraint(engine.tokenizer, tools, choice="required")
>>> engine.submit(engine.tokenizer.encode_chat(messages, tools=tools), Sampling(constraint=constraint))
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seekling.engine.constrain import NOTES, SPACING, Constraint, resolved, schema_problems
from seekling.errors import SeeklingError, raise_all
from seekling.text.grammar import ElementCalls, JsonCalls, MarkedCalls, listed_texts

NEWLINE = json.dumps("\n")


def tool_constraint(
    tokenizer: Any, tools: Sequence[Mapping[str, Any]], choice: str = "auto", *, parallel: bool = True
) -> Constraint:
    """What an answer with these tools may be.

    Args:
        tokenizer: `seekling.text.Tokenizer`, whose chat format says how calls are written.
        tools: function definitions in the OpenAI form.
        choice: "auto": text, and after it perhaps calls; "required": calls; or the name of the one tool to be called.
        parallel: allow several calls.

    Raises:
        SeeklingError: a tool without a name or with a schema that cannot be enforced, an unknown ``choice``, or a family whose
            calls cannot be enforced; all problems are listed.
    """
    functions = {f.get("name"): f for f in (tool.get("function", tool) for tool in tools)}
    grammar = tokenizer.chat.grammar
    style = next(iter(grammar.calls), None)
    raise_all(SeeklingError, _problems(functions, choice, style, grammar.name), "tools")
    named = functions if choice in ("auto", "required") else {choice: functions[choice]}
    write = _Writer(tokenizer)
    calls = write.calls(style, named, parallel)
    if choice != "auto":
        return Constraint.lark(f"start: {calls}\n{write.rules()}")
    if not write.begins_with_token(style):
        raise SeeklingError(
            f"tools: {grammar.name} begins a call with ordinary text, so only choice='required' can be enforced"
        )
    return Constraint.lark(f"start: TEXT | TEXT {calls}\nTEXT: /(?s:.*)/\n{write.rules()}")


def _problems(functions: Mapping[Any, Mapping[str, Any]], choice: str, style: Any, family: str) -> Iterator[str]:
    if not functions:
        yield "there are none: leave the constraint out"
    if style is None:
        yield f"calls as {family} writes them cannot be enforced: leave the constraint out"
    for name, function in functions.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            yield f"{name!r} is no name of a function: use 1 to 64 letters, digits, _, . and -"
        yield from (f"{name}: {line}" for line in _parameter_problems(function, style, family))
    if choice not in ("auto", "required", *functions):
        yield f"choice is {choice!r}: give 'auto', 'required' or one of {', '.join(map(str, functions))}"


def _parameter_problems(function: Mapping[str, Any], style: Any, family: str) -> Iterator[str]:
    given = function.get("parameters")
    if given is not None and not isinstance(given, Mapping):
        yield f"parameters is {given!r}: give an object's schema"
        return
    yield from schema_problems(given)
    if _whole_again(given):
        yield "$ref '#' means the whole schema, which stands inside a call here: move it to $defs and refer to it there"
    schema = _parameters(function)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema["type"] != "object":
        yield "parameters must be an object's schema"
    if not isinstance(properties, Mapping):
        yield f"properties is {properties!r}: give names with schemas"
    elif not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        yield f"required is {required!r}: give a list of names"
    elif isinstance(style, ElementCalls):
        beyond = sorted(set(schema) - _OBJECT - NOTES)
        if beyond:
            yield f"{family} writes parameters one by one, so {', '.join(beyond)} cannot be enforced over all of them"
        unknown = [key for key in required if key not in properties]
        if unknown:
            yield f"required names {', '.join(unknown)}, which properties does not describe"
        for key, value in properties.items():
            rest = set(value) - _BARE if isinstance(value, Mapping) and value.get("type") == "string" else set()
            if rest and not style.typed and not listed_texts(value):
                yield f"{family} writes texts bare, so {key} cannot be held to {', '.join(sorted(rest))}"


def _whole_again(schema: Any) -> bool:
    """Whether it refers to its own root somewhere."""
    if isinstance(schema, Mapping):
        return schema.get("$ref") == "#" or any(map(_whole_again, schema.values()))
    return isinstance(schema, list) and any(map(_whole_again, schema))


_OBJECT = {"type", "properties", "required", "additionalProperties"}
_SHARED = ("$defs", "definitions")
_BARE = {"type", "title", "description", "default", "examples", "example"}  # keywords that bare text fulfils


class _Writer:
    """Lark text; marks that are tokens of the vocabulary are written as tokens."""

    def __init__(self, tokenizer: Any):
        self._special: dict[str, int] = tokenizer.special
        self._rules: list[str] = []

    def rules(self) -> str:
        return "\n".join(self._rules) + "\n"

    def begins_with_token(self, style: Any) -> bool:
        return any(style.begin.startswith(mark) for mark in self._special) if style.begin else False

    def calls(self, style: Any, functions: Mapping[str, Any], parallel: bool) -> str:
        """One call or, with ``parallel``, several."""
        write = {MarkedCalls: self.marked, JsonCalls: self.json, ElementCalls: self.elements}[type(style)]
        return write(style, functions, parallel)

    def elements(self, style: ElementCalls, functions: Mapping[str, Any], parallel: bool) -> str:
        """begin (call NAME name_end (parameter KEY key_end VALUE parameter_end)* call_end)* end, each on a line of its own."""
        each = []
        for name, function in functions.items():
            schema = _parameters(function)
            shared: dict[str, Any] = {key: schema[key] for key in _SHARED if key in schema}
            lines = []
            for key, value in (schema.get("properties") or {}).items():
                line = self._rule(
                    f"{self._parameter(style, key, value if isinstance(value, Mapping) else {}, shared)} {NEWLINE}"
                )
                lines.append(line if key in schema.get("required", ()) else f"{line}?")
            head = self._text(style.call + name + style.name_end)
            each.append(" ".join([head, NEWLINE, *lines, NEWLINE + "?", self._text(style.call_end), NEWLINE]))
        one = self._rule(" | ".join(each))
        return " ".join([self._text(style.begin), NEWLINE, one + "+" * parallel, self._text(style.end)])

    def _parameter(self, style: ElementCalls, key: str, schema: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
        """One element; a text stands bare up to the element's end, all else as JSON."""
        choices, end = listed_texts(schema), style.pad + style.parameter_end
        bare = bool(choices) or (schema.get("type") == "string" and not set(schema) - _BARE)
        kind = style.middle + ("true" if bare else "false") if style.typed else ""
        head = self._text(style.parameter + key + kind + style.key_end + style.pad)
        if choices:
            return f"{head} ({' | '.join(map(self._text, choices))}) {self._text(end)}"
        return f"{head} {self._until(end)}" if bare else f"{head} {self._json({**schema, **shared})} {self._text(end)}"

    def _until(self, end: str) -> str:
        """Any text, then ``end``. A token in it breaks the text, which then has to end as what stands before the token."""
        before, token, after = self._split(end)
        name = f"rule{len(self._rules)}"
        if token is None:
            self._rules.append(f"{name}[suffix={json.dumps(end)}]: /(?s:.*)/")
            return name
        self._rules.append(f"{name}: /(?s:.*){re.escape(before).replace('/', chr(92) + '/')}/")
        return f"{name} {token} {self._text(after)}".rstrip()

    def _split(self, text: str) -> tuple[str, str | None, str]:
        """A text around the first token in it."""
        found = min(((text.index(mark), -len(mark), mark) for mark in self._special if mark in text), default=None)
        if found is None:
            return text, None, ""
        mark = found[2]
        return text[: found[0]], f"<[{self._special[mark]}]>", text[found[0] + len(mark) :]

    def marked(self, style: MarkedCalls, functions: Mapping[str, Any], parallel: bool) -> str:
        """begin call NAME name_end ARGUMENTS call_end (between …)* end."""
        each = []
        for name, function in functions.items():
            arguments = self._json(_parameters(function))
            parts = [style.call, name, style.name_end, None, style.call_end]
            each.append(" ".join(arguments if part is None else self._text(part) for part in parts if part != ""))
        one = self._rule(" | ".join(each))
        return self._joined(style, one, parallel)

    def json(self, style: Any, functions: Mapping[str, Any], parallel: bool) -> str:
        """begin {"name": …, "arguments": …} end, several one after another."""
        each = []
        for name, function in functions.items():
            schema = _parameters(function)
            call = {
                "type": "object",
                "properties": {"name": {"const": name}, style.arguments: schema},
                "required": ["name", style.arguments],
                "additionalProperties": False,
            }
            call |= {key: schema.pop(key) for key in _SHARED if key in schema}  # where references look for them
            each.append(self._json(call))
        one = self._rule(" ".join(p for p in (self._text(style.begin), f"({' | '.join(each)})", self._text(style.end)) if p))
        more = f" ({self._text(style.between)} {one})*" if parallel and style.begin else ""
        return one + more

    def _joined(self, style: MarkedCalls, one: str, parallel: bool) -> str:
        more = f" ({self._text(style.between)} {one})*" if parallel else ""
        return " ".join(part for part in (self._text(style.begin), one + more, self._text(style.end)) if part)

    def _rule(self, body: str) -> str:
        name = f"rule{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _json(self, schema: Mapping[str, Any]) -> str:
        return self._rule(f"%json {json.dumps({**SPACING, **schema})}")

    def _text(self, text: str) -> str:
        """Literals and tokens in a row; empty for no text."""
        before, token, after = self._split(text)
        parts = [json.dumps(before, ensure_ascii=False) if before else "", token or "", self._text(after) if after else ""]
        return " ".join(part for part in parts if part)


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments; one that only refers to a definition is that definition."""
    given = function.get("parameters")
    if not given:
        return {"type": "object", "additionalProperties": False}
    found = resolved(given, given) if "$ref" in given else given
    shared = {key: given[key] for key in _SHARED if key in given}
    return {"type": "object", **(found if isinstance(found, Mapping) else given), **shared}
