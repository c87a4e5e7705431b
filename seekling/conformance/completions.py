"""``/v1/completions`` and ``/v1/embeddings``."""

import base64
import math
import struct
from typing import Any

from seekling.conformance.checks import check
from seekling.conformance.target import Json, Skipped, Target, need

PATH = "/v1/completions"


def ask(target: Target, **changes: Any) -> Json:
    return {"model": target.model, "prompt": "The sea is", "max_tokens": 8, "temperature": 0, **changes}


@check("completions", "text is continued")
def continued(target: Target) -> None:
    answer = target.ok(PATH, ask(target))
    need(answer["object"] == "text_completion" and isinstance(answer["choices"][0]["text"], str), f"{str(answer)[:100]}")
    use = answer["usage"]
    need(use["total_tokens"] == use["prompt_tokens"] + use["completion_tokens"], "the usage does not add up")


@check("completions", "a list of prompts is answered in order")
def many(target: Target) -> None:
    one = [target.ok(PATH, ask(target, prompt=p))["choices"][0]["text"] for p in ("The sea is", "One two three")]
    answer = target.ok(PATH, ask(target, prompt=["The sea is", "One two three"]))
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    need([choice["index"] for choice in choices] == [0, 1], f"{len(choices)} answers")
    need([choice["text"] for choice in choices] == one, "they differ from the answers one by one")


@check("completions", "a stream adds up and ends with [DONE]")
def stream(target: Target) -> None:
    whole = target.ok(PATH, ask(target))["choices"][0]["text"]
    events = target.events(PATH, ask(target, stream=True))
    need(events[-1].data == "[DONE]", "no [DONE]")
    said = "".join(e.json["choices"][0]["text"] for e in events[:-1] if e.json["choices"])
    need(said == whole, f"{said!r} and {whole!r}")


@check("completions", "echo with logprobs scores a prompt (lm-eval needs it)", "should")
def echo(target: Target) -> None:
    answer = target.post(PATH, ask(target, echo=True, logprobs=1, max_tokens=1))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    choice = answer.json["choices"][0]
    need(choice["text"].startswith("The sea is"), f"the text is {choice['text']!r}")
    logs = choice["logprobs"]
    need(len(logs["tokens"]) == len(logs["token_logprobs"]) >= 4, "too few tokens are scored")
    need(logs["token_logprobs"][0] is None, "the first token, which nothing stands before, has a log-probability")
    need(all(value <= 0 for value in logs["token_logprobs"][1:]), "a log-probability above 0")


@check("embeddings", "a vector for each text, in order, as numbers and as base64")
def embeddings(target: Target) -> None:
    body = {"model": target.model, "input": ["the sea", "a mountain"]}
    answer = target.post("/v1/embeddings", body)
    if answer.status in (400, 404, 422, 500, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    rows = answer.json["data"]
    need([row["index"] for row in rows] == [0, 1] and len(rows[0]["embedding"]) == len(rows[1]["embedding"]), "rows")
    need(rows[0]["embedding"] != rows[1]["embedding"], "both texts have one vector")
    packed = target.ok("/v1/embeddings", body | {"encoding_format": "base64"})["data"][0]["embedding"]
    raw = base64.b64decode(packed)
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    same = all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5) for a, b in zip(values, rows[0]["embedding"], strict=True))
    need(same, "base64 says something else")
