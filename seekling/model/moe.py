"""DeepSeekMoE: shared plus fine-grained routed experts, no token dropped (DeepSeekMoE §3, V2 §2.2, V3 §2.1.2).

Shapes: N tokens, D hidden, E routed experts, K experts a token, G groups, M expert width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.config import ModelConfig
from seekling.model.layers import MLP


@dataclass
class Routing:
    """What one router decided: weights (N, K), expert indices (N, K) and all scores (N, E), float32, bias not included."""

    weights_NK: Tensor
    indices_NK: Tensor
    scores_NE: Tensor


@dataclass
class Trace:
    """Collects what the routers did during one forward pass, in layer order, MTP layers last."""

    routings: list[Routing] = field(default_factory=list)


class Router(nn.Module):
    """The gate.  V3: sigmoid scores, chosen by score + bias under a group limit.  V2: softmax scores, greedy or group-limited.

    ``e_score_correction_bias`` steers the choice only; it is moved by ``update_bias`` and never sees a gradient (V3 §2.1.2).
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if config.model_type == "deepseek_v3":
            self.register_buffer("e_score_correction_bias", torch.empty(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_ND: Tensor) -> Routing:
        config = self.config
        logits_NE = nn.functional.linear(x_ND.float(), self.weight.float())
        if config.scoring_func == "sigmoid":
            scores_NE = logits_NE.sigmoid()
            choice_NE = group_limit(scores_NE.detach() + self.e_score_correction_bias, config, best=2)
            indices_NK = choice_NE.topk(config.num_experts_per_tok, dim=-1, sorted=False)[1]
        else:
            scores_NE = logits_NE.softmax(-1)
            choice_NE = scores_NE.detach()
            if config.topk_method == "group_limited_greedy":
                choice_NE = group_limit(choice_NE, config, best=1)
            indices_NK = choice_NE.topk(config.num_experts_per_tok, dim=-1, sorted=False)[1]
        weights_NK = scores_NE.gather(1, indices_NK)
        if config.norm_topk_prob and config.scoring_func == "sigmoid":
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        return Routing(weights_NK * config.routed_scaling_factor, indices_NK, scores_NE)

    @torch.no_grad()
    def update_bias(self, load_E: Tensor, speed: float) -> None:
        """b += speed · sign(mean load − load), with the load of the whole global batch (V3 §2.1.2, arXiv 2408.15664)."""
        load = load_E.to(torch.float32)
        self.e_score_correction_bias += speed * torch.sign(load.mean() - load).to(self.e_score_correction_bias.device)


def group_limit(choice_NE: Tensor, config: ModelConfig, best: int) -> Tensor:
    """Keep the ``topk_group`` groups whose ``best`` highest scores sum highest; the rest becomes −∞, so that a masked
    expert loses even to a negative score."""
    if config.n_group == 1:
        return choice_NE
    grouped = choice_NE.view(choice_NE.shape[0], config.n_group, -1)
    group_NG = grouped.topk(min(best, grouped.shape[-1]), dim=-1)[0].sum(-1)
    chosen = group_NG.topk(config.topk_group, dim=-1, sorted=False)[1]
    dropped_NG = torch.ones_like(group_NG, dtype=torch.bool).scatter_(1, chosen, False)
    return grouped.masked_fill(dropped_NG[..., None], float("-inf")).flatten(1)


class Experts(nn.Module):
    """All routed experts of a layer as two stacked matrices; gate rows come before up rows."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        e, m, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * m, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, m))

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        return ops.grouped_experts(x_ND, routing.weights_NK, routing.indices_NK, self.gate_up_proj, self.down_proj)


class MoE(nn.Module):
    """Σ_shared E(x) + Σ_chosen g_i E_i(x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = (
            MLP(config, config.n_shared_experts * config.moe_intermediate_size) if config.n_shared_experts else None
        )

    def forward(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        routing = self.gate(x_ND)
        if trace is not None:
            trace.routings.append(routing)
        out_ND = self.experts(x_ND, routing)
        if self.shared_experts is not None:
            out_ND = out_ND + self.shared_experts(x_ND)
        return out_ND.view_as(x)
