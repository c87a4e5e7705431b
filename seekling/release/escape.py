"""Foreign text inside Markdown: names, licences and model output must not become markup, HTML or terminal commands."""

import re

CONTROL_PICTURES = 0x2400
LONGEST_SAMPLE = 2000
ABSOLUTE = re.compile(r"(?<![\w./:-])/(?:[^/\s'\"]+/)+([^/\s'\"]+)")
# Characters that turn the reading direction or hide; they can make a text look like another.
HIDDEN = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """Text with every control character shown, not obeyed; line break and tab stay.

    >>> visible("a\\x1b[31m\\r")
    'a␛[31m␍'
    """
    text = "".join(_shown(c) if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)
    return HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def _shown(char: str) -> str:
    if char in "\n\t":
        return char
    if ord(char) < 32:
        return chr(CONTROL_PICTURES + ord(char))
    return "␡" if char == "\x7f" else f"<U+{ord(char):04X}>"


def scrubbed(text: str) -> str:
    """Text without paths of this machine: only their last part stays.

    >>> scrubbed("seekling pretrain --data /home/me/tales and/or 3/4")
    'seekling pretrain --data tales and/or 3/4'
    """
    return ABSOLUTE.sub(r"\1", text)


def inline(text: object) -> str:
    """Text for a line or a table cell: one line, nothing in it is markup."""
    line = " ".join(visible(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)  # snake_case is no emphasis
    return re.sub(r"^(\d*)([-+](?= |$)|--|==|(?<=\d)[.)](?= |$))", r"\1\\\2", line)  # nor is "1. " a list


def fence(text: str, language: str = "text") -> str:
    """Text in a fenced block that it cannot close, whatever backticks it holds."""
    if len(text) > LONGEST_SAMPLE:
        text = text[:LONGEST_SAMPLE] + f" … (cut; {len(text):,} characters)"
    text = visible(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def code(text: str) -> str:
    """Text as inline code, safe against backticks."""
    line = " ".join(visible(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    marks, gap = "`" * (longest + 1), " " if "`" in line else ""
    return f"{marks}{gap}{line}{gap}{marks}"


def table(head: list[str], rows: list[list[object]], right: int = 1) -> str:
    """A Markdown table of foreign cells; columns from number ``right`` on are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---:" if i >= right else "---" for i in range(len(head))) + "|"]
    lines += ["| " + " | ".join(inline(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
