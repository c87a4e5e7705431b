"""Text ↔ token ids: any byte-level or SentencePiece-style vocabulary, read with the `tokenizers` library.

No text can ever become a control mark, whatever it contains; marks enter only where a caller asks for them (``bos=True``,
chat, FIM). Decoding joins the tokens' bytes. Nothing in a Tokenizer changes after it is made: threads may share it.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import DataError
from seekling.text.folder import TOKENIZER, read_folder, write_folder
from seekling.text.special import BOS, EOS, PAD, Mark
from seekling.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from seekling.text.encoding import ChatEncoding
    from seekling.text.reply import ReplyParser

Message = Mapping[str, Any]


class Tokenizer:
    """A vocabulary with its rules.

    Args:
        spec: the content of tokenizer.json.
        settings: the content of tokenizer_config.json (names of the begin, end and padding tokens).
        chat_template: Jinja text of the main chat template.
        templates: further named chat templates ("tool_use", …).
        end_ids: end tokens beside ``eos_token`` (generation_config.json).
        model_type: the model's family, a hint for the chat encoding where there is no template.
        source: what the vocabulary was read from.

    Attributes: ``special`` (control token text → id), ``bos_id``, ``eos_id``, ``pad_id`` (None where there is none),
    ``end_ids`` (every token that ends an answer), ``source``.

    Raises:
        DataError: the file is of a kind that cannot be read.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        settings: dict[str, Any] | None = None,
        chat_template: str | None = None,
        *,
        templates: Mapping[str, str] | None = None,
        end_ids: Iterable[int] = (),
        model_type: str = "",
        source: str = TOKENIZER,
    ) -> None:
        self.settings, self.source, self.model_type = dict(settings or {}), source, model_type
        self.templates = dict(templates or {}) | ({} if chat_template is None else {"default": chat_template})
        self._marks = _template_tokens(spec.get("post_processor"))
        self._vocabulary = Vocabulary(spec)
        self.special = self._vocabulary.control
        self.hidden = self._vocabulary.hidden
        self._bytes = self._vocabulary.bytes
        self.vocab_size: int = self._bytes.size
        self.bos_id = self._named("bos_token", BOS)
        self.eos_id = self._named("eos_token", EOS)
        self.pad_id = self._named("pad_token", PAD)
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys([*([] if self.eos_id is None else [self.eos_id]), *end_ids]))

    def _named(self, key: str, fallback: str) -> int | None:
        name = self.settings.get(key)
        name = name.get("content") if isinstance(name, dict) else name
        if name is None:
            return self.special.get(fallback)
        if not isinstance(name, str):
            raise DataError(f"tokenizer_config.json: {key} is {name!r}: give the text of a token")
        found = self.special.get(name, self._vocabulary.encoder.token_to_id(name))
        if found is None:
            raise DataError(f"tokenizer_config.json: {key} {name!r} is not in {self.source}")
        return found

    @property
    def spec(self) -> dict[str, Any]:
        """The content of tokenizer.json, a copy of its own each time."""
        return dict(json.loads(self._vocabulary.text))

    @property
    def chat_template(self) -> str | None:
        """The main chat template, None without one."""
        return self.templates.get("default")

    @property
    def adds_bos(self) -> bool:
        """Whether a raw prompt of this model begins with the begin token, as far as its files say."""
        if self.bos_id is None:
            return False
        if "add_bos_token" in self.settings and self.bos_id != self.special.get(BOS):
            return bool(self.settings["add_bos_token"])
        by_class = str(self.settings.get("tokenizer_class", "")).startswith(("Llama", "CodeLlama"))
        return BOS in self.special or by_class or any(self.special.get(mark) == self.bos_id for mark in self._marks)

    # ---- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read a folder's vocabulary, settings, chat templates and end tokens (see `seekling.text.folder`).

        `source` says which file the vocabulary came from.

        Raises:
            DataError: no such file, or one that is damaged or of an unknown kind.
        """
        folder = Path(folder)
        files = read_folder(folder)
        try:
            return cls(
                files.spec,
                files.settings,
                templates=files.templates,
                end_ids=files.end_ids,
                model_type=files.model_type,
                source=files.source,
            )
        except DataError as error:
            raise DataError(f"{folder}: {error}") from None
        except _SHAPE as error:
            why = f"cannot be used ({type(error).__name__}: {error}): fetch it again"
            raise DataError(f"{folder}: {files.source} {why}") from None

    def save(self, folder: str | Path) -> None:
        """Write the files `load` and transformers' AutoTokenizer read."""
        write_folder(Path(folder), self.spec, self.settings, self.templates)

    # ---- text → ids ----------------------------------------------------------------------------------------------

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of a text; control marks written in it stay text.

        Raises:
            DataError: the text holds half a surrogate pair, or a begin/end token was asked for and there is none.
        """
        return self.encode_batch([text], bos=bos, eos=eos)[0]

    def encode_batch(self, texts: Sequence[str], *, bos: bool = False, eos: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        front = [self._need(self.bos_id, "begin")] if bos else []
        back = [self._need(self.eos_id, "end")] if eos else []
        try:
            encoded = self._vocabulary.encode(texts)
        except (UnicodeEncodeError, TypeError):
            raise DataError(_why_not_text(texts)) from None
        return [front + ids + back for ids in encoded] if front or back else encoded

    def encode_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Ids of text with control marks: a `Mark` becomes its one token, all else ordinary tokens.

        Neighbouring texts are encoded as one, as the library would encode the whole string.
        """
        names = self._vocabulary.names
        written = []
        for piece in pieces:
            if isinstance(piece, Mark):
                self.mark(piece)
                written.append(names[piece])
            else:
                written.append(piece)
        try:
            return self.encode("".join(written))
        except TypeError:
            raise DataError(_why_not_text(pieces)) from None

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> list[int]:
        """Ids of a conversation in this model's own chat format.

        Args:
            messages: dicts with ``role`` and ``content``; an assistant's may have ``reasoning_content`` and ``tool_calls``,
                a tool's ``tool_call_id``.
            tools: function definitions in the OpenAI form.
            thinking: the answer shall begin with reasoning.
            add_generation_prompt: end where the assistant's answer begins.
            continue_final: leave the last message, the assistant's, open to be continued.
            reasoning_effort: "low", "medium", "high" or "max" for the models that know it.

        Raises:
            DataError: a message, or the combination, that this model's format cannot express.
        """
        return self.encode_pieces(
            self.chat.pieces(
                messages,
                tools=tools,
                thinking=thinking,
                add_generation_prompt=add_generation_prompt and not continue_final,
                continue_final=continue_final,
                reasoning_effort=reasoning_effort,
            )
        )

    def encode_fim(self, prefix: str, suffix: str) -> list[int]:
        """Ids of a prompt whose answer fills the gap between two texts, after the begin token where the model has one.

        Raises:
            DataError: the vocabulary has no marks for it.
        """
        from seekling.text.fim import fim_pieces

        front = [self._need(self.bos_id, "begin")] if self.adds_bos else []
        return front + self.encode_pieces(fim_pieces(self, prefix, suffix))

    @cached_property
    def chat(self) -> "ChatEncoding":
        """The chat encoding that fits this vocabulary and template (see `seekling.text.encoding`)."""
        from seekling.text.encoding import chat_encoding

        return chat_encoding(self)

    def reply_parser(
        self, prompt_ids: Sequence[int] = (), *, tools: Sequence[Mapping[str, Any]] | None = None, early_calls: bool = False
    ) -> "ReplyParser":
        """A streaming parser of this model's answers to a prompt (see `seekling.text.reply`)."""
        from seekling.text.encoding import begin_of_answer
        from seekling.text.reply import ReplyParser

        grammar = self.chat.grammar
        begun = begin_of_answer(self, grammar, prompt_ids)
        return ReplyParser(grammar, self, tools=tools, early_calls=early_calls, **begun)

    @property
    def template_hash(self) -> str | None:
        """sha256 of the main chat template, None without one."""
        from seekling.text.encoding import template_hash

        return None if self.chat_template is None else template_hash(self.chat_template)

    def mark(self, text: str) -> int:
        """Id of a control token. DataError when this vocabulary has none of that name."""
        if text not in self.special:
            raise DataError(f"this tokenizer has no control token {text!r}; chat needs one trained by seekling or DeepSeek's")
        return self.special[text]

    @staticmethod
    def _need(token: int | None, what: str) -> int:
        if token is None:
            raise DataError(f"this tokenizer has no {what} token: name it in tokenizer_config.json")
        return token

    # ---- ids → text ----------------------------------------------------------------------------------------------

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for. DataError for an id outside the vocabulary."""
        try:
            return self._bytes[token]
        except KeyError:
            raise DataError(f"token id {token} is not in this vocabulary of {self.vocab_size}") from None

    def same_vocabulary(self, other: "Tokenizer") -> bool:
        """Whether every token id stands for the same bytes, and the same marks, in both."""
        return self._bytes == other._bytes and self.special == other.special

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD. ``skip_special`` leaves out marks of structure."""
        stream = self.stream(skip_special=skip_special)
        return stream.push_all(ids) + stream.flush()

    def stream(self, *, skip_special: bool = True) -> "StreamDecoder":
        """A decoder for ids that come one by one."""
        return StreamDecoder(self, skip_special)


