"""Who may ask the server, how often, and what happens when things go wrong."""

import json
import logging
import os
import signal
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import httpx
import openai
import pytest
import torch
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_tiny import CONTEXT, PATIENCE, random_engine, serving, slowly, started, until

from seekling.cli import main
from seekling.engine import Engine
from seekling.lm import LM
from seekling.serve.audit import AuditLog, files
from seekling.serve.barriers import Barriers
from seekling.serve.guard import Doors
from seekling.serve.keys import Keys
from seekling.serve.state import Limits

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
LONG = HI | {"max_tokens": 600, "stream": True}


def post(served, body=HI, path="/v1/chat/completions", **headers):
    return httpx.post(served.url + path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture(scope="module")
def served():
    with serving() as it:
        yield it


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_only_the_hash_of_a_key_is_kept_and_only_for_its_owner(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    key, secret = keys.add("anna")
    assert secret not in keys.path.read_text() and key.sha256 in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert keys.check(secret) == key and keys.check(secret[:-1]) is None and keys.check("") is None
    keys.revoke("anna")
    assert keys.check(secret) is None


def test_a_key_expires(tmp_path, monkeypatch):
    keys = Keys(tmp_path / "keys.json")
    _, secret = keys.add("anna", days=1)
    assert keys.check(secret)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86400)
    assert keys.check(secret) is None


def test_a_file_that_others_may_read_is_refused(tmp_path, capsys):
    keys = Keys(tmp_path / "keys.json")
    keys.add("anna")
    os.chmod(keys.path, 0o644)
    assert main(["keys", "list", "--file", str(keys.path)]) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path, capsys):
    file = ["--file", str(tmp_path / "keys.json")]
    assert main(["keys", "add", "anna", "--scope", "metrics", "--days", "3", "--json", *file]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["keys", "list", *file]) == 0
    shown = capsys.readouterr().out
    assert "anna" in shown and "metrics" in shown and made["key"] not in shown
    assert main(["keys", "add", "anna", *file]) == 2 and main(["keys", "add", "x", "--scope", "all", *file]) == 2
    assert main(["keys", "revoke", made["id"], *file]) == 0 and main(["keys", "revoke", "anna", *file]) == 2


def test_once_there_is_a_key_every_route_needs_one(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    with serving(doors=Doors(keys)) as served:
        assert post(served).status_code == 200
        key, secret = keys.add("anna")
        _, counting = keys.add("board", ["metrics"])
        paths = [
            "/v1/chat/completions",
            "/v1/completions",
            "/tokenize",
            "/cache/explain",
            "/v1/messages",
            "/api/chat",
            "/nothing",
        ]
        assert {post(served, path=path).status_code for path in paths} == {401}
        assert {httpx.get(served.url + path).status_code for path in ("/metrics", "/v1/models", "/openapi.json")} == {401}
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert post(served, Authorization=f"Bearer {secret}").status_code == 200
        assert post(served, x_api_key=secret).status_code == 200
        assert post(served, Authorization=f"Bearer {secret}x").json()["error"]["code"] == "invalid_api_key"
        assert post(served, Authorization=f"Bearer {counting}").status_code == 403
        metrics = f"{served.url}/metrics"
        assert httpx.get(metrics, headers={"Authorization": f"Bearer {counting}"}).status_code == 200
        assert httpx.get(metrics, headers={"Authorization": f"Bearer {secret}"}).status_code == 403
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0).models.list()
        keys.revoke(key.id)
        assert post(served, Authorization=f"Bearer {secret}").status_code == 401


