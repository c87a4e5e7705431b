"""Mixture of experts: DeepSeekMoE (DeepSeekMoE §3, V2 §2.2, V3 §2.1.2) and its relatives; no token is ever dropped.

Shapes: N tokens, D hidden, E routed experts, K experts a token, G groups, M expert width.
"""

from collections.abc import Callable, Sequence
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
    own_NK: Tensor | None = None  # what the router would have chosen, where others were given


@dataclass
class Trace:
    """Collects what the routers did during one forward pass, in layer order, MTP layers last.

    ``given``: experts for each router in that order, (N, K) each; the router's own choice counts where they are -1.
    """

    routings: list[Routing] = field(default_factory=list)
    given: Sequence[Tensor] | None = None

    def next_given(self) -> Tensor | None:
        """What is given to the next router."""
        return None if self.given is None else self.given[len(self.routings)]


class Router(nn.Module):
    """The gate; ``config.scoring_func`` and ``config.topk_method`` name its kind (see ``ModelConfig``).

    ``e_score_correction_bias`` steers the choice only; it is moved by ``update_bias`` and never sees a gradient (V3 §2.1.2).
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.n_routed_experts)) if config.router_bias else None
        if config.topk_method in ("noaux_tc", "bias"):
            self.register_buffer("e_score_correction_bias", torch.empty(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_ND: Tensor, given_NK: Tensor | None = None) -> Routing:
        """``given_NK``: see `Trace`."""
        config, K = self.config, self.config.num_experts_per_tok
        if config.router_float32:
            logits_NE = nn.functional.linear(x_ND.float(), self.weight.float())
        else:
            logits_NE = nn.functional.linear(x_ND.to(self.weight.dtype), self.weight, self.bias)  # float32 where it trains
        if config.topk_method == "topk_first":  # gpt-oss: only the chosen logits take part in the softmax
            logits_NE = logits_NE.to(torch.promote_types(logits_NE.dtype, torch.float32))
            own_NK = logits_NE.topk(K, dim=-1)[1]
            indices_NK = own_NK if given_NK is None else torch.where(given_NK >= 0, given_NK, own_NK)
            return Routing(logits_NE.gather(1, indices_NK).softmax(-1), indices_NK, logits_NE.softmax(-1), own_NK)
        logits_NE = logits_NE.float()
        scores_NE = logits_NE.sigmoid() if config.scoring_func == "sigmoid" else logits_NE.softmax(-1)
        choice_NE = scores_NE.detach()
        if config.topk_method in ("noaux_tc", "bias"):
            choice_NE = group_limit(choice_NE + self.e_score_correction_bias, config, best=2)
        elif config.topk_method == "group_limited_greedy":
            choice_NE = group_limit(choice_NE, config, best=1)
        own_NK = choice_NE.topk(K, dim=-1, sorted=config.scoring_func == "softmax")[1]  # the sum below rounds in this order
        indices_NK = own_NK if given_NK is None else torch.where(given_NK >= 0, given_NK, own_NK)
        weights_NK = scores_NE.gather(1, indices_NK)
        if config.renormalises:
            total = weights_NK.sum(-1, keepdim=True)
            weights_NK = weights_NK / (
                total + 1e-20 if config.router_norm_min is None else total.clamp(min=config.router_norm_min)
            )
        return Routing(weights_NK * config.routed_scaling_factor, indices_NK, scores_NE, own_NK)

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
        self.config = config
        e, m, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * m, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, m))
        if config.expert_bias:
            self.gate_up_proj_bias = nn.Parameter(torch.empty(e, 2 * m))
            self.down_proj_bias = nn.Parameter(torch.empty(e, d))

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        return self.run(x_ND, routing, self.gate_up_proj, self.down_proj)

    def matrix(self, half: str, expert: int) -> tuple[Tensor, Tensor | None]:
        """One expert's matrix (O, I) of ``gate_up`` or ``down``, and its bias."""
        bias = getattr(self, f"{half}_proj_bias")[expert] if self.config.expert_bias else None
        return getattr(self, f"{half}_proj")[expert], bias

    def activated(self, gate_up: Tensor) -> Tensor:
        """(..., 2M) -> (..., M)."""
        return activated(gate_up, self.config)

    def run(self, x_ND: Tensor, routing: Routing, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
        """``forward`` with these matrices in place of the layer's own (an adapter's merged ones)."""
        if self.config.swiglu_limit is None and not self.config.expert_bias:
            return ops.grouped_experts(x_ND, routing.weights_NK, routing.indices_NK, gate_up_EMD, down_EDM)
        biases = (self.gate_up_proj_bias, self.down_proj_bias) if self.config.expert_bias else None
        return gptoss_experts(x_ND, routing, gate_up_EMD, down_EDM, biases, self.config)


def activated(gate_up: Tensor, config: ModelConfig) -> Tensor:
    """What an expert makes of its first product: SwiGLU, or gpt-oss's (up + 1)·gate·σ(α·gate), gate ≤ limit, |up| ≤ limit."""
    gate, up = gate_up.chunk(2, -1)
    if config.swiglu_limit is None and not config.expert_bias:
        return ops.swiglu(gate, up)
    limit = float("inf") if config.swiglu_limit is None else config.swiglu_limit
    alpha = 1.0 if config.swiglu_alpha is None else config.swiglu_alpha
    gate, up = gate.clamp(max=limit), up.clamp(min=-limit, max=limit)
    return (up + 1) * gate * torch.sigmoid(gate * alpha)


def by_expert(x_ND: Tensor, routing: Routing, experts: int, expert: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Σ_k w_nk · expert(i_nk, x_n) -> (N, D): every expert that has tokens is called once, with all of them."""
    order_J = routing.indices_NK.flatten().argsort(stable=True)
    token_J = order_J // routing.indices_NK.shape[1]
    counts = torch.bincount(routing.indices_NK.flatten(), minlength=experts).tolist()
    parts = x_ND.index_select(0, token_J).split(counts)
    found = [expert(e, part) for e, part in enumerate(parts) if len(part)]
    wide = torch.promote_types(x_ND.dtype, torch.float32)
    out_ND = x_ND.new_zeros(x_ND.shape, dtype=wide)
    if found:
        weights_J = routing.weights_NK.flatten()[order_J, None]
        out_ND = out_ND.index_add(0, token_J, torch.cat(found).to(wide) * weights_J.to(wide))
    return out_ND.to(x_ND.dtype)


def gptoss_experts(
    x_ND: Tensor,
    routing: Routing,
    gate_up_EMD: Tensor,
    down_EDM: Tensor,
    biases: tuple[Tensor, Tensor] | None,
    config: ModelConfig,
) -> Tensor:
    """Experts with biases and gpt-oss's activation -> (N, D)."""

    def expert(e: int, x_JD: Tensor) -> Tensor:
        bias, down_bias = (None, None) if biases is None else (biases[0][e], biases[1][e])
        return nn.functional.linear(activated(nn.functional.linear(x_JD, gate_up_EMD[e], bias), config), down_EDM[e], down_bias)

    return by_expert(x_ND, routing, len(gate_up_EMD), expert)


class MoE(nn.Module):
    """Σ_shared E(x) + Σ_chosen g_i E_i(x); Qwen2-MoE scales its shared expert by σ(w·x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config, config.shared_width) if config.shared_width else None
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False) if config.shared_expert_gate else None

    def forward(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        routing = self.gate(x_ND, None if trace is None else trace.next_given())
        if trace is not None:
            trace.routings.append(routing)
        out_ND = self.experts(x_ND, routing)
        if self.shared_experts is not None:
            shared_ND = self.shared_experts(x_ND)
            if self.shared_expert_gate is not None:
                shared_ND = shared_ND * self.shared_expert_gate(x_ND).sigmoid()
            out_ND = out_ND + shared_ND
        return out_ND.view_as(x)
