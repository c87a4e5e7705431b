"""Completions, embeddings, tokens, cache and metrics over HTTP."""

import math

import httpx
import openai
import pytest
import torch
from engine_tiny import TOKENIZER, one_thread  # noqa: F401
from serve_tiny import CONTEXT, random_engine, scripted_engine, serving

from seekling.engine import Sampling
from seekling.text.special import FIM_BEGIN, FIM_END, FIM_HOLE

TEXT = "Once upon"


@pytest.fixture(scope="module")
def served():
    with serving() as it:
        it.client = openai.OpenAI(base_url=f"{it.url}/v1", api_key="none", max_retries=0)
        yield it


def test_text_is_continued_as_the_engine_does(served):
    answer = served.client.completions.create(model="tiny", prompt=TEXT, max_tokens=12, temperature=0)
    expected = random_engine().generate(TEXT, Sampling(max_tokens=12, temperature=0))[0]
    assert answer.choices[0].text == expected.text and answer.usage.completion_tokens == len(expected.token_ids)


def test_several_prompts_also_as_ids_are_answered_in_order(served):
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(TEXT)]
    ask = dict(model="tiny", max_tokens=6, temperature=0.9, seed=3)
    one = served.client.completions.create(prompt=TEXT, n=2, **ask)
    both = served.client.completions.create(prompt=[ids, ids], n=2, **ask)
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert [c.text for c in both.choices] == [c.text for c in one.choices] * 2
    streamed = [""] * 4
    for chunk in served.client.completions.create(prompt=[ids, ids], n=2, stream=True, **ask):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [c.text for c in both.choices]


def test_echo_with_log_probabilities_scores_the_prompt(served):
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(TEXT)]
    answer = served.client.completions.create(model="tiny", prompt=TEXT, echo=True, logprobs=2, max_tokens=0)
    logs = answer.choices[0].logprobs
    model = served.engine.model
    table = torch.log_softmax(model(torch.tensor([ids]))[0].float(), -1)
    expected = [table[place, token].item() for place, token in enumerate(ids[1:])]
    assert answer.choices[0].text == TEXT and answer.usage.completion_tokens == 0
    assert logs.token_logprobs[0] is None and logs.token_logprobs[1:] == pytest.approx(expected, abs=1e-3)
    assert logs.top_logprobs[0] is None and len(logs.top_logprobs[1]) == 2
    assert len(logs.tokens) == len(logs.text_offset) == len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_say_where_tokens_begin_in_the_text(served, stream):
    ask = dict(model="tiny", prompt="grüße 🐋", max_tokens=12, temperature=0, logprobs=0)
    if stream:
        chunks = [chunk.choices[0] for chunk in served.client.completions.create(**ask, stream=True)]
        text, logs = "".join(c.text for c in chunks), [c.logprobs for c in chunks if c.logprobs]
        tokens, offsets = [t for log in logs for t in log.tokens], [o for log in logs for o in log.text_offset]
    else:
        choice = served.client.completions.create(**ask, echo=True).choices[0]
        text, tokens, offsets = choice.text, choice.logprobs.tokens, choice.logprobs.text_offset
        assert len(choice.logprobs.top_logprobs) == len(tokens) and offsets[:2] == [0, 0] and tokens[1] == text[0]
    whole = [(t, o) for t, o in zip(tokens, offsets, strict=True) if not t.startswith("bytes:") and t not in TOKENIZER.special]
    assert len(whole) > 2 and all(text.startswith(t, o) for t, o in whole)
    assert offsets == sorted(offsets)


def test_a_prompt_that_is_only_scored_ends_the_same_way_in_a_stream(served):
    ask = dict(model="tiny", prompt=TEXT, echo=True, max_tokens=0)
    *_, last = served.client.completions.create(**ask, stream=True)
    assert last.choices[0].finish_reason == served.client.completions.create(**ask).choices[0].finish_reason == "length"


def test_more_answers_than_the_queue_holds_are_no_matter_of_trying_again():
    with serving(random_engine(max_queue=8)) as it:
        response = httpx.post(f"{it.url}/v1/completions", json={"prompt": ["a"] * 5, "n": 2, "max_tokens": 2})
    assert response.status_code == 400 and response.json()["error"]["param"] == "n"