def test_two_keys_share_no_cached_prompt(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    secrets = [keys.add(name)[1] for name in ("anna", "bert")]
    body = {"messages": [{"role": "user", "content": "a long story " * 9}], "max_tokens": 2}
    with serving(doors=Doors(keys)) as served:
        hits = [
            post(served, body, Authorization=f"Bearer {secret}").json()["usage"]["prompt_cache_hit_tokens"]
            for secret in (secrets[0], secrets[1], secrets[0])
        ]
    assert hits[:2] == [0, 0] and hits[2] > 50


def test_public_needs_a_key_and_an_open_address_needs_public(tmp_path, capsys):
    keys = str(tmp_path / "keys.json")
    assert main(["serve", "nowhere", "--public", "--keys", keys]) == 2
    assert "seekling keys add" in capsys.readouterr().err
    assert main(["serve", "nowhere", "--host", "0.0.0.0", "--keys", keys]) == 2
    assert "--public" in capsys.readouterr().err


# ---- places and rates ------------------------------------------------------------------------------------------------


def test_other_hosts_and_origins_are_turned_away(served):
    assert post(served, Host="evil.example").status_code == 403
    assert post(served, Host="localhost:99").status_code == 200
    assert post(served, Origin="https://evil.example").status_code == 403
    for origin in ("null", "http://[", "http://\u2100.example".encode(), "://", ""):
        refused = post(served, Origin=origin)
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "origin"
    own = post(served, Origin=served.url)
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


PAGE = {"Origin": "https://mine.example"}


def test_a_named_origin_may_ask_with_whatever_headers_its_client_sends():
    asks = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "anthropic-version,x-stainless-os"}
    with serving(doors=Doors(origins=frozenset(PAGE.values()))) as served:
        asked = httpx.options(f"{served.url}/v1/responses/a", headers=PAGE | asks)
        assert asked.status_code == 204 and asked.headers["access-control-allow-origin"] == PAGE["Origin"]
        assert asked.headers["access-control-allow-headers"] == "anthropic-version,x-stainless-os"
        assert "DELETE" in asked.headers["access-control-allow-methods"]
        assert {"Origin", "Access-Control-Request-Headers"} <= set(asked.headers["vary"].split(", "))
        assert post(served, **PAGE).headers["access-control-allow-origin"] == PAGE["Origin"]


def test_a_named_origin_can_read_what_it_is_refused_for(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    _, secret = keys.add("anna", rpm=1)
    with serving(doors=Doors(keys=keys, origins=frozenset(PAGE.values()))) as served:
        answers = [post(served, **PAGE), *(post(served, Authorization=f"Bearer {secret}", **PAGE) for _ in range(2))]
    assert [answer.status_code for answer in answers] == [401, 200, 429]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {PAGE["Origin"]}
    exposed = answers[2].headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "x-ratelimit-remaining-requests"} <= set(exposed)


def test_too_many_requests_a_minute_are_told_when_to_come_back():
    with serving(limits=Limits(rpm=2)) as served:
        answers = [post(served) for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-remaining-requests"] == "1" and 1 <= int(answers[2].headers["retry-after"]) <= 31


def test_requests_at_a_time_are_counted_and_given_back():
    with serving(limits=Limits(concurrent=1)) as served, slowly(served):
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=LONG | {"logit_bias": {"1": -100}}) as stream:
            lines = stream.iter_lines()
            next(lines)
            refused = post(served)
            assert refused.status_code == 429 and refused.headers["retry-after"]
        until(lambda: post(served).status_code == 200)


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_hangs_up_ends_its_answer(served, stream):
    engine = served.engine
    before = engine.stats()["tokens"]
    body = LONG | {"logit_bias": {"1": -100}, "n": 2, "stream": stream}
    url = f"{served.url}/v1/chat/completions"
    with slowly(served):
        if stream:
            with httpx.stream("POST", url, json=body) as response:
                lines = response.iter_lines()
                next(lines)
        else:
            with pytest.raises(httpx.TimeoutException):
                httpx.post(url, json=body, timeout=0.5)
        until(lambda: engine.stats()["running"] == engine.stats()["waiting"] == 0)
    assert engine.stats()["tokens"] - before < 2 * 600


