"""A conversation: what was said, and how much of it the model still sees."""

import json
from pathlib import Path
from typing import Any

from seekling.engine.engine import Engine
from seekling.engine.sampling import Sampling


class Conversation:
    """Messages in order. Nothing is forgotten but by `reset`; `fit` only moves where the model's view begins.

    Attributes:
        system: the system message or None.
        messages: every user and assistant message since the last reset.
        first: index of the first message the model still sees.
    """

    def __init__(self, system: str | None = None):
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.first = 0

    def reset(self) -> None:
        """Start anew; the system message stays."""
        self.messages, self.first = [], 0

    def ask(self, text: str) -> None:
        """The user's next message."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str, reasoning: str = "") -> None:
        """The model's answer; its reasoning is kept for `save` but never shown to the model again."""
        extra = {"reasoning_content": reasoning} if reasoning else {}
        self.messages.append({"role": "assistant", "content": text, **extra})

    def take_back(self, first: int) -> None:
        """Forget the last message, which could not be answered, and see again from message ``first`` on."""
        self.messages.pop()
        self.first = first

    def prompt(self) -> list[dict[str, str]]:
        """What the model sees: the system message and the messages from `first` on, role and content only."""
        seen = [{"role": m["role"], "content": m["content"]} for m in self.messages[self.first :]]
        return ([{"role": "system", "content": self.system}] if self.system else []) + seen

    def fit(self, engine: Engine, sampling: Sampling, *, thinking: bool = False) -> int:
        """Hide the oldest turns until the prompt leaves room for an answer; the last question always stays.

        Room is `max_tokens`, but no more than a quarter of the context. Returns the number of messages newly hidden:
        the caller has to say so.
        """
        context = engine.config.max_position_embeddings
        room = min(sampling.max_tokens, max(1, context // 4))
        before = self.first
        while engine.prompt_tokens(self.prompt(), thinking=thinking) + room > context:
            later = [i for i in range(self.first + 1, len(self.messages)) if self.messages[i]["role"] == "user"]
            if not later:
                break
            self.first = later[0]
        return self.first - before

    def save(self, path: str | Path) -> int:
        """Append the whole conversation to a JSONL file as one line ``{"messages": […]}``; returns its message count."""
        messages: list[dict[str, Any]] = list(self.messages)
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        return len(messages)
