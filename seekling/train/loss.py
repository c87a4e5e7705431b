"""What is minimised: next-token cross-entropy, MTP's further tokens, and the sequence-wise balance loss (V3 §2.1.2, §2.2).

The logits of a batch are never held: head and cross-entropy run together over chunks of tokens, and the chunk's gradient is
taken in the same pass.

Shapes: B rows, T positions, S = T + 1 + MTP depth tokens, N = B·T, D hidden, V vocabulary, E experts, K experts a token.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seekling.kernels import ops
from seekling.model import Decoder, Trace
from seekling.model.layers import weight_of
from seekling.model.moe import Routing

IGNORE = -100


class TokenBatch(Protocol):
    """What the losses need of a batch (seekling.data.Batch is one)."""

    @property
    def tokens_BS(self) -> Tensor: ...
    @property
    def doc_BS(self) -> Tensor: ...
    @property
    def mask_BS(self) -> Tensor | None: ...


@dataclass
class LossOutput:
    """``loss`` carries the gradient; the rest are detached sums and counts for the log and the router bias."""

    loss: Tensor
    ce_sum: Tensor
    targets: int
    mtp_ce_sum: Tensor
    mtp_targets: int
    balance: Tensor
    loads_LE: Tensor


def targets_of(batch: TokenBatch, length: int, ahead: int) -> Tensor:
    """(B, T) the token ``ahead`` places after each position; IGNORE where it lies in another document or is masked out."""
    tokens_BT = batch.tokens_BS[:, ahead : ahead + length]
    keep = batch.doc_BS[:, ahead : ahead + length] == batch.doc_BS[:, :length]
    if batch.mask_BS is not None:
        keep = keep & batch.mask_BS[:, ahead : ahead + length]
    return torch.where(keep, tokens_BT, IGNORE)


def compute_loss(
    model: Decoder,
    batch: TokenBatch,
    *,
    mtp_weight: float = 0.0,
    seq_balance_alpha: float = 0.0,
    targets: int | None = None,
    rows: int | None = None,
    chunk: int = 1024,
) -> LossOutput:
    """Loss of one micro-batch, as its share of the optimizer step.

    Args:
        mtp_weight: λ; L_MTP = λ/depth · Σ_k L_k (V3 eq. 25). 0 skips the MTP layers.
        seq_balance_alpha: α of the sequence-wise balance loss (V3 eq. 17).
        targets, rows: target tokens and rows of the whole optimizer step; this micro-batch's own when None.
        chunk: tokens whose logits exist at one time.

    A micro-batch without any target has loss 0 and zero gradients.
    """
    depth = model.config.num_nextn_predict_layers
    T = batch.tokens_BS.shape[1] - 1 - depth
    ids_BT, doc_BT = batch.tokens_BS[:, :T], batch.doc_BS[:, :T]
    trace = Trace()
    x_BTD = model.states(ids_BT, doc_BT, trace)
    goal_BT = targets_of(batch, T, 1)
    count = int((goal_BT != IGNORE).sum())
    share = 1.0 / max(1, targets if targets is not None else count)
    loss, ce_sum = head_loss(model, model.final(x_BTD), goal_BT, share, chunk)
    mtp_ce_sum, mtp_count = ce_sum.new_zeros(()), 0
    if mtp_weight > 0.0 and depth > 0:
        next_ids_BTk = torch.stack([batch.tokens_BS[:, 1 + k : 1 + k + T] for k in range(depth)], -1)
        for k, h_BTD in enumerate(model.mtp_states(x_BTD, next_ids_BTk, doc_BT, trace)):
            goal_BT = targets_of(batch, T, 2 + k)
            mtp_count += int((goal_BT != IGNORE).sum())
            part, part_sum = head_loss(model, h_BTD, goal_BT, share * mtp_weight / depth, chunk)
            loss, mtp_ce_sum = loss + part, mtp_ce_sum + part_sum
    balance = loss.new_zeros(())
    if seq_balance_alpha > 0.0 and trace.routings:
        B = ids_BT.shape[0]
        balance = torch.stack([sequence_balance(r, B) for r in trace.routings]).sum() * (B / (rows or B))
        loss = loss + seq_balance_alpha * balance
    return LossOutput(loss, ce_sum, count, mtp_ce_sum, mtp_count, balance.detach(), loads(model, trace))


def head_loss(model: Decoder, h_BTD: Tensor, goal_BT: Tensor, scale: float, chunk: int) -> tuple[Tensor, Tensor]:
    """(scale · Σ cross-entropy with gradient, Σ cross-entropy detached) of final-normed states against target ids."""
    h_ND, goal_N = h_BTD.flatten(0, 1), goal_BT.flatten()
    asked = (goal_N != IGNORE).nonzero()[:, 0]
    if len(asked) < 0.9 * len(goal_N):  # no logits where nothing is asked: half of a conversation and more
        h_ND, goal_N = h_ND[asked], goal_N[asked]
    h_ND, weight_VD = head_inputs(model, h_ND)
    ce_sum = ops.linear_cross_entropy(h_ND, weight_VD, goal_N, scale, chunk)
    return ce_sum, ce_sum.detach() / scale


def head_inputs(model: Decoder, h_ND: Tensor) -> tuple[Tensor, Tensor]:
    """States and matrix whose product is the logits; a head's bias is one more column, of an input that is always 1."""
    weight_VD, bias_V = weight_of(model.lm_head), model.lm_head.bias
    if bias_V is None:
        return h_ND, weight_VD
    return torch.cat([h_ND, h_ND.new_ones(len(h_ND), 1)], 1), torch.cat([weight_VD, bias_V[:, None].to(weight_VD.dtype)], 1)


