"""Chat by the Jinja template of a model's folder, for every family without a built-in encoder."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from seekling.errors import DataError, raise_all
from seekling.text import grammar as g
from seekling.text.jinja import TemplateError, render, render_pieces, variables
from seekling.text.messages import Message, read_calls, read_tools
from seekling.text.special import CALLS_BEGIN, DSML, THINK, THINK_END, Mark

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython", "observation"}
TOOL_NAMES = {"tools", "builtin_tools", "custom_tools", "tool_list", "functions"}  # as templates call them
_REASONING = r"""\.(thinking|reasoning)\b|['"](thinking|reasoning)['"]\s*in\b|\[['"](thinking|reasoning)['"]\]"""
_PARAMETERS = {"type": "object", "properties": {"p": {"type": "string", "description": "d"}}, "required": ["p"]}
_EXAMPLE = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": _PARAMETERS}}]
Thinks = Literal["never", "always", "either"]


class TemplateChat:
    """The chat encoding of a model's own template.

    Attributes: ``name`` for people, ``grammar`` of its answers, ``thinks`` (whether reasoning can be chosen).
    """

    def __init__(self, tokenizer: "Tokenizer", template: str) -> None:
        self._template = template
        self._for_tools = tokenizer.templates.get("tool_use", template)
        self._control = tuple(tokenizer.special)
        self._trusted = _special_tokens(tokenizer)
        reads = re.search(_REASONING, template)  # gpt-oss calls it "thinking"
        self._reasoning_key = "" if reads is None or "reasoning_content" in template else next(filter(None, reads.groups()))
        self.grammar = _grammar(self._for_tools + template, tokenizer)
        self.name = f"the folder's chat template ({self.grammar.name})"

    @cached_property
    def _variables(self) -> frozenset[str]:
        return variables(self._template)

    @cached_property
    def _objects(self) -> bool:
        """Whether the template takes a call's arguments as an object (else as JSON text): tried out on an example."""
        call = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "f", "arguments": {"needle": "x"}}}
        messages = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "a1b2c3d4e", "name": "f"},
        ]
        try:
            context = {**self._base(), "messages": messages, "tools": _EXAMPLE, "add_generation_prompt": False}
            text = render(self._for_tools, context)
        except TemplateError as error:
            if error.kind != "failed":
                raise
            return False
        return "needle" in text and "'needle'" not in text

    @cached_property
    def _parts(self) -> bool:
        """Whether the template takes a message's content only as a list of parts (MiniMax-Text-01): tried out."""
        for parts in (False, True):
            content: Any = [{"type": "text", "text": "needle"}] if parts else "needle"
            context = {**self._base(), "messages": [{"role": "user", "content": content}], "add_generation_prompt": True}
            try:
                if "needle" in render(self._template, context):
                    return parts
            except TemplateError as error:
                if error.kind != "failed":
                    raise
        return False

    @cached_property
    def thinks(self) -> Thinks:
        """By the template's switch, or else by how it begins an answer."""
        if self._variables & {"enable_thinking", "thinking"} or self.grammar.channels is not None:
            return "either"
        if self.grammar.thinking is None:
            return "never"
        tail = self._probe().rstrip()
        return "always" if tail.endswith(THINK) or THINK_END in self._template else "never"

    def _probe(self) -> str:
        example = [{"role": "user", "content": [{"type": "text", "text": "q"}] if self._parts else "q"}]
        context = {**self._base(), "messages": example, "add_generation_prompt": True}
        try:
            return render(self._template, context)
        except TemplateError as error:  # some templates are for use with tools only
            if error.kind != "failed":
                raise
            return render(self._template, {**context, "tools": _EXAMPLE})

    def _base(self) -> dict[str, Any]:
        return {"tools": None, "documents": None, **self._trusted}

    def pieces(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> list[str]:
        """Text and `Mark` pieces (arguments as in `Tokenizer.encode_chat`).

        Raises:
            DataError: messages of an unknown form, something this template does not know, or its own refusal.
        """
        functions = read_tools(tools)
        template = self._for_tools if functions else self._template
        given = self._messages(messages, continue_final)
        self._check(template, bool(functions), thinking, reasoning_effort)
        end = f"{secrets.randbelow(10**30):030d}"  # where the text to be continued ends: a number no text can guess
        if continue_final:
            given[-1] = {**given[-1], "content": given[-1]["content"] + end}
        if self._parts:
            given = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in given]
        ours: dict[str, Any] = {**self._base(), "add_generation_prompt": add_generation_prompt}
        if "enable_thinking" in self._variables:
            ours["enable_thinking"] = thinking
        if "thinking" in self._variables:
            ours["thinking"] = thinking
        if reasoning_effort is not None:
            ours["reasoning_effort"] = reasoning_effort
        user: dict[str, Any] = {"messages": given}
        if functions:
            ours.pop("tools")
            user["tools"] = [dict(tool) for tool in tools or ()]
        pieces = render_pieces(template, user, ours, self._control)
        if continue_final:
            return _cut(pieces, end)
        return pieces + self._answer_begin(pieces, thinking) if add_generation_prompt else pieces

    # ---- checks --------------------------------------------------------------------------------------------------

    def _messages(self, messages: Any, continue_final: bool) -> list[dict[str, Any]]:
        """Messages as templates expect them."""
        problems: list[str] = []
        given: list[dict[str, Any]] = []
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise DataError(f"messages: must be a list of messages, not a {type(messages).__name__}")
        if not messages:
            raise DataError("messages: the list is empty: give at least one message")
        for index, message in enumerate(messages):
            if not isinstance(message, Mapping):
                problems.append(f"message {index} is a {type(message).__name__}, not an object with role and content")
                continue
            if message.get("role") not in ROLES:
                problems.append(f"message {index} has role {message.get('role')!r}; known are {', '.join(sorted(ROLES))}")
            fields = {key: value for key, value in message.items() if value is not None}
            content = fields.setdefault("content", "" if fields.keys() & {"tool_calls", "reasoning_content"} else None)
            if not isinstance(content, str):
                problems.append(f"message {index} has no text: 'content' must be a string")
            if self._reasoning_key and "reasoning_content" in fields:
                fields[self._reasoning_key] = fields["reasoning_content"]
            if "tool_calls" in fields:
                calls, wrong = read_calls(fields["tool_calls"])
                problems += [f"message {index} {problem}" for problem in wrong]
                fields["tool_calls"] = [self._call(call.name, call.arguments, call.id) for call in calls]
            given.append(fields)
        if continue_final and given and (given[-1].get("role") != "assistant" or given[-1].get("tool_calls")):
            problems.append(
                f"message {len(given) - 1} cannot be continued: the last must be the assistant's, without tool calls"
            )
        raise_all(DataError, problems, "messages")
        return given

    def _call(self, name: str, arguments: str, call_id: str) -> dict[str, Any]:
        value: Any = arguments
        if self._objects:
            try:
                value = json.loads(arguments)
            except ValueError:
                raise DataError(f"the arguments of the call of {name!r} are no JSON: {arguments[:80]!r}") from None
        call = {"type": "function", "function": {"name": name, "arguments": value}}
        return {"id": call_id, **call} if call_id else call

    def _check(self, template: str, tools: bool, thinking: bool, effort: str | None) -> None:
        if tools and not self._variables_of(template) & TOOL_NAMES:
            raise DataError("this model's chat template knows no tools: ask without them")
        if thinking and self.thinks == "never":
            raise DataError("this model's chat template has no thinking: ask without it")
        if effort is not None and "reasoning_effort" not in self._variables:
            raise DataError("this model's chat template does not know reasoning_effort: leave it out")

    def _variables_of(self, template: str) -> frozenset[str]:
        return self._variables if template == self._template else variables(template)

    # ---- the beginning of the answer -----------------------------------------------------------------------------

    def _answer_begin(self, pieces: list[str], thinking: bool) -> list[str]:
        """What turns thinking off where the template has no switch for it: an empty thought, or the final channel."""
        style, channels = self.grammar.thinking, self.grammar.channels
        if thinking or "enable_thinking" in self._variables or "thinking" in self._variables:
            return []
        if channels is not None:
            return [self._mark(channels.channel), channels.answer, self._mark(channels.message)]
        if style is None or self.thinks != "always":
            return []
        tail = "".join(pieces[-3:])
        written = len(tail) - len(tail.rstrip())
        if tail.rstrip().endswith(style.begin):
            return ["\n" * max(0, 2 - written), self._mark(style.end), "\n\n"]
        return [self._mark(style.begin), "\n\n", self._mark(style.end), "\n\n"]

    def _mark(self, text: str) -> str:
        return Mark(text) if text in self._control else text


