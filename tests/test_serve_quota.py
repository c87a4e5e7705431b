"""Tokens a day, requests a minute and at a time, by key; and that no crash makes them forgotten."""

import json
import os
import signal
import sqlite3
import stat
import sys
import threading

import anthropic
import httpx
import openai
import pytest
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, PATIENCE, serving, started

from seekling.cli import main
from seekling.lm import LM
from seekling.serve import ledger as ledgers
from seekling.serve.guard import Doors
from seekling.serve.keys import Key, Keys
from seekling.serve.ledger import DAY, Ledger, LedgerError
from seekling.serve.rates import allowance
from seekling.serve.state import Limits

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def ask(url, secret, path="/v1/chat/completions", **changes):
    return httpx.post(url + path, json=HI | changes, headers={"Authorization": f"Bearer {secret}"})


def test_what_was_added_is_there_for_another_process_and_of_its_day(tmp_path, monkeypatch):
    book = Ledger(tmp_path / "usage.db")
    book.add("anna", prompt=5, completion=2, requests=1, now=True)
    book.add("anna", completion=1)
    assert book.used("anna").tokens == 8  # with what is not written yet
    assert Ledger(tmp_path / "usage.db").used("anna").tokens == 7 and book.used("bert").tokens == 0
    book.close()
    other = Ledger(tmp_path / "usage.db")
    assert other.used("anna") == ledgers.Used(5, 3, 1) and stat.S_IMODE(other.path.stat().st_mode) == 0o600
    now = ledgers.time.time()
    monkeypatch.setattr(ledgers.time, "time", lambda: now + DAY)
    assert other.used("anna").tokens == 0


def at_once(work, books):
    threads = [threading.Thread(target=work, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_servers_add_to_one_file(tmp_path):
    books = [Ledger(tmp_path / "usage.db") for _ in range(2)]

    def work(book):
        for _ in range(50):
            book.add("anna", completion=1, now=True)

    at_once(work, books)
    assert books[0].used("anna").completion == 100


@pytest.mark.parametrize("turn", range(20))
def test_servers_that_start_at_once_share_a_new_file(tmp_path, turn):
    books, start = [Ledger(tmp_path / "usage.db") for _ in range(4)], threading.Barrier(4)

    def work(book):
        start.wait()
        book.add("anna", completion=1, now=True)

    at_once(work, books)
    assert books[0].used("anna").completion == 4


def test_a_file_that_is_no_ledger_is_named(tmp_path, capsys):
    (tmp_path / "usage.db").write_text("hello " * 100)
    with pytest.raises(LedgerError, match=r"usage\.db"):
        Ledger(tmp_path / "usage.db").open()
    keys = ["--keys", str(tmp_path / "keys.json"), "--daily-tokens", "5"]
    assert main(["serve", "nowhere", *keys]) == 2 and "usage.db" in capsys.readouterr().err


def test_a_keys_own_limits_stand_before_the_servers():
    limits = Limits(rpm=10, daily_tokens=100)
    key = Key("1", "anna", "", ("infer",), 0.0, None, rpm=3, daily_tokens=0)
    assert (allowance(key, limits).rpm, allowance(key, limits).daily_tokens, allowance(None, limits).rpm) == (3, 0, 10)


def test_when_the_days_tokens_are_used_the_next_request_is_a_429(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    anna, bert = keys.add("anna", daily_tokens=30)[1], keys.add("bert")[1]
    with serving(doors=Doors(keys)) as served:
        first = ask(served.url, anna)
        used = first.json()["usage"]["total_tokens"]
        assert first.headers["x-ratelimit-limit-tokens"] == "30" and first.headers["x-ratelimit-remaining-tokens"] == "30"
        second = ask(served.url, anna, max_tokens=30)
        assert second.status_code == 200 and int(second.headers["x-ratelimit-remaining-tokens"]) == 30 - used
        refused = ask(served.url, anna)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "quota_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= DAY + 1 and refused.headers["x-ratelimit-remaining-tokens"] == "0"
        with pytest.raises(openai.RateLimitError):
            openai.OpenAI(base_url=f"{served.url}/v1", api_key=anna, max_retries=0).embeddings.create(model="tiny", input="a")
        with pytest.raises(anthropic.RateLimitError):
            anthropic.Anthropic(base_url=served.url, api_key=anna, max_retries=0).messages.create(model="tiny", **HI)
        assert ask(served.url, bert).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"stream": True, "n": 2}),
        ("/v1/completions", {"messages": None, "prompt": ["a", "b"]}),
        ("/v1/completions", {"messages": None, "prompt": "a", "stream": True}),
        ("/v1/embeddings", {"messages": None, "max_tokens": None, "input": "abc"}),
        ("/v1/responses", {"messages": None, "max_tokens": None, "max_output_tokens": 4, "input": "hi"}),
        ("/v1/messages", {"model": "tiny"}),
        ("/api/chat", {"model": "tiny", "max_tokens": None, "options": {"num_predict": 4}}),
    ],
)
def test_every_surface_counts(tmp_path, path, body):
    keys = Keys(tmp_path / "keys.json")
    key, secret = keys.add("anna")
    with serving(doors=Doors(keys)) as served:
        sent = {name: value for name, value in (HI | body).items() if value is not None}
        answer = httpx.post(served.url + path, json=sent, headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        used, metrics = served.state.ledger.used(key.id), served.state.metrics.text().decode()
    told = sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("vllm:prompt_tokens_total"))
    assert used.requests >= 1 and used.prompt > 0 and (used.prompt == told or "embeddings" in path)
    assert used.completion > 0 or "embeddings" in path


