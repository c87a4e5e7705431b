"""Several base models in one process: the request's model chooses, each has its own engine, they share the cores in turns."""

import threading
from statistics import median
from types import SimpleNamespace

import anthropic
import httpx
import ollama
import openai
import pytest
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, PATIENCE, serving, slowly, until
from test_engine_adapters import ATTENTION, adapter

from seekling import Sampling
from seekling.arguments import Parser
from seekling.arguments import serve as serve_flags
from seekling.cli import main
from seekling.engine import Engine
from seekling.errors import RecipeError
from seekling.serve.barriers import Barriers
from seekling.serve.labels import Labels
from seekling.serve.model import Model
from seekling.verbs.serve import wanted_of

HI = [{"role": "user", "content": "hi"}]
CALM = dict(messages=HI, temperature=0, max_tokens=12)
NAMES = ["one", "two", "two:latest-b", "poet"]


@pytest.fixture(scope="module")
def lms():
    return [tiny_lm(seed=seed, max_position_embeddings=CONTEXT) for seed in (0, 1)]


@pytest.fixture(scope="module")
def served(lms):
    first = Engine(lms[0], max_rows=4, cache_tokens=4096)
    adapters = {"poet": adapter(lms[1], 1, *ATTENTION)}
    second = Engine(lms[1], max_rows=4, cache_tokens=2048, adapters=adapters, beside=first)
    two = Model(second, NAMES[1:], frozenset({"poet"}))
    with serving(first, names=["one"], beside=[two], barriers=Barriers(labels=Labels("eu"))) as it:
        it.two = two
        yield it


@pytest.fixture(scope="module")
def expected(lms):
    """What each says alone."""
    said = {}
    for name, lm in zip(("one", "two"), lms, strict=True):
        with Engine(lm, cache_tokens=1024) as engine:
            said[name] = engine.submit(TOKENIZER.encode_chat(HI), calm(12)).result().text
    assert said["one"] != said["two"]
    return said


def calm(tokens):
    return Sampling(temperature=0, max_tokens=tokens)


def post(served, path, **body):
    return httpx.post(served.url + path, json=body)


@pytest.mark.parametrize("name", ["one", "two", "one"])
def test_each_name_answers_as_its_own_model_for_every_client(served, expected, name):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=name, **CALM)
    assert (answer.choices[0].message.content, answer.model) == (expected[name], name)
    assert client.responses.create(model=name, input="hi", temperature=0, max_output_tokens=12).output_text == expected[name]
    other = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    message = other.messages.create(model=name, messages=HI, max_tokens=12, extra_body={"temperature": 0})
    assert message.content[0].text == expected[name]
    chat = ollama.Client(host=served.url).chat(model=name, messages=HI, options={"temperature": 0, "num_predict": 12})
    assert chat.message.content == expected[name]
    text = post(served, "/v1/completions", model=name, prompt=TOKENIZER.encode_chat(HI), temperature=0, max_tokens=12)
    assert text.json()["choices"][0]["text"] == expected[name]
    assert text.json()["ai_generated"]["model"] == name  # the label names the model that answered


def test_all_are_listed_each_with_its_own_facts(served):
    rows = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [(row["id"], row["root"], row["parent"]) for row in rows] == [
        ("one", "one", None),
        ("two", "two", None),
        ("two:latest-b", "two", None),
        ("poet", "two", "two"),
    ]
    assert rows[0]["cache"]["tokens"] == 4096 and rows[1]["cache"]["tokens"] == 2048
    client = ollama.Client(host=served.url)
    assert [row.model for row in client.list().models] == NAMES
    assert client.show("two").modelinfo["deepseek_v3.context_length"] == CONTEXT
    assert httpx.get(f"{served.url}/about").json()["models"] == ["one", "two"]
    health = httpx.get(f"{served.url}/health").json()
    assert health["running"] == 0 and set(health["models"]) == {"one", "two"}


def test_fingerprints_tell_them_apart(served):
    until(lambda: all(model.fingerprint for model in served.state.models))
    said = [post(served, "/v1/chat/completions", model=name, **CALM).json()["system_fingerprint"] for name in ("one", "two")]
    assert said == [model.fingerprint for model in served.state.models] and said[0] != said[1]


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", CALM),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 1}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 1}),
        ("/api/chat", {"messages": HI}),
        ("/api/show", {}),
        ("/tokenize", {"prompt": "hi"}),
        ("/detokenize", {"tokens": [5]}),
        ("/cache/explain", {"prompt": "hi"}),
    ],
)
def test_a_name_nobody_has_is_a_404_that_names_those_there_are(served, path, body):
    answer = post(served, path, model="gpt-9", **body)
    assert answer.status_code == 404 and all(name in answer.text for name in NAMES)


def test_where_there_are_several_the_request_must_say_which(served):
    answer = post(served, "/v1/chat/completions", **CALM)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "model" and "one, two" in answer.text
    assert post(served, "/tokenize", prompt="hi").status_code == 400
    assert post(served, "/tokenize", prompt="hi", model="two").json()["max_model_len"] == CONTEXT


