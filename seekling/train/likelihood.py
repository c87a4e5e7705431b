"""Log-likelihoods of continuations, and the accuracy they come to: how ``lm-eval`` scores multiple choice.

A choice's score is the sum of the log-probabilities of its tokens after the context; ``acc_norm`` divides it by the choice's
length in characters.  Tokens are those of the whole text: the context's part is what the context alone encodes to, the choice
has the rest (lm-eval's ``_encode_pair``).
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from seekling.errors import DataError
from seekling.lm import LM
from seekling.model import Decoder
from seekling.tasks.suites import Suite
from seekling.train.rollout import wilson

if TYPE_CHECKING:
    from seekling.text.tokenizer import Tokenizer

BATCH_TOKENS = 4096


def encode_pair(tokenizer: "Tokenizer", context: str, choice: str, bos: Sequence[int] = ()) -> tuple[list[int], int]:
    """Token ids of both, and how many of them are the context's (at least one: a begin token where the context is empty)."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, choice = context[:-spaces], context[-spaces:] + choice
    if not context:
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if start is None:
            raise DataError("this model has neither a begin nor an end token, so a text without context cannot be scored")
        return [start, *tokenizer.encode(choice)], 1
    return [*bos, *tokenizer.encode(context + choice)], len(bos) + len(tokenizer.encode(context))


@torch.no_grad()
def log_likelihoods(
    model: Decoder, pairs: Sequence[tuple[list[int], int]], longest: int, tell: Callable[[int], None] = lambda n: None
) -> list[float]:
    """Sum of the log-probabilities behind the first ``n`` tokens of each (ids, n) pair; long ones lose their beginning.

    Args:
        longest: positions of a row. tell: called with the number of pairs just done.
    """
    device = model.lm_head.weight.device
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    out, at = [0.0] * len(pairs), 0
    while at < len(order):
        end = at + 1
        while end < len(order) and (end + 1 - at) * len(pairs[order[end]][0]) <= BATCH_TOKENS:
            end += 1
        part = order[at:end]
        width = min(longest + 1, max(len(pairs[i][0]) for i in part))
        ids = torch.zeros(len(part), width, dtype=torch.int64)
        spans = []
        for row, i in enumerate(part):
            tokens, n = pairs[i]
            cut = max(0, len(tokens) - width)
            tokens, n = tokens[cut:], max(1, n - cut)
            ids[row, : len(tokens)] = torch.tensor(tokens)
            spans.append((n, len(tokens)))
        logits_BTV = model(ids[:, :-1].to(device))
        for row, (i, (n, stop)) in enumerate(zip(part, spans, strict=True)):
            logp = torch.log_softmax(logits_BTV[row, n - 1 : stop - 1].float(), -1)
            out[i] = float(logp.gather(1, ids[row, n:stop, None].to(device)).double().sum())
        tell(len(part))
        at = end
    return out


def score_suite(lm: LM, suite: Suite, limit: int | None = None, tell: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    """Accuracy of a model on the first ``limit`` items.

    Returns:
        acc and acc_norm with standard errors and 95 % Wilson intervals, chance, majority, items, how many contexts were cut.
    """
    assert lm.tokenizer is not None
    items = suite.items[:limit]
    used = Suite(suite.name, suite.about, suite.metric, suite.source, items)
    pairs = [encode_pair(lm.tokenizer, item.context, choice) for item in items for choice in item.choices]
    longest = lm.config.max_position_embeddings
    training = lm.model.training
    lm.model.eval()
    try:
        scores = iter(log_likelihoods(lm.model, pairs, longest, tell))
    finally:
        lm.model.train(training)
    right = {"acc": 0, "acc_norm": 0}
    for item in items:
        values = [next(scores) for _ in item.choices]
        by_length = [v / max(1, len(c.removeprefix(" "))) for v, c in zip(values, item.choices, strict=True)]
        right["acc"] += max(range(len(values)), key=values.__getitem__) == item.gold
        right["acc_norm"] += max(range(len(values)), key=by_length.__getitem__) == item.gold
    n = len(items)
    out: dict[str, Any] = {"items": n, "chance": used.chance, "majority": used.majority, "metric": suite.metric}
    out["cut"] = sum(len(ids) > longest + 1 for ids, _ in pairs)
    for metric, count in right.items():
        share = count / n
        out |= {
            metric: share,
            f"{metric}_stderr": math.sqrt(share * (1 - share) / max(1, n - 1)),
            f"{metric}_interval": wilson(count, n),
        }
    return out
