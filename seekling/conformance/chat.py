"""``/v1/chat/completions``: shape, streams, stop strings, drawing, log-probabilities, JSON."""

import json
import threading
import time
from typing import Any

from seekling.conformance.checks import check
from seekling.conformance.target import Event, Failed, Json, Skipped, Target, need

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Write two sentences about the sea."}]
FINISH = ("stop", "length", "tool_calls", "content_filter")


def ask(target: Target, **changes: Any) -> Json:
    """A request; the same words, no chance, 32 tokens."""
    return {"model": target.model, "messages": QUESTION, "temperature": 0, "max_tokens": 32, **changes}


def text(answer: Json) -> str:
    return answer["choices"][0]["message"]["content"] or ""


def chunks(events: list[Event]) -> list[Json]:
    """The chunks of a stream without its end."""
    return [event.json for event in events if event.data != "[DONE]"]


def streamed(some: list[Json], key: str = "content") -> str:
    return "".join(c["choices"][0]["delta"].get(key) or "" for c in some if c["choices"])


def calm(target: Target) -> str:
    """The answer without chance, asked once."""
    if "calm" not in target.seen:
        target.seen["calm"] = text(target.ok(PATH, ask(target)))
    return target.seen["calm"]


@check("chat", "an answer has id, object, created, model, choices, usage")
def shape(target: Target) -> None:
    answer = target.ok(PATH, ask(target))
    for key, kind in (("id", str), ("created", int), ("model", str), ("choices", list), ("usage", dict)):
        need(isinstance(answer.get(key), kind), f"{key} is {answer.get(key)!r}")
    need(answer["object"] == "chat.completion", f"object is {answer['object']!r}")
    choice = answer["choices"][0]
    need(choice["index"] == 0 and choice["finish_reason"] in FINISH, f"the choice is {choice}")
    need(choice["message"]["role"] == "assistant" and isinstance(choice["message"]["content"], str), "no assistant's message")


@check("chat", "the usage adds up")
def usage(target: Target) -> None:
    use = target.ok(PATH, ask(target))["usage"]
    need(use["prompt_tokens"] > 0 and use["completion_tokens"] > 0, f"usage is {use}")
    need(use["total_tokens"] == use["prompt_tokens"] + use["completion_tokens"], f"the total is {use['total_tokens']}")


@check("chat", "a stream names the role first")
def role_first(target: Target) -> None:
    some = chunks(target.events(PATH, ask(target, stream=True)))
    first = some[0]["choices"][0]["delta"]
    need(first.get("role") == "assistant", f"the first delta is {first}")
    need(not any(c["choices"][0]["delta"].get("role") for c in some[1:] if c["choices"]), "the role comes again")


@check("chat", "a stream ends with one finish reason, then [DONE]")
def ends(target: Target) -> None:
    events = target.events(PATH, ask(target, stream=True))
    need(events[-1].data == "[DONE]", f"the last event is {events[-1].data[:60]!r}")
    reasons = [c["choices"][0].get("finish_reason") for c in chunks(events) if c["choices"]]
    need(sum(reason is not None for reason in reasons) == 1 and reasons[-1] in FINISH, f"finish reasons: {reasons}")


@check("chat", "all chunks of a stream have one id and the chunk's object")
def one_id(target: Target) -> None:
    some = chunks(target.events(PATH, ask(target, stream=True)))
    need(len({c["id"] for c in some}) == 1, "the ids differ")
    need({c["object"] for c in some} == {"chat.completion.chunk"}, f"objects: { ({c['object'] for c in some}) }")


@check("chat", "a stream adds up to the answer in one piece")
def adds_up(target: Target) -> None:
    whole, some = calm(target), chunks(target.events(PATH, ask(target, stream=True)))
    need(streamed(some) == whole, f"streamed {streamed(some)[:50]!r}, in one piece {whole[:50]!r}")


@check("chat", "a stream comes as it is written, not all at its end", "should")
def comes_early(target: Target) -> None:
    events = target.events(PATH, ask(target, stream=True, max_tokens=64))
    said = [e for e in events if e.data != "[DONE]" and e.json["choices"] and e.json["choices"][0]["delta"].get("content")]
    need(len(said) > 3, f"{len(said)} pieces")
    need(said[0].at < 0.9 * events[-1].at, f"the first piece came after {said[0].at:.2f} of {events[-1].at:.2f} s")


