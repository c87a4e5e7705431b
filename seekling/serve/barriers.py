"""What stands between a request and its answer when a server is for others: moderation, labels, the audit log, the watermark.

`Barriers` is the server's, `Record` one request's. Every surface goes through a record: it reads what is said before it is
shown, gives the label its id, and lets the last word out only once the log has it on disk. Without any of them it does nothing.
"""

import asyncio
import hashlib
import secrets
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from seekling.serve.failures import ApiError
from seekling.serve.labels import Labels
from seekling.text.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning

if TYPE_CHECKING:
    from seekling.engine.watermark import Watermark
    from seekling.serve.audit import AuditLog
    from seekling.serve.moderation.moderator import Moderator, StreamReader


@dataclass
class Barriers:
    """A server's; each part may be missing."""

    moderator: "Moderator | None" = None
    labels: Labels = field(default_factory=Labels)
    audit: "AuditLog | None" = None
    watermark: "Watermark | None" = None

    def messages(
        self, messages: list[dict[str, Any]], notes: list[str], asker: Any, tools: Sequence[dict[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """Messages as the model may see them; flags go to ``notes``. ApiError(400, content_filter) for what it may not."""
        if self.moderator is None:
            return messages
        with self._refusing(notes, asker):
            self.moderator.tools_in(tools, notes)
            return self.moderator.messages_in(messages, notes)

    def text(self, text: str, notes: list[str], asker: Any, where: str) -> str:
        """The same for a bare prompt."""
        if self.moderator is None:
            return text
        with self._refusing(notes, asker):
            return self.moderator.text_in(text, notes, where)

    def ids(self, ids: list[int], tokenizer: Any, notes: list[str], asker: Any, where: str) -> None:
        """The same for a prompt of token ids, of which nothing can be masked."""
        if self.moderator is not None:
            with self._refusing(notes, asker):
                self.moderator.text_in(tokenizer.decode(ids, skip_special=False), notes, where, mask=False)

    @property
    def reads_embeddings(self) -> bool:
        """Whether texts to be made vectors are read too."""
        return self.moderator is not None and "embeddings" in self.moderator.policy.read

    @contextmanager
    def _refusing(self, notes: list[str], asker: Any) -> Iterator[None]:
        """Log what is refused."""
        try:
            yield
        except ApiError as error:
            if self.audit is not None:
                try:
                    self.audit.append("refused", key=asker, reason=error.message, flags=notes).result()
                except OSError:
                    raise unwritten() from None
            raise

    async def embedded(self, prompts: Sequence[list[int]], notes: list[str], asker: Any, model: str) -> None:
        """Log that texts were made vectors, before these are shown."""
        if self.audit is not None:
            tokens = sum(map(len, prompts))
            entry = {"key": asker, "model": model, "prompt_sha256": digests(prompts), "prompt_tokens": tokens, "flags": notes}
            await _written(self.audit.append("embedded", **entry))

    def about(self) -> dict[str, Any]:
        """What anybody may know of it (``/about``)."""
        return {
            "label": self.labels.told(),
            "moderation": None if self.moderator is None else self.moderator.policy.name,
            "watermark": None if self.watermark is None else self.watermark.name,
            "audit": None if self.audit is None else {"days": self.audit.days, "texts": self.audit.texts},
        }


def digests(prompts: Sequence[list[int]]) -> list[str]:
    """Hashes of token ids, as the log has them."""
    return [hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest() for ids in prompts]


def unwritten() -> ApiError:
    return ApiError(
        503, "the audit log cannot be written, so nothing is answered", code="audit_log", headers={"Retry-After": "10"}
    )


class Record:
    """One request on its way through the barriers.

    Args:
        prompts: token ids of each prompt; choices: answers to all of them together.
        notes: what the input was flagged for; system: texts an answer may not give away.
    """

    def __init__(
        self,
        barriers: Barriers,
        *,
        prompts: Sequence[list[int]],
        choices: int,
        greedy: bool,
        asker: Any = None,
        model: str = "",
        notes: Sequence[str] = (),
        system: Sequence[str] = (),
    ):
        self.id = secrets.token_hex(12)
        self._barriers, self._prompts, self._notes = barriers, prompts, list(notes)
        self._labels = replace(barriers.labels, model=model)
        self._facts = {"id": self.id, "key": asker, "model": model}
        self.watermarked = barriers.watermark is not None and not greedy
        self._system = system
        self.choices = [Watched(self) for _ in range(choices)]
        self._began = self._ended = False

    def reader(self) -> "StreamReader | None":
        moderator = self._barriers.moderator
        return None if moderator is None else moderator.stream(self._system)

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        return self._labels.headers(self.id)

    def fields(self) -> dict[str, Any]:
        """Of the body or the last event."""
        return self._labels.fields(self.id, self.text, watermarked=self.watermarked) if self._labels.on else {}

    @property
    def text(self) -> str:
        """All that was shown as content; several answers with a line feed between them."""
        return "\n".join(choice.content for choice in self.choices)

    async def began(self) -> None:
        """Before anything is shown."""
        log, self._began = self._barriers.audit, True
        if log is None:
            return
        tokens, hashes = sum(map(len, self._prompts)), digests(self._prompts)
        await _written(log.append("asked", **self._facts, prompt_sha256=hashes, prompt_tokens=tokens, flags=self._notes))

    async def ended(self, finish: Sequence[str], tokens: int) -> None:
        """Before the last of it is shown."""
        self._ended = True
        log = self._barriers.audit
        if log is not None:
            await _written(log.append("answered", **self._outcome(log, finish, tokens)))

    def gone(self, tokens: int) -> None:
        """The client went away, or something failed: what had been shown."""
        log = self._barriers.audit
        if log is not None and self._began and not self._ended:
            self._ended = True
            log.append("broken off", **self._outcome(log, [], tokens))

    def _outcome(self, log: "AuditLog", finish: Sequence[str], tokens: int) -> dict[str, Any]:
        texts = [choice.content for choice in self.choices]
        facts = {
            **self._facts,
            "finish": list(finish),
            "output_sha256": [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts],
            "tokens": tokens,
            "label": self._labels.mode,
            "watermark": self.watermarked,
            "flags": sorted({flag for choice in self.choices for flag in choice.flags}),
            "blocked": [choice.blocked for choice in self.choices],
        }
        return facts | ({"texts": texts} if log.texts else {})


async def _written(done: "Future[None]") -> None:
    try:
        await asyncio.wrap_future(done)
    except OSError:
        raise unwritten() from None


class Watched:
    """One answer: its events read before they are shown.

    Attributes:
        content: what was shown as content; blocked: what ended it; masked: whether something was replaced.
    """

    def __init__(self, record: Record):
        self._content, self._reasoning, self._arguments = record.reader(), record.reader(), record.reader()
        self._index = 0
        self.content = ""

    @property
    def _readers(self) -> list["StreamReader"]:
        return [reader for reader in (self._content, self._reasoning, self._arguments) if reader is not None]

    @property
    def flags(self) -> list[str]:
        return [f"output: {flag}" for reader in self._readers for flag in reader.flags]

    @property
    def blocked(self) -> str | None:
        return next((reader.blocked for reader in self._readers if reader.blocked), None)

    @property
    def masked(self) -> bool:
        return any(reader.masked for reader in self._readers)

    @property
    def moderated(self) -> bool:
        return self._content is not None

    def events(self, events: Sequence[Event], last: bool) -> list[Event]:
        """What of these may be shown now; ``last``: nothing follows."""
        if self._content is None or self._reasoning is None or self._arguments is None:
            self.content += "".join(event.text for event in events if isinstance(event, Content))
            return list(events)
        out: list[Event] = []
        for event in events:
            if self.blocked:
                break
            if isinstance(event, Reasoning):
                self._say(out, Reasoning, self._reasoning.push(event.text))
                continue
            self._say(out, Reasoning, self._reasoning.finish())
            if isinstance(event, Content):
                self._say(out, Content, self._content.push(event.text))
                continue
            self._say(out, Content, self._content.finish())
            if isinstance(event, CallArguments):
                self._index = event.index
                self._argue(out, self._arguments.push(event.text))
                continue
            if isinstance(event, CallStart | CallEnd):
                self._argue(out, self._arguments.finish())
            out.append(event)
        if last and not self.blocked:
            self._say(out, Reasoning, self._reasoning.finish())
            self._say(out, Content, self._content.finish())
            self._argue(out, self._arguments.finish())
        return out

    def text(self, text: str, last: bool) -> str:
        """The same for a bare text."""
        if self._content is not None:
            text = self._content.push(text) + (self._content.finish() if last else "")
        self.content += text
        return text

    def _say(self, out: list[Event], kind: "type[Content] | type[Reasoning]", text: str) -> None:
        if text:
            out.append(kind(text))
            self.content += text if kind is Content else ""

    def _argue(self, out: list[Event], text: str) -> None:
        if text:
            out.append(CallArguments(self._index, text))
