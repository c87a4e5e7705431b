"""The real thing: SmolLM2 through the command, asked by OpenAI's client."""

import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from browser import ask, chromium, complete, missing, tab
from serve_tiny import PATIENCE, started

from seekling.hub.names import find

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    if find("smollm2") is None:
        pytest.skip("seekling pull smollm2 fetches the model")
    keys = str(tmp_path_factory.mktemp("keys") / "keys.json")
    command = [sys.executable, "-m", "seekling", "serve", "smollm2", "--port", "0", "--keys", keys]
    process, url = started(command)
    yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    process.terminate()
    assert process.wait(PATIENCE) == 0


def test_a_stream_equals_the_answer_in_one_piece(client):
    ask = dict(model="smollm2", messages=[{"role": "user", "content": "Tell me about whales."}], max_tokens=40, temperature=0)
    answer = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert answer.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in chunks)
    assert len(answer.choices[0].message.content) > 40


def test_json_is_json(client):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}}}
    question = [{"role": "user", "content": "A name for a cat, as JSON"}]
    answer = client.chat.completions.create(model="smollm2", messages=question, response_format=form, temperature=0)
    assert json.loads(answer.choices[0].message.content)["name"]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_conversation_on_the_page(client):
    url = str(client.base_url).removesuffix("/v1/")
    with chromium() as browser, tab(browser, url) as page:
        page.click("#open-settings")
        page.locator("summary", has_text="Sampling").click()
        page.get_by_label("Temperature").fill("0")
        page.keyboard.press("Escape")
        ask(page, "Name the capital of France in one sentence.")
        assert "Paris" in page.locator(".body").inner_text()
        assert "tokens/s" in page.locator(".figures").inner_text()
        page.fill("#text", "Tell me a very long story about the sea.")
        page.keyboard.press("Enter")
        page.locator(".body >> nth=1").wait_for()
        page.keyboard.press("Escape")
        complete(page)
        assert "stopped" in page.locator(".figures").nth(1).inner_text()
        page.reload()
        page.locator(".body >> nth=1").wait_for()
        assert "Paris" in page.locator(".body").first.inner_text()
        ask(page, "And of Italy?", answers=3)
        assert int(page.locator(".figures").nth(2).inner_text().split(" of ")[0].split()[-1]) > 30  # the cache knew the talk


def test_the_load_benchmark_finds_no_error_and_no_page_left(tmp_path):
    if find("smollm2") is None:
        pytest.skip("seekling pull smollm2 fetches the model")
    script = Path(__file__).parent.parent / "benchmarks" / "load.py"
    command = [sys.executable, str(script), "--streams", "8", "--seconds", "8", "--warm", "4", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    cell = json.loads(done.stdout.splitlines()[-1])["8"]["seekling"]
    assert cell["errors"] == 0 and cell["tokens"] > 0 and cell["pages_in_use_at_end"] == 0
    assert cell["tokens_a_piece"] < 1.2  # nearly every token is a piece of its own