@check("chat", "include_usage adds one chunk without choices; other chunks say null")
def usage_chunk(target: Target) -> None:
    asked = ask(target, stream=True, stream_options={"include_usage": True})
    some = chunks(target.events(PATH, asked))
    last = some[-1]
    need(last["choices"] == [] and last["usage"]["completion_tokens"] > 0, f"the last chunk is {str(last)[:100]}")
    need(all(c.get("usage") is None for c in some[:-1]), "an earlier chunk has a usage")


@check("chat", "without include_usage no chunk has a usage", "should")
def no_usage_chunk(target: Target) -> None:
    some = chunks(target.events(PATH, ask(target, stream=True)))
    need(all(c["choices"] for c in some) and not any(c.get("usage") for c in some), "a usage came unasked")


@check("chat", "max_tokens ends the answer with 'length'")
def length(target: Target) -> None:
    answer = target.ok(PATH, ask(target, max_tokens=3))
    need(answer["choices"][0]["finish_reason"] == "length", f"finish reason {answer['choices'][0]['finish_reason']!r}")
    need(answer["usage"]["completion_tokens"] == 3, f"{answer['usage']['completion_tokens']} tokens")


@check("chat", "max_completion_tokens is the same")
def completion_length(target: Target) -> None:
    asked = {k: v for k, v in ask(target).items() if k != "max_tokens"}
    use = target.ok(PATH, asked | {"max_completion_tokens": 3})["usage"]
    need(use["completion_tokens"] == 3, f"{use['completion_tokens']} tokens")


@check("chat", "temperature 0 is no chance at all")
def greedy(target: Target) -> None:
    need(text(target.ok(PATH, ask(target))) == calm(target), "two answers differ")


@check("chat", "one seed, one answer")
def seed(target: Target) -> None:
    first, second = (text(target.ok(PATH, ask(target, temperature=1, seed=7))) for _ in range(2))
    need(first == second, f"{first[:40]!r} and {second[:40]!r}")


@check("chat", "other seeds, other answers", "should")
def seeds(target: Target) -> None:
    said = {text(target.ok(PATH, ask(target, temperature=1.5, seed=n))) for n in range(4)}
    need(len(said) > 1, "four seeds gave one answer")


@check("chat", "an answer does not depend on who is served beside it", "should")
def company(target: Target) -> None:
    alone, said, lock = calm(target), [], threading.Lock()

    def work(number: int) -> None:
        changes = {} if number % 2 else {"messages": [{"role": "user", "content": f"Count to {number}."}]}
        answer = target.post(PATH, ask(target, **changes))
        with lock:
            said.append((number, answer.status, text(answer.json) if answer.status == 200 else ""))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    need(len(said) == 6 and all(status == 200 for _, status, _ in said), f"not all were answered: {said}")
    need(all(words == alone for number, _, words in said if number % 2), "in company it was another answer")


def _stop(target: Target) -> tuple[str, str]:
    """A stop string that the calm answer holds, and what must be left of it."""
    whole = calm(target)
    words = whole.split(" ")
    if len(words) < 6:
        raise Skipped(f"the model says too little: {whole!r}")
    stop = " ".join(words[3:5])[:-1] or words[3]
    return stop, whole[: whole.index(stop)]


@check("chat", "a stop string ends the answer and is not shown")
def stop(target: Target) -> None:
    word, left = _stop(target)
    answer = target.ok(PATH, ask(target, stop=[word]))
    need(text(answer) == left, f"stop {word!r} left {text(answer)!r}")
    need(answer["choices"][0]["finish_reason"] == "stop", f"finish reason {answer['choices'][0]['finish_reason']!r}")


@check("chat", "a stop string is held back in a stream")
def stop_streamed(target: Target) -> None:
    word, left = _stop(target)
    said = streamed(chunks(target.events(PATH, ask(target, stop=word, stream=True))))
    need(said == left, f"stop {word!r} left {said!r}")


