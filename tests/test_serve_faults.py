"""What goes wrong in the world: malformed requests by the thousand, slow readers, people who leave, an engine that fails."""

import asyncio
import gc
import json
import random
import select
import socket
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from engine_tiny import one_thread  # noqa: F401
from pydantic import ValidationError
from serve_tiny import PATIENCE, random_engine, serving, slowly, until

from seekling.serve.openapi import REQUESTS
from seekling.serve.state import Limits

HI = [{"role": "user", "content": "hi"}]
NEVER_ENDS = {"1": -100}  # the end token is forbidden
VALID = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 2, "temperature": 0.5, "stop": ["x"], "n": 1, "logprobs": True},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2, "top_p": 0.5, "echo": False},
    "/v1/responses": {"input": "hi", "max_output_tokens": 2, "instructions": "x"},
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "float"},
    "/v1/messages": {"model": "tiny", "messages": HI, "max_tokens": 2, "system": "x"},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": HI},
    "/api/chat": {"model": "tiny", "messages": HI, "stream": False, "options": {"num_predict": 2}},
    "/api/generate": {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 2}},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
    "/cache/explain": {"prompt": "hi"},
}
NEEDED = {"messages", "prompt", "input", "tokens"}
JUNK = [{}, {"a": {}}, [[{}]], [None, 1], {"type": "?"}]  # an object or list where no field of `VALID` takes it


def malformed(draw: random.Random) -> tuple[str, str, bytes]:
    """A method, a path and a body that is wrong in one way; right otherwise."""
    path = draw.choice(list(VALID))
    body = json.loads(json.dumps(VALID[path]))
    raw = json.dumps(body).encode()
    kind = draw.randrange(10)
    if kind == 0:  # cut off
        return "POST", path, raw[: draw.randrange(len(raw))]
    if kind == 1:  # a byte that is in no UTF-8 text
        place = draw.randrange(1, len(raw))
        return "POST", path, raw[:place] + bytes([draw.choice((0xC0, 0xFF, 0xFE))]) + raw[place:]
    if kind == 2:  # a field that does not exist
        name = "".join(draw.choices("abcxyz_é\u2028\x00", k=draw.randrange(3, 12))) + "_?"
        return "POST", path, json.dumps(body | {name: draw.choice([1, None, "x", JUNK])}).encode()
    if kind == 3:  # a value of another kind
        name = draw.choice([key for key in body if key not in ("messages", "input", "options", "stop")])
        return "POST", path, json.dumps(body | {name: draw.choice(JUNK)}).encode()
    if kind == 4:  # what must be there is not, or is nothing
        gone = {key: value for key, value in body.items() if key not in NEEDED}
        if path.startswith("/api/"):
            gone["messages" if "chat" in path else "prompt"] = draw.choice([1, True, {}])
        return "POST", path, json.dumps(gone).encode()
    if kind == 5:  # no object
        return "POST", path, json.dumps(draw.choice([[], [body], "x", 1, None, True])).encode()
    if kind == 6:  # nested without end
        return "POST", path, b'{"messages":' + draw.choice([b"[", b'{"a":']) * draw.randrange(2000, 60000)
    if kind == 7:  # a model that is not here
        return (
            "POST",
            path,
            json.dumps(body | {"model": draw.choice(["gpt-9", "", "../../etc/passwd", "tiny\x00", "💥"])}).encode(),
        )
    if kind == 8:  # nothing there, or not with this method
        wrong = f"/{draw.choice(['v2', 'v1/x', 'v1/chat', 'api/pull', '%00', '..%2f..'])}"
        return draw.choice([("POST", wrong, raw), ("PUT", path, raw), ("DELETE", path, b""), ("PATCH", path, raw)])
    return "POST", path, bytes(draw.randrange(256) for _ in range(draw.randrange(1, 200)))  # noise


def fire(served, count, seed):
    """Malformed requests over a few lasting connections; the answers that are no 4xx."""
    draw, odd = random.Random(seed), []
    with httpx.Client(base_url=served.url) as client:
        for _ in range(count):
            method, path, raw = malformed(draw)
            answer = client.request(method, path, content=raw)
            if not 400 <= answer.status_code < 500:
                odd.append((method, path, raw[:200], answer.status_code, answer.text[:200]))
            elif answer.status_code != 413:
                error = answer.json()["error"]
                assert error if isinstance(error, str) else error["message"]
    return odd


@pytest.fixture(scope="module")
def served():
    with serving() as it:
        yield it


def test_malformed_requests_are_answered_4xx(served):
    assert fire(served, 400, seed=1) == []


@pytest.mark.slow
def test_ten_thousand_malformed_requests_are_answered_4xx_and_leave_nothing_behind(served):
    assert fire(served, 10_000, seed=2) == []
    stats = served.engine.stats()
    assert stats["running"] == stats["waiting"] == 0 and stats["pages_used"] == stats["pages_cached"]
    assert httpx.post(f"{served.url}/v1/chat/completions", json=VALID["/v1/chat/completions"]).status_code == 200


