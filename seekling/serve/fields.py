"""The requests of the OpenAI surface, with DeepSeek's fields. A field that is not named here is refused by its name."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")
Json = dict[str, Any]
# A body has room for a million wrong items or fields, and an error for each would hold up every stream for half a minute:
Many = Annotated[list[Item], Field(fail_fast=True)]  # the first wrong item is told,
UNKNOWN = 10  # so many unknown fields,
BIASES = 4096  # and no entry of more than so many.


def few(most: int) -> BeforeValidator:
    """At most so many entries, counted before any is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            told = "has {count} entries, this server takes at most {most}"
            raise PydanticCustomError("too_long", told, {"count": len(value), "most": most})
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """Refuses unknown fields and values of another type (a text is no number); ``null`` means "not given"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _first_unknown(cls, value: Any) -> Any:
        """Of many unknown fields leave the first, which is enough to refuse them."""
        known = cls.model_fields
        if not isinstance(value, dict) or len(value) <= len(known) + UNKNOWN:
            return value
        unknown = [name for name in value if name not in known][:UNKNOWN]
        return {name: value[name] for name in (*(name for name in known if name in value), *unknown)}


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Thinking(Strict):
    type: Literal["enabled", "disabled", "auto", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1)


class Drawing(Strict):
    """What both kinds of completion share. `user`, `metadata` and the like say who asks and change no answer."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], few(BIASES)] | None = None
    max_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | Many[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    user_id: str | None = Field(default=None, max_length=512)
    cache_salt: str | None = Field(default=None, max_length=512)
    metadata: Json | None = None


class ChatRequest(Drawing):
    messages: Many[Json]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    return_experts: bool | None = None
    response_format: Json | None = None
    tools: Many[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    thinking: Thinking | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] | None = None
    chat_template_kwargs: Annotated[dict[Literal["thinking", "enable_thinking"], bool], few(UNKNOWN)] | None = None
    modalities: Many[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionRequest(Drawing):
    prompt: str | Many[str] | Many[int] | Many[Many[int]] | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = None


class EmbeddingRequest(Strict):
    input: str | Many[str] | Many[int] | Many[Many[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    pooling: Literal["mean", "last"] | None = None
    user: str | None = None


class TokenizeRequest(Strict):
    model: str | None = None
    prompt: str | None = None
    messages: Many[Json] | None = None
    tools: Many[Json] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetectRequest(Strict):
    """``/watermark/detect``: a text, or the tokens it was made of, by the model whose tokenizer made them."""

    model: str | None = None
    text: str | None = None
    tokens: Many[int] | None = None


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: Many[int]


class ExplainRequest(Strict):
    model: str | None = None
    prompt: str | Many[int] | None = None
    messages: Many[Json] | None = None
    tools: Many[Json] | None = None
    user_id: str | None = Field(default=None, max_length=512)
    cache_salt: str | None = Field(default=None, max_length=512)
