"""Named steps that turn the content of a source's file into documents; a source lists them in its TOML entry.

A step takes the documents so far (the file's text at first) and returns the next ones. A document is a string, or a list of
chat messages. Every option of a step is a keyword argument of its function; unknown steps and options are refused by name.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seekling.errors import DataError

Content = str | list[dict[str, str]]
Step = Callable[..., list[Any]]

FILTERS: dict[str, Step] = {}


def step(function: Step) -> Step:
    FILTERS[function.__name__] = function
    return function


def apply(steps: tuple[Mapping[str, Any], ...], text: str, where: str) -> list[Content]:
    """The documents of one file's text.

    Raises:
        DataError: a step could not read its input, naming ``where``.
    """
    documents: list[Any] = [text]
    for options in steps:
        arguments = {key: value for key, value in options.items() if key != "name"}
        try:
            documents = FILTERS[options["name"]](documents, **arguments)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(f"{where}: step {options['name']!r} cannot read it ({error!r}); check the source's entry") from None
    return [document for document in documents if document and (not isinstance(document, str) or document.strip())]


def step_problems(options: Any) -> Iterator[str]:
    """What is wrong with one entry of ``filters``."""
    if not isinstance(options, Mapping) or "name" not in options:
        yield 'every filter is a table with a name, such as { name = "unwrap" }'
        return
    name = options["name"]
    if name not in FILTERS:
        yield f"unknown filter {name!r}; known are {', '.join(sorted(FILTERS))}"
        return
    known = list(inspect.signature(FILTERS[name]).parameters.values())[1:]
    for key in options:
        if key != "name" and key not in {p.name for p in known}:
            yield f"filter {name} has no option {key!r}; it has {', '.join(p.name for p in known) or 'none'}"
    for parameter in known:
        if parameter.default is inspect.Parameter.empty and parameter.name not in options:
            yield f"filter {name} needs {parameter.name}"


# ---- cutting ---------------------------------------------------------------------------------------------------------


@step
def lines(documents: list[str], first: int, last: int) -> list[str]:
    """Lines ``first … last`` (from 1, both included): what is left when headers and licences are cut."""
    return ["\n".join(text.split("\n")[first - 1 : last]) for text in documents]


@step
def split(documents: list[str], at: str, keep: bool = True) -> list[str]:
    """Begin a new document at every match of a regular expression (multi-line); ``keep`` the matched heading."""
    out = []
    for text in documents:
        matches = list(re.finditer(at, text, re.MULTILINE))
        starts = [m.start() if keep else m.end() for m in matches]
        ends = [m.start() for m in matches[1:]] + [len(text)]
        out.append(text[: matches[0].start()] if matches else text)
        out += [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return [text.strip() for text in out if text.strip()]


@step
def chunk(documents: list[str], chars: int) -> list[str]:
    """Cut documents longer than ``chars`` characters, at the end of a paragraph or else of a sentence."""
    out = []
    for text in documents:
        while len(text) > chars * 1.5:
            cut = max(text.rfind("\n\n", chars // 2, chars), text.rfind("\n\t", chars // 2, chars))
            if cut < 0:
                cut = max(text.rfind(end, chars // 2, chars) + 1 for end in (". ", '" ', "? ", "! ", "。", "\n"))
            cut = cut if cut > 0 else chars
            out.append(text[:cut].strip())
            text = text[cut:].strip()
        out.append(text)
    return out


@step
def drop(documents: list[str], matching: str) -> list[str]:
    """Leave out documents in which a regular expression matches."""
    return [text for text in documents if not re.search(matching, text, re.MULTILINE)]


@step
def at_least(documents: list[str], chars: int) -> list[str]:
    """Leave out documents shorter than ``chars`` characters (tables of contents, stray headings)."""
    return [text for text in documents if len(text) >= chars]


# ---- cleaning --------------------------------------------------------------------------------------------------------


@step
def unwrap(documents: list[str]) -> list[str]:
    """Undo hard line breaks: a paragraph becomes one line. Indented lines (verse) keep theirs."""
    out = []
    for text in documents:
        paragraphs = []
        for paragraph in re.split(r"\n[ \t]*\n\s*?(?=[ \t]*\S)", text):
            rows = [row for row in paragraph.split("\n") if row.strip()]
            verse = len(rows) > 1 and sum(row.startswith("  ") for row in rows) > len(rows) / 2
            paragraphs.append("\n".join(row.strip() for row in rows) if verse else " ".join(" ".join(rows).split()))
        out.append("\n\n".join(p for p in paragraphs if p))
    return out


@step
def replace(documents: list[str], pattern: str, by: str) -> list[str]:
    """Substitute a regular expression (multi-line)."""
    return [re.sub(pattern, by, text, flags=re.MULTILINE) for text in documents]


@step
def play(documents: list[str]) -> list[str]:
    """Markdown plays: ``**NAME**`` and the speech under it become ``NAME:`` and the speech; headings and cues stay plain."""
    out = []
    for text in documents:
        text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
        text = re.sub(r"^\*\*.+\*\*\s*$\n?", lambda m: re.sub(r"\*\*|:", "", m[0]).strip() + ":\n", text, flags=re.MULTILINE)
        text = re.sub(r"(?<!\w)_([^_]{1,400})_(?!\w)", r"[\1]", re.sub(r"\\[\[\]]", "", text))
        text = re.sub(r"[_*\\]", "", text)
        out.append(re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)).strip())
    return out


# ---- reading structures ----------------------------------------------------------------------------------------------


@step
def triple_quoted(documents: list[str]) -> list[str]:
    """The first triple-quoted string of a Python file, which is read, never run."""
    return [text.split('"""', 2)[1] for text in documents]