def sequence_balance(routing: Routing, rows: int) -> Tensor:
    """Σ_i f_i P_i, mean over the sequences (V3 eq. 17-20): 1 when perfectly even; gradient through P only."""
    E, K = routing.scores_NE.shape[-1], routing.indices_NK.shape[-1]
    scores_BTE = routing.scores_NE.view(rows, -1, E)
    T = scores_BTE.shape[1]
    hits_BE = torch.zeros(rows, E, dtype=torch.float32, device=scores_BTE.device)
    hits_BE.scatter_add_(1, routing.indices_NK.view(rows, T * K), hits_BE.new_ones(1, 1).expand(rows, T * K))
    f_BE = hits_BE * (E / (K * T))
    p_BE = (scores_BTE / scores_BTE.sum(-1, keepdim=True)).mean(1)
    return (f_BE * p_BE).sum(-1).mean()


def loads(model: Decoder, trace: Trace) -> Tensor:
    """Tokens each expert received, int64 (routers, E); rows of routers that did not run stay zero."""
    out = torch.zeros(len(model.routers()), model.config.n_routed_experts, dtype=torch.int64)
    for i, routing in enumerate(trace.routings):
        out[i] = torch.bincount(routing.indices_NK.flatten(), minlength=out.shape[1]).cpu()
    return out


@torch.no_grad()
def token_losses(model: Decoder, batch: TokenBatch, chunk: int = 1024, trace: Trace | None = None) -> tuple[Tensor, Tensor]:
    """For evaluation: cross-entropy (B, T) in nats, 0 where nothing is asked, and whether the best guess was right (B, T)."""
    T = batch.tokens_BS.shape[1] - 1 - model.config.num_nextn_predict_layers
    h_ND = model.hidden(batch.tokens_BS[:, :T], batch.doc_BS[:, :T], trace).flatten(0, 1)
    goal_BT = targets_of(batch, T, 1)
    losses, right = [], []
    for h, goal in zip(h_ND.split(chunk), goal_BT.flatten().split(chunk), strict=True):
        logits = model.head(h).float()
        losses.append(torch.nn.functional.cross_entropy(logits, goal, ignore_index=IGNORE, reduction="none"))
        right.append(logits.argmax(-1) == goal)
    return torch.cat(losses).view_as(goal_BT), torch.cat(right).view_as(goal_BT)
