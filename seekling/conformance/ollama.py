"""Ollama's ``/api``."""

import json
from typing import Any

from seekling.conformance.checks import check
from seekling.conformance.target import Json, Target, need


def ask(target: Target, **changes: Any) -> Json:
    turns = [{"role": "user", "content": "Write a sentence about the sea."}]
    return {"model": target.model, "messages": turns, "options": {"temperature": 0, "num_predict": 24}, **changes}


@check("ollama", "tags lists the model, show describes it, version answers")
def listed(target: Target) -> None:
    rows = target.get("/api/tags").json["models"]
    need(rows and rows[0]["name"], "no models")
    need("details" in target.ok("/api/show", {"model": rows[0]["name"]}), "show has no details")
    need(isinstance(target.get("/api/version").json["version"], str), "no version")


@check("ollama", "a chat streams lines of JSON unless told otherwise, 'done' once and last")
def stream(target: Target) -> None:
    some = target.lines("/api/chat", ask(target))
    need([line["done"] for line in some].count(True) == 1 and some[-1]["done"], "done")
    whole = target.ok("/api/chat", ask(target, stream=False))
    need("".join(line["message"]["content"] for line in some) == whole["message"]["content"], "the lines are not the answer")
    for key in ("prompt_eval_count", "eval_count", "total_duration", "eval_duration"):
        need(isinstance(some[-1].get(key), int), f"{key} is {some[-1].get(key)!r}")


@check("ollama", "num_predict ends the answer with 'length'")
def length(target: Target) -> None:
    answer = target.ok("/api/chat", ask(target, stream=False, options={"num_predict": 3}))
    need((answer["eval_count"], answer["done_reason"]) == (3, "length"), f"{answer['eval_count']}, {answer['done_reason']!r}")


@check("ollama", "generate answers a prompt")
def generate(target: Target) -> None:
    body = {"model": target.model, "prompt": "Hello", "stream": False, "options": {"num_predict": 5}}
    need(isinstance(target.ok("/api/generate", body)["response"], str), "no response")


@check("ollama", "format binds the answer to a schema")
def form(target: Target) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    answer = target.ok("/api/chat", ask(target, stream=False, format=schema, options={"num_predict": 80}))
    need(json.loads(answer["message"]["content"]) == {"a": "x"}, f"said {answer['message']['content']!r}")


@check("ollama", "an error is one text; an unknown model a 404")
def errors(target: Target) -> None:
    answer = target.post("/api/chat", ask(target, model="no-such-model-here"))
    need(answer.status == 404 and isinstance(answer.json["error"], str), f"{answer.status}: {answer.raw[:80]!r}")
    answer = target.post("/api/chat", ask(target, messages=5))
    need(400 <= answer.status < 500 and isinstance(answer.json["error"], str), f"{answer.status}: {answer.raw[:80]!r}")
