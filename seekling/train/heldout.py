"""A run's held-out text as text, so that any model with any tokenizer can be asked about it."""

import math
from pathlib import Path
from typing import Any

import torch

from seekling.lm import LM
from seekling.recipe import Recipe
from seekling.train.evaluate import cut


def heldout_texts(run: Path, tokens: int | None = None) -> dict[str, list[str]]:
    """Documents by source.

    Args:
        tokens: most tokens (of the run's tokenizer) of each source, from its beginning; None takes all.

    Raises:
        DataError: the run's text is gone and cannot be had again.
    """
    from seekling.train import pretrain

    prepared = pretrain.prepare_data(Recipe.load(run / "recipe.toml"), run)
    out = {}
    for name, whole in prepared.heldout.items():
        stream = cut(whole, tokens)
        parts = zip(stream.offsets[:-1], stream.offsets[1:], strict=True)
        texts = [prepared.tokenizer.decode([int(t) for t in stream.tokens[a:b]]) for a, b in parts]
        out[name] = [text for text in texts if text]
    return {name: texts for name, texts in out.items() if texts}


def bits_per_byte(lm: LM, texts: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Bits per UTF-8 byte by source, and of all under "".

    Every document is read after a begin token in windows of the model's context without overlap, so a window's first tokens are
    guessed with little before them: models of short contexts are at a disadvantage, as they are in use.
    """
    from seekling.train.likelihood import encode_pair, log_likelihoods

    assert lm.tokenizer is not None
    room, out, total, size = lm.config.max_position_embeddings, {}, 0.0, 0
    lm.model.eval()
    for name, documents in texts.items():
        pairs: list[tuple[list[int], int]] = []
        for text in documents:
            ids, _ = encode_pair(lm.tokenizer, "", text)
            pairs += [(ids[at : at + room + 1], 1) for at in range(0, len(ids) - 1, room)]
        with torch.no_grad():
            nats = -sum(log_likelihoods(lm.model, pairs, room))
        length = sum(len(text.encode()) for text in documents)
        out[name] = {"bits_per_byte": nats / math.log(2) / length, "bytes": length}
        total, size = total + nats, size + length
    out[""] = {"bits_per_byte": total / math.log(2) / size, "bytes": size}
    return out
