"""AdamW against torch's, Muon against a plain loop, ownership of parameters, float32 masters."""

import pytest
import torch
from torch import nn
from train_tiny import one_thread, tiny_config  # noqa: F401

from seekling.errors import CheckpointError, RecipeError
from seekling.model import Decoder
from seekling.train.optim import ADAMW, MATRIX, NO_DECAY, Optimizer, OptimSettings, assign_groups, newton_schulz, rules


def random_grads(model: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def model(seed=0) -> Decoder:
    return Decoder.build(tiny_config(), seed=seed)


# ---- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_of_the_model_has_one_owner(optimizer):
    owner = assign_groups(model().named_parameters(), rules(optimizer))
    assert set(owner) == {n for n, _ in model().named_parameters()}


def test_norms_and_embedding_do_not_decay_and_muon_leaves_head_and_router_to_adamw():
    owner = assign_groups(model().named_parameters(), rules("muon"))
    assert owner["model.embed_tokens.weight"] == owner["model.norm.weight"] == NO_DECAY
    assert owner["lm_head.weight"] == owner["model.layers.1.mlp.gate.weight"] == ADAMW
    assert owner["model.layers.1.mlp.experts.gate_up_proj"] == owner["model.layers.2.eh_proj.weight"] == MATRIX
    assert set(assign_groups(model().named_parameters(), rules("adamw")).values()) == {NO_DECAY, MATRIX}


def test_a_parameter_with_no_owner_or_two_is_refused():
    named = [("odd", torch.zeros(2, 2, 2, 2))]
    with pytest.raises(ValueError, match=r"odd.*no optimizer group"):
        assign_groups(named, rules("adamw"))
    with pytest.raises(ValueError, match="'a', 'b'"):
        assign_groups([("w", torch.zeros(2, 2))], [("a", lambda n, p: True), ("b", lambda n, p: True)])


def test_an_unknown_optimizer_is_a_recipe_error():
    with pytest.raises(RecipeError, match="adamw or muon"):
        OptimSettings("sgd")


# ---- AdamW -----------------------------------------------------------------------------------------------------------


def test_adamw_equals_torch_adamw_over_several_steps():
    ours, theirs = model(), model()
    opt = Optimizer(ours, OptimSettings("adamw", weight_decay=0.1))
    plain = [p for n, p in theirs.named_parameters() if opt.owner[n] == NO_DECAY]
    rest = [p for n, p in theirs.named_parameters() if opt.owner[n] != NO_DECAY]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.1}]
    oracle = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, lr=1.0, foreach=False, fused=False)
    for step in range(5):
        random_grads(ours, step)
        random_grads(theirs, step)
        lr = 1e-2 / (step + 1)
        for group in oracle.param_groups:
            group["lr"] = lr
        opt.step(lr)
        oracle.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_clipping_scales_all_gradients_by_one_factor_and_returns_the_norm_before():
    m = model()
    opt = Optimizer(m, OptimSettings())
    random_grads(m, 0)
    before = {n: p.grad.clone() for n, p in m.named_parameters()}
    norm = opt.scale_and_clip(0.5, 1.0)
    whole = torch.cat([g.flatten() for g in before.values()])
    assert norm == pytest.approx(0.5 * float(whole.norm()), rel=1e-5)
    after = torch.cat([p.grad.flatten() for p in m.parameters()])
    assert float(after.norm()) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(after / after.norm(), whole / whole.norm())


def test_gradients_below_the_clip_norm_are_left_alone():
    m = model()
    opt = Optimizer(m, OptimSettings())
    for p in m.parameters():
        p.grad = torch.full_like(p, 1e-6)
    opt.scale_and_clip(1.0, 1.0)
    assert all(torch.equal(p.grad, torch.full_like(p, 1e-6)) for p in m.parameters())


