"""Messages → pieces in the format of a DeepSeek generation. Marks are `Mark` pieces; what a person wrote is plain text.

The formats are those of the published templates and encoders. Where a published template loses or doubles marks (V2.5 and V3
forget the end after a single call, and every block of calls or results after the first), its well-formed cases are followed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seekling.errors import DataError
from seekling.text.deepseek.generations import Generation
from seekling.text.deepseek.tools import MAX_EFFORT, PLACE
from seekling.text.grammar import Calls, ElementCalls, MarkedCalls
from seekling.text.messages import Call, Turn, arguments_of, read_tools, read_turns, to_json
from seekling.text.special import ASSISTANT, BOS, CONTROL, DSML, EOS, THINK, THINK_END, USER, Mark

_MARKS = re.compile("(" + "|".join(map(re.escape, (*CONTROL, DSML))) + ")")


def encode(
    generation: Generation,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    add_generation_prompt: bool = True,
    continue_final: bool = False,
    reasoning_effort: str | None = None,
) -> list[str]:
    """Pieces of a conversation (arguments as in `Tokenizer.encode_chat`).

    Raises:
        DataError: messages that cannot be encoded, or a combination that the generation does not know.
    """
    functions = read_tools(tools)
    _check(generation, bool(functions), thinking, reasoning_effort)
    turns = read_turns(messages, generation_prompt=add_generation_prompt, continue_final=continue_final)
    if generation.outputs is None and any(turn.calls or turn.role == "tool" for turn in turns):
        raise DataError(f"DeepSeek-{generation.name.upper()} has no tool calls: leave tool messages out")
    given = _with_tools(generation, turns, functions)
    flow = {"plain": _plain, "marked": _marked, "v3.2": _v32, "v4": _v4}[generation.flow]
    pieces = list(flow(generation, given, thinking, add_generation_prompt, continue_final))
    if reasoning_effort == "max" and thinking:
        pieces.insert(1, MAX_EFFORT)
    return [piece for piece in pieces if piece]


def marked(text: str) -> list[str]:
    """Our own text with the marks in it as `Mark` pieces."""
    return [Mark(part) if number % 2 else part for number, part in enumerate(_MARKS.split(text))]


def _check(generation: Generation, tools: bool, thinking: bool, effort: str | None) -> None:
    name = f"DeepSeek-{generation.name.upper()}"
    if thinking and generation.thinks == "never":
        raise DataError(f"{name} has no thinking: ask without it")
    if tools and generation.tools is None:
        raise DataError(f"{name} has no tool calls: ask without tools")
    if tools and thinking and not generation.tools_while_thinking:
        raise DataError(f"{name} calls tools only without thinking: turn one of the two off")
    if effort is not None and effort not in generation.efforts:
        known = f"; known are {', '.join(generation.efforts)}" if generation.efforts else ": leave it out"
        raise DataError(f"{name} does not know reasoning_effort {effort!r}{known}")


def _with_tools(generation: Generation, turns: list[Turn], functions: Sequence[Mapping[str, Any]]) -> list["_Turn"]:
    """Turns as pieces, the declared tools in the first system message."""
    read = [_Turn(turn, split=generation.content_may_think) for turn in turns]
    if functions and generation.tools is not None:
        ours, theirs = generation.tools(functions)
        before, after = ours.split(PLACE)
        text = [*marked(before), theirs, *marked(after)]
        if generation.flow == "marked":  # all system messages are joined in front
            last = max((i for i, turn in enumerate(read) if turn.role == "system"), default=-1)
            if last < 0:
                return [_Turn(Turn("system"), text), *read]
            read[last].system = [read[last].content, "\n\n", *text]
        else:
            if not read or read[0].role != "system":
                read.insert(0, _Turn(Turn("system")))
            read[0].system = [read[0].content, "\n\n", *text]
    return read


class _Turn:
    """A turn whose system text may hold marks, and whose answer is split from its thinking."""

    def __init__(self, turn: Turn, system: list[str] | None = None, split: bool = False) -> None:
        self.role, self.content, self.reasoning, self.calls = turn.role, turn.content, turn.reasoning, turn.calls
        if split and turn.role == "assistant" and turn.reasoning is None and THINK_END in turn.content:
            self.reasoning, _, self.content = turn.content.removeprefix(THINK).partition(THINK_END)
        self.system = [turn.content] if system is None else system


# ---- flows -----------------------------------------------------------------------------------------------------------


def _plain(generation: Generation, turns: list[_Turn], thinking: bool, prompt: bool, open_end: bool) -> Iterator[str]:
    """V2: ``User: …`` and ``Assistant: …`` in words."""
    yield Mark(BOS)
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            yield f"Assistant: {turn.content}"
            yield "" if open_end and index == len(turns) - 1 else Mark(EOS)
        else:
            yield f"User: {turn.content}\n\n" if turn.role == "user" else f"{turn.content}\n\n"
    if prompt:
        yield "Assistant:"


def _marked(generation: Generation, turns: list[_Turn], thinking: bool, prompt: bool, open_end: bool) -> Iterator[str]:
    """V2.5, V3, R1, V3.1: system texts in front, then question and answer."""
    yield Mark(BOS)
    systems = [turn.system for turn in turns if turn.role == "system"]
    for number, text in enumerate(systems):
        yield from ["\n\n"] * (number > 0) + text
    talk = [turn for turn in turns if turn.role != "system"]
    last_question = max((i for i, turn in enumerate(talk) if turn.role == "user"), default=-1)
    v31, outputs = generation.name == "v3.1", generation.outputs
    previous = ""
    for index, turn in enumerate(talk):
        last = index == len(talk) - 1
        if turn.role == "user":
            yield from (Mark(USER), turn.content)
        elif turn.role == "tool" and outputs is not None:
            yield from marked(outputs.between if previous == "tool" else outputs.begin)
            yield from (*marked(outputs.item), turn.content, *marked(outputs.item_end))
            if last or talk[index + 1].role != "tool":
                yield from marked(outputs.end)
        elif turn.role == "assistant":
            keep = index > last_question if v31 else last
            yield from _answer(generation, turn, previous == "user", keep, last and open_end, thinking)
        previous = turn.role
    if prompt and previous == "user":
        yield Mark(ASSISTANT)
        yield from _begin_answer(generation, thinking)


def _begin_answer(generation: Generation, thinking: bool) -> list[str]:
    style = generation.reply.thinking
    if style is None:
        return []
    if generation.thinks == "always":  # not to think is to have thought nothing
        return [Mark(THINK), "\n"] if thinking else [Mark(THINK), "\n\n", Mark(THINK_END), "\n\n"]
    return [Mark(THINK if thinking else THINK_END)]


def _answer(generation: Generation, turn: _Turn, after_user: bool, keep: bool, open_end: bool, thinking: bool) -> Iterator[str]:
    """One answer of the flow "marked"; after a tool's result it goes on without the assistant's mark."""
    style, reasoning = generation.reply.thinking, turn.reasoning if keep else None
    if after_user:
        yield Mark(ASSISTANT)
    if style is not None and open_end and reasoning and not turn.content:  # to be continued within the reasoning
        yield from (Mark(THINK), style.lead + reasoning)
        return
    if style is not None and reasoning:
        yield from (Mark(THINK), style.lead + reasoning + style.trail, Mark(THINK_END), style.gap)
    elif after_user and generation.thinks == "either":
        yield Mark(THINK if open_end and thinking else THINK_END)
    yield turn.content
    yield from encode_calls(generation.reply.calls[0], turn.calls)
    yield "" if open_end else Mark(EOS)


def _v32(generation: Generation, turns: list[_Turn], thinking: bool, prompt: bool, open_end: bool) -> Iterator[str]:
    """V3.2: every message in its place; a question and a block of results end where the answer begins."""
    _needs_question_last(generation, turns, prompt)
    assert generation.outputs is not None
    outputs = generation.outputs
    last_question = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    yield Mark(BOS)
    for index, turn in enumerate(turns):
        last = index == len(turns) - 1
        begins = prompt or not last
        if turn.role == "system":
            yield from turn.system
        elif turn.role == "user":
            yield from (Mark(USER), turn.content)
            if begins:
                yield from (Mark(ASSISTANT), Mark(THINK if thinking and index == last_question else THINK_END))
        elif turn.role == "tool":
            yield outputs.begin if turns[index - 1].role != "tool" else ""
            yield from (outputs.item, turn.content, outputs.item_end)
            if last or turns[index + 1].role != "tool":
                yield outputs.end
                if begins:
                    yield Mark(THINK if thinking and index >= last_question else THINK_END)
        else:
            yield from _dsml_answer(generation, turn, thinking and index > last_question, last and open_end)


def _v4(generation: Generation, turns: list[_Turn], thinking: bool, prompt: bool, open_end: bool) -> Iterator[str]:
    """V4: tool results stand in a user's message, together with what the user says after them."""
    _needs_question_last(generation, turns, prompt)
    assert generation.outputs is not None
    outputs = generation.outputs
    asks = [i for i, turn in enumerate(turns) if turn.role in ("user", "tool")]
    keep_all = any(len(turn.system) > 1 for turn in turns)  # tools were declared
    first_kept = 0 if keep_all else _start_of_block(turns, asks[-1]) if asks else -1
    yield Mark(BOS)
    for index, turn in enumerate(turns):
        last = index == len(turns) - 1
        if turn.role == "system":
            yield from turn.system
        elif turn.role == "assistant":
            yield from _dsml_answer(generation, turn, thinking and index > first_kept, last and open_end)
        else:
            together = index > 0 and _joins(turns[index - 1], turn)
            yield from (outputs.between,) if together else (Mark(USER),)
            yield from (outputs.item, turn.content, outputs.item_end) if turn.role == "tool" else (turn.content,)
            if turns[index + 1].role == "assistant" if not last else prompt:
                yield from (Mark(ASSISTANT), Mark(THINK if thinking and index >= first_kept else THINK_END))


