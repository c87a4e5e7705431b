"""Answers that must have a form: a JSON schema, a regular expression, a grammar. The library is `llguidance`.

>>> Sampling(constraint=Constraint.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}))

A `Constraint` is checked when it is made, and a schema keyword that cannot be enforced is refused by name. Reasoning before the
answer stays free: the constraint binds from the end-of-think token on.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seekling.errors import DataError, SeeklingError, raise_all

# What llguidance enforces, where further schemas stand in it, and what says nothing about the answer.
_ENFORCED = frozenset(
    "type enum const anyOf oneOf allOf $ref properties required additionalProperties patternProperties minProperties "
    "maxProperties items prefixItems minItems maxItems minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength "
    "maxLength pattern format".split()
)
NOTES = frozenset(
    "title description default example examples $comment $schema $id $anchor $defs definitions deprecated readOnly writeOnly "
    "discriminator".split()
)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
# Blanks between the parts of JSON: enough for indented text, too few for a model that would write blanks for ever.
SPACING = {"x-guidance": {"whitespace_pattern": r"\n?[ ]{0,16}"}}
_KEPT = 32  # compiled grammars an engine keeps


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like. Make one with the class methods.

    Attributes:
        kind: "JSON schema", "regular expression" or "grammar": for messages.
        grammar: in the library's own form.
    """

    kind: str
    grammar: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> "Constraint":
        """JSON that fits a schema (also given as text).

        Raises:
            SeeklingError: no schema, or one with keywords that cannot be enforced; all are named.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise SeeklingError(f"the JSON schema is no JSON: {error}") from None
        if not isinstance(schema, (Mapping, bool)):
            raise SeeklingError(f"a JSON schema is an object, not {type(schema).__name__}")
        raise_all(SeeklingError, dict.fromkeys(schema_problems(schema)), "JSON schema")
        schema = {**SPACING, **_told_apart(schema, schema)} if isinstance(schema, Mapping) else schema
        return cls._checked("JSON schema", _library().LLMatcher.grammar_from_json_schema(json.dumps(schema)))

    @classmethod
    def json_object(cls) -> "Constraint":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        """Text that matches a regular expression from end to end."""
        return cls._checked("regular expression", _library().LLMatcher.grammar_from_regex(pattern))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> "Constraint":
        """One of these texts."""
        if not texts or isinstance(texts, str):
            raise SeeklingError("a choice needs a list of at least one text")
        return cls.regex("|".join(re.escape(text) for text in texts))

    @classmethod
    def lark(cls, grammar: str) -> "Constraint":
        """Text of a context-free grammar in Lark's notation, as llguidance extends it (``%json``, special tokens)."""
        return cls._checked("grammar", _library().LLMatcher.grammar_from_lark(grammar))

    @classmethod
    def _checked(cls, kind: str, grammar: str) -> "Constraint":
        wrong, messages = _library().LLMatcher.validate_grammar_with_warnings(grammar, None)
        if wrong:
            found = re.match(r"Unimplemented keys: (\[.*\])", messages[0])
            why = f"cannot be enforced: {', '.join(json.loads(found[1]))}; leave them out" if found else messages[0].strip()
            inside = re.search(r"failed to compile JSON schema: ([^\n]*)", why)  # of a tool: not the whole grammar around it
            why = inside[1] if inside else why
            if "coerce_one_of" in why:
                why = (
                    "oneOf cannot be enforced where nothing tells its alternatives apart; give a discriminator, or write anyOf"
                )
            raise SeeklingError(f"{kind}: {why}")
        return cls(kind, grammar)


class Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, inner: Any, vocab_size: int):
        self._inner, self._size = inner, vocab_size

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._inner.is_stopped())

    def allowed(self) -> Tensor:
        """Which tokens may come next: bool (V,).

        Raises:
            SeeklingError: the library gave up (a grammar beyond its limits).
        """
        bits = torch.frombuffer(bytearray(self._inner.compute_bitmask()), dtype=torch.uint8)
        self._check()
        unpacked = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return unpacked.flatten()[: self._size].bool()

    def forced(self) -> list[int]:
        """Tokens the grammar leaves no choice about; a guess at how they are cut."""
        return [] if self.finished else list(self._inner.compute_ff_tokens())

    def push(self, token_id: int) -> None:
        """Take the next token."""
        self._inner.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._inner.is_error():
            raise SeeklingError(f"the constraint failed: {self._inner.get_error().strip()}")