def test_a_suffix_fills_in_with_the_models_marks(served):
    answer = served.client.completions.create(model="tiny", prompt="def f(", suffix="return x", max_tokens=4, temperature=0)
    mark = TOKENIZER.special
    ids = [mark[FIM_BEGIN], *TOKENIZER.encode("def f("), mark[FIM_HOLE], *TOKENIZER.encode("return x"), mark[FIM_END]]
    ids = [TOKENIZER.bos_id, *ids]
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.choices[0].text == random_engine().generate([ids], Sampling(max_tokens=4, temperature=0))[0].text


def test_the_usage_of_a_stream_comes_last(served):
    ask = dict(model="tiny", prompt=TEXT, max_tokens=3, stream=True, stream_options={"include_usage": True})
    chunks = list(served.client.completions.create(**ask))
    assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == len(TEXT) + 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[99999]]}, "99999"),
        ({"best_of": 4}, "best_of"),
        ({"suffix": "x", "echo": True}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 90}, "logprobs"),
        ({"prompt": "a" * 1000}, "1001 tokens"),
        ({"prompt": ["a"] * 100}, "100 prompts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_completed_is_named(served, fields, named):
    response = httpx.post(f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 2} | fields)
    assert response.status_code == 400 and named in response.json()["error"]["message"], response.text


def test_embeddings_are_vectors_of_length_one(served):
    answer = served.client.embeddings.create(model="tiny", input=["a cat", "a dog"])
    plain = served.client.embeddings.create(model="tiny", input="a cat", encoding_format="float")
    expected = served.engine.embed(["a cat", "a dog"])
    assert torch.allclose(torch.tensor([row.embedding for row in answer.data]), expected, atol=1e-6)
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    short = served.client.embeddings.create(model="tiny", input="a cat", dimensions=8)
    assert math.sqrt(sum(x * x for x in short.data[0].embedding)) == pytest.approx(1, abs=1e-5)


def test_a_vector_may_be_of_a_whole_context(served):
    ask = lambda ids: httpx.post(f"{served.url}/v1/embeddings", json={"input": ids})  # noqa: E731
    assert ask([20] * CONTEXT).status_code == 200
    error = ask([20] * (CONTEXT + 1)).json()["error"]
    assert error["param"] == "input" and f"the context holds {CONTEXT}: shorten" in error["message"]


def test_tokens_and_back(served):
    told = httpx.post(f"{served.url}/tokenize", json={"prompt": "grüß", "return_token_strs": True}).json()
    assert told["tokens"] == [TOKENIZER.bos_id, *TOKENIZER.encode("grüß")] and told["count"] == len(told["tokens"])
    back = httpx.post(f"{served.url}/detokenize", json={"tokens": told["tokens"][1:]}).json()
    assert back == {"prompt": "grüß"}
    messages = [{"role": "user", "content": "hi"}]
    chat = httpx.post(f"{served.url}/tokenize", json={"messages": messages}).json()
    assert chat["tokens"] == TOKENIZER.encode_chat(messages)


def test_the_cache_says_where_a_prompt_leaves_it(served):
    text = "a story that was told before, "
    served.client.completions.create(model="tiny", prompt=text + "once", max_tokens=2)
    told = httpx.post(f"{served.url}/cache/explain", json={"prompt": text + "twice"}).json()
    assert told["position"] == told["cached_tokens"] == len(text) + 1
    other = httpx.post(f"{served.url}/cache/explain", json={"prompt": text, "user_id": "somebody else"}).json()
    assert other["cached_tokens"] == 0


def test_metrics_have_the_names_boards_look_for(served):
    served.client.completions.create(model="tiny", prompt="count me", max_tokens=4)
    text = httpx.get(f"{served.url}/metrics").text
    for name in (
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_bucket",
    ):
        assert f"{name}{{" in text and 'model_name="tiny"' in text, name


def test_scoring_has_one_token_more_than_the_prompt_even_where_the_model_ends_at_once():
    """lm-eval cuts off the last token of ``echo``, whatever it is."""
    with serving(scripted_engine()) as served:
        served.engine.model.say(served.state, "", [0] * 3)
        body = {"prompt": [20, 21, 22], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        choice = httpx.post(f"{served.url}/v1/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "stop" and len(choice["logprobs"]["token_logprobs"]) == 4
