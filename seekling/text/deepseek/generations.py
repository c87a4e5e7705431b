"""What distinguishes DeepSeek's generations, as data.

| generation | models | thinking | calls | reasoning of past answers |
|---|---|---|---|---|
| v2 | V2, V2-Lite, Coder-V2 | no | no | – |
| v2.5 | V2.5 | no | fenced JSON | – |
| v3 | V3, V3-0324 | no | fenced JSON | – |
| r1 | R1, R1-0528, distilled models | always | fenced JSON | dropped, but for the last message's |
| v3.1 | V3.1, and every model trained here | on demand | bare JSON, without thinking | kept after the last question |
| v3.2 | V3.2 | on demand | DSML | kept after the last question, tool results included |
| v4 | V4 | on demand, effort "max" | DSML | kept after the last question; with tools always |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from seekling.text.deepseek import tools
from seekling.text.grammar import FENCED, LINES, MarkedCalls, ReplyGrammar, Thinking, dsml
from seekling.text.special import EOS, OUTPUT_BEGIN, OUTPUT_END, OUTPUTS_BEGIN, OUTPUTS_END

ToolsText = Callable[[Sequence[Mapping[str, Any]]], tuple[str, str]]


@dataclass(frozen=True)
class Outputs:
    """How tool results are written: ``begin (item RESULT item_end between …)* end``."""

    begin: str = ""
    end: str = ""
    item: str = OUTPUT_BEGIN
    item_end: str = OUTPUT_END
    between: str = ""


@dataclass(frozen=True)
class Generation:
    """One generation's chat format.

    Attributes:
        name: "v2" … "v4".
        flow: how messages follow one another: "plain" (V2's words instead of marks), "marked" (V2.5 to V3.1),
            "v3.2" and "v4".
        reply: what an answer may consist of.
        thinks: whether reasoning can be chosen ("either"), always comes ("always") or never.
        outputs: None where there are no tools.
        tools: the text that declares tools in the system message.
        tools_while_thinking: False where the publisher says tools need thinking off.
        efforts: values of ``reasoning_effort`` it knows.
        content_may_think: an answer given as ``<think>…</think>…`` in one string is split, as its template does.
    """

    name: str
    flow: Literal["plain", "marked", "v3.2", "v4"]
    reply: ReplyGrammar
    thinks: Literal["never", "always", "either"] = "never"
    outputs: Outputs | None = None
    tools: ToolsText | None = None
    tools_while_thinking: bool = True
    efforts: tuple[str, ...] = ()
    content_may_think: bool = False


_OUTPUTS = Outputs(OUTPUTS_BEGIN, OUTPUTS_END, between="\n")
_ENDS = (EOS,)

GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v2", "plain", ReplyGrammar("deepseek-v2", ends=_ENDS)),
        Generation(
            "v2.5", "marked", ReplyGrammar("deepseek-v2.5", calls=(FENCED,), ends=_ENDS), "never", _OUTPUTS, tools.listed
        ),
        Generation("v3", "marked", ReplyGrammar("deepseek-v3", calls=(FENCED,), ends=_ENDS), "never", _OUTPUTS, tools.listed),
        Generation(
            "r1",
            "marked",
            ReplyGrammar("deepseek-r1", LINES, (FENCED,), ends=_ENDS),
            "always",
            Outputs(OUTPUTS_BEGIN, OUTPUTS_END),
            tools.listed,
            content_may_think=True,
        ),
        Generation(
            "v3.1",
            "marked",
            ReplyGrammar("deepseek-v3.1", Thinking(), (MarkedCalls(),), ends=_ENDS),
            "either",
            Outputs(),
            tools.v31,
            tools_while_thinking=False,
            content_may_think=True,
        ),
        Generation(
            "v3.2",
            "v3.2",
            ReplyGrammar("deepseek-v3.2", Thinking(), (dsml("function_calls"),), ends=_ENDS),
            "either",
            Outputs("\n\n<function_results>", "\n</function_results>\n\n", "\n<result>", "</result>"),
            tools.v32,
        ),
        Generation(
            "v4",
            "v4",
            ReplyGrammar("deepseek-v4", Thinking(), (dsml("tool_calls"),), ends=_ENDS),
            "either",
            Outputs(item="<tool_result>", item_end="</tool_result>", between="\n\n"),
            tools.v4,
            efforts=("high", "max"),
        ),
    )
}

# Models trained here: V3.1's format, where an answer's text is text whatever it holds.
OWN = replace(GENERATIONS["v3.1"], content_may_think=False)
