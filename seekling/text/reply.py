"""An answer taken apart while it arrives: reasoning, content and tool calls, by the grammar of the model's family.

>>> parser = tokenizer.reply_parser(prompt_ids, tools=tools)
>>> for token in tokens:
...     for event in parser.push_token(token): ...
>>> parser.finish(); parser.message()

However the text is cut, the merged events are the same. Marks count where they are tokens; the same characters written with
ordinary tokens stay text. A tool call that is broken becomes text, with a `Note`. Calls are told when they are complete, or
with ``early_calls`` as they come: a broken one then ends with ``CallEnd.problem``.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seekling.text.calls import CallReader
from seekling.text.channels import read_channels
from seekling.text.events import CallEnd, Content, Event, Note, Reasoning, merged, to_message
from seekling.text.grammar import MARKS, Calls, JsonCalls, ReplyGrammar
from seekling.text.reading import Malformed, Marks, Reader

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer


class ReplyParser:
    """A streaming parser of one answer.

    Args:
        grammar: what the answer may consist of.
        tokenizer: for `push_token`; marks that are tokens of it are then not recognised in text.
        in_reasoning: the prompt has opened the reasoning already.
        lead_done: the prompt has written the line break that follows ``<think>`` too.
        channel: the channel a gpt-oss prompt has opened already.
        tools: the declared functions (OpenAI form); their schemas say how untyped arguments are read.
        early_calls: tell calls before they are complete.
    """

    def __init__(
        self,
        grammar: ReplyGrammar,
        tokenizer: "Tokenizer | None" = None,
        *,
        in_reasoning: bool = False,
        lead_done: bool = False,
        channel: str = "",
        tools: Sequence[Mapping[str, Any]] | None = None,
        early_calls: bool = False,
    ) -> None:
        known = MARKS | set(grammar.ends)
        atomic = known & tokenizer.special.keys() if tokenizer is not None else set()
        self.grammar, self.tools = grammar, [tool.get("function", tool) for tool in tools or ()]
        hidden = {mark for mark in atomic if tokenizer.special[mark] in tokenizer.hidden} if tokenizer is not None else set()
        self.marks = Marks(known, atomic, hidden)
        self.reader = Reader()
        self.early_calls = early_calls
        self.events: list[Event] = []
        self._told = 0
        self._text = ""  # arrived, not yet read: may be the beginning of a mark
        self._tokenizer = tokenizer
        self._mark_of = {tokenizer.special[mark]: mark for mark in atomic} if tokenizer is not None else {}
        self._decoder = tokenizer.stream() if tokenizer is not None else None
        self._in_reasoning, self._lead_done, self.channel = in_reasoning, lead_done, channel  # as the prompt has begun it
        self._calls = CallReader(self)
        self._machine = self._answer()
        self._done = False
        self._step()

    # ---- input ---------------------------------------------------------------------------------------------------

    def push(self, text: str) -> list[Event]:
        """Take text; return the events it completes."""
        self._take(text)
        return self._new()

    def push_token(self, token: int) -> list[Event]:
        """Take a token; return the events it completes."""
        if self._tokenizer is None or self._decoder is None:
            raise TypeError("push_token needs a parser with a tokenizer")
        mark = self._mark_of.get(token)
        if mark is None:
            self._take(self._decoder.push(token))
        else:
            self._take(self._decoder.flush())
            self._take_mark(mark)
        return self._new()

    def push_tokens(self, tokens: Iterable[int]) -> list[Event]:
        """`push_token` of several."""
        return [event for token in tokens for event in self.push_token(token)]

    def finish(self) -> list[Event]:
        """The answer has ended: return what was held back."""
        if self._decoder is not None:
            self._take(self._decoder.flush())
        text, _ = self.marks.read(self._text, final=True)
        self._text = ""
        self.reader.buffer += text
        self.reader.closed = True
        self._step()
        return self._new()

    def message(self) -> dict[str, Any]:
        """What was said so far, as an assistant message."""
        return to_message(self.events)

    def _take(self, text: str) -> None:
        text, self._text = self.marks.read(self._text + text, final=False)
        self._read(text)

    def _take_mark(self, mark: str) -> None:
        text, _ = self.marks.read(self._text, final=True)
        self._text = ""
        self._read(text + self.marks.char[mark])

    def _read(self, text: str) -> None:
        if text:
            self.reader.buffer += text
            self._step()

    def _step(self) -> None:
        if not self._done:
            self._done = next(self._machine, "done") == "done"
        if self._done:
            self.reader.buffer = ""  # nothing of the answer follows

    def _new(self) -> list[Event]:
        new, self._told = self.events[self._told :], len(self.events)
        return new

    # ---- output --------------------------------------------------------------------------------------------------

    def reasoning(self, text: str) -> None:
        """Tell text with marks in it as reasoning."""
        if text := self.marks.shown(text):
            self.events.append(Reasoning(text))

    def content(self, text: str) -> None:
        """Tell text with marks in it as the answer."""
        if text := self.marks.shown(text):
            self.events.append(Content(text))

    # ---- the grammar ---------------------------------------------------------------------------------------------

    def _answer(self) -> Generator[None, None, None]:
        if self.grammar.channels is not None:
            yield from read_channels(self, self.grammar.channels)
            return
        yield from self._thinking()
        yield from self._content()

    def _thinking(self) -> Generator[None, None, None]:
        style, reader = self.grammar.thinking, self.reader
        if style is None:
            return
        end = self.marks.compiled(style.end)
        if not self._in_reasoning:
            reader.seen = ""
            begin = yield from reader.one_of((self.marks.compiled(style.begin),))
            if not begin:
                reader.buffer = reader.seen + reader.buffer  # the blanks belong to the answer
                return
        if not self._lead_done:
            yield from reader.optional(style.lead)
        ends = self._end_marks()
        sign = yield from reader.until((style.trail + end, end, *ends), self.reasoning)
        if sign in ends:
            reader.closed, reader.buffer = True, ""
        elif sign:
            yield from reader.optional(style.gap)

    def _end_marks(self) -> tuple[str, ...]:
        return tuple(self.marks.char[mark] for mark in self.grammar.ends)

    def _content(self) -> Generator[None, None, None]:
        ends = self._end_marks()
        begins: dict[str, Calls] = {}
        for style in self.grammar.calls:
            if isinstance(style, JsonCalls) and not style.begin:
                if self.tools and (yield from self._calls.whole_answer(style, ends)):
                    return
                continue
            for sign in (style.lead + style.begin, style.begin):
                begins.setdefault(self.marks.compiled(sign), style)
        signs = (*begins, *ends)
        while True:
            self.reader.seen = ""
            sign = yield from self.reader.until(signs, self.content)
            if not sign or sign in ends:
                return
            self.reader.seen = sign
            yield from self._block([style for style in self.grammar.calls if begins[sign].begin == style.begin])

    def _block(self, styles: list[Calls]) -> Generator[None, None, None]:
        """Calls from here on; what is broken becomes text."""
        calls = self._calls
        try:
            yield from calls.read(styles)
        except Malformed as problem:
            self.events.append(Note(f"a tool call is broken ({problem})"))
            if calls.drop(str(problem)) and self.marks.shown(self.reader.seen):
                self.events.append(Content(self.marks.plain(self.reader.seen)))
        self.reader.seen = ""


def parse_reply(text: str, grammar: ReplyGrammar, **options: Any) -> dict[str, Any]:
    """The message in a whole answer given as text (arguments as `ReplyParser`)."""
    parser = ReplyParser(grammar, **options)
    parser.push(text)
    parser.finish()
    return parser.message()


__all__ = ["CallEnd", "Content", "Event", "Note", "Reasoning", "ReplyParser", "merged", "parse_reply", "to_message"]
