"""The loop: equal traces however a step is cut up, non-finite steps, router biases, log lines, hooks, a golden trace."""

import json
import math
from pathlib import Path

import pytest
import torch
from train_tiny import (
    LENGTH,
    VOCAB,
    Rows,
    TinyPretraining,
    all_tensors,
    assert_equal,
    one_thread,  # noqa: F401
    records,
    rows_of_step,
    saving_loop,
    tiny_config,
    tiny_loop,
)

from seekling.errors import SeeklingError
from seekling.train.log import RunLog
from seekling.train.loop import Hook, max_violation
from seekling.train.loss import compute_loss

GOLDEN = Path(__file__).parent / "golden" / "pretrain.json"


def losses(folder, **kw) -> list[float]:
    folder.mkdir(exist_ok=True)
    loop = tiny_loop(log=RunLog(folder / "log.jsonl"), **kw)
    loop.run()
    return [r["loss"] for r in records(folder) if r["kind"] == "step"]


# ---- it learns, always the same ----------------------------------------------------------------------------------------


def test_fifty_steps_follow_the_golden_trace(tmp_path):
    trace = losses(tmp_path, steps=50)
    assert trace[-1] < 0.75 * trace[0]
    golden = json.loads(GOLDEN.read_text())
    assert trace == pytest.approx(golden["loss"], rel=golden["tolerance"])


def test_two_runs_of_one_seed_are_equal_bit_for_bit():
    a, b = tiny_loop(), tiny_loop()
    a.run(), b.run()
    assert_equal(all_tensors(a), all_tensors(b))


def test_muon_and_bfloat16_learn_too(tmp_path):
    for i, (optimizer, dtype) in enumerate([("muon", torch.float32), ("adamw", torch.bfloat16), ("muon", torch.bfloat16)]):
        trace = losses(tmp_path / str(i), steps=50, optimizer=optimizer, dtype=dtype)
        assert trace[-1] < 0.75 * trace[0], (optimizer, dtype)


# ---- equivalences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulating_micro_batches_gives_the_trace_of_the_whole_batch(tmp_path, micro):
    """Documents of unequal length make the target counts of micro-batches unequal: a mean of means would show."""
    whole = losses(tmp_path / "whole", steps=10, objective=lambda m: TinyPretraining(m, batch=4, micro=4))
    parts = losses(tmp_path / "parts", steps=10, objective=lambda m: TinyPretraining(m, batch=4, micro=micro))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_the_size_of_loss_chunks_does_not_change_the_trace(tmp_path):
    whole = losses(tmp_path / "whole", steps=10)
    chunked = losses(tmp_path / "chunked", steps=10, objective=lambda m: TinyPretraining(m, chunk=7))
    assert chunked == pytest.approx(whole, rel=1e-5)


def test_two_packed_documents_train_like_the_same_documents_in_rows_of_their_own():
    """Attention, targets and MTP stop at the document edge; position differences are all RoPE sees."""
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randint(0, VOCAB, (10,), generator=g) for _ in range(2))
    extra = torch.zeros(2, dtype=torch.long)
    ramp = torch.arange(22)
    packed = Rows(torch.cat([a, b, extra])[None], torch.where(ramp < 10, 0, torch.where(ramp < 20, 1, 2))[None])
    alone_tokens = torch.stack([torch.cat([d, extra]) for d in (a, b)])
    alone = Rows(alone_tokens, torch.tensor([[0] * 10 + [1] * 2] * 2))
    grads = []
    for rows in (packed, alone):
        model = tiny_loop().model
        out = compute_loss(model, rows, mtp_weight=0.3, targets=18, rows=1)
        out.loss.backward()
        grads.append((float(out.ce_sum), float(out.mtp_ce_sum), model.model.layers[0].self_attn.o_proj.weight.grad))
    # the packed row also routes the two filler tokens but counts no target of theirs
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    assert grads[0][1] == pytest.approx(grads[1][1], rel=1e-5)
    torch.testing.assert_close(grads[0][2], grads[1][2], rtol=1e-4, atol=1e-6)


# ---- odd batches -------------------------------------------------------------------------------------------------------