def test_the_rate_is_remembered_over_a_restart(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    _, secret = keys.add("anna", rpm=2)
    codes = []
    for _ in range(2):
        book = Ledger(tmp_path / "usage.db")
        with serving(doors=Doors(keys), ledger=book) as served:
            codes += [ask(served.url, secret).status_code for _ in range(2)]
    assert codes == [200, 200, 429, 429]


def test_a_ledger_that_cannot_be_written_is_a_503_and_not_a_free_meal(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    _, secret = keys.add("anna", daily_tokens=1000)
    book = Ledger(tmp_path / "usage.db")
    with serving(doors=Doors(keys), ledger=book) as served:
        assert ask(served.url, secret).status_code == 200
        with sqlite3.connect(tmp_path / "usage.db") as db:
            db.execute("DROP TABLE used")
        refused = ask(served.url, secret)
        assert refused.status_code == 503 and "usage.db" in refused.json()["error"]["message"]
        with sqlite3.connect(tmp_path / "usage.db") as db:
            db.executescript(ledgers.TABLES)


def test_the_command_line_gives_limits_and_shows_what_was_used(tmp_path, capsys):
    file = ["--file", str(tmp_path / "keys.json")]
    assert main(["keys", "add", "anna", "--daily-tokens", "500", "--rpm", "9", *file, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    Ledger(tmp_path / "usage.db").add(made["id"], prompt=41, now=True)
    assert main(["keys", "list", "--json", *file]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["daily_tokens"], row["rpm"], row["concurrent"], row["tokens_today"]) == (500, 9, None, 41)
    assert main(["keys", "list", *file]) == 0 and "41 tokens today of 500" in capsys.readouterr().out
    assert main(["keys", "add", "bert", "--daily-tokens", "-1", *file]) == 2


def test_kill_and_restart_lose_no_key_and_no_token_that_was_acknowledged(tmp_path):
    lm = tiny_lm(max_position_embeddings=CONTEXT)
    LM(lm.model.float(), lm.tokenizer).save(tmp_path / "small")
    keys = Keys(tmp_path / "keys.json")
    key, secret = keys.add("anna", daily_tokens=10_000)
    command = [sys.executable, "-m", "seekling", "serve", str(tmp_path / "small"), "--port", "0", "--keys", str(keys.path)]

    def start():
        return started(command, env=os.environ | {"OMP_NUM_THREADS": "1"})

    process, url = start()
    told = 0
    try:
        for number in range(3):
            told += ask(url, secret, max_tokens=5 + number).json()["usage"]["total_tokens"]
        body = HI | {"stream": True, "max_tokens": 700, "logit_bias": {"1": -100}}
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGKILL)  # in the middle of an answer
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert Ledger(tmp_path / "usage.db").used(key.id).tokens >= told
    process, url = start()
    try:
        left = int(ask(url, secret).headers["x-ratelimit-remaining-tokens"])
        assert left <= 10_000 - told
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
