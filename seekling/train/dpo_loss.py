"""Direct preference optimisation: the better answer gains on the worse one, measured against where the model began.

With m = (log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected)), sums over an answer's tokens:

    sigmoid   −(1−ε) log σ(β m) − ε log σ(−β m)        DPO (Rafailov et al. 2023, eq. 7); ε: conservative DPO
    ipo       (m − 1/2β)²  with mean instead of sum    IPO (Azar et al. 2023, eq. 17), over the answers' mean log-probability

Shapes: P pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass
class PairTerms:
    """Loss and implicit rewards of each pair, (P,) each."""

    loss_P: Tensor
    chosen_P: Tensor
    rejected_P: Tensor


def pair_loss(
    logp_P2: Tensor, ref_P2: Tensor, lengths_P2: Tensor, *, beta: float, kind: str = "sigmoid", smoothing: float = 0.0
) -> PairTerms:
    """Columns are chosen and rejected; sums of log-probabilities over the answers' tokens, and their numbers."""
    gain_P2 = logp_P2 - ref_P2
    if kind == "ipo":
        mean_P2 = gain_P2 / lengths_P2
        loss_P = (mean_P2[:, 0] - mean_P2[:, 1] - 1 / (2 * beta)) ** 2
    else:
        margin_P = beta * (gain_P2[:, 0] - gain_P2[:, 1])
        loss_P = -(1 - smoothing) * logsigmoid(margin_P) - smoothing * logsigmoid(-margin_P)
    reward_P2 = beta * gain_P2.detach()
    return PairTerms(loss_P, *torch.unbind(reward_P2, 1))
