"""A conversation in the terminal, or over a pipe (one line in, one answer out).

seekling chat runs/first
echo "Tell me a story." | seekling chat runs/first
"""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from seekling.engine.conversation import Conversation
from seekling.engine.engine import Engine, Quant
from seekling.engine.sampling import Delta, Sampling
from seekling.errors import SeeklingError

HELP = """\
/reset         forget the conversation (the system message stays)
/system TEXT   set the system message; /system alone shows it, /system clear removes it
/temp X        set the temperature; 0 takes the likeliest token always
/save FILE     append the conversation to a JSONL file, one line
/help          this list
/exit          leave (or Ctrl-D)
Ctrl-C stops an answer. Text pasted with line breaks is one message; so are lines between \"\"\" marks.
A message that begins with / is written with two: //"""
BLOCK = '"""'


@dataclass
class Turn:
    """What came of one answer."""

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    interrupted: bool = False
    to_first: float = 0.0  # seconds
    seconds: float = 0.0

    def speed(self) -> str:
        """Tokens a second after the first one; empty where there is no second."""
        rest = self.seconds - self.to_first
        return f"{(self.tokens - 1) / rest:.1f} tokens/s" if self.tokens > 1 and rest > 0 else ""


class Terminal:
    """Lines in, text out. Control characters never reach the screen, so a model cannot steer the terminal."""

    def __init__(self, stdin: TextIO | None = None, stdout: TextIO | None = None, stderr: TextIO | None = None):
        from rich.console import Console

        self._stdin = stdin or sys.stdin
        self._listening = False
        self.pressed = False  # Ctrl-C since the last `interruptible` began
        self.out = Console(file=stdout, highlight=False, soft_wrap=True)
        self.interactive = self._stdin.isatty() and self.out.is_terminal
        # Over a pipe only the answers go to stdout.
        self._notes = self.out if self.interactive else Console(file=stderr, stderr=stderr is None, soft_wrap=True)
        self._ask: Callable[[str], str] | None = None
        if self.interactive and self._stdin is sys.stdin:
            from seekling.engine.line_input import line_input

            self._ask = line_input()
        elif hasattr(self._stdin, "reconfigure"):
            self._stdin.reconfigure(errors="replace")

    def write(self, text: str, style: str | None = None) -> None:
        """Part of an answer."""
        self.out.out(printable(text), end="", style=style, highlight=False)

    def line(self, text: str = "") -> None:
        """End a line of the answer."""
        self.out.out(text, highlight=False)

    def note(self, text: str, style: str = "dim") -> None:
        """Something about the conversation that is not part of it."""
        self._notes.print(printable(text), style=style, markup=False, highlight=False)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """On a terminal: Ctrl-C counts only inside `interruptible`, so that no impatient second press ends the program."""
        if not self.interactive or threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_ctrl_c(*_: object) -> None:
            self.pressed = True
            if self._listening:
                self._listening = False
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, on_ctrl_c)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Where one Ctrl-C raises KeyboardInterrupt; to be used inside the ``try`` that catches it.

        An exception raised by a signal can be lost (in a callback whose errors Python only prints): `pressed` tells then.
        """
        self.pressed, self._listening = False, True
        try:
            yield
        finally:
            self._listening = False

    def messages(self) -> Iterator[str]:
        """What the user enters, a message at a time, until the end of input. Ctrl-C drops a half-written one."""
        while True:
            try:
                with self.interruptible():
                    text = self._read("> ")
                    if text is not None and text.lstrip().startswith(BLOCK):
                        text = self._block(text.lstrip()[len(BLOCK) :])
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.note("\nCtrl-D or /exit leaves.")
                continue
            if text is None:
                return
            if text.strip():
                yield text.strip().encode("utf-8", "replace").decode()

    def _block(self, text: str) -> str:
        """The lines up to one that ends with three quotation marks."""
        lines = [text]
        while not lines[-1].rstrip().endswith(BLOCK):
            line = self._read("… ")
            if line is None:
                return "\n".join(lines)
            lines.append(line)
        lines[-1] = lines[-1].rstrip()[: -len(BLOCK)]
        return "\n".join(lines)

    def _read(self, prompt: str) -> str | None:
        if self._ask is not None:
            try:
                return self._ask(prompt)
            except EOFError:
                self.line()
                return None
        line = self._stdin.readline()
        return line.rstrip("\r\n") if line else None


def chat_loop(
    path: Any,
    sampling: Sampling | None = None,
    *,
    system: str | None = None,
    thinking: bool = False,
    quant: Quant | None = None,
    dtype: str | None = None,
    terminal: Terminal | None = None,
) -> int:
    """Talk until Ctrl-D, /exit or the end of the input.

    Args:
        path: a run or checkpoint folder, a loaded model, or an `Engine`.
        sampling: default ``Sampling(max_tokens=512)``.
        system: system message.
        thinking: let the model reason first; reasoning is shown dimly and not kept in the context.
        quant, dtype: as in `Engine`.
        terminal: where to read and write; default this process's.

    Returns:
        0, or 2 where input came over a pipe and a line of it could not be answered.

    Raises:
        SeeklingError: the folder holds no model, or one without a tokenizer.
    """
    engine = path if isinstance(path, Engine) else Engine(path, quant, dtype=dtype)
    if engine.tokenizer is None:
        raise SeeklingError(f"{path} has no tokenizer, so it cannot chat: use a run or a full checkpoint folder")
    return Chat(engine, sampling or Sampling(max_tokens=512), system, thinking, terminal or Terminal()).run(path)


class Chat:
    """The loop: a line is a command or a question; a question gets a streamed answer."""

    def __init__(self, engine: Engine, sampling: Sampling, system: str | None, thinking: bool, terminal: Terminal):
        self.engine, self.sampling, self.thinking, self.terminal = engine, sampling, thinking, terminal
        self.conversation = Conversation(system)
        self.failed = False
        self._end_think = engine.tokenizer.special.get("</think>")
        # A model that begins to write the user's next message has finished its own.
        marks = [engine.tokenizer.special.get(mark) for mark in ("<｜User｜>", "<｜begin▁of▁sentence｜>")]
        self._marks = tuple(mark for mark in marks if mark is not None)

    def run(self, name: Any) -> int:
        if self.terminal.interactive:
            self.terminal.note(self._welcome(name))
        with self.terminal.guarded():
            self._run()
        return 2 if self.failed and not self.terminal.interactive else 0

    def _run(self) -> None:
        for text in self.terminal.messages():
            try:
                if text.startswith("/") and not text.startswith("//"):
                    if not self.command(text):
                        break
                else:
                    self.exchange(text.removeprefix("/") if text.startswith("//") else text)
            except (SeeklingError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                self._error(str(error))

    def command(self, line: str) -> bool:
        """Carry out ``/word rest``; False means leave."""
        word, _, rest = line.partition(" ")
        rest, note = rest.strip(), self.terminal.note
        if word in ("/exit", "/quit"):
            return False
        if word == "/help":
            note(HELP)
        elif word == "/reset":
            self.conversation.reset()
            note("forgotten; a new conversation begins")
        elif word == "/system":
            if rest:
                self.conversation.system = None if rest == "clear" else rest
            note(f"system message: {self.conversation.system or 'none'}")
        elif word == "/temp":
            if rest:
                try:
                    self.sampling = dataclasses.replace(self.sampling, temperature=float(rest))
                except ValueError:
                    raise SeeklingError(f"/temp takes a number and got {rest!r}, for example /temp 0.7") from None
            note(f"temperature: {self.sampling.temperature:g}")
        elif word == "/save":
            if not rest:
                raise SeeklingError("/save needs a file name, for example /save talk.jsonl")
            count = self.conversation.save(Path(rest).expanduser())
            note(f"{count} messages appended to {rest} as one line")
        else:
            raise SeeklingError(f"{word} is no command; /help lists them (write // to begin a message with /)")
        return True

    def exchange(self, text: str) -> None:
        """Ask, stream the answer, keep both."""
        talk, terminal, seen_from = self.conversation, self.terminal, self.conversation.first
        talk.ask(text)
        try:
            hidden = talk.fit(self.engine, self.sampling, thinking=self.thinking)
            used = self.engine.prompt_tokens(talk.prompt(), thinking=self.thinking)
            stops = (*self.sampling.stop_token_ids, *self._marks)
            settings = dataclasses.replace(self.sampling, stop_token_ids=stops, logprobs=False)
            stream = self.engine.stream(talk.prompt(), settings, thinking=self.thinking)
            if hidden:
                terminal.note(
                    f"The context of {self.engine.config.max_position_embeddings:,} tokens is full: "
                    f"the model no longer sees the oldest {hidden} messages.",
                    style="yellow",
                )
            turn = self._show(stream)
        except BaseException:
            talk.take_back(seen_from)
            raise
        if turn.interrupted and not turn.text:
            talk.take_back(seen_from)
        else:
            talk.answer(turn.text, turn.reasoning)
        terminal.line()
        if terminal.interactive:
            terminal.note(self._summary(turn, used))
        elif turn.interrupted:
            raise KeyboardInterrupt

    def _show(self, stream: Iterator[Delta]) -> Turn:
        turn, started, reasoning = Turn(), time.perf_counter(), self.thinking
        try:
            with self.terminal.interruptible():
                for delta in stream:
                    turn.seconds = time.perf_counter() - started
                    turn.to_first = turn.to_first or turn.seconds
                    turn.tokens += len(delta.token_ids)
                    turn.finish_reason = delta.finish_reason
                    text = delta.text
                    if reasoning and self._end_think in delta.token_ids:
                        reasoning = False
                        before, _, text = text.rpartition("</think>")
                        turn.reasoning += before
                        self.terminal.write(before + "\n", style="dim")
                    if reasoning:
                        turn.reasoning += text
                    else:
                        turn.text += text
                    self.terminal.write(text, style="dim" if reasoning else None)
                    if self.terminal.pressed:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            turn.interrupted = True
        return turn

    def _summary(self, turn: Turn, used: int) -> str:
        context = self.engine.config.max_position_embeddings
        total = used + turn.tokens
        parts = [f"{turn.tokens} tokens", turn.speed(), f"first after {turn.to_first:.2f} s", f"context {total}/{context}"]
        if turn.interrupted:
            parts.append("stopped")
        elif turn.finish_reason == "length":
            parts.append("the context is full" if total >= context else f"cut at max_tokens {self.sampling.max_tokens}")
        return " · ".join(part for part in parts if part)

    def _welcome(self, name: Any) -> str:
        config, shown = self.engine.config, name if isinstance(name, (str, Path)) else "model"
        count = config.parameters()
        return (
            f"{shown}: {count.total / 1e6:,.1f}M parameters, {count.active / 1e6:,.1f}M active, "
            f"context {config.max_position_embeddings:,} tokens. /help lists the commands, Ctrl-D leaves."
        )

    def _error(self, text: str) -> None:
        self.failed = True
        self.terminal.note(f"error: {text}", style="red")


def printable(text: str) -> str:
    """Text without control characters but line break and tab."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
