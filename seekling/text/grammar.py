"""How answers are written, as data: the marks, separators and argument styles of each family's reasoning and tool calls.

One description serves three readers: the encoders that write a past answer into a prompt, `seekling.text.reply` that takes a
new one apart, and constrained generation. A string here is what the model writes; those that are control tokens of the
vocabulary become one token, the others ordinary text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seekling.text.special import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    CONTROL,
    DSML,
    THINK,
    THINK_END,
    TOOL_SEP,
)


@dataclass(frozen=True)
class Thinking:
    """``begin`` + lead + reasoning + trail + ``end`` + gap + the answer."""

    begin: str = THINK
    end: str = THINK_END
    lead: str = ""
    trail: str = ""
    gap: str = ""


@dataclass(frozen=True)
class MarkedCalls:
    """Calls between marks, arguments as JSON text: DeepSeek-V2.5 to V3.1.

    lead begin call NAME name_end ARGUMENTS call_end (between call …)* end
    """

    call: str = CALL_BEGIN
    name_end: str = TOOL_SEP
    call_end: str = CALL_END
    between: str = ""
    lead: str = ""
    begin: str = CALLS_BEGIN
    end: str = CALLS_END


def listed_texts(schema: Mapping[str, Any]) -> list[str]:
    """The texts a JSON schema lists; empty where it lists none, or anything else. Element calls write such texts bare."""
    found = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return found if isinstance(found, list) and all(isinstance(value, str) and value for value in found) else []


@dataclass(frozen=True)
class ElementCalls:
    """Calls as elements with one element a parameter: DeepSeek-V3.2 and V4 (DSML), MiniMax-M2, Qwen3-Coder.

        lead begin (call NAME name_end (parameter KEY key_end VALUE parameter_end)* call_end)* end

    Elements stand on lines of their own. With ``typed``, key_end is ``middle`` + true|false + ``key_end``: whether VALUE is
    plain text or JSON. Without it the tool's schema says so, and where there is none a value that reads as JSON is JSON.
    """

    begin: str
    end: str
    call: str
    name_end: str
    call_end: str
    parameter: str
    key_end: str
    parameter_end: str
    middle: str = ""
    lead: str = ""
    pad: str = ""  # around VALUE

    @property
    def typed(self) -> bool:
        return bool(self.middle)


@dataclass(frozen=True)
class JsonCalls:
    """A call is a JSON object with its name and arguments: Hermes and Qwen between two marks, Llama 3 as the whole answer."""

    begin: str = ""
    end: str = ""
    lead: str = ""
    between: str = ""
    arguments: str = "arguments"
    optional: str = ""  # a mark that may stand in front when the answer has no begin of its own


@dataclass(frozen=True)
class Channels:
    """gpt-oss (harmony): an answer is several messages, each with a channel and perhaps a recipient."""

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")
    reasoning: str = "analysis"
    answer: str = "final"
    prefix: str = "functions."


Calls = MarkedCalls | ElementCalls | JsonCalls


@dataclass(frozen=True)
class ReplyGrammar:
    """What an answer may consist of.

    Attributes:
        name: for people and for tests.
        thinking: None where the model has no reasoning.
        calls: the ways it may call tools.
        channels: set instead of the two for gpt-oss.
        ends: marks after which nothing of the answer follows.
    """

    name: str
    thinking: Thinking | None = None
    calls: tuple[Calls, ...] = ()
    channels: Channels | None = None
    ends: tuple[str, ...] = ()


def dsml(block: str) -> ElementCalls:
    """DSML with its block's name: "function_calls" in V3.2, "tool_calls" in V4."""
    return ElementCalls(
        begin=f"<{DSML}{block}>",
        end=f"</{DSML}{block}>",
        call=f'<{DSML}invoke name="',
        name_end='">',
        call_end=f"</{DSML}invoke>",
        parameter=f'<{DSML}parameter name="',
        middle='" string="',
        key_end='">',
        parameter_end=f"</{DSML}parameter>",
        lead="\n\n",
    )


FENCED = MarkedCalls(f"{CALL_BEGIN}function{TOOL_SEP}", "\n```json\n", f"\n```{CALL_END}", between="\n")
HERMES = JsonCalls("<tool_call>", "</tool_call>", lead="\n", between="\n")
LLAMA3 = JsonCalls(arguments="parameters", optional="<|python_tag|>")
MINIMAX_M2 = ElementCalls(
    begin="<minimax:tool_call>",
    end="</minimax:tool_call>",
    call='<invoke name="',
    name_end='">',
    call_end="</invoke>",
    parameter='<parameter name="',
    key_end='">',
    parameter_end="</parameter>",
    lead="\n",
)
QWEN_CODER = ElementCalls(
    begin="<tool_call>",
    end="</tool_call>",
    call="<function=",
    name_end=">",
    call_end="</function>",
    parameter="<parameter=",
    key_end=">",
    parameter_end="</parameter>",
    lead="\n\n",
    pad="\n",
)
LINES = Thinking(lead="\n", trail="\n", gap="\n\n")  # as R1, Qwen3 and most others write it

# Marks that some family's vocabulary has as a token of its own; where it has not, they are recognised in the text.
MARKS = frozenset(
    {*CONTROL, DSML, "<tool_call>", "</tool_call>", "<minimax:tool_call>", "</minimax:tool_call>", "<|python_tag|>"}
    | {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", *Channels().ends}
)
