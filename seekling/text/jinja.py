"""Chat templates of model folders, rendered in a confined process (`seekling.text.jinja_worker`).

Why Jinja itself and not minijinja with its fuel: the templates are written for Jinja and its Python methods, so nothing can
render them more faithfully; the process bounds memory as well as time and has no way out to files; and telling the template's
text from the user's needs a hand on every comparison, which only Jinja offers. One process serves all threads; it starts with
the first template, in a tenth of a second, and ends with the program.
"""

import atexit
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from seekling.errors import DataError
from seekling.text.special import Mark

SECONDS = 2.0  # processor time of one rendering
LONGEST = 8 << 20  # characters of one rendering
LARGEST_TEMPLATE = 1 << 20
WALL_SECONDS = 300.0  # last resort, where the process cannot count its own time

_WHY = {
    "time": f"it ran for more than {SECONDS:g} s",
    "memory": "it took too much memory",
    "length": "it made too long a text",
    "recursion": "it calls itself without end",
    "unsafe": "it reached for what no template may touch",
    "died": "it brought its process down",
}


class TemplateError(DataError):
    """A chat template was stopped, is damaged, or refuses the messages.

    Attributes: ``kind`` is time, memory, length, recursion, unsafe, died (stopped), syntax, failed, or marks.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


# ---- the process -----------------------------------------------------------------------------------------------------


class _Worker:
    """The rendering process, started when needed and again after it was brought down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a forked child must not talk over its parent's pipes

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                process = self._running()
                timer = threading.Timer(WALL_SECONDS, process.kill)
                timer.daemon = True
                timer.start()
                try:
                    assert process.stdin is not None and process.stdout is not None
                    process.stdin.write(line)
                    process.stdin.flush()
                    answer = process.stdout.readline()
                except (BrokenPipeError, OSError):  # it had ended before this request: once more
                    self.stop()
                    continue
                finally:
                    timer.cancel()
                if answer:
                    return json.loads(answer)
                code = process.wait()
                self.stop()
                return {"error": "time" if code == -24 else "died", "message": ""}  # 24: SIGXCPU
        return {"error": "died", "message": ""}

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            import jinja2

            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("jinja_worker.py")), _folder_of(jinja2)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH") if name in os.environ},
                start_new_session=True,  # Ctrl-C is for the program, not for its renderer
            )
        return self._process

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()


def _folder_of(module: Any) -> str:
    return str(Path(module.__file__).parent.parent)


_worker = _Worker()
atexit.register(_worker.stop)


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    if len(request["template"]) > LARGEST_TEMPLATE:
        raise TemplateError("the chat template is larger than a mebibyte: use another", "length")
    answer = _worker.ask({**request, "seconds": SECONDS, "longest": LONGEST})
    kind, message = answer.get("error"), answer.get("message", "")
    if kind is None:
        return answer
    message = " ".join(message.split())[:300]
    if kind == "syntax":
        raise TemplateError(f"the chat template cannot be read ({message}): use another", kind)
    if kind == "failed":
        raise TemplateError(f"the chat template cannot render these messages: {message}", kind)
    why = _WHY[kind] + (f" ({message})" if message else "")
    raise TemplateError(f"the chat template was stopped, {why}: do not trust it, or give shorter messages", kind)


def variables(template: str) -> frozenset[str]:
    """Names that a template reads from outside.

    Raises:
        TemplateError: it is damaged.
    """
    return frozenset(_ask({"do": "variables", "template": template})["variables"])


def render(template: str, context: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """The text a template makes of its context (JSON values).

    Raises:
        TemplateError: it was stopped, is damaged, or refuses.
    """
    return _render(template, context, {}, now)


def _render(template: str, context: Mapping[str, Any], marked: Mapping[str, str], now: datetime | None) -> str:
    request = {"do": "render", "template": template, "context": dict(context), "marked": dict(marked)}
    return _ask({**request, "now": now.isoformat() if now else None})["text"]


# ---- keeping text text -----------------------------------------------------------------------------------------------


def render_pieces(
    template: str, user: Mapping[str, Any], ours: Mapping[str, Any], control: Iterable[str], *, now: datetime | None = None
) -> list[str]:
    """Text and `Mark` pieces of a rendered template: only control tokens that the template itself writes are marks.

    Args:
        template: Jinja text.
        user: variables with text of users (messages, tools). Characters in them that could begin or end a control token are
            replaced by private ones for the rendering, and set back in the text pieces.
        ours: all other variables.
        control: the vocabulary's control tokens.

    Raises:
        TemplateError: as `render`; or text imitates control tokens and the template treats it in a way (``|length`` of a
            mark, ``|upper`` …) that cannot be followed.
    """
    tokens = sorted({token for token in control if token}, key=len, reverse=True)
    if not tokens:
        return [render(template, {**user, **ours}, now=now)]
    marker = _Marker(tokens, user)
    plain = render(template, {**user, **ours}, now=now)
    text = plain
    if marker.touched:
        text = _render(template, {**marker.marked, **ours}, marker.back, now)
        if marker.unmark(text) != plain:
            if marker.imitates:
                raise TemplateError(
                    "the messages imitate control tokens and this chat template would make them ones: leave them out", "marks"
                )
            text = plain
    parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text)
    pieces = [Mark(part) if number % 2 else marker.unmark(part) for number, part in enumerate(parts)]
    return [piece for piece in pieces if piece]


# Words of message and schema syntax: a template may build a mark of one, as in '<|' + message.role + '|>'.
_SYNTAX = frozenset(
    "system user assistant tool developer function string number integer boolean object array null text".split()
)


class _Marker:
    """Context values with every character marked that could be part of a control token.

    A token that a user's text takes part in begins in it, ends in it, or encloses a short text whole. So the first and last
    characters of tokens are marked wherever they occur, and all of a text that lies within a token's.
    """

    def __init__(self, tokens: list[str], user: Mapping[str, Any]) -> None:
        self._tokens = tokens
        edges = {c for token in tokens for c in (token[0], token[-1])}
        letters = sorted({c for token in tokens for c in token if not c.isspace()})
        first = 0xF0000 + 256 * secrets.randbelow(400)  # private use planes; the block may lie in none of the texts
        while any(chr(first) <= c < chr(first + len(letters)) for text in _texts(user) for c in text):
            first = 0xF0000 + 256 * secrets.randbelow(400)
        self._all = {ord(c): chr(first + number) for number, c in enumerate(letters)}
        self._edges = {ord(c): self._all[ord(c)] for c in edges if ord(c) in self._all}
        self.back = {private: chr(code) for code, private in self._all.items()}
        self._unmark = {ord(private): plain for private, plain in self.back.items()}
        self.touched = self.imitates = False
        self.marked = {key: self._mark(value) for key, value in user.items()}

    def unmark(self, text: str) -> str:
        """Text as the user wrote it; where a template shows an object as Python does, marked characters are escaped."""
        if "\\U000f" in text or "\\U0010" in text:
            for private, plain in self.back.items():
                text = text.replace(f"\\U{ord(private):08x}", plain)
        return text.translate(self._unmark)

    def _mark(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._marked(value)
        if isinstance(value, Mapping):
            return {self._marked(str(key), is_key=True): self._mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item) for item in value]
        return value

    def _marked(self, text: str, is_key: bool = False) -> str:
        if text in _SYNTAX:
            return text
        imitates = any(token in text for token in self._tokens)
        within = not is_key and len(text) > 2 and any(text in token for token in self._tokens)
        marked = text.translate(self._all if within else self._edges)
        self.touched |= marked != text
        self.imitates |= imitates
        return marked


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
