"""OpenAI's Responses as their own client sees them."""

import json

import httpx
import openai
import pytest
from engine_tiny import TOKENIZER, one_thread  # noqa: F401
from serve_tiny import scripted_engine, serving
from test_serve_anthropic import CALL, FUNCTION, SCHEMA

from seekling.serve.failures import ApiError
from seekling.serve.guard import Doors
from seekling.serve.items import turns
from seekling.serve.kept import Kept
from seekling.serve.keys import Keys
from seekling.text.special import THINK_END, Mark

HI = [{"role": "user", "content": "hi"}]
ASK = dict(model="tiny", input="hi")
TOOL = {"type": "function", "name": "weather", "description": "of a city", "parameters": SCHEMA}
THINKING = {"reasoning": {"effort": "high"}}


@pytest.fixture(scope="module")
def told():
    with serving(scripted_engine()) as it:
        it.client = openai.OpenAI(base_url=f"{it.url}/v1", api_key="none", max_retries=0)
        yield it


def say(told, text, messages=HI, **options):
    told.engine.model.say(told.state, text, TOKENIZER.encode_chat(messages, **options))


def test_a_response_in_one_piece(told):
    say(told, "grüße 🐋")
    response = told.client.responses.create(**ASK)
    assert response.output_text == "grüße 🐋" and response.status == "completed"
    assert [item.type for item in response.output] == ["message"] and response.output[0].status == "completed"
    usage = response.usage
    assert usage.input_tokens == len(TOKENIZER.encode_chat(HI)) and usage.total_tokens > usage.input_tokens


def test_instructions_stand_before_the_input(told):
    turns = [{"role": "system", "content": "be brief"}, *HI]
    say(told, "ok", turns)
    response = told.client.responses.create(**ASK, instructions="be brief")
    assert response.output_text == "ok" and response.usage.input_tokens == len(TOKENIZER.encode_chat(turns))


def test_the_stream_is_typed_numbered_and_ends_with_the_whole_response(told):
    say(told, ["so", Mark(THINK_END), "yes 🐋"], thinking=True)
    events = list(told.client.responses.create(**ASK, **THINKING, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done", "output_text.delta", "output_text.done", "completed",
    ]  # fmt: skip
    assert kinds[-1] == "completed" and kinds.count("output_item.done") == 2
    last = events[-1].response
    assert last.output_text == "yes 🐋" and last.output[0].content[0].text == "so"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "yes 🐋"


def test_ids_stay_the_same_from_the_first_event_to_the_kept_response(told):
    say(told, CALL, tools=[FUNCTION])
    events = list(told.client.responses.create(**ASK, tools=[TOOL], stream=True))
    last = events[-1].response
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.id}
    added = [event.item for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    pairs = [[(item.id, item.call_id) for item in some] for some in (added, done, last.output)]
    assert pairs[0] == pairs[1] == pairs[2] and done[0] == last.output[0]
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.output[0].id}
    assert told.client.responses.retrieve(last.id).output == last.output


def test_no_done_line_ends_the_stream_and_each_event_is_named(told):
    say(told, "a")
    lines = httpx.post(f"{told.url}/v1/responses", json={"input": "hi", "stream": True}).text.split("\n\n")
    assert "[DONE]" not in lines[-2] and lines[-1] == ""
    for part in lines[:-1]:
        event, data = part.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == event.removeprefix("event: ")


def test_the_clients_own_accumulation_agrees(told):
    say(told, "one 🐋 two")
    with told.client.responses.stream(**ASK) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "one 🐋 two"


