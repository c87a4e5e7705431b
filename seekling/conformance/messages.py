"""Anthropic's ``/v1/messages``."""

import json
from typing import Any

from seekling.conformance.checks import check
from seekling.conformance.target import Json, Skipped, Target, need

PATH = "/v1/messages"
CITY = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"], "additionalProperties": False}
TOOL = {"name": "get_weather", "description": "The weather of a city.", "input_schema": CITY}
REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")


def ask(target: Target, **changes: Any) -> Json:
    turns = [{"role": "user", "content": "Write a sentence about the sea."}]
    return {"model": target.model, "max_tokens": 32, "messages": turns, "temperature": 0, **changes}


def said(answer: Json) -> str:
    return "".join(block["text"] for block in answer["content"] if block["type"] == "text")


@check("anthropic", "a message has content blocks, a stop reason, usage")
def shape(target: Target) -> None:
    answer = target.ok(PATH, ask(target))
    need(answer["type"] == "message" and answer["role"] == "assistant" and said(answer), f"{str(answer)[:100]}")
    need(answer["stop_reason"] in REASONS, f"stop_reason {answer['stop_reason']!r}")
    need(answer["usage"]["input_tokens"] > 0 and answer["usage"]["output_tokens"] > 0, f"usage {answer['usage']}")


@check("anthropic", "a stream: message_start, blocks begun and ended in turn, message_delta, message_stop")
def stream(target: Target) -> None:
    events = target.events(PATH, ask(target, stream=True))
    need(all(event.name == event.json["type"] for event in events), "an event's name is not its type")
    kinds = [event.name for event in events if event.name != "ping"]
    need(kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], f"{kinds[:2]} … {kinds[-2:]}")
    starts = [event.json["index"] for event in events if event.name == "content_block_start"]
    stops = [event.json["index"] for event in events if event.name == "content_block_stop"]
    need(starts == stops == list(range(len(starts))), f"begun {starts}, ended {stops}")
    deltas = [e.json["delta"] for e in events if e.name == "content_block_delta"]
    text = "".join(delta.get("text", "") for delta in deltas if delta["type"] == "text_delta")
    need(text == said(target.ok(PATH, ask(target))), "the deltas are not the text")


@check("anthropic", "a system prompt as text and as blocks is read alike")
def system(target: Target) -> None:
    counts = [
        target.ok(PATH, ask(target, system=form, max_tokens=1))["usage"]
        for form in ("Be brief.", [{"type": "text", "text": "Be brief."}])
    ]
    totals = [use["input_tokens"] + (use.get("cache_read_input_tokens") or 0) for use in counts]
    need(totals[0] == totals[1], f"{totals} tokens")


@check("anthropic", "tool_choice any calls a tool; its result goes back")
def tools(target: Target) -> None:
    answer = target.post(PATH, ask(target, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=200))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:100].decode('utf-8', 'replace')}")
    calls = [block for block in answer.json["content"] if block["type"] == "tool_use"]
    need(calls and calls[0]["input"] == {"city": "Bern"}, f"content {answer.json['content']}")
    need(answer.json["stop_reason"] == "tool_use", f"stop_reason {answer.json['stop_reason']!r}")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": calls[0]["id"], "content": "clear"}]}
    turns = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": calls}, result]
    need(target.ok(PATH, ask(target, messages=turns, tools=[TOOL]))["type"] == "message", "no answer to the result")


@check("anthropic", "a streamed call's input comes as pieces of JSON")
def tool_stream(target: Target) -> None:
    asked = ask(target, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=200)
    if target.post(PATH, asked).status in (400, 422, 501):
        raise Skipped("tool_choice any is refused")
    events = target.events(PATH, asked | {"stream": True})
    pieces = [e.json["delta"] for e in events if e.name == "content_block_delta"]
    text = "".join(piece["partial_json"] for piece in pieces if piece["type"] == "input_json_delta")
    need(json.loads(text) == {"city": "Bern"}, f"the pieces are {text!r}")


@check("anthropic", "a stop sequence ends the message and is named")
def stop(target: Target) -> None:
    whole = said(target.ok(PATH, ask(target)))
    words = whole.split(" ")
    if len(words) < 4:
        raise Skipped(f"the model says too little: {whole!r}")
    answer = target.ok(PATH, ask(target, stop_sequences=[words[2]]))
    need(
        said(answer) == whole[: whole.index(words[2])].rstrip() or said(answer) == whole[: whole.index(words[2])],
        f"{said(answer)!r}",
    )
    need((answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", words[2]), f"{answer['stop_reason']!r}")


@check("anthropic", "count_tokens counts what a message takes", "should")
def count(target: Target) -> None:
    answer = target.post(
        f"{PATH}/count_tokens", {k: v for k, v in ask(target).items() if k not in ("max_tokens", "temperature")}
    )
    if answer.status in (404, 405, 501):
        raise Skipped(f"answered {answer.status}")
    use = target.ok(PATH, ask(target, max_tokens=1))["usage"]
    need(answer.status == 200, f"{answer.status}: {answer.raw[:100]!r}")
    need(
        answer.json["input_tokens"] == use["input_tokens"] + (use.get("cache_read_input_tokens") or 0),
        f"{answer.json} and {use}",
    )


@check("anthropic", "errors have Anthropic's form and name the field", "should")
def errors(target: Target) -> None:
    for changes, word in (
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": 5}, "messages"),
        ({"temperature": "hot"}, "temperature"),
    ):
        answer = target.post(PATH, {k: v for k, v in ask(target, **changes).items() if v is not None})
        need(400 <= answer.status < 500, f"{changes} is answered {answer.status}")
        body = answer.json
        need(body.get("type") == "error" and isinstance(body["error"]["message"], str), f"the error is {str(body)[:100]}")
        need(word in body["error"]["message"], f"{word!r} is not named: {body['error']['message'][:100]!r}")
