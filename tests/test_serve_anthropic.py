"""Anthropic's messages as their own client sees them."""

import anthropic
import httpx
import pytest
from engine_tiny import TOKENIZER, one_thread  # noqa: F401
from serve_tiny import scripted_engine, serving

from seekling.text.special import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, THINK_END, TOOL_SEP, Mark

HI = [{"role": "user", "content": "hi"}]
ASK = dict(model="tiny", messages=HI, max_tokens=200)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "description": "of a city"}}
CALL = [Mark(CALLS_BEGIN), Mark(CALL_BEGIN), "weather", Mark(TOOL_SEP), '{"city": "Bern"}', Mark(CALL_END), Mark(CALLS_END)]


@pytest.fixture(scope="module")
def told():
    with serving(scripted_engine()) as it:
        it.client = anthropic.Anthropic(base_url=it.url, api_key="none", max_retries=0)
        yield it


def say(told, text, messages=HI, **options):
    told.engine.model.say(told.state, text, TOKENIZER.encode_chat(messages, **options))


def test_a_message_in_one_piece(told):
    say(told, "Hello, grüße 🐋")
    message = told.client.messages.create(**ASK)
    assert message.content[0].text == "Hello, grüße 🐋" and message.stop_reason == "end_turn"
    assert message.usage.input_tokens == len(TOKENIZER.encode_chat(HI)) and message.role == "assistant"


def test_a_stream_of_thinking_and_text(told):
    say(told, ["so", Mark(THINK_END), "yes 🐋"], thinking=True)
    with told.client.messages.stream(**ASK, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.content[0].thinking, message.content[1].text) == ("so", "yes 🐋")
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used_and_its_result_goes_back(told, stream):
    say(told, ["Let me see.", *CALL], tools=[FUNCTION])
    if stream:
        with told.client.messages.stream(**ASK, tools=[TOOL]) as events:
            message = events.get_final_message()
    else:
        message = told.client.messages.create(**ASK, tools=[TOOL])
    text, use = message.content
    assert text.text == "Let me see." and message.stop_reason == "tool_use"
    assert use.name == "weather" and use.input == {"city": "Bern"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
    history = [*HI, {"role": "assistant", "content": [b.model_dump() for b in message.content]}]
    for block in history[1]["content"]:
        block.pop("citations", None)
    history.append({"role": "user", "content": [result]})
    call = {"id": use.id, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    turns = [*HI, {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": use.id, "content": "sunny"})
    say(told, "It is sunny.", turns, tools=[FUNCTION])
    answer = told.client.messages.create(**ASK | {"messages": history}, tools=[TOOL])
    assert answer.content[0].text == "It is sunny."


def test_the_system_and_stop_sequences(told):
    say(told, "one two", [{"role": "system", "content": "be kind"}, *HI])
    message = told.client.messages.create(**ASK, system=[{"type": "text", "text": "be kind"}], stop_sequences=["x", " two"])
    assert message.content[0].text == "one" and (message.stop_reason, message.stop_sequence) == ("stop_sequence", " two")


def test_tokens_are_counted(told):
    count = told.client.messages.count_tokens(model="tiny", messages=HI)
    assert count.input_tokens == len(TOKENIZER.encode_chat(HI))


def test_max_tokens_ends_an_answer(told):
    say(told, "a long answer")
    assert told.client.messages.create(**ASK | {"max_tokens": 3}).stop_reason == "max_tokens"


def test_a_call_that_was_cut_is_left_out_and_what_was_said_before_it_stays(told):
    say(told, ["Let me see.", *CALL], tools=[FUNCTION])
    told.engine.model.tokens = told.engine.model.tokens[:-4]
    room = len(told.engine.model.tokens)
    ask = ASK | {"max_tokens": room, "tools": [TOOL | {"strict": True}]}
    message = told.client.messages.create(**ask)
    assert message.stop_reason == "max_tokens" and [block.type for block in message.content] == ["text"]


def test_a_strict_tool_binds_what_the_model_calls(told):
    schema = {"type": "object", "properties": {"city": {"const": "Bern"}}, "required": ["city"], "additionalProperties": False}
    declared = {"type": "function", "function": {**FUNCTION["function"], "parameters": schema, "strict": True}}
    wrong = [Mark(CALLS_BEGIN), Mark(CALL_BEGIN), "weather", Mark(TOOL_SEP), '{"town": 3}', Mark(CALL_END), Mark(CALLS_END)]
    say(told, wrong, tools=[declared])
    tool = TOOL | {"strict": True, "input_schema": schema}
    message = told.client.messages.create(**ASK, tools=[tool], extra_body={"temperature": 0})
    assert message.content[0].input == {"city": "Bern"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "weather"}}, "tool_choice.name"),
        ({"messages": [{"role": "user", "content": "hi", "mood": "good"}]}, "messages.0.mood"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "loud": 1}]}]}, "messages.0.content.0.loud"),
    ],
)
def test_what_would_not_be_obeyed_is_refused_by_name(told, changes, named):
    answer = httpx.post(f"{told.url}/v1/messages", json=ASK | changes)
    assert answer.status_code == 400 and named in answer.json()["error"]["message"]


def test_errors_have_anthropics_form(told):
    with pytest.raises(anthropic.NotFoundError):
        told.client.messages.create(**ASK | {"model": "claude"})
    image = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    with pytest.raises(anthropic.BadRequestError, match="image"):
        told.client.messages.create(**ASK | {"messages": image})
    error = httpx.post(f"{told.url}/v1/messages", json={"model": "tiny", "messages": HI}).json()
    assert error["type"] == "error" and "max_tokens" in error["error"]["message"]


def test_effort_is_taken_and_may_not_contradict_thinking(told):
    say(told, ["so", Mark(THINK_END), "yes"], thinking=True)
    message = told.client.messages.create(**ASK, extra_body={"output_config": {"effort": "high"}})
    assert [block.type for block in message.content] == ["thinking", "text"]
    with pytest.raises(anthropic.BadRequestError, match="reasoning_effort"):
        told.client.messages.create(**ASK, thinking={"type": "disabled"}, extra_body={"output_config": {"effort": "high"}})