def test_a_tool_is_called_and_its_result_goes_back(told):
    say(told, CALL, tools=[FUNCTION])
    response = told.client.responses.create(**ASK, tools=[TOOL])
    call = response.output[-1]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Bern"})
    arguments = {"name": "weather", "arguments": call.arguments}
    sent = {"role": "assistant", "content": "", "tool_calls": [{"id": call.call_id, "type": "function", "function": arguments}]}
    turns = [*HI, sent, {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"}]
    say(told, "sunny!", turns, tools=[FUNCTION])
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    whole = [{"role": "user", "content": "hi"}, *(item.model_dump() for item in response.output), result]
    by_hand = told.client.responses.create(model="tiny", input=whole, tools=[TOOL])
    by_id = told.client.responses.create(model="tiny", input=[result], previous_response_id=response.id, tools=[TOOL])
    assert by_hand.output_text == by_id.output_text == "sunny!"
    assert by_hand.usage.input_tokens == by_id.usage.input_tokens


def test_text_behind_a_call_goes_back_with_it(told):
    say(told, ["First.", *CALL, " Then."], tools=[FUNCTION])
    response = told.client.responses.create(**ASK, tools=[TOOL])
    assert [item.type for item in response.output] == ["message", "function_call", "message"]
    result = {"type": "function_call_output", "call_id": response.output[1].call_id, "output": "sunny"}
    items = [{"role": "user", "content": "hi"}, *(item.model_dump() for item in response.output), result]
    assert [(turn["role"], turn["content"]) for turn in turns(items)] == [
        ("user", "hi"), ("assistant", "First. Then."), ("tool", "sunny")
    ]  # fmt: skip
    told.client.responses.create(model="tiny", input=[result], previous_response_id=response.id, tools=[TOOL])


def test_what_came_before_a_response_is_listed_in_full_and_page_by_page(told):
    items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "hi"}]
    response = told.client.responses.create(model="tiny", input=items, max_output_tokens=2)
    listed = told.client.responses.input_items.list(response.id).data
    assert [(item.type, item.content[0].type, item.content[0].text) for item in listed] == [
        ("message", "input_text", "hi"), ("message", "output_text", "b"), ("message", "input_text", "a")
    ]  # fmt: skip
    first = told.client.responses.input_items.list(response.id, limit=2, order="asc")
    assert [item.content[0].text for item in first.data] == ["a", "b"] and first.has_more
    rest = told.client.responses.input_items.list(response.id, limit=2, order="asc", after=first.data[-1].id)
    assert [item.content[0].text for item in rest.data] == ["hi"] and not rest.has_more
    with pytest.raises(openai.BadRequestError, match="limit"):
        told.client.responses.input_items.list(response.id, limit=0)


def test_what_was_cut_off_is_incomplete(told):
    say(told, "one two three")
    response = told.client.responses.create(**ASK, max_output_tokens=3)
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    events = list(told.client.responses.create(**ASK, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def test_a_schema_binds_the_answer(told):
    say(told, "nothing of the kind")
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    assert json.loads(told.client.responses.create(**ASK, text=form, temperature=0).output_text) == {"a": 1}


def test_sealed_reasoning_comes_back_as_reasoning(told):
    say(told, ["so", Mark(THINK_END), "yes"], thinking=True)
    response = told.client.responses.create(**ASK, **THINKING, store=False, include=["reasoning.encrypted_content"])
    item = response.output[0].model_dump() | {"content": None}
    assert turns([item])[0]["reasoning_content"] == "so"
    with pytest.raises(openai.NotFoundError):
        told.client.responses.retrieve(response.id)


def test_log_probabilities_come_when_they_are_asked_for(told):
    say(told, "ab")
    asked = dict(include=["message.output_text.logprobs"], top_logprobs=2)
    part = told.client.responses.create(**ASK, **asked).output[0].content[0]
    assert [(log.token, len(log.top_logprobs)) for log in part.logprobs] == [("a", 2), ("b", 2)]


def test_log_probabilities_of_the_answer_hold_none_of_the_reasoning(told):
    say(told, ["so", Mark(THINK_END), "yes"], thinking=True)
    output = told.client.responses.create(**ASK, **THINKING, include=["message.output_text.logprobs"]).output
    assert "".join(log.token for log in output[-1].content[0].logprobs) == "yes"


def test_a_kept_response_is_its_keys_alone_and_can_be_forgotten(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    clients = []
    with serving(scripted_engine(), doors=Doors(keys)) as served:
        for name in ("anna", "bert"):
            clients.append(openai.OpenAI(base_url=f"{served.url}/v1", api_key=keys.add(name)[1], max_retries=0))
        say(served, "mine")
        made = clients[0].responses.create(**ASK)
        for call in (clients[1].responses.retrieve, clients[1].responses.delete):
            with pytest.raises(openai.NotFoundError):
                call(made.id)
        with pytest.raises(openai.NotFoundError):
            clients[1].responses.create(**ASK, previous_response_id=made.id)
        assert [item.type for item in clients[0].responses.input_items.list(made.id)] == ["message"]
        clients[0].responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            clients[0].responses.retrieve(made.id)


def test_only_so_many_responses_are_kept():
    kept = Kept(most=2)
    for name in "abc":
        kept.put(None, {"id": name}, [])
    assert kept.get(None, "c")[0] == {"id": "c"}
    with pytest.raises(ApiError):
        kept.get(None, "a")
    small = Kept(bytes=100)
    small.put(None, {"id": "a", "text": "x" * 60}, [])
    small.put(None, {"id": "b", "text": "x" * 60}, [])
    assert list(small._all) == [(None, "b")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.0.defer_loading"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(told, changes, named):
    answer = httpx.post(f"{told.url}/v1/responses", json={"input": "hi"} | changes)
    assert answer.status_code in (400, 404) and named in (answer.json()["error"]["param"] or ""), answer.text
