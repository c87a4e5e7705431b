"""From a request's fields to a `Job`: messages tidied, limits kept, contradictions refused by the names of the fields."""

import json
from collections.abc import Hashable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

from seekling.engine.constrain import Constraint
from seekling.engine.sampling import Sampling
from seekling.engine.toolgrammar import tool_constraint
from seekling.errors import DataError, SeeklingError
from seekling.serve.answers import Job
from seekling.serve.failures import ApiError
from seekling.serve.fields import ChatRequest, Drawing
from seekling.serve.model import Model
from seekling.serve.state import Server
from seekling.text.messages import read_tools

SILENT = {"refusal", "annotations", "audio", "function_call"}  # what a client's own answers hold, empty
FORM_KEYS = {"json_object": {"schema"}, "json_schema": {"json_schema"}}  # a schema beside json_object: llama.cpp's form
LOW_BUDGET = 512  # reasoning tokens of effort "low" where the model's format has no word for it


def bad(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", param=param)


def only_keys(value: Mapping[str, Any], known: Set[str], where: str) -> None:
    """Refuse what nothing here would obey, by its name; what is empty, false or null asks for nothing."""
    for key in sorted(key for key in value if key not in known and value[key]):
        raise bad(f"{where}.{key}", "this server does not support this field")


def tenant_of(who: Hashable, user_id: str | None, salt: str | None) -> Hashable:
    """Who shares cached prompts with whom: nobody across keys, `user_id`s or salts."""
    return (who, user_id, salt) if (who, user_id, salt) != (None, None, None) else None


# ---- messages --------------------------------------------------------------------------------------------------------


def tidy(server: Server, messages: list[dict[str, Any]], tenant: Hashable) -> tuple[list[dict[str, Any]], bool]:
    """Messages as the encoders take them, and whether the last one is to be continued (DeepSeek's ``prefix``)."""
    if len(messages) > server.limits.messages:
        raise bad("messages", f"{len(messages)} of them, this server takes at most {server.limits.messages}")
    out = [_message(server, message, number, tenant) for number, message in enumerate(messages)]
    prefix = [number for number, message in enumerate(out) if message.pop("prefix", None)]
    if prefix and (prefix != [len(out) - 1] or out[-1].get("role") != "assistant"):
        raise bad("messages", "'prefix' belongs to the last message only, which must be the assistant's")
    return out, bool(prefix)


def _message(server: Server, message: dict[str, Any], number: int, tenant: Hashable) -> dict[str, Any]:
    out = {key: value for key, value in message.items() if value is not None}
    if not isinstance(out.get("role"), str):
        raise bad(f"messages.{number}.role", "must be a word")
    if not isinstance(out.get("prefix", False), bool):
        raise bad(f"messages.{number}.prefix", "must be true or false")
    if not isinstance(out.get("tool_calls", []), list):
        raise bad(f"messages.{number}.tool_calls", "must be a list")
    for key in SILENT & out.keys():
        if out.pop(key):
            raise bad(f"messages.{number}.{key}", "this server does not support this field")
    if out.get("role") == "developer":
        out["role"] = "system"
    if "reasoning" in out:  # the other spelling
        reasoning = out.pop("reasoning")
        if out.setdefault("reasoning_content", reasoning) != reasoning:
            raise bad(f"messages.{number}", "reasoning and reasoning_content differ: send one of them")
    if isinstance(out.get("content"), list):
        out["content"] = "".join(_parts(out["content"], f"messages.{number}.content"))
    if out.get("role") == "assistant" and "reasoning_content" not in out:
        for call in out.get("tool_calls") or ():
            call_id = call.get("id") if isinstance(call, dict) else None
            kept = server.remembered.get(tenant, call_id) if isinstance(call_id, str) else None
            if kept:
                out["reasoning_content"] = kept
                break
    out.pop("name", None)  # of a participant: no format of these models writes it
    if not out.get("tool_calls", True):
        del out["tool_calls"]
    return out


def _parts(parts: list[Any], where: str) -> Iterator[str]:
    for place, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            raise bad(f"{where}.{place}", f"a part of type {kind!r}: this server reads text only")
        only_keys(part, {"type", "text"}, f"{where}.{place}")
        yield part["text"]


# ---- sampling --------------------------------------------------------------------------------------------------------


def drawing(server: Server, body: Drawing, room: int, **more: Any) -> Sampling:
    """The request's `Sampling`; everything wrong with it in one 400."""
    limits = server.limits
    wanted = more.pop("max_tokens", None)
    wanted = body.max_tokens if wanted is None else wanted
    most = min(room, limits.max_tokens or room)
    if wanted is not None and limits.max_tokens and wanted > limits.max_tokens:
        raise bad("max_tokens", f"{wanted}, this server gives at most {limits.max_tokens}")
    if (body.n or 1) > limits.n:
        raise bad("n", f"{body.n}, this server gives at most {limits.n}")
    if body.stream_options is not None and not body.stream:
        raise bad("stream_options", "only with stream=true")
    given = {
        name: getattr(body, name)
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "n",
        )
        if getattr(body, name) is not None
    }
    if body.seed is not None:
        given["seed"] = body.seed % (1 << 62)
    more |= {"logit_bias": _bias(body.logit_bias), "watermark": server.barriers.watermark}
    return Sampling(max_tokens=most if wanted is None else wanted, **given, **more)


