"""``seekling conformance``: our own server passes; a server that errs in one way fails the check for it."""

import json
from functools import partial

import pytest
from engine_tiny import one_thread  # noqa: F401
from serve_tiny import scripted_engine, serving

from seekling.cli import main
from seekling.conformance import checks as listed
from seekling.conformance.checks import every, run_all
from seekling.conformance.target import Target
from seekling.serve.guard import Doors
from seekling.serve.keys import Keys


def scripted():
    """A model that says one sentence, and calls or JSON where a grammar makes it."""
    engine = scripted_engine(max_rows=8)
    engine.model.say(None, "The sea is wide and the sea is deep, grey and cold.", [0] * 40)
    return engine


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    secret = keys.add("all", ["infer", "metrics"])[1]
    with serving(doors=Doors(keys)) as served:
        return {(r.surface, r.title): r for r in run_all(Target(served.url, "tiny", secret, 60), every())}


def test_our_own_server_breaks_no_client(results):
    assert [(r.title, r.note) for r in results.values() if r.verdict == "fail" and r.level == "must"] == []
    assert len(results) > 75 and sum(r.verdict == "pass" for r in results.values()) > 65


def test_every_surface_is_checked_and_titles_are_told_apart(results):
    assert {surface for surface, _ in results} >= {*listed.PROBES, "doors"} and len(results) == len(every())


# ---- servers that err in one way -------------------------------------------------------------------------------------


def changed(app, change):
    """An ASGI application whose every piece of a body is changed on its way out."""

    async def wrapped(scope, receive, send):
        async def sending(message):
            if message["type"] == "http.response.start":
                message["headers"] = [(k, v) for k, v in message["headers"] if k != b"content-length"]
            if message["type"] == "http.response.body":
                message["body"] = change(message.get("body", b""))
            await send(message)

        await app(scope, receive, sending)

    return wrapped


def deaf(app):
    """Does not hear fields it does not know, nor ``stop``."""

    async def wrapped(scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            return await app(scope, receive, send)
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            body = json.loads(raw)
            raw = json.dumps({k: v for k, v in body.items() if k not in ("frobnicate", "stop", "seed")}).encode()
        except (ValueError, AttributeError):
            pass
        sent = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receiving():
            return sent.pop() if sent else await receive()

        await app(scope, receiving, send)

    return wrapped


def swap(old, new):
    return partial(changed, change=lambda raw: raw.replace(old, new))


ERRING = [
    (swap(b"data: [DONE]\n\n", b""), "a stream ends with one finish reason, then [DONE]"),
    (swap(b'"role":"assistant","content":""', b'"content":""'), "a stream names the role first"),
    (swap(b'"object":"chat.completion.chunk"', b'"object":"chat.completion"'), "all chunks of a stream have one id"),
    (swap(b'"total_tokens":', b'"total_tokens":1'), "the usage adds up"),
    (swap(b'"index":1', b'"index":0'), "n answers, each with its index"),
    (swap(b'"logprob":-', b'"logprob":'), "log-probabilities: tokens"),
    (swap(b'"error":{"message"', b'"detail":{"message"'), "a temperature below 0"),
    (swap(b'"sequence_number":1,', b'"sequence_number":7,'), "events are named, typed and numbered"),
    (swap(b"event: content_block_stop", b"event: content_block_end"), "a stream: message_start"),
    (swap(b'"done":true', b'"done":false'), "a chat streams lines of JSON"),
    (swap("🐋".encode(), "🐋".encode()[:2]), "no character is cut in half"),
    (deaf, "an unknown field is refused"),
    (deaf, "a stop string ends the answer"),
]


@pytest.mark.parametrize(("around", "title"), ERRING, ids=[title for _, title in ERRING])
def test_a_server_that_errs_fails_the_check_for_it(around, title):
    found = [check for check in every() if check.title.startswith(title)]
    assert len(found) == 1
    with serving(scripted(), around=around) as served:
        result = run_all(Target(served.url, "tiny", None, 30), found)[0]
    assert result.verdict == "fail", result
    with serving(scripted()) as served:
        assert run_all(Target(served.url, "tiny", None, 30), found)[0].verdict == "pass"


def test_the_command_prints_a_table_or_json_and_its_exit_code_tells(capsys):
    with serving(scripted(), around=swap(b"data: [DONE]\n\n", b"")) as served:
        assert main(["conformance", f"{served.url}/v1", "--only", "ollama", "--json"]) == 0
        out = json.loads(capsys.readouterr().out)
        assert out["broken"] == out["fail"] == 0 and out["model"] == "tiny" and len(out["checks"]) == out["pass"] + out["skip"]
        assert main(["conformance", served.url, "--only", "completions"]) == 1
        shown = capsys.readouterr().out
        assert "a stream adds up and ends with [DONE]" in shown and "1 fail that clients rely on" in shown


def test_what_is_no_server_is_a_line(capsys):
    for url in ("http://127.0.0.1:9", "nonsense"):
        assert main(["conformance", url]) == 2
        assert capsys.readouterr().err.startswith("error: ")
