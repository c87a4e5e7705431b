"""From what a caller calls a prompt (text, token ids, chat messages) to token ids, all problems gathered."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

from seekling.errors import DataError, SeeklingError, raise_all

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]


def as_prompts(prompts: Any) -> list[Any]:
    """A list of prompts; a single one (a string, ids or messages) becomes a list of one."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]  # a lone message is refused later, with a remedy
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, Iterable):
        return [prompts]  # refused later too
    prompts = list(prompts)
    return [prompts] if prompts and isinstance(prompts[0], (Integral, Mapping)) else prompts


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: Any,
    config: Any,
    *,
    thinking: bool,
    must_fit: bool = True,
    context: int | None = None,
    spare: int = 1,
) -> list[list[int]]:
    """Token ids of each prompt, every one short enough to leave room for ``spare`` new tokens.

    A string gets the begin token, if there is one, in front; token ids are taken as they are; messages go through the
    tokenizer's chat encoding; an empty string or list becomes the begin token alone. Control marks in text stay text.

    Args:
        tokenizer: `seekling.text.Tokenizer` or None (then only token ids are accepted).
        config: `ModelConfig`: vocab_size, max_position_embeddings, bos_token_id.
        thinking: open a thinking part in chat prompts.
        must_fit: False lets too long prompts pass (to count them).
        context: tokens that fit, where the cache is smaller than the model's context.

    Raises:
        SeeklingError: lists every prompt that cannot be used.
    """
    encoded: list[list[int]] = []
    problems: list[str] = []
    context = context or config.max_position_embeddings
    for number, prompt in enumerate(prompts):
        where = f"prompt {number} " if len(prompts) > 1 else "the prompt "
        try:
            ids = _encode(prompt, tokenizer, config, thinking)
        except DataError as error:  # the tokenizer's
            problems.append(f"{where}cannot be encoded: {error}")
            continue
        except SeeklingError as error:
            problems.append(f"{where}{error}")
            continue
        problems.extend(where + line for line in _id_problems(ids, config, context if must_fit else None, spare))
        encoded.append(ids)
    raise_all(SeeklingError, problems, "generate" if len(problems) > 1 else "")
    return encoded


def _encode(prompt: Any, tokenizer: Any, config: Any, thinking: bool) -> list[int]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        if prompt:
            return list(_need(tokenizer).encode(prompt, bos=tokenizer.adds_bos))
        prompt = []
    if isinstance(prompt, Mapping) or not isinstance(prompt, Sequence):
        raise SeeklingError(f"is a {type(prompt).__name__}: give text, a list of token ids or a list of chat messages")
    if not prompt:
        bos = tokenizer.bos_id if tokenizer is not None else config.bos_token_id
        if bos is None:
            raise SeeklingError("is empty and the model has no begin token: give at least one token")
        return [bos]
    if all(isinstance(item, Mapping) for item in prompt):
        return list(_need(tokenizer).encode_chat(prompt, add_generation_prompt=True, thinking=thinking))
    if all(isinstance(item, Integral) and not isinstance(item, bool) for item in prompt):
        return [int(item) for item in prompt]
    kinds = ", ".join(sorted({type(item).__name__ for item in prompt}))
    raise SeeklingError(f"is a list of {kinds}: give text, a list of token ids or a list of chat messages")


def _id_problems(ids: list[int], config: Any, limit: int | None, spare: int) -> Iterator[str]:
    bad = sorted({i for i in ids if not 0 <= i < config.vocab_size})
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        yield f"has token ids outside 0…{config.vocab_size - 1}: {shown}"
    if limit is not None and len(ids) + spare > limit:
        whose = "the model's context" if limit == config.max_position_embeddings else "the engine's cache"
        yield f"has {len(ids)} tokens, {whose} holds {limit}{' and one must stay free' if spare else ''}: shorten it"


def _need(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise SeeklingError("is text, and this model folder has no tokenizer: give token ids")
    return tokenizer