def test_a_full_queue_is_a_503():
    engine = random_engine(max_rows=1, max_queue=1)
    body = LONG | {"logit_bias": {"1": -100}}
    with serving(engine) as served, slowly(served), httpx.Client() as client:
        url = f"{served.url}/v1/chat/completions"
        with client.stream("POST", url, json=body) as first:
            lines = first.iter_lines()
            next(lines)
            until(lambda: engine.stats()["running"] == 1)
            with client.stream("POST", url, json=body) as second:
                assert second.status_code == 200
                until(lambda: engine.stats()["waiting"] == 1)
                refused = post(served)
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_full"
                assert refused.headers["retry-after"] == "1"


CHAT = "/v1/chat/completions"
TEXTS = {"input": [[5] * 300] * 200}  # a turn of the engine each


@contextmanager
def vectors_slowly(served, let=None):
    """Lists the pieces of texts that were computed; each takes a while, or until ``let`` is set."""
    runner, pieces = served.engine._backend.runner, []
    states = runner.states
    runner.states = lambda chunks: (pieces.append(1), let.wait(PATIENCE) if let else time.sleep(0.02), states(chunks))[2]
    yield pieces
    runner.states = states


def native_engine(**options):
    return Engine(tiny_lm(dtype=torch.float32, max_position_embeddings=CONTEXT), "int8", **options)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_a_client_that_hangs_up_ends_its_vectors_and_is_logged(path, tmp_path):
    text = TOKENIZER.decode([70] * 300)
    body = TEXTS if path == "/v1/embeddings" else {"model": "tiny", "input": [text] * 200}
    log = AuditLog(tmp_path)
    with serving(native_engine(), barriers=Barriers(audit=log)) as served, vectors_slowly(served) as pieces:
        line = HTTPConnection(served.url.removeprefix("http://"))
        line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        until(lambda: pieces)
        line.close()
        assert post(served, body | {"input": "a"}, path).status_code == 200  # one at a time: the other has ended
        assert len(pieces) < 200
    log.close()
    logged = [json.loads(line) for line in files(tmp_path)[-1].read_text().splitlines()]
    assert [len(entry["prompt_sha256"]) for entry in logged if entry["event"] == "embedded"] == [200, 1]


def test_a_full_queue_for_vectors_is_a_503_and_holds_up_nobody_else():
    let = threading.Event()
    with serving(native_engine(max_queue=1)) as served, vectors_slowly(served, let) as pieces, ThreadPoolExecutor() as pool:
        path = "/v1/embeddings"
        first = pool.submit(post, served, TEXTS, path)
        until(lambda: pieces)
        second = pool.submit(post, served, {"input": "a"}, path)
        until(lambda: served.model._waiting == 1)
        refused = post(served, {"input": "a"}, path)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_full" and refused.headers["retry-after"]
        assert post(served, {"prompt": "a"}, "/tokenize").status_code == 200
        let.set()
        assert first.result().status_code == second.result().status_code == 200


