"""The chat encoding of DeepSeek-V3.1: messages → pieces of text and control marks.

    <bos>{system}<｜User｜>{question}<｜Assistant｜></think>{answer}<eos><｜User｜>…<｜Assistant｜>

A generation prompt ends in ``<think>`` when the model shall think and in ``</think>`` when it shall answer at once. The
reasoning of an answer is kept only after the last question; that of earlier turns is dropped, as DeepSeek does.

`chat_pieces` is the definition. `CHAT_TEMPLATE` says the same in Jinja for other programs; a test holds them together. Pieces
keep the two apart that a rendered string confuses: a mark is a `Mark`, and what a person wrote is a plain string.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seekling.errors import DataError, raise_all
from seekling.text.special import ASSISTANT, BOS, EOS, THINK, THINK_END, USER, Mark

ROLES = ("system", "user", "assistant")
KEYS = {"role", "content", "reasoning_content"}

Message = Mapping[str, Any]


def chat_pieces(messages: Sequence[Message], *, add_generation_prompt: bool = True, thinking: bool = False) -> list[str]:
    """Text and `Mark` pieces of a conversation, never two texts in a row.

    Args:
        messages: dicts with ``role`` (system, user, assistant) and ``content``; an assistant's may have ``reasoning_content``.
            All system messages are joined by a blank line and put in front.
        add_generation_prompt: end where the assistant's answer begins; the last message must then be the user's.
        thinking: that answer begins with reasoning.

    Raises:
        DataError: lists every message that cannot be encoded, by its index.
    """
    raise_all(DataError, message_problems(messages, add_generation_prompt), "messages")
    pieces: list[str] = [Mark(BOS), "\n\n".join(m["content"] for m in messages if m["role"] == "system")]
    last_question = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    for index, message in enumerate(messages):
        if message["role"] == "user":
            pieces += [Mark(USER), message["content"]]
        elif message["role"] == "assistant":
            reasoning = message.get("reasoning_content") if index > last_question else None
            pieces += [Mark(ASSISTANT), Mark(THINK), reasoning] if reasoning else [Mark(ASSISTANT)]
            pieces += [Mark(THINK_END), message["content"], Mark(EOS)]
    if add_generation_prompt:
        pieces += [Mark(ASSISTANT), Mark(THINK if thinking else THINK_END)]
    return [piece for piece in pieces if piece]


def message_problems(messages: Any, add_generation_prompt: bool = False) -> Iterable[str]:
    """What keeps these messages from being encoded, one line each."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        yield f"must be a list of messages, not a {type(messages).__name__}"
        return
    if not messages:
        yield "the list is empty: give at least one message"
        return
    previous = None
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            yield f"message {index} is a {type(message).__name__}, not an object with role and content"
            continue
        role = message.get("role")
        if role not in ROLES:
            yield f"message {index} has role {role!r}; known are {', '.join(ROLES)}"
        if not isinstance(message.get("content"), str):
            yield f"message {index} has no text: 'content' must be a string"
        unknown = sorted(str(key) for key, value in message.items() if key not in KEYS and value is not None)
        if unknown:
            yield f"message {index} has keys this encoding does not know: {', '.join(unknown)}"
        reasoning = message.get("reasoning_content")
        if reasoning is not None and (role != "assistant" or not isinstance(reasoning, str)):
            yield f"message {index}: 'reasoning_content' is text of the assistant only"
        if role == "assistant" and previous != "user":
            yield f"message {index} is an answer without a question: a message of the user must come before it"
        if role != "system":
            previous = role
    if add_generation_prompt and previous != "user":
        yield f"message {len(messages) - 1} is not the user's: end with a question, or ask for no generation prompt"


CHAT_TEMPLATE = """\
{%- if not thinking is defined -%}{%- set thinking = false -%}{%- endif -%}
{%- if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}
{%- set ns = namespace(system='', first=true, question=-1) -%}
{%- for m in messages -%}
  {%- if m['role'] == 'system' -%}
    {%- set ns.system = m['content'] if ns.first else ns.system + '\\n\\n' + m['content'] -%}
    {%- set ns.first = false -%}
  {%- elif m['role'] == 'user' -%}
    {%- set ns.question = loop.index0 -%}
  {%- elif m['role'] != 'assistant' -%}
    {{- raise_exception('unknown role: ' + m['role']) -}}
  {%- endif -%}
{%- endfor -%}
{{- '<｜begin▁of▁sentence｜>' + ns.system -}}
{%- for m in messages -%}
  {%- if m['role'] == 'user' -%}
    {{- '<｜User｜>' + m['content'] -}}
  {%- elif m['role'] == 'assistant' -%}
    {{- '<｜Assistant｜>' -}}
    {%- if loop.index0 > ns.question and m['reasoning_content'] is defined and m['reasoning_content'] -%}
      {{- '<think>' + m['reasoning_content'] -}}
    {%- endif -%}
    {{- '</think>' + m['content'] + '<｜end▁of▁sentence｜>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') -}}
{%- endif -%}
"""