def stops(server: Server, body: Drawing) -> tuple[str, ...]:
    """The stop strings."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    limits = server.limits
    if len(stop) > limits.stop or any(not s or len(s) > limits.stop_chars for s in stop):
        raise bad("stop", f"give at most {limits.stop} strings of 1 to {limits.stop_chars} characters")
    return stop


def _bias(bias: Mapping[str, float] | None) -> dict[int, float]:
    try:
        return {int(token): value for token, value in (bias or {}).items()}
    except ValueError:
        raise bad("logit_bias", "its keys must be token ids") from None


def room_for(model: Model, ids: list[int], param: str = "messages", spare: int = 1) -> int:
    """Tokens the context has left after a prompt. Raises ApiError with both counts where there are less than ``spare``."""
    context = model.engine.context
    if len(ids) + spare > context:
        free = " and one must stay free" if spare else ""
        message = f"the prompt has {len(ids)} tokens; the context holds {context}{free}: shorten the prompt"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    return context - len(ids)


# ---- chat ------------------------------------------------------------------------------------------------------------


def chat_job(server: Server, body: ChatRequest, who: Hashable) -> Job:
    """Everything a chat request asks for. May take a while (templates, grammars): call it in a worker thread.

    Raises:
        ApiError, SeeklingError: what is wrong, as a 400.
    """
    model = server.find(body.model)
    tenant = tenant_of(who, body.user_id, body.cache_salt)
    messages, prefix = tidy(server, body.messages, tenant)
    notes: list[str] = []
    tools, choice = _tools(server, body)
    messages = server.barriers.messages(messages, notes, who, tools or ())
    if body.top_logprobs and not body.logprobs:
        raise bad("top_logprobs", "only with logprobs=true")
    if body.return_experts and not body.logprobs:
        raise bad("return_experts", "only with logprobs=true, in whose entries they stand")
    if body.return_experts and not model.moe_layers:
        raise bad("return_experts", "this model is dense, it has no experts: leave it out")
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise bad("max_completion_tokens", "differs from max_tokens: send one of them")
    thinking, effort, budget = _thinking(model, body)
    ids = encode_chat(model, messages, tools, thinking, prefix, effort)
    constraint, early = _constraint(server, model, body, tools, choice)
    if constraint is not None and prefix:
        raise bad("messages", "a prefix cannot be continued under response_format or tool_choice")
    sampling = drawing(
        server,
        body,
        room_for(model, ids),
        max_tokens=body.max_completion_tokens,
        logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs or 0,
        experts=bool(body.return_experts),
        constraint=constraint,
        thinking_budget=budget,
    )
    system = tuple(m["content"] for m in messages if m["role"] == "system" and isinstance(m.get("content"), str))
    return Job(
        model,
        ids,
        sampling,
        stops(server, body),
        tools,
        early,
        tenant,
        model.adapter(body.model),
        who,
        tuple(notes),
        system,
    )


def encode_chat(
    model: Model,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    thinking: bool = False,
    prefix: bool = False,
    effort: str | None = None,
) -> list[int]:
    """Token ids; an effort the model's format has no word for is left out (its budget stays)."""
    options: dict[str, Any] = {"tools": tools, "thinking": thinking, "continue_final": prefix}
    try:
        try:
            return model.tokenizer.encode_chat(messages, **options, reasoning_effort=effort)
        except DataError as error:
            if effort is None or "reasoning_effort" not in str(error):
                raise
            return model.tokenizer.encode_chat(messages, **options)
    except DataError as error:
        raise ApiError(400, str(error), param="messages") from None