class Grammars:
    """Compiled grammars for one tokenizer.

    Args:
        tokenizer: `seekling.text.Tokenizer`.
        vocab_size: length of a logits row.
        end_ids: tokens that may end an answer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, end_ids: Sequence[int]):
        self._size, self._lock = vocab_size, threading.Lock()
        self._compiled: dict[str, Any] = {}
        library = _library()
        wrapper = library.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, end_ids))
        self._tokenizer = library.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(end_ids) or None)

    def matcher(self, constraint: Constraint) -> Matcher:
        """A fresh matcher; compiling a grammar for the first time may take a while.

        Raises:
            SeeklingError: the grammar does not fit this vocabulary.
        """
        with self._lock:
            compiled = self._compiled.pop(constraint.grammar, None)
            if compiled is None:
                compiled = _library().LLMatcher(self._tokenizer, constraint.grammar, log_level=0)
                if compiled.is_error():
                    raise SeeklingError(f"{constraint.kind}: {compiled.get_error().strip()}")
            self._compiled[constraint.grammar] = compiled  # last used, last in line
            while len(self._compiled) > _KEPT:
                del self._compiled[next(iter(self._compiled))]
            return Matcher(compiled.deep_copy(), self._size)


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    def __init__(self, tokenizer: Any, vocab_size: int, end_ids: Sequence[int]):
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = end_ids[0] if end_ids else None
        self.special_token_ids = sorted(tokenizer.special.values())
        self.tokens = [_bytes_of(tokenizer, token) for token in range(vocab_size)]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _bytes_of(tokenizer: Any, token: int) -> bytes:
    try:
        return tokenizer.token_bytes(token)
    except DataError:  # a vocabulary padded beyond its tokenizer's
        return b""


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise SeeklingError("constraints need the library llguidance: pip install 'seekling[constrain]'") from None
    return llguidance


def _told_apart(schema: Any, root: Mapping[str, Any]) -> Any:
    """The same schema with ``anyOf`` for every ``oneOf`` whose discriminator lets at most one alternative fit."""
    if isinstance(schema, list):
        return [_told_apart(one, root) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):  # names, not keywords
            out[key] = {name: _told_apart(inner, root) for name, inner in value.items()}
        else:
            out[key] = value if key in ("enum", "const", "default") else _told_apart(value, root)
    about = schema.get("discriminator")
    if isinstance(schema.get("oneOf"), list) and isinstance(about, Mapping) and "anyOf" not in schema:
        marks = [_mark(one, about.get("propertyName"), root) for one in schema["oneOf"]]
        if None not in marks and len(set(marks)) == len(marks):
            out["anyOf"] = out.pop("oneOf")
    return out


def _mark(schema: Any, name: Any, root: Mapping[str, Any]) -> str | None:
    """The one text that an alternative, an object, demands of a property; None where it leaves it open."""
    schema = resolved(schema, root)
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return None  # what is no object would fit all of them
    required, properties = schema.get("required"), schema.get("properties")
    about = properties.get(name) if isinstance(properties, Mapping) and isinstance(name, str) else None
    if not isinstance(about, Mapping) or not isinstance(required, list) or name not in required:
        return None
    values = [about["const"]] if "const" in about else about.get("enum")
    return values[0] if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str) else None


def resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a chain of references into ``root`` leads to; None where it leads nowhere."""
    seen = set()
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
        if schema["$ref"] in seen or not schema["$ref"].startswith("#/"):
            return None
        seen.add(schema["$ref"])
        found: Any = root
        for part in schema["$ref"].split("/")[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        schema = found
    return schema


def schema_problems(schema: Any, where: str = "") -> Iterator[str]:
    """Keywords of a JSON schema that the library would pass over in silence, one line each."""
    if not isinstance(schema, Mapping):
        return
    if not where and schema.get("$ref") == "#":
        yield "/: $ref refers to nothing but itself"
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from schema_problems(inner, f"{where}/{key}/{name}")
        elif key in ("enum", "const", "default", "example", "examples", "discriminator") or key.startswith("x-"):
            continue
        elif key not in _ENFORCED and key not in NOTES:
            yield f"{where or '/'}: the keyword {key} cannot be enforced; leave it out"
        elif key == "items" and isinstance(value, list):
            yield f"{where or '/'}: items is a list; write prefixItems"
        else:
            for inner in value if isinstance(value, list) else [value]:
                yield from schema_problems(inner, f"{where}/{key}")
