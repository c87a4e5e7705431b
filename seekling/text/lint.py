"""What is suspicious about a chat template, for people to look at before they trust a model folder."""

import re
from collections.abc import Iterable, Iterator

from seekling.text.jinja import TemplateError, variables

_LINES = (
    (re.compile(r"https?://|www\."), "names an address on the network"),
    (re.compile(r"\b(ignore|disregard|forget)\b[^.\n]{0,40}\b(previous|above|prior|all)\b", re.I),
     "tells the model to ignore what it was told"),
    (re.compile(r"__\w+__|\battr\s*\("), "reaches for Python's own attributes"),
    (re.compile(r"\b(password|api[_ ]?key|secret)s?\b", re.I), "speaks of secrets"),
    (re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]|[\U000e0000-\U000e007f]"), "holds invisible characters"),
    (re.compile(r"[A-Za-z0-9+/]{120,}={0,2}"), "holds a long run of encoded text"),
)  # fmt: skip
_ASSIGNED = re.compile(r"\{%[-+]?\s*(?:set|macro|for)\s+(?:\w+\s*,\s*)?(\w+)")
# Variables that transformers and this project give to templates, or that published ones read.
_KNOWN = frozenset(
    "messages tools documents add_generation_prompt bos_token eos_token pad_token unk_token sep_token cls_token mask_token "
    "enable_thinking thinking thinking_mode reasoning_effort strftime_now raise_exception namespace range dict builtin_tools "
    "custom_tools tools_in_user_message date_string today model_identity functions xml_tools python_tools preserve_thinking "
    "add_vision_id system_message keep_past_thinking clear_thinking".split()
)


def lint_template(template: str, control: Iterable[str] = ()) -> Iterator[str]:
    """One line for each thing to look at; none where there is nothing.

    Args:
        control: the vocabulary's control tokens. One that the template compares with users' text is told, because text that
            imitates it could steer the template (this project keeps such text text, other programs may not).
    """
    try:
        unknown = variables(template) - _KNOWN - set(_ASSIGNED.findall(template))  # some are set on one branch only
    except TemplateError as error:
        yield str(error)
        return
    for number, line in enumerate(template.split("\n"), 1):
        for pattern, what in _LINES:
            if pattern.search(line):
                yield f"line {number} {what}"
    if unknown:
        yield f"reads variables that nobody sets: {', '.join(sorted(unknown))}"
    for token in sorted(set(control)):
        quoted = rf"['\"]{re.escape(token)}['\"]"
        searched = rf"{quoted}\s*(not\s+)?in\s|(split|startswith|endswith|find|replace)\(\s*{quoted}"
        if re.search(searched, template):
            yield f"special token from text: looks for {token!r} in what people write"