def _cut(pieces: list[str], end: str) -> list[str]:
    """The pieces before the place where the last message's text ends."""
    for index in range(len(pieces) - 1, -1, -1):
        if end in pieces[index]:
            last = pieces[index][: pieces[index].rindex(end)]
            return pieces[:index] + ([last] if last else [])
    raise DataError("this model's chat template changes the last message so that it cannot be continued")


def _special_tokens(tokenizer: "Tokenizer") -> dict[str, Any]:
    """Variables like bos_token, as Hugging Face gives them to templates."""
    found: dict[str, Any] = {}
    for key, value in tokenizer.settings.items():
        if key.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[key] = text
    for key, number in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id)):
        if key not in found and number is not None:
            found[key] = tokenizer.token_bytes(number).decode("utf-8", "replace")
    return found


def _grammar(text: str, tokenizer: "Tokenizer") -> g.ReplyGrammar:
    """What answers may consist of, judged by what the template writes of past ones."""
    if "<|channel|>" in text and "<|message|>" in text:
        return g.ReplyGrammar("gpt-oss", channels=g.Channels())
    calls: list[g.Calls] = []
    if "minimax:tool_call" in text:
        calls.append(g.MINIMAX_M2)
    if DSML in text:
        calls.append(g.dsml("function_calls" if "function_calls" in text else "tool_calls"))
    if "<function=" in text:
        calls.append(g.QWEN_CODER)
    if "<tool_call>" in text and '"name"' in text:
        calls.append(g.HERMES)
    if CALLS_BEGIN in text:
        calls.append(g.FENCED if "```json" in text else g.MarkedCalls())
    if '"parameters"' in text and "<|start_header_id|>" in text and not calls:
        calls.append(g.LLAMA3)
    thinks = THINK in text or THINK in tokenizer.special
    names = {id(g.MINIMAX_M2): "MiniMax-M2", id(g.HERMES): "Hermes", id(g.QWEN_CODER): "Qwen-Coder", id(g.LLAMA3): "Llama 3"}
    name = ", ".join([names.get(id(style), "DeepSeek") for style in calls]) or "no tools"
    return g.ReplyGrammar(name, g.LINES if thinks else None, tuple(calls))