def test_vectors_caches_and_counters_are_each_models_own(served):
    vectors = [post(served, "/v1/embeddings", model=name, input="hi").json()["data"][0]["embedding"] for name in ("one", "two")]
    assert vectors[0] != vectors[1]
    prompt = "a long story " * 9
    hits = [
        post(served, "/v1/completions", model=name, prompt=prompt, max_tokens=1).json()["usage"]["prompt_cache_hit_tokens"] > 50
        for name in ("one", "two", "two")
    ]
    assert hits == [False, False, True]
    assert post(served, "/cache/explain", model="two", prompt=prompt).json()["cached_tokens"] > 50
    text = httpx.get(f"{served.url}/metrics").text
    for family in ("vllm:generation_tokens_total", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds_count"):
        assert all(f'{family}{{model_name="{name}"}}' in text for name in ("one", "two")), family
    assert text.count("# TYPE vllm:num_requests_running ") == 1
    vectors = post(served, "/v1/embeddings", model="poet", input="hi")
    assert vectors.status_code == 400 and "ask 'two'" in vectors.text


def test_many_readers_of_both_at_once_get_what_they_get_alone(served, expected):
    said = [""] * 16

    def work(place):
        answer = post(served, "/v1/chat/completions", model=("one", "two")[place % 2], **CALM)
        said[place] = answer.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert said == [expected[("one", "two")[place % 2]] for place in range(16)]


# ---- engines in one process ------------------------------------------------------------------------------------------


def test_engines_side_by_side_are_stepped_by_one_thread_in_turns(lms):
    first = Engine(lms[0], max_rows=2)
    second = Engine(lms[1], max_rows=2, beside=first)
    order = []
    for name, engine in (("a", first), ("b", second)):
        runner, step = engine._loop.cache.runner, engine._loop.cache.runner.step

        def noted(chunks, name=name, step=step):
            order.append((name, threading.current_thread().name))
            return step(chunks)

        runner.step = noted
    with first._loop.driver.stepping:  # both are asked before either is stepped
        handles = [engine.submit("abc", calm(8)) for engine in (first, second)]
    for handle in handles:
        handle.result()
    assert {thread for _, thread in order} == {"seekling-engine"}
    names = "".join(name for name, _ in order)
    assert "aaa" not in names and "bbb" not in names, names
    first.close()
    assert second.submit("abc", calm(3)).result().finish_reason == "length"  # the other goes on
    thread = second._loop.driver._thread
    second.close()
    assert not thread.is_alive()


def test_whoever_needs_the_runner_waits_for_one_step_and_not_for_a_lull(lms):
    """Vectors are made between two steps of an engine that is busy all the time (most times: this thread may be slow too)."""
    with Engine(lms[0]) as engine, slowly(SimpleNamespace(engine=engine)):
        handle = engine.submit("abc", Sampling(max_tokens=600, logit_bias={1: -100.0}))
        until(lambda: engine.stats()["steps"] > 3)
        waited = []
        for _ in range(9):
            before = engine.stats()["steps"]
            with engine._loop.paused():
                waited.append(engine.stats()["steps"] - before)
        assert not handle.done and median(waited) <= 2
        handle.cancel()


# ---- the verb --------------------------------------------------------------------------------------------------------


def wanted(*argv):
    parser = Parser("seekling serve", "", "")
    serve_flags(parser)
    return [(one.path, one.names, one.adapters) for one in wanted_of(parser.parse_all(argv))]


def test_names_aliases_and_adapters_belong_to_their_model():
    assert wanted("smollm2", "team/b.gguf") == [("smollm2", ["smollm2"], {}), ("team/b.gguf", ["team/b"], {})]
    named = wanted("x", "y", "--name", "a", "--name", "b", "--alias", "b:gpt:4", "--adapter", "a:poet=runs/p")
    assert named == [("x", ["a", "poet"], {"poet": "runs/p"}), ("y", ["b", "gpt:4"], {})]
    assert wanted("x", "--alias", "a:b") == [("x", ["x", "a:b"], {})]  # one model alone: a name may hold colons


@pytest.mark.parametrize(
    "argv, said",
    [
        (("x", "y", "--name", "a"), "2 models and 1 times --name"),
        (("x", "y", "--adapter", "p=z"), "x:p"),
        (("x", "y", "--alias", "p"), "x:p"),
        (("x", "x"), "not all different"),
        (("x", "--adapter", "p"), "NAME=FOLDER"),
    ],
)
def test_what_is_ambiguous_is_refused_before_anything_is_loaded(argv, said):
    with pytest.raises(RecipeError, match=said):
        wanted(*argv)


def test_a_second_model_that_is_not_there_is_a_line(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "nowhere"), "elsewhere", "--keys", str(tmp_path / "keys.json")]) == 2
    assert "nowhere" in capsys.readouterr().err
