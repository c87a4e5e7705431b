"""Too much of everything, schemas that explode, characters that break programs: a 4xx or an answer, never a 5xx, and soon."""

import json
import time
from collections.abc import Callable
from typing import Any

from seekling.conformance.target import Answer, Failed, Target
from seekling.redteam.cases import case, chat, refused, survived

SOON = 60.0  # seconds; a loaded machine is slow, an explosion never ends


def _soon(ask: Callable[[Target], Answer], check: Callable[[Answer], None]) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        began = time.monotonic()
        check(ask(target))
        if time.monotonic() - began > SOON:
            raise Failed(f"it took {time.monotonic() - began:.0f} s")

    return run


def _with(**fields: Any) -> Callable[[Target], Answer]:
    return lambda target: chat(target, "Hi", **fields)


def _raw(body: bytes, headers: dict[str, str] | None = None) -> Callable[[Target], Answer]:
    return lambda target: target.request("POST", "/v1/chat/completions", raw=body, headers=headers)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _exploding(levels: int) -> dict[str, Any]:
    definitions = {f"l{n}": {"type": "array", "items": {"$ref": f"#/$defs/l{n + 1}"}, "minItems": 9} for n in range(levels)}
    return {"$defs": {**definitions, f"l{levels}": {"type": "string"}}, "$ref": "#/$defs/l0"}


SCHEMAS: dict[str, dict[str, Any]] = {
    "nested 200 deep": _nested(200),
    "nine to the twentieth items": _exploding(20),
    "refers to itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "refers elsewhere": {"$ref": "http://127.0.0.1:1/schema.json"},
    "a file as reference": {"$ref": "file:///etc/passwd"},
    "a catastrophic pattern": {"type": "string", "pattern": "^(a+)+$"},
    "a pattern of a billion": {"type": "string", "pattern": "^(a{1,30000}){1,30000}$"},
    "a billion items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    "an enumeration of 50,000": {"enum": [f"v{n}" for n in range(50_000)]},
    "a billion characters": {"type": "string", "minLength": 10**9},
}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


TOOLS = [{"type": "function", "function": {"name": f"f{n}", "parameters": {"type": "object"}}} for n in range(5000)]
HUGE = json.dumps({"messages": [{"role": "user", "content": "x" * (32 << 20)}]}).encode()
DEEP = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
SHAPES: dict[str, Callable[[Target], Answer]] = {
    "a body of 32 MB": _raw(HUGE),
    "100,000 brackets": _raw(DEEP),
    "no body": _raw(b""),
    "half a body": _raw(b'{"model": "x", "messages": [{"role": "us'),
    "not a number": _raw(b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}'),
    "an exponent of a million": _raw(b'{"messages":[{"role":"user","content":"x"}],"temperature":1e1000000}'),
    "100,000 answers": _with(n=100_000),
    "-1 tokens": _with(max_tokens=-1),
    "10,000 stop strings": _with(stop=["x"] * 10_000),
    "a million alternatives": _with(logprobs=True, top_logprobs=1_000_000),
    "5,000 tools": _with(tools=TOOLS),
    "20,000 messages": lambda target: chat(target, [{"role": "user", "content": "x"}] * 20_000),
    "a prompt of a million words": lambda target: chat(target, "word " * 600_000),
    "a list where text belongs": _with(stop={"a": 1}),
}
TEXTS: dict[str, Callable[[Target], Answer]] = {
    "half a surrogate pair": _raw(b'{"messages":[{"role":"user","content":"\\ud800 x"}],"max_tokens":4}'),
    "a zero byte": lambda target: chat(target, "a\0b"),
    "direction overrides": lambda target: chat(target, "\u202e\u2066abc\u2069\u202c" * 50),
    "5,000 combining marks": lambda target: chat(target, "a" + "\u0301" * 5000, max_tokens=2),
    "noncharacters": lambda target: chat(target, "\uffff\ufdd0\U0010ffff"),
    "joined emoji": lambda target: chat(target, "👨‍👩‍👧‍👦🏳️‍🌈" * 40),
    "one word of 20,000 letters": lambda target: chat(target, "a" * 20_000, max_tokens=2),
}
BYTES: dict[str, bytes] = {
    "bytes that are no UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe\xc3("}]}',
    "UTF-16": '{"messages":[{"role":"user","content":"x"}]}'.encode("utf-16"),
    "two bodies": b'{"messages":[{"role":"user","content":"x"}]}{"messages":[]}',
}


def add() -> None:
    """Put these attacks on the list."""
    for name, ask in SHAPES.items():
        case("denial of service", name, _soon(ask, refused))
    for name, schema in SCHEMAS.items():
        case("schema bomb", name, _soon(_with(response_format=_format(schema)), survived))
    for name, ask in TEXTS.items():
        case("unicode", name, _soon(ask, survived))
    for name, raw in BYTES.items():
        case("unicode", name, _soon(_raw(raw), refused))
