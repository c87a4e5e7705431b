"""``/v1/responses``."""

from typing import Any

from seekling.conformance.checks import check
from seekling.conformance.target import Json, Skipped, Target, need

PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Bern"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def ask(target: Target, **changes: Any) -> Json:
    return {
        "model": target.model,
        "input": "Write a sentence about the sea.",
        "max_output_tokens": 32,
        "temperature": 0,
        **changes,
    }


def said(response: Json) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


@check("responses", "a response has id, status, output, usage")
def shape(target: Target) -> None:
    answer = target.ok(PATH, ask(target))
    need(answer["object"] == "response" and answer["id"].startswith("resp"), f"{str(answer)[:100]}")
    need(answer["status"] in ("completed", "incomplete") and said(answer), f"status {answer['status']!r}")
    need(all(item.get("id") for item in answer["output"]), "an item has no id")
    use = answer["usage"]
    need(use["total_tokens"] == use["input_tokens"] + use["output_tokens"], "the usage does not add up")


@check("responses", "events are named, typed and numbered from 0, without [DONE]")
def events(target: Target) -> None:
    some = target.events(PATH, ask(target, stream=True))
    need(not any(event.data == "[DONE]" for event in some), "[DONE]")
    need(all(event.name == event.json["type"] for event in some), "an event's name is not its type")
    need([event.json["sequence_number"] for event in some] == list(range(len(some))), "the numbers do not rise by one")


@check("responses", "events come in the order clients expect, and add up")
def order(target: Target) -> None:
    some = [event.json for event in target.events(PATH, ask(target, stream=True))]
    kinds = [event["type"].removeprefix("response.") for event in some]
    need(kinds[:2] == ["created", "in_progress"] and kinds[-1] in ("completed", "incomplete"), f"{kinds[:2]} … {kinds[-1]}")
    places = [
        kinds.index(kind) for kind in ("output_item.added", "content_part.added", "output_text.delta", "output_text.done")
    ]
    need(places == sorted(places), f"order {kinds}")
    text = "".join(event["delta"] for event in some if event["type"] == "response.output_text.delta")
    need(text == said(some[-1]["response"]), "the deltas are not the text")


@check("responses", "an item has one id from its first event to the last response")
def ids(target: Target) -> None:
    some = [event.json for event in target.events(PATH, ask(target, stream=True))]
    by_kind = {
        kind: [e["item"]["id"] for e in some if e["type"] == f"response.output_item.{kind}"] for kind in ("added", "done")
    }
    last = [item["id"] for item in some[-1]["response"]["output"]]
    need(by_kind["added"] == by_kind["done"] == last, f"{by_kind} and {last}")
    need({e["response"]["id"] for e in some if "response" in e} == {some[-1]["response"]["id"]}, "the response's id changes")


@check("responses", "a call has one call_id, and its result goes back")
def call(target: Target) -> None:
    asked = ask(target, tools=[TOOL], tool_choice="required", max_output_tokens=200)
    answer = target.post(PATH, asked)
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:100].decode('utf-8', 'replace')}")
    calls = [item for item in answer.json["output"] if item["type"] == "function_call"]
    need(calls and calls[0]["call_id"] and calls[0]["name"] == "get_weather", f"output {answer.json['output']}")
    result = {"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "clear"}
    before = [{"role": "user", "content": "Weather?"}, *answer.json["output"], result]
    need(target.ok(PATH, ask(target, input=before, tools=[TOOL]))["output"], "no answer to the result")


@check("responses", "previous_response_id goes on, or is refused", "should")
def previous(target: Target) -> None:
    first = target.ok(PATH, ask(target, input="My name is Anna."))
    answer = target.post(PATH, ask(target, input="What is my name?", previous_response_id=first["id"]))
    if answer.status in (400, 404, 422, 501):
        return
    alone = target.ok(PATH, ask(target, input="What is my name?"))["usage"]["input_tokens"]
    need(answer.json["usage"]["input_tokens"] > alone, "the earlier turns were not read")


@check("responses", "what is wrong is a 4xx", "should")
def wrong(target: Target) -> None:
    for changes in ({"input": 5}, {"temperature": "hot"}, {"max_output_tokens": -1}):
        status = target.post(PATH, ask(target, **changes)).status
        need(400 <= status < 500, f"{changes} is answered {status}")
