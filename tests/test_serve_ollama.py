"""Ollama's own client against the server."""

import json

import httpx
import ollama
import pytest
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, scripted_engine, serving
from test_serve_anthropic import CALL, FUNCTION

from seekling.engine import Engine
from seekling.kernels import native
from seekling.serve.failures import ApiError
from seekling.serve.ollama import _turns
from seekling.text.special import THINK_END, Mark

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def told():
    with serving(scripted_engine()) as it:
        it.client = ollama.Client(host=it.url)
        yield it


def say(told, text, messages=HI, **options):
    told.engine.model.say(told.state, text, TOKENIZER.encode_chat(messages, **options))


def test_a_chat_in_one_piece_and_streamed(told):
    say(told, "grüße 🐋")
    answer = told.client.chat(model="tiny", messages=HI)
    assert answer.message.content == "grüße 🐋" and answer.done and answer.done_reason == "stop"
    assert answer.prompt_eval_count == len(TOKENIZER.encode_chat(HI)) and answer.total_duration > 0
    parts = list(told.client.chat(model="tiny:latest", messages=HI, stream=True))
    assert "".join(part.message.content for part in parts) == "grüße 🐋"
    assert [part.done for part in parts].count(True) == 1 and parts[-1].done


def test_text_is_generated_with_options(told):
    say(told, "one two three")
    answer = told.client.generate(model="tiny", prompt="hi", options={"stop": [" three"], "num_ctx": 100, "seed": 1})
    assert answer.response == "one two"
    assert told.client.generate(model="tiny", prompt="hi", options={"num_predict": 3}).done_reason == "length"


def test_thinking_stands_apart(told):
    say(told, ["so", Mark(THINK_END), "yes"], thinking=True)
    answer = told.client.chat(model="tiny", messages=HI, think=True)
    assert (answer.message.thinking, answer.message.content) == ("so", "yes")


def test_a_tool_is_called_and_its_result_goes_back(told):
    say(told, CALL, tools=[FUNCTION])
    answer = told.client.chat(model="tiny", messages=HI, tools=[FUNCTION])
    call = answer.message.tool_calls[0]
    assert call.function.name == "weather" and call.function.arguments == {"city": "Bern"}
    streamed = [p.message.tool_calls for p in told.client.chat(model="tiny", messages=HI, tools=[FUNCTION], stream=True)]
    assert [calls[0].function.arguments for calls in streamed if calls] == [{"city": "Bern"}]
    sent = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    turns = [*HI, {"role": "assistant", "content": "", "tool_calls": [sent]}]
    turns.append({"role": "tool", "tool_call_id": "1", "content": "sunny"})
    say(told, "sunny!", turns, tools=[FUNCTION])
    back = [*HI, answer.message, {"role": "tool", "tool_name": "weather", "content": "sunny"}]
    assert told.client.chat(model="tiny", messages=back, tools=[FUNCTION]).message.content == "sunny!"


def test_results_go_to_the_calls_of_their_names():
    calls = [{"function": {"name": name, "arguments": {}}} for name in "fg"]
    results = [{"role": "tool", "tool_name": name, "content": f"of {name}"} for name in "gf"]
    _, _, *told = _turns([*HI, {"role": "assistant", "content": "", "tool_calls": calls}, *results])
    assert [(turn["tool_call_id"], turn["content"]) for turn in told] == [("call_1_1", "of g"), ("call_1_0", "of f")]
    with pytest.raises(ApiError, match=r"messages\.2\.tool_name: 'h'"):
        _turns([*HI, {"role": "assistant", "content": "", "tool_calls": calls}, {**results[0], "tool_name": "h"}])


def test_a_model_named_with_the_tag_is_found_by_it():
    with serving(names=["tiny:latest"]) as it:
        client = ollama.Client(it.url)
        names = [model.model for model in client.list().models]
        assert names == ["tiny:latest"] and client.show(names[0]).capabilities
        assert client.generate(model=names[0], prompt="a", options={"num_predict": 2}).done


def test_a_schema_binds_the_answer(told):
    say(told, "nothing of the kind")
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    answer = told.client.chat(model="tiny", messages=HI, format=schema, options={"temperature": 0})
    assert json.loads(answer.message.content) == {"a": 1}


def test_models_are_listed_and_shown(told):
    assert [model.model for model in told.client.list().models] == ["tiny", "gpt-tiny"]
    shown = told.client.show("tiny")
    assert shown.modelinfo["deepseek_v3.context_length"] == CONTEXT and "tools" in shown.capabilities


@pytest.mark.skipif(not native.available(), reason="the native library is not built")
def test_sizes_numbers_and_digest_are_those_of_the_weights():
    """Of a model in torch, and of the same one quantised by the kernels."""
    lm = tiny_lm(max_position_embeddings=CONTEXT)
    lm.model.float()
    numbers = sum(p.numel() for p in lm.model.parameters())
    whole = sum(t.nbytes for t in (*lm.model.parameters(), *lm.model.buffers()))
    digests = set()
    for options, kind, least, most in (
        ({"runner": "torch"}, "F32", whole, whole),
        ({"quant": "int8"}, "INT8", numbers, 0.7 * whole),
    ):
        engine = Engine(lm, max_rows=2, cache_tokens=2048, **options)
        with serving(engine) as served:
            client = ollama.Client(host=served.url)
            (listed, alias), (running, _) = client.list().models, client.ps().models
            assert least <= listed.size <= most and listed.details.quantization_level == kind
            assert listed.details.parameter_size == f"{numbers / 1e3:.2f}K" and listed.details.format == "safetensors"
            assert running.size == pytest.approx(listed.size + 2048 * served.model.card()["cache"]["bytes_per_token"], rel=0.01)
            assert running.context_length == CONTEXT and running.size_vram == 0
            assert client.show("tiny").modelinfo["general.parameter_count"] == numbers
            assert len(bytes.fromhex(listed.digest)) == 32 and listed.digest == alias.digest == running.digest
            digests.add(listed.digest)
    assert len(digests) == 2


def test_what_is_loaded_is_told_and_texts_become_vectors():
    with serving() as served:
        client = ollama.Client(host=served.url)
        assert [model.model for model in client.ps().models] == ["tiny", "gpt-tiny"]
        answer = client.embed(model="tiny", input=["abc", "de"])
        plain = httpx.post(f"{served.url}/v1/embeddings", json={"input": ["abc", "de"]}).json()["data"]
        assert [list(vector) for vector in answer.embeddings] == [row["embedding"] for row in plain]
        assert answer.prompt_eval_count > 0
        with pytest.raises(ollama.ResponseError, match="truncate"):
            client.embed(model="tiny", input="abc", truncate=True)


def test_errors_have_ollamas_form(told):
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        told.client.chat(model="tiny", messages=HI, options={"mirostat": 1})
    with pytest.raises(ollama.ResponseError, match=r"options\.num_predict"):
        told.client.chat(model="tiny", messages=HI, options={"num_predict": 0})
    with pytest.raises(ollama.ResponseError) as caught:
        told.client.chat(model="llama3", messages=HI)
    assert caught.value.status_code == 404
    assert isinstance(httpx.post(f"{told.url}/api/chat", content=b"{").json()["error"], str)
