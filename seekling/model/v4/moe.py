"""Experts of DeepSeek-V4: √softplus scores, clamped SwiGLU, and layers that choose experts by token id (V4 §2.1).

Shapes: N tokens, D hidden, E experts, K experts a token, V vocabulary, M expert width.
"""

import torch
from torch import Tensor, nn

from seekling.model.config import ModelConfig
from seekling.model.layers import MLP
from seekling.model.moe import Experts, MoE, Router, Routing, Trace


def clamped_swiglu(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """silu(min(gate, limit)) ⊙ clamp(up, ±limit)."""
    return nn.functional.silu(gate.clamp(max=limit)) * up.clamp(min=-limit, max=limit)


class V4Router(Router):
    """Experts by score and selection bias, or by the row of a fixed table that the token's id names; weights by score."""

    tid2eid: Tensor

    def __init__(self, config: ModelConfig, by_hash: bool):
        nn.Module.__init__(self)
        self.config, self.by_hash = config, by_hash
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.bias = None
        if by_hash:
            table = torch.empty(config.vocab_size, config.num_experts_per_tok, dtype=torch.int64)
            self.register_buffer("tid2eid", table)
        else:
            self.register_buffer("e_score_correction_bias", torch.empty(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_ND: Tensor, ids_N: Tensor | None = None) -> Routing:
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        logits_NE = nn.functional.linear(x_ND.to(wide), self.weight.to(wide))
        sigmoid = self.config.scoring_func == "sigmoid"
        scores_NE = logits_NE.sigmoid() if sigmoid else nn.functional.softplus(logits_NE).sqrt()
        if self.by_hash:
            assert ids_N is not None
            indices_NK = self.tid2eid[ids_N]
        else:
            choice_NE = scores_NE.detach() + self.e_score_correction_bias
            indices_NK = choice_NE.topk(self.config.num_experts_per_tok, dim=-1, sorted=False)[1]
        weights_NK = scores_NE.gather(1, indices_NK)
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        return Routing(weights_NK * self.config.routed_scaling_factor, indices_NK, scores_NE)


def clamped_experts(x_ND: Tensor, routing: Routing, gate_up_EMD: Tensor, down_EDM: Tensor, limit: float) -> Tensor:
    """Σ_k w_nk · expert_{i_nk}(x_n) -> (N, D), every expert with clamped SwiGLU."""
    out_ND = torch.zeros_like(x_ND)
    for e in routing.indices_NK.unique().tolist():
        token_J, place_J = torch.where(routing.indices_NK == e)
        gate, up = nn.functional.linear(x_ND[token_J], gate_up_EMD[e]).chunk(2, -1)
        y_JD = nn.functional.linear(clamped_swiglu(gate, up, limit), down_EDM[e])
        out_ND = out_ND.index_add(0, token_J, (y_JD * routing.weights_NK[token_J, place_J, None]).to(out_ND.dtype))
    return out_ND


class V4Experts(Experts):
    """The stacked experts with clamped SwiGLU."""

    def activated(self, gate_up: Tensor) -> Tensor:
        assert self.config.swiglu_limit is not None
        gate, up = gate_up.chunk(2, -1)
        return clamped_swiglu(gate, up, self.config.swiglu_limit)

    def run(self, x_ND: Tensor, routing: Routing, gate_up_EMD: Tensor, down_EDM: Tensor) -> Tensor:
        assert self.config.swiglu_limit is not None
        return clamped_experts(x_ND, routing, gate_up_EMD, down_EDM, self.config.swiglu_limit)


class V4MLP(MLP):
    """The shared expert, clamped alike."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__(config, width)
        assert config.swiglu_limit is not None
        self.limit = config.swiglu_limit

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(clamped_swiglu(self.gate_proj(x), self.up_proj(x), self.limit))


class V4MoE(MoE):
    """Shared expert + routed experts; ``ids`` decide where the layer chooses by hash."""

    def __init__(self, config: ModelConfig, layer: int):
        nn.Module.__init__(self)
        assert config.v4 is not None
        self.gate = V4Router(config, layer in config.v4.hash_layers)
        self.experts = V4Experts(config)
        self.shared_experts = V4MLP(config, config.shared_width)
        self.shared_expert_gate = None

    def forward(self, x: Tensor, trace: Trace | None = None, ids: Tensor | None = None) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        routing = self.gate(x_ND, None if ids is None else ids.reshape(-1))
        if trace is not None:
            trace.routings.append(routing)
        assert self.shared_experts is not None
        return (self.experts(x_ND, routing) + self.shared_experts(x_ND)).view_as(x)
