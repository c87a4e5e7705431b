"""Text ↔ token ids: any byte-level or SentencePiece-style ``tokenizer.json``, read with the `tokenizers` library.

The file's added tokens (control marks) are taken out before the encoder is built, so no text can ever become one, whatever it
contains; marks enter only where a caller asks for them (``bos=True``, chat, FIM). Decoding joins the tokens' bytes. Nothing in
a Tokenizer changes after it is made: threads may share it.
"""

import codecs
import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from seekling.errors import DataError
from seekling.text.chat import Mark, Message, chat_pieces
from seekling.text.special import BOS, EOS, PAD

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Tokenizer:
    """A vocabulary with its rules.

    Args:
        spec: the content of tokenizer.json.
        settings: the content of tokenizer_config.json (names of the begin, end and padding tokens).
        chat_template: Jinja text kept beside it for other programs.

    Attributes: ``special`` (control token text → id), ``bos_id``, ``eos_id``, ``pad_id`` (None where there is none).

    Raises:
        DataError: the file is of a kind that cannot be read.
    """

    def __init__(self, spec: dict[str, Any], settings: dict[str, Any] | None = None, chat_template: str | None = None) -> None:
        self.spec, self.settings, self.chat_template = spec, dict(settings or {}), chat_template
        added = spec.get("added_tokens") or []
        self.special: dict[str, int] = {token["content"]: token["id"] for token in added}
        self._hidden = frozenset(token["id"] for token in added if token.get("special"))
        self._bare = _bare_encoder(spec)
        self._bytes = _byte_table(spec, self.special)
        self.vocab_size: int = max(self._bytes, default=-1) + 1
        self._strip_first = _strips_first_space(spec)
        self.bos_id = self._named("bos_token", BOS)
        self.eos_id = self._named("eos_token", EOS)
        self.pad_id = self._named("pad_token", PAD)

    def _named(self, key: str, fallback: str) -> int | None:
        name = self.settings.get(key)
        name = name.get("content") if isinstance(name, dict) else name
        if name is None:
            return self.special.get(fallback)
        found = self.special.get(name, self._bare.token_to_id(name))
        if found is None:
            raise DataError(f"tokenizer_config.json: {key} {name!r} is not in tokenizer.json")
        return found

    # ---- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read tokenizer.json (and tokenizer_config.json, chat_template.jinja when there) from a folder.

        Raises:
            DataError: no such file, or one that is damaged or of an unknown kind.
        """
        folder = Path(folder)
        if not (folder / FILES[0]).is_file():
            raise DataError(f"{folder} has no tokenizer.json: name a run, checkpoint or tokenizer folder")
        spec = _read_json(folder / FILES[0])
        settings = _read_json(folder / FILES[1]) if (folder / FILES[1]).is_file() else {}
        template = folder / FILES[2]
        text = template.read_text("utf-8") if template.is_file() else settings.get("chat_template")
        try:
            return cls(spec, settings, text if isinstance(text, str) else None)
        except DataError as error:
            raise DataError(f"{folder}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write the files `load` and transformers' AutoTokenizer read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[0]).write_text(json.dumps(self.spec, ensure_ascii=False, indent=1), "utf-8")
        (folder / FILES[1]).write_text(json.dumps(self.settings, ensure_ascii=False, indent=2) + "\n", "utf-8")
        if self.chat_template is not None:
            (folder / FILES[2]).write_text(self.chat_template, "utf-8")

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
            encodings = self._bare.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise DataError(_why_not_text(texts)) from None
        return [front + encoding.ids + back for encoding in encodings]

    def encode_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Ids of text with control marks: a `Mark` becomes its one token, any other string ordinary tokens."""
        texts = iter(self.encode_batch([piece for piece in pieces if not isinstance(piece, Mark)]))
        return [i for piece in pieces for i in ([self.mark(piece)] if isinstance(piece, Mark) else next(texts))]

    def encode_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, thinking: bool = False
    ) -> list[int]:
        """Ids of a conversation (see `seekling.text.chat.chat_pieces`)."""
        return self.encode_pieces(chat_pieces(messages, add_generation_prompt=add_generation_prompt, thinking=thinking))

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
        self._skip = tokenizer._hidden if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer._strip_first

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


# ---- reading the file ------------------------------------------------------------------------------------------------


def _bare_encoder(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    """The encoder without added tokens and without a template that would add some."""
    bare = {**spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"tokenizer.json cannot be read: {error}") from None


def _byte_table(spec: dict[str, Any], special: dict[str, int]) -> dict[int, bytes]:
    """Id → bytes, for byte-level vocabularies and those with ``▁`` for space and ``<0x0A>`` for a lone byte."""
    vocabulary = (spec.get("model") or {}).get("vocab")
    kinds = {step.get("type") for step in _steps(spec.get("decoder"))}
    if not isinstance(vocabulary, dict) or not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        raise DataError(
            f"tokenizer.json is of a kind that is not supported ({(spec.get('model') or {}).get('type')}, decoder "
            f"{', '.join(map(str, kinds))}): use a byte-level or byte-fallback BPE"
        )
    if "ByteLevel" in kinds:
        letters = byte_letters()
        table = {i: b"".join(letters.get(c) or c.encode() for c in token) for token, i in vocabulary.items()}
    else:
        table = {i: _fallback_bytes(token) for token, i in vocabulary.items()}
    table.update((i, token.encode()) for token, i in special.items())
    return table


def _fallback_bytes(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


@functools.cache
def byte_letters() -> dict[str, bytes]:
    """The letter that stands for each byte in a byte-level vocabulary: printable Latin-1 itself, the rest from U+0100 on."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


def _strips_first_space(spec: dict[str, Any]) -> bool:
    decoder = _steps(spec.get("decoder"))
    return any(
        (step.get("type") == "Strip" and step.get("start", 0) > 0)
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in decoder
    )


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not decoder:
        return []
    return decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch or write it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object: fetch or write it again")
    return value


def _why_not_text(texts: Sequence[str]) -> str:
    for text in texts:
        if not isinstance(text, str):
            return f"only text can be encoded, not a {type(text).__name__}"
        half = re.search("[\ud800-\udfff]", text)
        if half:
            return f"the text is not valid Unicode: half a surrogate pair (U+{ord(half[0]):04X}) at character {half.start()}"
    return "the text cannot be encoded"
