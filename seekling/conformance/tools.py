"""Tools of ``/v1/chat/completions``."""

import json
from typing import Any

from seekling.conformance.chat import PATH, ask, chunks
from seekling.conformance.checks import check
from seekling.conformance.target import Json, Skipped, Target, need

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time of a city.", "parameters": CITY}}
QUESTION = [{"role": "user", "content": "What is the weather in Bern?"}]


def called(target: Target, **changes: Any) -> Json:
    """The choice of an answer that had to call; Skipped where the server refuses that by a 4xx."""
    answer = target.post(PATH, ask(target, messages=QUESTION, tools=[WEATHER, TIME], max_tokens=200, **changes))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:120].decode('utf-8', 'replace')}")
    need(answer.status == 200, f"{answer.status}: {answer.raw[:120]!r}")
    return answer.json["choices"][0]


def sound(call: Json) -> None:
    need(isinstance(call["id"], str) and call["id"] and call["type"] == "function", f"the call is {call}")
    arguments = json.loads(call["function"]["arguments"])
    need(arguments.get("city") in ("Bern", "Rome"), f"the arguments are {arguments}")


@check("tools", "tool_choice 'required' calls a tool with arguments of its schema")
def required(target: Target) -> None:
    choice = called(target, tool_choice="required")
    calls = choice["message"].get("tool_calls") or []
    need(calls, f"no call: {str(choice['message'])[:120]}")
    for call in calls:
        sound(call)
    need(choice["finish_reason"] == "tool_calls", f"finish reason {choice['finish_reason']!r}")


@check("tools", "a named tool is the one that is called")
def named(target: Target) -> None:
    choice = called(target, tool_choice={"type": "function", "function": {"name": "get_time"}})
    calls = choice["message"].get("tool_calls") or []
    need(calls and {call["function"]["name"] for call in calls} == {"get_time"}, f"calls: {calls}")
    need(choice["finish_reason"] in ("tool_calls", "stop"), f"finish reason {choice['finish_reason']!r}")
    sound(calls[0])


@check("tools", "tool_choice 'none' calls nothing")
def none(target: Target) -> None:
    choice = called(target, tool_choice="none")
    need(not choice["message"].get("tool_calls"), "it called")


@check("tools", "a streamed call: id and name first, then its arguments in pieces")
def streamed(target: Target) -> None:
    called(target, tool_choice="required")  # skips where that is refused
    asked = ask(target, messages=QUESTION, tools=[WEATHER], tool_choice="required", max_tokens=200, stream=True)
    some = chunks(target.events(PATH, asked))
    pieces = [call for c in some if c["choices"] for call in c["choices"][0]["delta"].get("tool_calls") or []]
    need(pieces, "no call in the stream")
    need(all(isinstance(piece["index"], int) for piece in pieces), "a piece has no index")
    first = [piece for piece in pieces if piece["index"] == 0]
    need(first[0].get("id") and first[0]["function"].get("name") == "get_weather", f"the first piece is {first[0]}")
    need(not any(piece.get("id") for piece in first[1:]), "the id comes again")
    json.loads("".join(piece["function"].get("arguments") or "" for piece in first))
    reasons = [c["choices"][0].get("finish_reason") for c in some if c["choices"]]
    need("tool_calls" in reasons, f"finish reasons {reasons}")


@check("tools", "a tool's result goes back by the id of its call")
def result(target: Target) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'}}
    turns = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "clear"}'})
    called(target, tool_choice="auto")  # skips where there are no tools
    answer = target.ok(PATH, ask(target, messages=turns, tools=[WEATHER]))
    need(answer["choices"][0]["message"]["role"] == "assistant", "no answer")


@check("tools", "tool_choice of an unknown tool is a 4xx", "should")
def unknown(target: Target) -> None:
    choice = {"type": "function", "function": {"name": "nothing"}}
    answer = target.post(PATH, ask(target, messages=QUESTION, tools=[WEATHER], tool_choice=choice))
    need(400 <= answer.status < 500, f"{answer.status}")