@step
def json_values(documents: list[str], field: str = "") -> list[Any]:
    """The values of a JSON object or array; of each, one field when it is named."""
    out: list[Any] = []
    for text in documents:
        data = json.loads(text)
        values = list(data.values()) if isinstance(data, dict) else list(data)
        out += [value[field] for value in values] if field else values
    return out


@step
def json_lines(documents: list[str], field: str) -> list[str]:
    """One field of every line of a JSONL file, each text once."""
    rows = (json.loads(row)[field] for text in documents for row in text.split("\n") if row.strip())
    return list(dict.fromkeys(rows))


@step
def verses(documents: list[Mapping[str, Any]], title: str, by: str, rows: str) -> list[str]:
    """Poems: title and poet in a line, then the lines."""
    return [f"{poem[title]} {poem[by]}\n" + "\n".join(poem[rows]) for poem in documents if poem[rows]]


@step
def questions(documents: list[Mapping[str, str]], title: str, text: str, topic: str, people: str) -> list[Content]:
    """Encyclopaedia entries as conversations: "What is X?" ("Who", where ``topic`` is ``people``) and the first sentence."""
    out: list[Content] = []
    for number, entry in enumerate(documents):
        answer = first_sentence(entry[text].replace("\xa0", " "))
        verb = re.search(r"\b(is|was|are|were)\b", answer)
        if not verb or len(answer) > 300:
            continue
        name = re.sub(r" \(.*\)$", "", entry[title])
        low, small = answer.lower(), name.lower()
        article = next((a for a in ("a ", "an ", "the ") if low.startswith(a + small)), "")
        if article:  # as the sentence writes it: "a puzzle", "the Alps"
            name = article + answer[len(article) : len(article) + len(name)]
        elif not low.startswith(small) and name[1:].islower() and small in answer:
            name = small
        who = "Who" if entry.get(topic) == people else "What"
        plain = f"{who} {verb[1]} {name}?"
        asked = (plain, plain, f"Tell me about {name}.", f"Do you know {who.lower()} {name} {verb[1]}?")[number % 4]
        out.append([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
    return out


ABBREVIATION = re.compile(r"(?:[A-Z]|[A-Za-z](?:\.[A-Za-z])+|Mr|Mrs|Dr|St|c|ca|b|d|r|fl|Jr|Sr|vs|No|Lt|Gen|Col|lit|approx)\.")


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence and no abbreviation; empty when there is none."""
    for match in re.finditer(r"[.!?](?= [A-Z\"'(]|$)", text):
        before = text[: match.end()]
        last = before.split()[-1].lstrip("(\"'")
        if ABBREVIATION.fullmatch(last):
            continue
        if before.count("(") > before.count(")"):
            continue
        return before
    return ""