def test_a_parameter_without_gradient_is_not_touched_not_even_by_decay():
    m = model()
    opt = Optimizer(m, OptimSettings(weight_decay=0.5))
    before = m.lm_head.weight.clone()
    random_grads(m, 0)
    m.lm_head.weight.grad = None
    opt.step(0.1)
    assert torch.equal(m.lm_head.weight, before)


# ---- Muon ------------------------------------------------------------------------------------------------------------


def spread(rows, cols, seed=0):
    """A matrix whose singular values run from 1 down to 1e-2."""
    g = torch.Generator().manual_seed(seed)
    n = min(rows, cols)
    u = torch.linalg.qr(torch.randn(rows, n, generator=g))[0]
    v = torch.linalg.qr(torch.randn(cols, n, generator=g))[0]
    return u @ torch.diag(torch.logspace(0, -2, n)) @ v.T


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0.02), (torch.bfloat16, 0.05)])
def test_newton_schulz_pushes_all_singular_values_to_one(shape, dtype, tolerance):
    x = torch.stack([spread(*shape, seed=s) for s in range(3)]).to(dtype)
    values = torch.linalg.svdvals(newton_schulz(x, 10).float())
    assert float((values - 1).abs().max()) < tolerance


def test_newton_schulz_keeps_singular_vectors_and_a_zero_matrix():
    x = spread(6, 10)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    out = newton_schulz(torch.stack([x, torch.zeros_like(x)]))
    torch.testing.assert_close(out[0], u @ vh, atol=0.03, rtol=0)
    assert torch.equal(out[1], torch.zeros_like(x))


def plain_muon(w, g, m, lr, s: OptimSettings):
    """One matrix, step by step from the definition (singular value decomposition instead of Newton–Schulz)."""
    m.mul_(s.momentum).add_(g)
    u, _, vh = torch.linalg.svd(g + s.momentum * m, full_matrices=False)
    w.mul_(1 - lr * s.weight_decay).sub_(lr * s.update_rms * max(w.shape) ** 0.5 * (u @ vh))


def test_muon_equals_one_matrix_at_a_time_gate_and_up_and_every_expert_on_its_own():
    m, s = model(), OptimSettings("muon")
    opt = Optimizer(m, s)
    opt.muon.dtype = torch.float32
    want = {n: p.detach().clone() for n, p in m.named_parameters() if opt.owner[n] == MATRIX}
    momentum = {n: torch.zeros_like(w) for n, w in want.items()}
    for step in range(3):
        random_grads(m, step)
        for n, p in m.named_parameters():
            if n not in want:
                continue
            parts = 2 if n.endswith("gate_up_proj") else 1
            for w, g, mo in zip(*(t.chunk(parts, -2) for t in (want[n], p.grad, momentum[n])), strict=True):
                for e in range(w.shape[0]) if w.dim() == 3 else [slice(None)]:
                    plain_muon(w[e], g[e], mo[e], 0.02, s)
        opt.step(0.02)
    for n, p in m.named_parameters():
        if n in want:
            torch.testing.assert_close(p.detach(), want[n], atol=2e-3, rtol=0, msg=n)


def test_a_muon_update_has_the_size_of_an_adamw_update():
    m = model()
    opt = Optimizer(m, OptimSettings("muon", weight_decay=0.0))
    before = m.model.layers[0].mlp.up_proj.weight.detach().clone()
    random_grads(m, 1)
    opt.step(1.0)
    change = (m.model.layers[0].mlp.up_proj.weight.detach() - before).pow(2).mean().sqrt()
    assert float(change) == pytest.approx(0.18, rel=0.05)  # rms of an orthogonal matrix is 1/√(larger side)


# ---- precision -------------------------------------------------------------------------------------------------------


def test_under_float32_the_parameter_is_its_own_master():
    m = model()
    opt = Optimizer(m, OptimSettings())
    assert all(opt.weights.values[n].data_ptr() == p.data_ptr() for n, p in m.named_parameters())
    full = opt.weights.full_state(m)
    assert all(full[n].data_ptr() == t.data_ptr() for n, t in m.state_dict().items())


