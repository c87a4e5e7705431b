"""Writes deepseek.json: conversations, the strings that DeepSeek's published templates and encoders make of them, and the ids
of the models' own tokenizers. Run by hand; it needs those files, which are not part of the project.

    python tests/golden/text/make.py FOLDERS ENCODING_V32

FOLDERS: a folder with deepseek-v2, -v2.5, -v3, -r1, -v3.1, -v3.2 and -v4 in it, each with tokenizer.json and
tokenizer_config.json, deepseek-v4 with encoding_dsv4.py. ENCODING_V32: the file of V3.2's encoding.
"""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import jinja2
import tokenizers

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
SYSTEM = {"role": "system", "content": "You are a careful assistant."}
ASK = {"role": "user", "content": "What is 17 × 23?  Answer in one line.\n"}
THOUGHT = {"role": "assistant", "content": "391", "reasoning_content": "17 × 20 = 340, 17 × 3 = 51."}
AGAIN = {"role": "user", "content": "你好！🙂 And in Köln\tthe weather?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city — 天气.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function",
     "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]  # fmt: skip


def call(number: str, name: str, arguments: dict) -> dict:
    return {
        "id": number,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }


CALLS = {
    "role": "assistant",
    "content": "I look.",
    "reasoning_content": "Two calls will do.",
    "tool_calls": [
        call("c1", "get_weather", {"city": 'Köln "Mitte"\n', "days": 3, "x": [1, {"y": None}]}),
        call("c2", "now", {}),
    ],
}
SUN, TIME = (
    {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "clear"}'},
    {"role": "tool", "tool_call_id": "c2", "content": "12:30"},
)
DONE = {"role": "assistant", "content": "Clear sky.", "reasoning_content": "So it is clear."}
TALKS = {
    "question": [ASK],
    "system": [SYSTEM, ASK],
    "turns": [SYSTEM, ASK, THOUGHT, AGAIN],
    "answered": [SYSTEM, ASK, THOUGHT, AGAIN, DONE],
    "results": [SYSTEM, ASK, THOUGHT, AGAIN, CALLS, SUN, TIME],
    "after results": [SYSTEM, AGAIN, CALLS, SUN, TIME, DONE, ASK],
    "no content": [AGAIN, {**CALLS, "content": None}, SUN, TIME],
}


def without(messages: list[dict], *keys: str) -> list[dict]:
    return [{key: value for key, value in message.items() if key not in keys} for message in messages]


def cases():
    """(generation, talk, messages, options)."""
    for name in ("question", "system", "turns"):
        for generation in ("v2", "v2.5", "v3", "r1", "v3.1", "v3.2", "v4"):
            thinks = {"r1": (True,), "v3.1": (False, True), "v3.2": (False, True), "v4": (False, True)}.get(
                generation, (False,)
            )
            for thinking in thinks:
                yield generation, name, TALKS[name], {"thinking": thinking}
    for name in ("results", "after results", "no content"):
        for thinking in (False, True):
            yield "v3.2", name, TALKS[name], {"thinking": thinking, "tools": TOOLS}
            for tools in (None, TOOLS):
                yield "v4", name, TALKS[name], {"thinking": thinking, "tools": tools}
        yield "v3.1", name, without(TALKS[name], "reasoning_content"), {}
    yield "r1", "results", without(TALKS["results"], "reasoning_content"), {"thinking": True}
    for generation in ("v2.5", "v3"):  # with one call, with content, or a second time their templates lose marks
        yield generation, "no content", without(TALKS["no content"], "reasoning_content"), {}
    for generation in ("v2", "v2.5", "v3", "v3.1"):
        yield generation, "answered", without(TALKS["answered"], "reasoning_content"), {"add_generation_prompt": False}
    yield "v4", "turns", TALKS["turns"], {"thinking": True, "reasoning_effort": "max"}
    yield "v4", "answered", TALKS["answered"], {"thinking": True, "add_generation_prompt": False}


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main(folders: Path, v32: Path) -> None:
    encoders = {"v3.2": module(v32), "v4": module(folders / "deepseek-v4/encoding_dsv4.py")}
    out = []
    for generation, name, messages, options in cases():
        folder = folders / f"deepseek-{generation}"
        given = copy.deepcopy(messages)
        if generation in encoders:
            if options.get("tools"):
                if given[0]["role"] != "system":
                    given.insert(0, {"role": "system", "content": ""})
                given[0]["tools"] = options["tools"]
            extra = {"reasoning_effort": options["reasoning_effort"]} if "reasoning_effort" in options else {}
            text = encoders[generation].encode_messages(given, "thinking" if options.get("thinking") else "chat", **extra)
        else:
            template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
            environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
            options.setdefault("add_generation_prompt", True)
            for message in given:
                message.setdefault("content", None)
            text = environment.from_string(template).render(messages=given, bos_token=BOS, eos_token=EOS, **options)
        ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        out.append({"generation": generation, "talk": name, "messages": messages, "options": options, "text": text, "ids": ids})
    path = Path(__file__).with_name("deepseek.json")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in out)
    path.write_text(f"[\n{lines}\n]\n", "utf-8")
    print(f"{len(out)} cases, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