def errors(model, body):
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize("model", sorted(set(REQUESTS.values()), key=str), ids=lambda model: model.__name__)
def test_of_thousands_of_wrong_things_few_are_told(model):
    """An error for each would take half a minute of a large body, in which nobody is served."""
    many, needed = 5000, {"model": "tiny", "messages": [], "tokens": [], "input": "a"}
    right = {name: value for name, value in needed.items() if name in model.model_fields}
    wrong = [[{}] * many, [1] * many, [""] * many, [[{}]] * many, [[1] * many + [""]], {str(key): {} for key in range(many)}]
    for name in model.model_fields:
        for value in wrong:
            assert errors(model, right | {name: value}) <= 20, (name, value)
    assert errors(model, right | wrong[-1]) in (10, 11)  # and one of what must be there


def test_more_biases_than_this_server_takes_are_a_400_with_both_counts(served):
    body = VALID["/v1/chat/completions"] | {"logit_bias": {str(token): "" for token in range(5000)}}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "logit_bias"
    assert "has 5000 entries, this server takes at most 4096" in answer.json()["error"]["message"]


def test_nothing_looks_for_garbage_among_the_million_lists_of_a_body(served):
    """It would take ten times as long as reading them, and everybody waits."""
    looked, runs = [], lambda phase, info: looked.append(sys._getframe(1).f_code.co_name)
    gc.callbacks.append(runs)
    try:
        answer = httpx.post(f"{served.url}/v1/completions", content=b'{"prompt":[' + b"[{}]," * 200_000 + b"[]]}")
    finally:
        gc.callbacks.remove(runs)
    assert answer.status_code == 400 and gc.isenabled()
    assert not {"read_json", "read_body", "raw_decode"} & set(looked)


NO_HTTP = [
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # a TLS hello
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


@pytest.mark.parametrize("raw", NO_HTTP, ids=range(len(NO_HTTP)))
def test_what_is_no_http_ends_in_a_4xx_or_a_closed_line(served, raw):
    place = urlsplit(served.url)
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE) as line:
        try:
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            said = line.recv(200)
        except ConnectionError:
            said = b""
    assert said == b"" or said.split()[1].startswith(b"4")
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_a_body_that_never_comes_holds_nobody_up(served):
    place = urlsplit(served.url)
    lines = []
    for _ in range(20):
        line = socket.create_connection((place.hostname, place.port), timeout=PATIENCE)
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{")
        lines.append(line)
    answer = httpx.post(f"{served.url}/v1/chat/completions", json={"messages": HI, "max_tokens": 2})
    assert answer.status_code == 200
    for line in lines:
        line.close()


def line_to(served):
    place = urlsplit(served.url)
    return socket.create_connection((place.hostname, place.port), timeout=PATIENCE)


def closed(line):
    """Whether the other side has closed it; with a byte of ours unread that is a reset."""
    try:
        return line.recv(500) == b""
    except ConnectionError:
        return True


def drip(line, raw, seconds=0.02):
    """Send a byte at a time until the other side has had enough; what it said."""
    for byte in raw:
        try:
            line.sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(seconds)
        if select.select([line], [], [], 0)[0]:
            break
    try:
        return line.recv(500)
    except ConnectionError:
        return b""


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"


@pytest.fixture(scope="module")
def strict():
    """Waits for nobody for long."""
    with serving(limits=Limits(head_seconds=0.3, body_seconds=0.3, reader_seconds=0.5)) as it:
        yield it


@pytest.fixture(scope="module")
def patient():
    """Waits a little longer: a request sent at once comes in before that on a loaded machine too."""
    with serving(limits=Limits(head_seconds=1.0, body_seconds=1.0)) as it:
        yield it


@pytest.mark.parametrize("raw", [HEAD + b"X-A: b\r\n" * 50, HEAD + b"\r\n" + b"{" * 400], ids=["head", "body"])
def test_a_request_that_trickles_in_is_a_408_and_the_line_is_closed(strict, raw):
    with line_to(strict) as line:
        assert drip(line, raw).startswith(b"HTTP/1.1 408")
        assert closed(line)


def test_a_line_that_says_nothing_at_all_is_closed(strict):
    with line_to(strict) as line:
        assert closed(line)


def test_a_second_request_on_the_same_line_has_no_longer(patient):
    with line_to(patient) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(2000).startswith(b"HTTP/1.1 200")
        time.sleep(1.2)  # silence between requests is another matter
        assert drip(line, HEAD * 50).startswith(b"HTTP/1.1 408")


def test_a_body_that_trickles_in_after_the_answer_does_not_keep_the_line(patient):
    with line_to(patient) as line:
        line.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
        assert line.recv(2000).startswith(b"HTTP/1.1 404")
        assert drip(line, b"x" * 400).startswith(b"HTTP/1.1 408")


def test_a_head_without_end_is_a_431(served):
    with line_to(served) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 10_000)
        assert line.recv(500).startswith(b"HTTP/1.1 431")