def test_under_bfloat16_matrices_are_cast_and_norms_router_and_bias_stay_float32():
    m = model()
    values = {n: p.detach().clone() for n, p in m.named_parameters()}
    opt = Optimizer(m, OptimSettings(), torch.bfloat16)
    kept = {n for n, t in [*m.named_parameters(), *m.named_buffers()] if t.dtype == torch.float32 and n in m.state_dict()}
    assert kept == set(opt.weights.kept_float32)
    assert all(n.endswith(("norm.weight", "mlp.gate.weight", "e_score_correction_bias")) for n in kept)
    assert m.lm_head.weight.dtype == torch.bfloat16 and m.model.layers[1].mlp.gate.weight.dtype == torch.float32
    assert all(torch.equal(opt.weights.values[n], values[n]) for n in values)  # masters were not rounded


def test_steps_too_small_for_bfloat16_still_add_up_in_the_master():
    m = model()
    opt = Optimizer(m, OptimSettings(weight_decay=0.0), torch.bfloat16)
    before = m.lm_head.weight.detach().float().clone()
    for _ in range(50):
        m.lm_head.weight.grad = None
        (m.lm_head.weight.float().sum()).backward()
        opt.step(1e-5)
    moved = before - opt.weights.values["lm_head.weight"]
    assert float(moved.mean()) == pytest.approx(50e-5, rel=0.3)


def test_gradients_of_micro_batches_add_up_in_float32():
    m = model()
    opt = Optimizer(m, OptimSettings(), torch.bfloat16)
    w = m.lm_head.weight
    w.sum().backward()  # gradient 1
    for _ in range(100):
        (w.sum() * 2**-9).backward()  # far below bfloat16's spacing at 1
    assert w.grad is None
    assert float(opt.weights.grads()["lm_head.weight"][0, 0]) == pytest.approx(1 + 100 * 2**-9, abs=1e-6)


def test_the_full_state_is_float32_and_names_tied_tables_twice():
    m = Decoder.build(tiny_config(tie_word_embeddings=True))
    before = {n: t.clone() for n, t in m.state_dict().items()}
    opt = Optimizer(m, OptimSettings(), torch.bfloat16)
    full = opt.weights.full_state(m)
    assert full.keys() == before.keys()
    assert all(torch.equal(full[n], before[n]) and full[n].dtype == torch.float32 for n in before)
    assert full["lm_head.weight"].data_ptr() == full["model.embed_tokens.weight"].data_ptr()


# ---- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_takes_the_same_next_step_bit_for_bit(optimizer, dtype):
    def stepped(m, opt, seeds):
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            loss = sum((p.float() * torch.randn(p.shape, generator=g)).sum() for p in m.parameters())
            loss.backward()
            opt.step(1e-2)

    a = model()
    opt_a = Optimizer(a, OptimSettings(optimizer), dtype)
    stepped(a, opt_a, [0, 1])
    saved = {n: t.clone() for n, t in opt_a.state().items()}
    b = model(seed=9)
    b.load_state_dict({n: t.clone() for n, t in opt_a.weights.full_state(a).items()})
    opt_b = Optimizer(b, OptimSettings(optimizer), dtype)
    opt_b.load_state(saved, opt_a.steps_done)
    stepped(a, opt_a, [2])
    stepped(b, opt_b, [2])
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert all(torch.equal(x, opt_b.state()[n]) for n, x in opt_a.state().items())
    assert all(torch.equal(x, opt_b.weights.values[n]) for n, x in opt_a.weights.values.items())


def test_the_state_of_another_optimizer_is_refused():
    adam, muon = Optimizer(model(), OptimSettings("adamw")), Optimizer(model(), OptimSettings("muon"))
    with pytest.raises(CheckpointError, match="does not belong"):
        muon.load_state(adam.state(), 1)
