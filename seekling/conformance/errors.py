"""Wrong requests: a 4xx that says what is wrong, in OpenAI's form; and nothing that is silently passed over."""

from typing import Any

from seekling.conformance.chat import PATH, ask
from seekling.conformance.checks import CHECKS, Check, check
from seekling.conformance.target import Answer, Target, need


def refused(target: Target, changes: dict[str, Any], word: str, without: str | None = None) -> Answer:
    """Asks for something wrong; Failed unless it is a 4xx with ``word`` in its message or param."""
    body = {key: value for key, value in (ask(target) | changes).items() if key != without}
    answer = target.post(PATH, body)
    need(400 <= answer.status < 500, f"answered {answer.status}")
    error = answer.json.get("error")
    need(isinstance(error, dict) and isinstance(error.get("message"), str), f"the error is {str(answer.json)[:100]}")
    said = f"{error['message']} {error.get('param')}".lower()
    need(word.lower() in said, f"{word!r} is not named: {error['message'][:100]!r}")
    return answer


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("a temperature that is no number", {"temperature": "hot"}, "temperature"),
    ("a temperature below 0", {"temperature": -1}, "temperature"),
    ("top_p above 1", {"top_p": 7}, "top_p"),
    ("max_tokens below 0", {"max_tokens": -5}, "max_tokens"),
    ("max_tokens that is no whole number", {"max_tokens": "many"}, "max_tokens"),
    ("messages that are no list", {"messages": "hi"}, "messages"),
    ("no messages at all", {"messages": []}, "messages"),
    ("a message without a role", {"messages": [{"content": "hi"}]}, "role"),
    ("an unknown role", {"messages": [{"role": "poet", "content": "hi"}]}, "role"),
    ("top_logprobs beyond 20", {"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
    ("an unknown response_format", {"response_format": {"type": "poem"}}, "response_format"),
    (
        "a schema that is none",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        "schema",
    ),
]


def _wrong(title: str, changes: dict[str, Any], word: str) -> Check:
    return Check("errors", f"{title}: a 4xx that names it", "should", lambda target: void(refused(target, changes, word)))


def void(_: Any) -> None:
    """A check returns nothing."""


CHECKS.extend(_wrong(*row) for row in WRONG)


@check("errors", "no wrong request is answered 5xx")
def no_5xx(target: Target) -> None:
    for title, changes, _ in WRONG:
        status = target.post(PATH, ask(target) | changes).status
        need(status < 500, f"{title}: {status}")


@check("errors", "a request without messages names them")
def no_messages(target: Target) -> None:
    refused(target, {}, "messages", without="messages")


@check("errors", "an unknown field is refused by its name, not passed over", "should")
def unknown_field(target: Target) -> None:
    refused(target, {"frobnicate": 3}, "frobnicate")


@check("errors", "an unknown model is a 404", "should")
def unknown_model(target: Target) -> None:
    answer = target.post(PATH, ask(target, model="no-such-model-here"))
    need(answer.status == 404, f"{answer.status}")


@check("errors", "what is no JSON is a 400")
def no_json(target: Target) -> None:
    for raw in (b"{", b"", b'{"messages": ' + b"[" * 2000, b"\xff\xfe{}"):
        answer = target.request("POST", PATH, raw=raw)
        need(answer.status in (400, 422), f"{raw[:12]!r} is answered {answer.status}")


@check("errors", "a prompt that is too long is a 4xx, not a shorter prompt")
def too_long(target: Target) -> None:
    shown = target.get("/v1/models").json["data"][0]
    context = int(shown.get("max_model_len") or shown.get("meta", {}).get("n_ctx_train") or 131072)
    words = "one two three four five six seven eight " * (context // 4 + 100)
    answer = target.post(PATH, ask(target, messages=[{"role": "user", "content": words}]))
    need(400 <= answer.status < 500, f"answered {answer.status}")


@check("errors", "a path that is not there is a 404, another method a 405", "should")
def paths(target: Target) -> None:
    need(target.get("/v1/no-such-path").status == 404, "the path was answered")
    status = target.get(PATH).status
    need(status in (404, 405), f"GET of the chat is answered {status}")


@check("errors", "after all that it still answers")
def alive(target: Target) -> None:
    target.ok(PATH, ask(target, max_tokens=2))
