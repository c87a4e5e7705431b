"""Items of OpenAI's Responses: what a client sends becomes turns of a chat, and what is said becomes items and typed events.

Every item and call has one id, made when it begins: the same in every event and in the response that is kept.
"""

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any

from seekling.serve.asking import bad
from seekling.text.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning

Json = dict[str, Any]
Told = tuple[str, Json]  # an event's type and its fields
SEALED = "seekling:"  # before reasoning that a client carries for us: encoded, not secret

# ---- in --------------------------------------------------------------------------------------------------------------


def turns(items: list[Json]) -> list[Json]:
    """Items as the turns of a chat. Reasoning, text and calls that follow each other are one turn of the assistant.

    Raises:
        ApiError: names the item that cannot be read here.
    """
    out: list[Json] = []
    for number, item in enumerate(items):
        where = f"input.{number}"
        if not isinstance(item, dict):
            raise bad(where, "must be an object")
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            _message(out, item, where)
        elif kind == "reasoning":
            _assistant(out, "reasoning_content")["reasoning_content"] = _reasoning(item, where)
        elif kind == "function_call":
            function = {"name": _word(item, "name", where), "arguments": _word(item, "arguments", where)}
            call = {"id": _word(item, "call_id", where), "type": "function", "function": function}
            _assistant(out).setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            said = _text(item.get("output"), f"{where}.output")
            out.append({"role": "tool", "tool_call_id": _word(item, "call_id", where), "content": said})
        else:
            raise bad(f"{where}.type", f"{kind!r}: this server reads message, reasoning, function_call, function_call_output")
    return out


def _message(out: list[Json], item: Json, where: str) -> None:
    role, text = item.get("role"), _text(item.get("content"), f"{where}.content")
    if role == "assistant" and out and out[-1]["role"] == "assistant" and out[-1].get("tool_calls"):
        out[-1]["content"] += text  # said behind its calls: a turn has one text
    elif role == "assistant":
        _assistant(out, "content")["content"] = text
    elif role in ("user", "system", "developer"):
        out.append({"role": role, "content": text})
    else:
        raise bad(f"{where}.role", f"{role!r}: give user, assistant, system or developer")


def _assistant(out: list[Json], *without: str) -> Json:
    """The turn that is being put together, or a new one where it already has what comes."""
    if not out or out[-1]["role"] != "assistant" or any(out[-1].get(key) for key in without):
        out.append({"role": "assistant", "content": ""})
    return out[-1]


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad(where, "must be text or a list of parts")
    out = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text", "text") or not isinstance(part.get("text"), str):
            raise bad(f"{where}.{place}", f"a part of type {kind!r}: this server reads text only")
        out.append(part["text"])
    return "".join(out)


def _reasoning(item: Json, where: str) -> str:
    parts = item.get("content") or ()
    if not isinstance(parts, list | tuple) or not all(isinstance(part, dict) for part in parts):
        raise bad(f"{where}.content", "must be a list of parts")
    text = "".join(str(part.get("text", "")) for part in parts)
    sealed = item.get("encrypted_content")
    if text or sealed is None:
        return text
    try:
        return base64.b64decode(str(sealed).removeprefix(SEALED), validate=True).decode("utf-8")
    except ValueError:
        raise bad(f"{where}.encrypted_content", "is not of this server") from None


def _word(item: Json, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise bad(f"{where}.{key}", "must be a text")
    return value


# ---- out -------------------------------------------------------------------------------------------------------------


class Items:
    """Events → items, each begun and ended in turn.

    Args:
        seal: also give reasoning in a form that clients carry along (``reasoning.encrypted_content``).
    """

    def __init__(self, seal: bool = False) -> None:
        self.items: list[Json] = []
        self._open, self._seal = False, seal

    def push(self, event: Event, logprobs: list[Json] | None = None) -> Iterator[Told]:
        """What a stream says of an event."""
        if isinstance(event, Reasoning):
            yield from self._ensure("reasoning", "rs_", {"summary": [], "content": []}, {"type": "reasoning_text", "text": ""})
            self._part["text"] += event.text
            yield self._of("reasoning_text.delta", content_index=0, delta=event.text)
        elif isinstance(event, Content):
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield from self._ensure("message", "msg_", {"role": "assistant", "content": []}, part)
            self._part["text"] += event.text
            self._part["logprobs"] += logprobs or []
            yield self._of("output_text.delta", content_index=0, delta=event.text, logprobs=logprobs or [])
        elif isinstance(event, CallStart):
            call = {"call_id": f"call_{secrets.token_hex(12)}", "name": event.name, "arguments": ""}
            yield from self._begin("function_call", "fc_", call)
        elif isinstance(event, CallArguments):
            self.items[-1]["arguments"] += event.text
            yield self._of("function_call_arguments.delta", delta=event.text)
        elif isinstance(event, CallEnd):
            yield from self.end("incomplete" if event.problem else "completed")

    def end(self, status: str = "completed") -> Iterator[Told]:
        """End the open item."""
        if not self._open:
            return
        self._open, item = False, self.items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            yield self._of("function_call_arguments.done", arguments=item["arguments"], name=item["name"])
        else:
            part = self._part
            more = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            yield self._of(f"{part['type']}.done", content_index=0, text=part["text"], **more)
            yield self._of("content_part.done", content_index=0, part=_copy(part))
            if item["type"] == "reasoning" and self._seal:
                item["encrypted_content"] = SEALED + base64.b64encode(part["text"].encode("utf-8", "replace")).decode()
        yield "response.output_item.done", {"output_index": len(self.items) - 1, "item": _copy(item)}

    @property
    def reasoning(self) -> str:
        """All of it."""
        return "".join(item["content"][0]["text"] for item in self.items if item["type"] == "reasoning")

    @property
    def call_ids(self) -> list[str]:
        return [item["call_id"] for item in self.items if item["type"] == "function_call"]

    @property
    def _part(self) -> Json:
        return self.items[-1]["content"][0]

    def _ensure(self, kind: str, prefix: str, fields: Json, part: Json) -> Iterator[Told]:
        if self._open and self.items[-1]["type"] == kind:
            return
        yield from self._begin(kind, prefix, fields)
        yield self._of("content_part.added", content_index=0, part=_copy(part))
        self.items[-1]["content"].append(part)

    def _begin(self, kind: str, prefix: str, fields: Json) -> Iterator[Told]:
        yield from self.end()
        self.items.append({"id": prefix + secrets.token_hex(16), "type": kind, "status": "in_progress", **fields})
        self._open = True
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": _copy(self.items[-1])}

    def _of(self, kind: str, **fields: Any) -> Told:
        """An event about the last item."""
        return f"response.{kind}", {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}


def _copy(value: Any) -> Any:
    """As it is now: what is told must not change afterwards."""
    return json.loads(json.dumps(value))
