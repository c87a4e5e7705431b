"""A model and its adapters behind one server: the name of the model chooses."""

import anthropic
import httpx
import ollama
import openai
import pytest
from engine_tiny import one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, serving
from test_engine_adapters import ATTENTION, adapter, merged

from seekling.cli import main
from seekling.engine import Engine

HI = [{"role": "user", "content": "hi"}]
CALM = dict(messages=HI, temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def served(lm):
    engine = Engine(lm, max_rows=4, cache_tokens=4096, adapters={"poet": adapter(lm, 1, *ATTENTION)})
    with serving(engine, names=["tiny", "poet"], adapters=frozenset({"poet"})) as it:
        yield it


@pytest.fixture(scope="module")
def expected(lm):
    said = {}
    for name, model in (("tiny", lm), ("poet", merged(lm, adapter(lm, 1, *ATTENTION)))):
        with serving(Engine(model, max_rows=2, cache_tokens=4096)) as served:
            said[name] = httpx.post(f"{served.url}/v1/chat/completions", json=CALM).json()["choices"][0]["message"]["content"]
    assert said["tiny"] != said["poet"]
    return said


@pytest.mark.parametrize("name", ["tiny", "poet", "tiny"])
def test_each_name_answers_as_its_own_model_on_every_surface(served, expected, name):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=name, **CALM)
    assert answer.choices[0].message.content == expected[name] and answer.model == name
    response = client.responses.create(model=name, input="hi", temperature=0, max_output_tokens=12)
    assert response.output_text == expected[name]
    other = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    message = other.messages.create(model=name, messages=HI, max_tokens=12, extra_body={"temperature": 0})
    assert message.content[0].text == expected[name]
    chat = ollama.Client(host=served.url).chat(model=name, messages=HI, options={"temperature": 0, "num_predict": 12})
    assert chat.message.content == expected[name]


def test_they_share_no_cached_prompt_and_are_listed(served):
    prompt = "a long story " * 9
    uncached = [
        httpx.post(f"{served.url}/v1/completions", json={"model": name, "prompt": prompt, "max_tokens": 1}).json()["usage"]
        for name in ("tiny", "poet", "poet")
    ]
    assert [use["prompt_cache_hit_tokens"] > 50 for use in uncached] == [False, False, True]
    rows = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [(row["id"], row["parent"]) for row in rows] == [("tiny", None), ("poet", "tiny")]
    asked = {"model": "poet", "prompt": prompt}
    assert httpx.post(f"{served.url}/cache/explain", json=asked).json()["cached_tokens"] > 50


def test_vectors_of_an_adapter_are_refused(served):
    answer = httpx.post(f"{served.url}/v1/embeddings", json={"model": "poet", "input": "a"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"


def test_what_is_no_adapter_is_a_line(tmp_path, capsys):
    keys = ["--keys", str(tmp_path / "keys.json")]
    assert main(["serve", "nowhere", "--adapter", "poet", *keys]) == 2
    assert "NAME=FOLDER" in capsys.readouterr().err