def _thinking(model: Model, body: ChatRequest) -> tuple[bool, str | None, int | None]:
    """Whether to think, the effort's word, and the most tokens of reasoning."""
    said: dict[str, bool] = {}
    if body.thinking is not None and body.thinking.type in ("enabled", "disabled"):
        said["thinking"] = body.thinking.type == "enabled"
    if body.reasoning_effort is not None:
        said["reasoning_effort"] = body.reasoning_effort != "none"
    for name, value in (body.chat_template_kwargs or {}).items():
        said[f"chat_template_kwargs.{name}"] = value
    if len(set(said.values())) > 1:
        raise bad(", ".join(said), "one asks for thinking and another for none")
    thinks = model.tokenizer.chat.thinks
    thinking = next(iter(said.values()), thinks == "always")
    if thinking and thinks == "never":
        raise bad(", ".join(said), "this model does not think: leave it out")
    effort = {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}.get(
        body.reasoning_effort or "", body.reasoning_effort
    )
    budget = body.thinking.budget_tokens if body.thinking is not None else None
    if budget is None and effort == "low":
        budget = LOW_BUDGET
    return thinking, effort if thinking else None, budget if thinking else None


def _tools(server: Server, body: ChatRequest) -> tuple[list[dict[str, Any]] | None, str]:
    """The tools to declare, and "auto", "required" or the name of the one to be called."""
    choice = body.tool_choice
    if not body.tools:
        if choice not in (None, "none", "auto"):
            raise bad("tool_choice", "there are no tools")
        return None, "auto"
    if len(body.tools) > server.limits.tools:
        raise bad("tools", f"{len(body.tools)} of them, this server takes at most {server.limits.tools}")
    functions = read_tools(body.tools)
    for number, (tool, function) in enumerate(zip(body.tools, functions, strict=True)):
        only_keys(tool, {"type", "function"}, f"tools.{number}")
        only_keys(function, {"name", "description", "parameters", "strict"}, f"tools.{number}.function")
        _size(server, function.get("parameters"), f"tools.{number}.function.parameters")
    if isinstance(choice, dict):
        named = choice.get("function") if choice.get("type") == "function" else None
        only_keys(choice, {"type", "function"}, "tool_choice")
        name = named.get("name") if isinstance(named, dict) else None
        if name not in [function["name"] for function in functions]:
            raise bad("tool_choice", f"names {name!r}, which is none of the tools")
        return body.tools, str(name)
    if choice not in (None, "none", "auto", "required"):
        raise bad("tool_choice", f"{choice!r}: give none, auto, required or a function's name")
    return (None, "auto") if choice == "none" else (body.tools, choice or "auto")


def _constraint(
    server: Server, model: Model, body: ChatRequest, tools: list[dict[str, Any]] | None, choice: str
) -> tuple[Constraint | None, bool]:
    """What binds the answer, and whether tool calls in it cannot be broken."""
    form = body.response_format or {}
    kind = form.get("type", None if form else "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise bad("response_format.type", f"{kind!r}: give text, json_object or json_schema")
    only_keys(form, {"type"} | FORM_KEYS.get(kind, set()), "response_format")
    strict = any(tool["function"].get("strict") for tool in tools or ())
    if tools and (choice != "auto" or strict):
        if kind != "text":
            raise bad("response_format", "contradicts the tools, which must be called: send one of them")
        plain = [{**tool, "function": {k: v for k, v in tool["function"].items() if k != "strict"}} for tool in tools]
        parallel = body.parallel_tool_calls is not False
        return tool_constraint(model.tokenizer, plain, choice, parallel=parallel), True
    if tools and body.parallel_tool_calls is False:
        try:
            return tool_constraint(model.tokenizer, tools, "auto", parallel=False), True
        except SeeklingError as error:
            raise bad("parallel_tool_calls", f"cannot be enforced here ({error})") from None
    if kind == "text":
        return None, False
    if tools:
        raise bad("response_format", "contradicts tools: send one of them, or tool_choice=none")
    where, wanted = "response_format", body.response_format
    if kind == "json_object" and form.get("schema") is None:
        return Constraint.json_object(), False
    if kind == "json_schema":
        where, wanted = "response_format.json_schema", form.get("json_schema")
        only_keys(wanted if isinstance(wanted, dict) else {}, {"name", "description", "schema", "strict"}, where)
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if not isinstance(schema, dict):
        raise bad(f"{where}.schema", "is missing" if schema is None else "must be an object")
    _size(server, schema, f"{where}.schema")
    try:
        return Constraint.json_schema(schema), False
    except SeeklingError as error:
        raise bad("response_format", str(error)) from None


def _size(server: Server, schema: Any, where: str) -> None:
    limits = server.limits
    if len(json.dumps(schema)) > limits.schema_bytes:
        raise bad(where, f"is larger than {limits.schema_bytes} bytes")
    if _depth(schema) > limits.schema_depth:
        raise bad(where, f"is nested deeper than {limits.schema_depth}")


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(item) for item in inner), default=0) if isinstance(value, dict | list) else 0


def only_one(job: Job) -> Job:
    """The same for surfaces without ``n``."""
    return replace(job, sampling=replace(job.sampling, n=1))
