"""Tool calls that are always well formed: the family's way of writing them (`seekling.text.grammar`) as a constraint.

>>> constraint = tool_constraint(engine.tokenizer, tools, choice="required")
>>> engine.submit(engine.tokenizer.encode_chat(messages, tools=tools), Sampling(constraint=constraint))
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seekling.engine.constrain import SPACING, Constraint, schema_problems
from seekling.errors import SeeklingError, raise_all
from seekling.text.grammar import JsonCalls, MarkedCalls


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
    style = next((s for s in grammar.calls if isinstance(s, (MarkedCalls, JsonCalls))), None)
    raise_all(SeeklingError, _problems(functions, choice, style, grammar.name), "tools")
    named = functions if choice in ("auto", "required") else {choice: functions[choice]}
    write = _Writer(tokenizer)
    calls = write.marked(style, named, parallel) if isinstance(style, MarkedCalls) else write.json(style, named, parallel)
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
        parameters = function.get("parameters") or {}
        yield from (f"{name}: {line}" for line in schema_problems(parameters))
        if isinstance(parameters, Mapping) and parameters.get("type", "object") != "object":
            yield f"{name}: parameters must be an object's schema"
    if choice not in ("auto", "required", *functions):
        yield f"choice is {choice!r}: give 'auto', 'required' or one of {', '.join(map(str, functions))}"


class _Writer:
    """Lark text; marks that are tokens of the vocabulary are written as tokens."""

    def __init__(self, tokenizer: Any):
        self._special: dict[str, int] = tokenizer.special
        self._rules: list[str] = []

    def rules(self) -> str:
        return "\n".join(self._rules) + "\n"

    def begins_with_token(self, style: Any) -> bool:
        return any(style.begin.startswith(mark) for mark in self._special) if style.begin else False

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
        each = [
            self._json(
                {
                    "type": "object",
                    "properties": {"name": {"const": name}, style.arguments: _parameters(function)},
                    "required": ["name", style.arguments],
                    "additionalProperties": False,
                }
            )
            for name, function in functions.items()
        ]
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
        marks = sorted((m for m in self._special if m in text), key=len, reverse=True)
        if not marks:
            return json.dumps(text, ensure_ascii=False) if text else ""
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
        return " ".join(f"<[{self._special[p]}]>" if p in self._special else json.dumps(p) for p in pieces if p)


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return {"type": "object", **parameters} if parameters else {"type": "object", "additionalProperties": False}