def masked_after(step_masked, rows=slice(None)):
    def source(step, batch):
        out = rows_of_step(step, batch)
        out.mask_BS = torch.ones_like(out.tokens_BS, dtype=torch.bool)
        if step == step_masked:
            out.mask_BS[rows] = False
        return out

    return source


def test_a_micro_batch_without_targets_adds_nothing_and_stays_finite():
    model = tiny_loop().model
    rows = masked_after(0)(0, 2)
    out = compute_loss(model, rows, mtp_weight=0.3, seq_balance_alpha=0.0, targets=17, rows=4)
    out.loss.backward()
    assert out.loss.item() == 0.0 and out.targets == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_step_with_an_empty_micro_batch_equals_the_step_of_the_others(tmp_path):
    source = masked_after(0, slice(2, 4))
    both = tiny_loop(steps=1, objective=lambda m: TinyPretraining(m, micro=2, source=source, alpha=0.0))
    both.run()
    first = tiny_loop(steps=1, objective=lambda m: TinyPretraining(m, batch=2, micro=2, alpha=0.0))
    first.run()
    a, b = (dict(x.model.named_parameters()) for x in (both, first))
    assert all(torch.allclose(a[n], b[n], atol=1e-6) for n in a)


def test_a_step_without_any_target_is_skipped_counted_and_logged(tmp_path):
    loop = saving_loop(tmp_path, steps=3, objective=lambda m: TinyPretraining(m, source=masked_after(1)))
    loop.one_step()
    before = all_tensors(loop)
    loop.one_step()
    assert_equal(all_tensors(loop), before)
    assert loop.skipped == 1 and loop.step == 2
    (event,) = [r for r in records(tmp_path) if r["kind"] == "event"]
    assert event["step"] == 2 and "no target token" in event["why"]


class Poisoned(TinyPretraining):
    """Gives a NaN loss, or an infinite gradient behind a finite loss, at the given steps."""

    def __init__(self, model, steps, how="loss"):
        super().__init__(model)
        self.bad, self.how = steps, how

    def terms(self, micro, step):
        terms = super().terms(micro, step)
        if step in self.bad and self.how == "loss":
            terms.loss = terms.loss * float("nan")
        elif step in self.bad:
            terms.loss = terms.loss + (self.model.lm_head.weight.sum() * 0).abs().sqrt()
        return terms


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_training_goes_on(tmp_path, how):
    loop = saving_loop(tmp_path, steps=6, objective=lambda m: Poisoned(m, {2}, how))
    loop.one_step(), loop.one_step()
    before = all_tensors(loop)
    loop.one_step()
    assert_equal(all_tensors(loop), before)
    loop.run()
    assert loop.step == 6 and loop.skipped == 1 and loop.skipped_in_a_row == 0
    assert all(torch.isfinite(t).all() for t in all_tensors(loop).values() if t.is_floating_point())


def test_many_in_a_row_end_the_run_with_the_remedy(tmp_path):
    loop = saving_loop(tmp_path, steps=20, give_up_after=3, objective=lambda m: Poisoned(m, range(4, 20)))
    with pytest.raises(SeeklingError, match=r"3 steps in a row.*step 4.*--lr"):
        loop.run()


# ---- router biases -----------------------------------------------------------------------------------------------------


def biases(loop):
    return {n: b.clone() for n, b in loop.model.named_buffers() if n.endswith("e_score_correction_bias")}


def test_every_router_s_bias_moves_against_its_load_mtp_included():
    loop = tiny_loop(steps=1)
    loop.run()
    moved = biases(loop)
    assert any(".layers.2." in n for n in moved), "the MTP layer has a router too"
    for bias_E in moved.values():
        assert bias_E.any()
        assert all(abs(b) == pytest.approx(0.01) or b == 0.0 for b in bias_E.tolist())


def test_the_load_counted_is_that_of_the_whole_batch_not_of_the_last_micro_batch():
    whole = tiny_loop(steps=3, objective=lambda m: TinyPretraining(m, micro=4))
    parts = tiny_loop(steps=3, objective=lambda m: TinyPretraining(m, micro=1))
    whole.run(), parts.run()
    assert_equal(biases(whole), biases(parts))


