"""Which chat encoding a tokenizer gets, and the common face of all.

Built in are the project's own format and DeepSeek's generations, the latter where a folder's template is one of those
published or where there is none and the vocabulary tells. Any other template is rendered as it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from seekling.errors import DataError
from seekling.text import special as s
from seekling.text.chat import CHAT_TEMPLATE
from seekling.text.deepseek import GENERATIONS, Generation, encode
from seekling.text.deepseek.generations import OWN
from seekling.text.grammar import ReplyGrammar
from seekling.text.special import Mark
from seekling.text.template import TemplateChat, Thinks

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

# sha256 of published templates, blanks at both ends taken off.
PUBLISHED = {
    "8aeba567270fa9a8d5372caf4b04affea947c4421d96adc01e3ff94021b0ae8e": "v2",  # V2, V2-Lite, Coder-V2, LLM-67B
    "54d400beedcd17f464e10063e0577f6f798fa896266a912d8a366f8a2fcc0bca": "v2.5",
    "3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea": "v3",
    "563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64": "r1",
    "56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f": "r1",  # R1-Distill
    "45690185067ea25c073bff2d3e425a45ee2564d2bbf6cdf7d885e139d460b8e0": "v3.1",
}


class ChatEncoding(Protocol):
    """Messages → pieces of text and `Mark`s.

    Attributes:
        name: the format, for people.
        grammar: what answers may consist of (`seekling.text.reply`).
        thinks: "never", "always" or "either": whether ``thinking`` can be chosen. Where it always thinks, thinking off gives
            the answer an empty thought to begin with.
    """

    @property
    def name(self) -> str: ...

    @property
    def grammar(self) -> ReplyGrammar: ...

    @property
    def thinks(self) -> Thinks: ...

    def pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> list[str]: ...


class DeepSeekChat:
    """A built-in encoder of a DeepSeek generation; marks that the vocabulary lacks are written as text."""

    def __init__(self, tokenizer: "Tokenizer", generation: Generation, name: str) -> None:
        self._special, self._generation, self.name = tokenizer.special, generation, name
        self.grammar: ReplyGrammar = generation.reply
        self.thinks: Thinks = generation.thinks

    def pieces(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
        """As `ChatEncoding.pieces`."""
        pieces = encode(self._generation, messages, **options)
        return [str(piece) if piece in OPTIONAL and piece not in self._special else piece for piece in pieces]


class NoChat:
    """The encoding of a model that has no chat format: every use is refused."""

    name, grammar = "none", ReplyGrammar("none")
    thinks: Thinks = "never"

    def pieces(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
        """Raises DataError."""
        raise DataError(
            "this model's folder has no chat template, and its vocabulary no control token that tells its format: "
            "give text, or a folder with chat_template.jinja"
        )


# Without these a format still works: its publisher's own distilled models write them as text.
OPTIONAL = frozenset(s.CONTROL) - {s.BOS, s.EOS, s.USER, s.ASSISTANT} | {s.DSML}


def template_hash(template: str) -> str:
    """sha256 of a chat template, blanks at both ends taken off."""
    return hashlib.sha256(template.strip().encode()).hexdigest()


def chat_encoding(tokenizer: "Tokenizer") -> ChatEncoding:
    """The encoding for a tokenizer."""
    template = tokenizer.chat_template
    if template is not None:
        if template.strip() == CHAT_TEMPLATE.strip():
            return DeepSeekChat(tokenizer, OWN, "Seekling's (DeepSeek-V3.1's)")
        known = PUBLISHED.get(template_hash(template))
        if known is None:
            return TemplateChat(tokenizer, template)
        return DeepSeekChat(tokenizer, GENERATIONS[known], f"DeepSeek-{known.upper()}, built in")
    guessed = _by_vocabulary(tokenizer)
    if guessed is None:
        return NoChat()
    return DeepSeekChat(tokenizer, guessed, f"DeepSeek-{guessed.name.upper()}, built in (by the vocabulary)")


def _by_vocabulary(tokenizer: "Tokenizer") -> Generation | None:
    """The generation of a DeepSeek vocabulary without a template: V3.2's and V4's folders ship none."""
    if not {s.BOS, s.EOS, s.USER, s.ASSISTANT} <= tokenizer.special.keys():
        return None
    by_type = {"deepseek_v32": "v3.2", "deepseek_v4": "v4"}.get(tokenizer.model_type)
    if by_type:
        return GENERATIONS[by_type]
    if s.DSML in tokenizer.special:
        return GENERATIONS["v4" if s.LATEST_REMINDER in tokenizer.special else "v3.2"]
    return OWN if s.THINK_END in tokenizer.special else GENERATIONS["v3"]


def begin_of_answer(tokenizer: "Tokenizer", grammar: ReplyGrammar, prompt_ids: Sequence[int]) -> dict[str, Any]:
    """How a prompt has begun the answer already: arguments of `ReplyParser`."""
    tail, marks = _tail(tokenizer, prompt_ids)
    if grammar.channels is not None:
        _, found, channel = tail.rpartition(grammar.channels.channel)
        name, message, _ = channel.partition(grammar.channels.message)
        return {"channel": name.strip()} if found and message else {}
    style = grammar.thinking
    if style is None:
        return {}
    atomic = style.begin in tokenizer.special
    opened = style.begin in marks if atomic else tail.rstrip().endswith(style.begin)
    closed = style.end in marks if style.end in tokenizer.special else tail.rstrip().endswith(style.end)
    if not opened or closed:
        return {}
    return {"in_reasoning": True, "lead_done": tail.rpartition(style.begin)[2] != ""}


def _tail(tokenizer: "Tokenizer", prompt_ids: Sequence[int]) -> tuple[str, set[str]]:
    """The text after the last mark of structure (a turn's begin), and the marks in it."""
    by_id = {number: mark for mark, number in tokenizer.special.items()}
    stays = {s.THINK, s.THINK_END, "<|channel|>", "<|message|>"}
    first = len(prompt_ids)
    while first and len(prompt_ids) - first < 4096:
        mark = by_id.get(prompt_ids[first - 1])
        if mark is not None and mark not in stays:
            break
        first -= 1
    ids = prompt_ids[first:]
    marks = {by_id[i] for i in ids if i in by_id}
    return "".join(Mark(by_id[i]) if i in by_id else tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids), marks
