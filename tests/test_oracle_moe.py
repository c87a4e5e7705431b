"""Routing rules and the grouped experts, against loops that say what is meant."""

import dataclasses

import pytest
import torch
from oracle_models import CLASSES, draw_config, one_thread  # noqa: F401

from seekling.kernels import ops
from seekling.model.config import ModelConfig
from seekling.model.moe import MoE, Router

V3 = ModelConfig(
    vocab_size=32, hidden_size=10, intermediate_size=16, moe_intermediate_size=6, num_hidden_layers=1, num_attention_heads=2,
    kv_lora_rank=4, qk_nope_head_dim=2, qk_rope_head_dim=2, v_head_dim=2, n_routed_experts=12, num_experts_per_tok=3,
    n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5,
)  # fmt: skip
V2 = dict(model_type="deepseek_v2", scoring_func="softmax", topk_method="group_limited_greedy", norm_topk_prob=False)


def router(seed: int = 0, bias: float | torch.Tensor = 0.0, **changes) -> Router:
    gate = Router(dataclasses.replace(V3, **changes))
    with torch.no_grad():
        gate.weight.normal_(generator=torch.Generator().manual_seed(seed))
        if hasattr(gate, "e_score_correction_bias"):
            gate.e_score_correction_bias.copy_(torch.as_tensor(bias).expand(gate.weight.shape[0]))
    return gate


def tokens(n: int = 50, seed: int = 1, d: int = 10) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def chosen_by_loop(scores_E, bias_E, config: ModelConfig, best: int) -> set[int]:
    """Group limit and top-k of one token, in plain Python (no ties among random scores)."""
    biased = (scores_E + bias_E).tolist()
    size = config.n_routed_experts // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]
    worth = [sum(sorted((biased[e] for e in group), reverse=True)[:best]) for group in groups]
    kept = sorted(range(config.n_group), key=lambda g: -worth[g])[: config.topk_group]
    allowed = [e for g in kept for e in groups[g]]
    return set(sorted(allowed, key=lambda e: -biased[e])[: config.num_experts_per_tok])