def test_speed_zero_freezes_the_biases():
    loop = tiny_loop(steps=4, router_speed=lambda step: 0.01 if step < 2 else 0.0)
    loop.one_step(), loop.one_step()
    before = biases(loop)
    loop.run()
    assert_equal(biases(loop), before)


def test_a_skewed_router_becomes_balanced(tmp_path):
    """With one expert's bias far ahead, MaxVio falls as the biases move (no balance loss)."""
    loop = saving_loop(tmp_path, steps=60, lr=lambda s: 1e-4, objective=lambda m: TinyPretraining(m, alpha=0.0))
    for bias_E in (b for n, b in loop.model.named_buffers() if n.endswith("correction_bias")):
        bias_E[0] = 0.4
    loop.run()
    vio = [r["maxvio"] for r in records(tmp_path) if r["kind"] == "step"]
    for router in range(2):
        assert vio[0][router] == pytest.approx(1.0)  # two of four experts a token: the favourite gets twice the mean
        assert sum(v[router] for v in vio[-10:]) / 10 < 0.5


def test_max_violation_by_hand():
    assert max_violation(torch.tensor([[4, 2, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])) == [1.0, 0.0, None]


# ---- log and hooks -----------------------------------------------------------------------------------------------------


def test_a_step_line_holds_what_a_reader_needs(tmp_path):
    loop = tiny_loop(
        steps=2, log=RunLog(tmp_path / "log.jsonl"), flops_per_token=1e3, peak_flops=1e12, lr=lambda step: 0.5 ** (step + 7)
    )
    loop.run()
    from seekling.train.log import read_log

    last = read_log(tmp_path / "log.jsonl")[-1]
    assert last["step"] == 2 and last["tokens"] == 2 * 4 * LENGTH and last["lr"] == 0.5**8
    assert last["loss"] > last["ce"] and last["mtp_ce"] > 0 and last["grad_norm"] > 0
    assert 0 < last["real_share"] < 1 and len(last["maxvio"]) == 2
    assert {"data", "compute", "optimizer"} <= set(last["seconds"])
    took = sum(last["seconds"][k] for k in ("data", "compute", "optimizer"))  # each rounded to 0.1 ms
    assert 4 * LENGTH / last["tokens_per_second"] == pytest.approx(took, abs=2e-4)
    assert last["utilisation"] == pytest.approx(last["tokens_per_second"] * 1e3 / 1e12, abs=1e-4)
    assert last["elapsed"] > 0


def test_the_loss_of_an_untrained_model_is_that_of_guessing(tmp_path):
    first = losses(tmp_path, steps=1, objective=lambda m: TinyPretraining(m, alpha=0.0))[0]
    mtp_share = 1 + 0.3
    assert first == pytest.approx(math.log(VOCAB) * mtp_share, rel=0.1)


def test_hooks_run_at_their_steps_but_not_after_the_last(tmp_path):
    seen = []
    hook = Hook("eval", 2, lambda step: seen.append(step) or {"bpb": step / 10})
    loop = tiny_loop(steps=6, log=RunLog(tmp_path / "log.jsonl"), hooks=[hook])
    loop.run()
    assert seen == [2, 4]
    assert [(r["step"], r["bpb"]) for r in records(tmp_path) if r["kind"] == "eval"] == [(2, 0.2), (4, 0.4)]


def test_log_every_thins_the_log_but_keeps_the_last_step(tmp_path):
    loop = tiny_loop(steps=7, log=RunLog(tmp_path / "log.jsonl"), log_every=3)
    loop.run()
    assert [r["step"] for r in records(tmp_path)] == [3, 6, 7]


def test_a_dense_model_without_mtp_has_no_maxvio_and_trains(tmp_path):
    config = tiny_config(first_k_dense_replace=2, num_nextn_predict_layers=0, n_routed_experts=0, num_experts_per_tok=0)

    class Dense(TinyPretraining):
        def terms(self, micro, step):
            terms = super().terms(micro, step)
            terms.loads_LE = terms.loads_LE if terms.loads_LE.numel() else None
            return terms

    trace = losses(
        tmp_path, steps=30, config=config, objective=lambda m: Dense(m, source=lambda s, b: rows_of_step(s, b, extra=1))
    )
    assert trace[-1] < 0.9 * trace[0]
    assert "maxvio" not in records(tmp_path)[-1]
