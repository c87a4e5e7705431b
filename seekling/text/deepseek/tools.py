"""The texts that declare tools to DeepSeek's models, word for word as each generation was trained with.

Sources: the model cards of V2.5 (used for V3 and R1 too, whose templates declare none) and V3.1, the encoding of V3.2 and V4.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seekling.text.messages import to_json
from seekling.text.special import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, DSML, THINK, THINK_END, TOOL_SEP

Functions = Sequence[Mapping[str, Any]]
PLACE = "\ue000"  # where the declarations go; they are the caller's text, the rest is ours

LISTED = f"## Tools\n\n### Function\n\nYou have the following functions available:\n\n{PLACE}"

V31 = f"""\
## Tools
You have access to the following tools:

{PLACE}

IMPORTANT: ALWAYS adhere to this exact format for tool use:
{CALLS_BEGIN}{CALL_BEGIN}tool_call_name{TOOL_SEP}tool_call_arguments{CALL_END}{{additional_tool_calls}}{CALLS_END}

Where:
- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces"""

V32 = f"""\
## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{DSML}function_calls>" block like the following as part of your reply to the user:
<{DSML}function_calls>
<{DSML}invoke name="$FUNCTION_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$FUNCTION_NAME2">
...
</{DSML}invoke>
</{DSML}function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use \
JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, \
booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:

<{DSML}function_calls>
...
</{DSML}function_calls>

<function_results>
...
</function_results>

{THINK}...thinking about results{THINK_END}

Here are the functions available in JSONSchema format:
<functions>
{PLACE}
</functions>
"""

V4 = f"""\
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside {THINK}...{THINK_END} \
BEFORE any tool calls or final response.

Otherwise, output directly after {THINK_END} with tool calls or final response.

### Available Tool Schemas

{PLACE}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""

MAX_EFFORT = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, "
    "and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n"
)


def listed(functions: Functions) -> tuple[str, str]:
    """V2.5, V3, R1: (our text with a place in it, the caller's declarations)."""
    return LISTED, "\n".join(
        f"- `{f['name']}`:\n```json\n{json.dumps(f, ensure_ascii=False, indent=4)}\n```" for f in functions
    )


def v31(functions: Functions) -> tuple[str, str]:
    """V3.1: name, description and parameters of each."""
    return V31, "\n\n".join(
        f"### {f['name']}\nDescription: {f.get('description', '')}\n\nParameters: {to_json(f.get('parameters', {}))}"
        for f in functions
    )


def v32(functions: Functions) -> tuple[str, str]:
    """V3.2: one JSON object a line."""
    return V32, "\n".join(map(to_json, functions))


def v4(functions: Functions) -> tuple[str, str]:
    """V4: one JSON object a line."""
    return V4, "\n".join(map(to_json, functions))