@pytest.mark.parametrize("shift", [0.0, -0.5, -10.0, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_v3_chooses_by_biased_scores_inside_the_best_groups_even_when_all_are_negative(shift, seed):
    bias = shift + 0.3 * torch.randn(12, generator=torch.Generator().manual_seed(seed))
    gate = router(seed, bias)
    routing = gate(tokens())
    for scores_E, indices_K in zip(routing.scores_NE, routing.indices_NK, strict=True):
        assert set(indices_K.tolist()) == chosen_by_loop(scores_E, bias, gate.config, best=2)


@pytest.mark.parametrize("seed", range(4))
def test_v2_ranks_groups_by_their_best_expert(seed):
    gate = router(seed, **V2)
    routing = gate(tokens())
    for scores_E, indices_K in zip(routing.scores_NE, routing.indices_NK, strict=True):
        assert set(indices_K.tolist()) == chosen_by_loop(scores_E, torch.zeros(12), gate.config, best=1)


def test_a_prohibitive_bias_keeps_an_expert_from_every_token():
    bias = torch.zeros(12)
    bias[3] = -1e4
    assert not (router(bias=bias)(tokens()).indices_NK == 3).any()


def test_a_group_of_one_expert_is_ranked_by_it():
    routing = router(n_group=12, topk_group=3)(tokens())
    best = routing.scores_NE.topk(3, -1)[1].sort(-1)[0]
    assert torch.equal(routing.indices_NK.sort(-1)[0], best)


def test_one_group_and_no_bias_is_plain_sigmoid_top_k():
    gate = router(n_group=1, topk_group=1)
    x = tokens()
    routing = gate(x)
    expected = torch.sigmoid(x @ gate.weight.T).topk(3, -1)[1]
    assert torch.equal(routing.indices_NK.sort(-1)[0], expected.sort(-1)[0])


def test_normalised_weights_sum_to_the_scaling_factor():
    weights = router(bias=-3.0)(tokens()).weights_NK
    torch.testing.assert_close(weights.sum(-1), torch.full((50,), 2.5))


def test_weights_are_scores_without_the_bias():
    gate = router(bias=torch.linspace(-2, 2, 12), norm_topk_prob=False)
    routing = gate(tokens())
    torch.testing.assert_close(routing.weights_NK, 2.5 * routing.scores_NE.gather(1, routing.indices_NK))


def test_v2_weights_are_softmax_scores_that_are_never_renormalised():
    routing = router(**V2, routed_scaling_factor=16.0)(tokens())
    torch.testing.assert_close(routing.weights_NK, 16 * routing.scores_NE.gather(1, routing.indices_NK))
    torch.testing.assert_close(routing.scores_NE.sum(-1), torch.ones(50))


@pytest.mark.parametrize("changes", [{}, V2], ids=["v3", "v2"])
def test_equal_scores_are_settled_the_same_way_every_time_and_never_twice_for_one_expert(changes):
    gate = router(**changes)
    with torch.no_grad():
        gate.weight.zero_()
    first = gate(tokens()).indices_NK
    assert all(torch.equal(first, gate(tokens()).indices_NK) for _ in range(5))
    assert torch.equal(first, gate(tokens(seed=9)).indices_NK)  # equal scores, other tokens
    assert all(len(set(row)) == 3 for row in first.tolist())
    size = 12 // 4
    assert all(len({e // size for e in row}) <= 2 for row in first.tolist())


def test_scores_are_float32_in_a_bfloat16_model_and_in_a_float64_one():
    for dtype in (torch.bfloat16, torch.float64):
        gate = router().to(dtype)
        gate.e_score_correction_bias = gate.e_score_correction_bias.float()
        routing = gate(tokens().to(dtype))
        assert routing.weights_NK.dtype == routing.scores_NE.dtype == torch.float32


def test_the_bias_moves_against_the_load_and_carries_no_gradient():
    gate = router()
    x = tokens().requires_grad_()
    gate(x).weights_NK.square().sum().backward()
    assert gate.weight.grad is not None
    assert not gate.e_score_correction_bias.requires_grad
    load = torch.tensor([5.0, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    gate.update_bias(load, 0.01)
    assert gate.e_score_correction_bias.tolist() == pytest.approx([-0.01, 0.01, *[0.01 * float(load.mean() > 3)] * 10])


def by_loop(x_ND, weights_NK, indices_NK, gate_up, down):
    out = torch.zeros_like(x_ND)
    for n, (weights, indices) in enumerate(zip(weights_NK, indices_NK, strict=True)):
        for weight, e in zip(weights, indices.tolist(), strict=True):
            gate, up = (gate_up[e] @ x_ND[n]).chunk(2)
            out[n] = out[n] + weight * (down[e] @ (torch.nn.functional.silu(gate) * up))
    return out


@pytest.mark.parametrize("n", [1, 2, 17])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (5, 2), (7, 7)])
def test_grouped_experts_equal_the_loop_over_tokens_forward_and_backward(n, experts, k):
    g = torch.Generator().manual_seed(n)
    leaves = [
        torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
        for shape in ((n, 6), (n, k), (experts, 8, 6), (experts, 6, 4))
    ]
    indices = torch.stack([torch.randperm(experts, generator=g)[:k] for _ in range(n)])
    x, weights, gate_up, down = leaves
    ours, loop = ops.grouped_experts(x, weights, indices, gate_up, down), by_loop(x, weights, indices, gate_up, down)
    torch.testing.assert_close(ours, loop, rtol=0, atol=1e-12)
    probe = torch.randn(n, 6, generator=g, dtype=torch.float64)
    grads = [torch.autograd.grad((y * probe).sum(), leaves, allow_unused=True) for y in (ours, loop)]
    for a, b, leaf in zip(*grads, leaves, strict=True):
        zero = torch.zeros_like(leaf)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_tokens_give_no_rows(dtype):
    x, weights, indices = torch.zeros(0, 6, dtype=dtype), torch.zeros(0, 2), torch.zeros(0, 2).long()
    out = ops.grouped_experts(x, weights, indices, torch.ones(3, 8, 6, dtype=dtype), torch.ones(3, 6, 4, dtype=dtype))
    assert (out.shape, out.dtype) == ((0, 6), dtype)


def test_all_tokens_on_one_expert_are_all_computed():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    gate_up, down = torch.randn(5, 8, 6), torch.randn(5, 6, 4)
    weights, indices = torch.ones(40, 1), torch.full((40, 1), 4)
    out = ops.grouped_experts(x, weights, indices, gate_up, down)
    torch.testing.assert_close(out, by_loop(x, weights, indices, gate_up, down), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", CLASSES)
def test_a_layer_is_shared_plus_weighted_routed_experts(family):
    config = draw_config(family, 2)
    moe = MoE(config).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*moe.parameters(), *moe.buffers()]:
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=g))
        x = torch.randn(2, 7, config.hidden_size, generator=g, dtype=torch.float64)
        flat = x.flatten(0, 1)
        routing = moe.gate(flat)
        expected = by_loop(flat, routing.weights_NK, routing.indices_NK, moe.experts.gate_up_proj, moe.experts.down_proj)
        torch.testing.assert_close(moe(x).flatten(0, 1), expected + moe.shared_experts(flat), rtol=0, atol=1e-10)
