"""Group Relative Policy Optimization: advantages and the clipped objective, with the published variants by name.

DeepSeekMath §4.1 is the default form of the ratio and of the KL estimator; what later work changed is a setting:

    advantage   "std" (DeepSeekMath: reward minus group mean, over the group's deviation), "mean" (Dr. GRPO: no division)
    average     "sequence" (DeepSeekMath: each answer's own mean, then over answers), "token" (DAPO: over all tokens),
                "constant" (Dr. GRPO: over the longest answer allowed)
    ratio       "token", or "sequence" (GSPO: the geometric mean over the answer, for every token of it)
    clip_high   a wider upper bound (DAPO's clip-higher)
    kl          weight β; estimator "k3" (DeepSeekMath eq. 4) or "unbiased" (V3.2 §3.1: k3 times the ratio)
    off_policy  answers with a negative advantage whose mean log-ratio fell below −δ are left out (V3.2 §3.1)
    truncate    importance weight of the sampler's mismatch, capped (TIS)

Shapes: A answers, G answers a problem, T tokens of an answer (padded), mask True at its own tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GrpoSettings:
    """See the module's text; 0 switches a part off."""

    advantage: str = "std"
    average: str = "token"
    ratio: str = "token"
    clip: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0
    kl_kind: str = "k3"
    off_policy: float = 0.0
    truncate: float = 2.0
    longest: int = 256


def advantages(rewards_PG: Tensor, kind: str) -> Tensor:
    """(P, G) advantages of the groups' rewards; a group of equal rewards has advantage 0 throughout."""
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if kind == "mean":
        return centred
    spread = rewards_PG.std(1, keepdim=True, correction=0)
    return torch.where(spread > 1e-6, centred / (spread + 1e-6), torch.zeros_like(centred))


@dataclass
class PolicyTerms:
    """The loss and what the log shows, as sums over tokens or answers so that micro-batches add up."""

    loss: Tensor
    clipped: float
    kl: float
    tokens: int
    left_out: int


def policy_loss(
    logp_AT: Tensor,
    old_AT: Tensor,
    sampler_AT: Tensor,
    advantage_A: Tensor,
    mask_AT: Tensor,
    settings: GrpoSettings,
    *,
    tokens: int,
    answers: int,
    ref_AT: Tensor | None = None,
    bonus_AT: Tensor | None = None,
) -> PolicyTerms:
    """The share of these answers in the step's loss.

    Args:
        logp_AT: under the weights in training, with gradient.
        old_AT: under the weights that the roll-out began with, by the trainer's own arithmetic.
        sampler_AT: as the engine reported them when it drew the tokens.
        ref_AT: under the reference model; needed where ``kl`` is not 0.
        bonus_AT: added to each token's advantage (on-policy distillation: weight · (teacher − old)).
        tokens, answers: of the whole step, to divide by.
    """
    mask = mask_AT.float()
    lengths_A = mask.sum(1).clamp(min=1)
    log_ratio = (logp_AT - old_AT) * mask
    if settings.ratio == "sequence":
        mean = log_ratio.sum(1) / lengths_A
        # every token carries the answer's ratio; the gradient reaches it through all tokens alike (GSPO eq. 7)
        log_ratio = mean[:, None].expand_as(log_ratio)
    ratio = log_ratio.exp()
    up, down = 1 + (settings.clip_high or settings.clip), 1 - settings.clip
    gain = advantage_A[:, None] if bonus_AT is None else advantage_A[:, None] + bonus_AT
    objective = torch.minimum(ratio * gain, ratio.clamp(down, up) * gain)
    clipped = ((ratio > up) & (gain > 0) | (ratio < down) & (gain < 0)) & mask_AT
    if settings.truncate:
        mismatch = ((old_AT - sampler_AT) * mask).exp().clamp(max=settings.truncate)
        objective = objective * mismatch.detach()
    keep_A = torch.ones_like(lengths_A)
    if settings.off_policy:
        drift_A = (log_ratio.detach() * mask).sum(1) / lengths_A
        keep_A = (~((advantage_A < 0) & (drift_A < -settings.off_policy))).float()
    kl_sum = 0.0
    if settings.kl:
        assert ref_AT is not None  # the caller makes one whenever kl is not 0
        away = (ref_AT - logp_AT) * mask
        k3 = away.exp() - away - 1
        if settings.kl_kind == "unbiased":
            k3 = k3 * ratio
        objective = objective - settings.kl * k3
        kl_sum = float((k3.detach() * mask).sum())
    per_token = objective * mask * keep_A[:, None]
    if settings.average == "sequence":
        loss = -(per_token.sum(1) / lengths_A).sum() / answers
    else:
        loss = -per_token.sum() / (tokens if settings.average == "token" else answers * settings.longest)
    return PolicyTerms(loss, float(clipped.sum()), kl_sum, int(mask_AT.sum()), int((keep_A == 0).sum()))