def test_those_who_wait_on_an_honest_answer_are_not_cut_off(patient):
    began = time.monotonic()
    body = {"messages": HI, "max_tokens": 25, "logit_bias": NEVER_ENDS}
    with slowly(patient, 0.06):
        answer = httpx.post(f"{patient.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 25
    assert time.monotonic() - began > 1.2  # longer than a request may take to come in


@contextmanager
def who_does_not_read(served):
    """Has asked for two answers that are far larger than what lies between him and the server, and reads nothing."""
    served.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of the lines it accepts
    body = {"messages": HI, "max_tokens": 200, "n": 2, "stream": True, "logprobs": True, "top_logprobs": 20}
    raw = json.dumps(body | {"logit_bias": NEVER_ENDS}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    place = urlsplit(served.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((place.hostname, place.port))
        before = served.engine.stats()["tokens"]
        slow.sendall(head.encode() + raw)
        until(lambda: served.engine.stats()["tokens"] > before)
        yield slow


def test_a_reader_who_does_not_read_holds_nobody_up():
    with serving() as served:
        with who_does_not_read(served):
            for _ in range(3):
                answer = httpx.post(f"{served.url}/v1/chat/completions", json={"messages": HI, "max_tokens": 2})
                assert answer.status_code == 200
            until(lambda: served.engine.stats()["running"] == 0)  # his answers are complete, and wait for him
            assert served.server.server_state.tasks  # he has not got them
            assert httpx.get(f"{served.url}/health").status_code == 200
        stats = served.engine.stats()
        assert stats["pages_used"] == stats["pages_cached"]


def test_a_reader_who_never_reads_is_hung_up_on_and_his_answers_end(strict):
    with who_does_not_read(strict):
        until(lambda: not strict.server.server_state.connections)
    until(lambda: strict.engine.stats()["running"] == 0)
    assert strict.engine.stats()["pages_used"] == strict.engine.stats()["pages_cached"]


def test_people_who_leave_at_any_moment_leave_nothing_behind():
    draw = random.Random(3)
    with serving(random_engine(max_rows=4)) as served:
        limits = httpx.Limits(max_connections=50)

        async def one(client, wait):
            body = {"messages": HI, "max_tokens": 200, "stream": wait > 0.05, "logit_bias": NEVER_ENDS, "n": 2}
            try:
                await asyncio.wait_for(client.post(f"{served.url}/v1/chat/completions", json=body), wait)
            except (TimeoutError, httpx.HTTPError):
                return

        async def all_of_them():
            async with httpx.AsyncClient(limits=limits) as client:
                await asyncio.gather(*(one(client, draw.uniform(0.001, 0.4)) for _ in range(40)))

        asyncio.run(all_of_them())
        engine = served.engine
        until(lambda: engine.stats()["running"] == engine.stats()["waiting"] == 0)
        stats = engine.stats()
        assert stats["pages_used"] == stats["pages_cached"]
        assert 'kv_cache_usage_perc{model_name="tiny"} 0.0' in httpx.get(f"{served.url}/metrics").text


def test_an_engine_that_fails_says_so_and_goes_on(monkeypatch):
    with serving() as served:
        runner = served.engine._loop.cache.runner
        step, left = runner.step, [3]

        def failing(chunks):
            left[0] -= 1
            if left[0] == 0:
                raise RuntimeError("a bit has flipped")
            return step(chunks)

        body = {"messages": HI, "max_tokens": 50, "logit_bias": NEVER_ENDS}
        monkeypatch.setattr(runner, "step", failing)
        lines = httpx.post(f"{served.url}/v1/chat/completions", json=body | {"stream": True}).text.split("\n\n")
        assert "[DONE]" not in lines[-2] and json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "internal_error"
        left[0] = 3
        whole = httpx.post(f"{served.url}/v1/chat/completions", json=body)
        assert whole.status_code == 500 and "bit" not in whole.text
        assert httpx.post(f"{served.url}/v1/chat/completions", json=body).status_code == 200


def test_many_readers_at_once_get_their_own_answers():
    """Every stream says what the same question gets alone, whoever is served beside it."""
    with serving(random_engine(max_rows=8, cache_tokens=8 * 768)) as served:
        url = f"{served.url}/v1/chat/completions"

        def body(number, **more):
            return {"messages": [{"role": "user", "content": f"n{number}"}], "max_tokens": 12, "seed": number, **more}

        alone = [httpx.post(url, json=body(n)).json()["choices"][0]["message"]["content"] for n in range(6)]
        said = [""] * 24

        def work(place):
            for line in httpx.post(url, json=body(place % 6, stream=True)).text.splitlines():
                if line.startswith("data: {"):
                    said[place] += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""

        threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert said == [alone[n % 6] for n in range(24)], time.monotonic() - began