class StreamDecoder:
    """Text as its tokens arrive, never half a character. All that was pushed, then `flush`, is `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.hidden if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer._vocabulary.strips_first

    def push(self, token: int) -> str:
        """Take a token; return the characters it completes."""
        return self.push_all((token,))

    def push_all(self, ids: Iterable[int]) -> str:
        """`push` of several tokens at once."""
        data = b"".join(self._tokenizer.token_bytes(token) for token in ids if token not in self._skip)
        if self._at_start and data:
            self._at_start = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never completed, else nothing."""
        return self._utf8.decode(b"", final=True)


# What content of the wrong shape makes of the code that reads it.
_SHAPE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)


def _template_tokens(processor: dict[str, Any] | None) -> list[str]:
    """Marks that the file's post-processor puts before a lone text."""
    if not processor:
        return []
    steps = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    front: list[str] = []
    for step in steps or []:
        for part in step.get("single") or []:
            if "SpecialToken" not in part:
                break
            front.append(part["SpecialToken"]["id"])
    return front


def _why_not_text(texts: Sequence[str]) -> str:
    for text in texts:
        if not isinstance(text, str):
            return f"only text can be encoded, not a {type(text).__name__}"
        half = re.search("[\ud800-\udfff]", text)
        if half:
            return f"the text is not valid Unicode: half a surrogate pair (U+{ord(half[0]):04X}) at character {half.start()}"
    return "the text cannot be encoded"