def _joins(before: _Turn, turn: _Turn) -> bool:
    """Whether V4 puts two messages into one of the user's."""
    return before.role in ("user", "tool") and turn.role in ("user", "tool")


def _start_of_block(turns: list[_Turn], index: int) -> int:
    while index and _joins(turns[index - 1], turns[index]):
        index -= 1
    return index


def _dsml_answer(generation: Generation, turn: _Turn, with_reasoning: bool, open_end: bool) -> Iterator[str]:
    if with_reasoning:
        yield turn.reasoning or ""
        if open_end and turn.reasoning and not turn.content:
            return
        yield Mark(THINK_END)
    yield turn.content
    yield from encode_calls(generation.reply.calls[0], turn.calls)
    yield "" if open_end else Mark(EOS)


def _needs_question_last(generation: Generation, turns: list[_Turn], prompt: bool) -> None:
    if prompt and turns[-1].role == "system":
        raise DataError(
            f"messages: in DeepSeek-{generation.name.upper()} no system message may come after the last question: put it before"
        )


# ---- calls -----------------------------------------------------------------------------------------------------------


def encode_calls(style: Calls, calls: Sequence[Call]) -> list[str]:
    """A block of tool calls, with what stands between it and the content."""
    if not calls:
        return []
    if isinstance(style, MarkedCalls):
        return _marked_calls(style, calls)
    if isinstance(style, ElementCalls):
        return _element_calls(style, calls)
    raise TypeError(f"{type(style).__name__} is written by the model's own template")


def _marked_calls(style: MarkedCalls, calls: Sequence[Call]) -> list[str]:
    pieces = [style.lead, *marked(style.begin)]
    for number, call in enumerate(calls):
        pieces += [style.between] * (number > 0) + [*marked(style.call), call.name, *marked(style.name_end)]
        pieces += [call.arguments, *marked(style.call_end)]
    return [*pieces, *marked(style.end)]


def _element_calls(style: ElementCalls, calls: Sequence[Call]) -> list[str]:
    pieces = [style.lead, *marked(style.begin), "\n"]
    for call in calls:
        pieces += [*marked(style.call), call.name, *marked(style.name_end), "\n"]
        lines: list[list[str]] = []
        for key, value in arguments_of(call).items():
            plain = isinstance(value, str)
            kind = [*marked(style.middle), "true" if plain else "false"] if style.typed else []
            text = style.pad + (value if plain else to_json(value)) + style.pad
            lines.append([*marked(style.parameter), key, *kind, *marked(style.key_end), text, *marked(style.parameter_end)])
        for number, line in enumerate(lines):
            pieces += ["\n"] * (number > 0) + line
        pieces += ["\n", *marked(style.call_end), "\n"]
    return [*pieces, *marked(style.end)]