def test_what_is_open_at_the_end_of_the_drain_is_told_so_and_nothing_is_logged_as_a_failure():
    logged, handler, log = [], logging.Handler(), logging.getLogger("uvicorn.error")
    handler.emit = logged.append
    with serving(native_engine()) as served, slowly(served), vectors_slowly(served), ThreadPoolExecutor() as pool:
        served.server.config.timeout_graceful_shutdown = 0
        log.addHandler(handler)
        endless = HI | {"max_tokens": 600, "logit_bias": {"1": -100}}
        whole = [pool.submit(post, served, body, path) for body, path in ((endless, CHAT), (TEXTS, "/v1/embeddings"))]
        with httpx.stream("POST", served.url + CHAT, json=endless | {"stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            until(lambda: served.model._embedding.locked() and served.engine.stats()["running"] == 2)
            served.server.should_exit = True
            last = [line for line in lines if line][-1]
        answers = [answer.result() for answer in whole]
        served.thread.join(PATIENCE)
    log.removeHandler(handler)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert [answer.json()["error"]["code"] for answer in answers] == ["stopping", "stopping"]
    assert {answer.status_code for answer in answers} == {503} and answers[0].headers["retry-after"]
    assert [line.getMessage().split()[0] for line in logged if line.levelno >= logging.ERROR] == ["Cancel"]
    assert not any(line.exc_info for line in logged)


def test_a_waiting_stream_says_that_it_is_alive():
    with serving(random_engine(max_rows=1), keep_alive=0.05) as served, slowly(served), httpx.Client() as client:
        url = f"{served.url}/v1/chat/completions"
        with client.stream("POST", url, json=LONG | {"logit_bias": {"1": -100}}) as first:
            lines = first.iter_lines()
            next(lines)
            with client.stream("POST", url, json=LONG) as second:
                until_line = (line for line in second.iter_lines() if line.startswith(":"))
                assert next(until_line) == ": keep-alive"


def test_a_body_too_large_is_a_413():
    with serving(limits=Limits(body_bytes=1000)) as served:
        assert post(served, {"messages": [{"role": "user", "content": "a" * 2000}]}).status_code == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "messages prompt max_tokens temperature top_p n stop seed logprobs top_logprobs logit_bias tools tool_choice "
    "response_format stream stream_options thinking reasoning_effort suffix echo input encoding_format tokens model".split()
)
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/cache/explain"]


@given(st.sampled_from(PATHS), st.dictionaries(FIELDS, JSON, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_a_client_sends_breaks_the_server(served, path, fields):
    base = {"messages": HI["messages"], "max_tokens": 1} if "chat" in path else {}
    response = httpx.post(served.url + path, content=json.dumps(base | fields))
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"messages":' + b"[" * 100_000,
        b'{"max_tokens":1e999}',
        b'{"seed":' + b"9" * 5000 + b"}",
    ],
    ids=range(8),
)
def test_what_is_no_request_is_a_400(served, raw):
    assert httpx.post(f"{served.url}/v1/chat/completions", content=raw).status_code == 400


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000 + ".0"], ids=range(3))
def test_a_number_beyond_all_is_a_400_that_names_it_also_where_it_would_only_be_given_back(served, number):
    body = f'{{"input": "a", "max_output_tokens": 1, "metadata": {{"a": {number}}}}}'
    answer = httpx.post(f"{served.url}/v1/responses", content=body)
    assert answer.status_code == 400 and number[:40] in answer.json()["error"]["message"]


F = {"type": "function", "function": {"name": "f"}}
HI_OLLAMA = {"model": "tiny", "messages": HI["messages"]}
CALLS = [
    ("/v1/chat/completions", {"tool_choice": {"type": "function", "function": [1]}, "tools": [F]}),
    ("/v1/chat/completions", {"messages": [{"role": ["user"], "content": "x"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x", "tool_calls": 5}]}),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [5]}]}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [{"role": ["user"], "content": 1}]}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [1]}]}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "tool_choice": {"type": []}}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 1, "tools": [{"input_schema": 1}]}),
    ("/api/chat", {"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [5]}]}),
    ("/api/chat", HI_OLLAMA | {"options": {"temperature": "hot"}}),
    ("/api/generate", {"model": "tiny", "prompt": "x", "format": "xml"}),
    ("/api/show", {"model": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), CALLS, ids=range(len(CALLS)))
def test_what_is_of_the_wrong_shape_is_a_400(served, path, body):
    response = httpx.post(served.url + path, json=({} if path.startswith("/api/") else HI) | body)
    assert response.status_code == 400, response.text


def test_unknown_paths_and_methods_are_told_in_json(served):
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{served.url}/v1/chat/completions").status_code == 405


def test_the_command_serves_a_folder_and_sigterm_lets_answers_finish(tmp_path):
    lm = tiny_lm(max_position_embeddings=CONTEXT)
    LM(lm.model.float(), lm.tokenizer).save(tmp_path / "small")
    command = [sys.executable, "-m", "seekling", "serve", str(tmp_path / "small"), "--port", "0", "--keys", str(tmp_path / "k")]
    process, url = started(command)
    try:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["small"]
        ask = dict(model="small", messages=HI["messages"], max_tokens=300, logit_bias={"1": -100})
        stream = iter(client.chat.completions.create(stream=True, **ask))
        next(stream)
        process.send_signal(signal.SIGTERM)
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