@check("chat", "no character is cut in half")
def characters(target: Target) -> None:
    wanted = "grüße 🐋🦆 海洋"
    schema = {"type": "object", "properties": {"a": {"enum": [wanted]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    asked = ask(target, stream=True, max_tokens=120, response_format=form)
    try:
        some = chunks(target.events(PATH, asked))
    except Failed as error:
        if not str(error).startswith(("400", "422", "501")):
            raise
        some = chunks(
            target.events(PATH, ask(target, stream=True, messages=[{"role": "user", "content": f"Repeat: {wanted}"}]))
        )
        need("\ufffd" not in streamed(some), "U+FFFD in the stream")
        raise Skipped("without json_schema no answer can be forced; none was cut") from None
    said = streamed(some)
    need("\ufffd" not in said, f"U+FFFD in {said!r}")
    need(json.loads(said) == {"a": wanted}, f"said {said!r}")


@check("chat", "n answers, each with its index")
def several(target: Target) -> None:
    answer = target.post(PATH, ask(target, n=2, temperature=1))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    need([choice["index"] for choice in answer.json["choices"]] == [0, 1], f"{len(answer.json['choices'])} answers")


@check("chat", "log-probabilities: tokens, bytes, the likeliest")
def logprobs(target: Target) -> None:
    answer = target.post(PATH, ask(target, logprobs=True, top_logprobs=3, max_tokens=8))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    choice = answer.json["choices"][0]
    logs = choice["logprobs"]["content"]
    need(
        logs and all(log["logprob"] <= 0 and isinstance(log["token"], str) for log in logs), "no tokens with log-probabilities"
    )
    need(all(1 <= len(log["top_logprobs"]) <= 3 for log in logs), "not up to 3 likeliest tokens")
    first = logs[0]["top_logprobs"]
    need(first == sorted(first, key=lambda log: -log["logprob"]), "the likeliest do not come first")
    if all(log.get("bytes") is not None for log in logs):
        said = b"".join(bytes(log["bytes"]) for log in logs).decode("utf-8", "replace")
        need(text(answer.json) in said or said in text(answer.json), f"the bytes say {said!r}")


@check("chat", "logit_bias of 100 forces a token, of -100 forbids it")
def bias(target: Target) -> None:
    plain = calm(target)
    forced = target.post(PATH, ask(target, logit_bias={"1000": 100}, max_tokens=3))
    if forced.status in (400, 422, 501):
        raise Skipped(f"refused: {forced.raw[:80].decode('utf-8', 'replace')}")
    once = text(forced.json)
    need(once and not plain.startswith(once), "the answer stayed as it was")
    banned = text(target.ok(PATH, ask(target, logit_bias={"1000": -100}, max_tokens=3)))
    need(not banned.startswith(once), "the forbidden token came")


@check("chat", "response_format json_object gives JSON")
def json_object(target: Target) -> None:
    question = [{"role": "user", "content": "Give a city and its country as a JSON object."}]
    asked = ask(target, messages=question, max_tokens=200, response_format={"type": "json_object"})
    answer = target.post(PATH, asked)
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    choice = answer.json["choices"][0]
    if choice["finish_reason"] == "length":
        need(text(answer.json)[-50:].strip(), "white space without end")
        raise Skipped(f"no end within 200 tokens: {text(answer.json)[-40:]!r}")
    need(isinstance(json.loads(text(answer.json)), dict), "no object")


@check("chat", "response_format json_schema binds the answer")
def json_schema(target: Target) -> None:
    age = {"type": "integer", "minimum": 0, "maximum": 99}
    properties = {
        "colour": {"enum": ["red", "blue"]},
        "age": age,
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 2},
    }
    schema = {"type": "object", "properties": properties, "required": ["colour", "age", "tags"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    answer = target.post(PATH, ask(target, max_tokens=120, response_format=form))
    if answer.status in (400, 422, 501):
        raise Skipped(f"refused: {answer.raw[:80].decode('utf-8', 'replace')}")
    if answer.json["choices"][0]["finish_reason"] == "length":
        raise Skipped("cut off before its end")
    said = json.loads(text(answer.json))
    need(set(said) == {"colour", "age", "tags"}, f"said {said}")
    need(said["colour"] in ("red", "blue") and type(said["age"]) is int and 0 <= said["age"] <= 99, f"said {said}")


@check("chat", "who hangs up is not answered any longer")
def hang_up(target: Target) -> None:
    names = ("vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs")

    def running() -> float:
        lines = target.get("/metrics").raw.decode("utf-8", "replace").splitlines()
        found = [line for line in lines if line.startswith(names)]
        if not found:
            raise Skipped("no metric tells what runs")
        return float(found[0].split()[-1])

    running()
    question = [{"role": "user", "content": "Write a very long story."}]
    with target.open(PATH, ask(target, stream=True, max_tokens=400, temperature=1, messages=question)) as got:
        got.readline()
    end = time.monotonic() + 10
    while running() > 0:
        need(time.monotonic() < end, "10 seconds later it still runs")
        time.sleep(0.05)
