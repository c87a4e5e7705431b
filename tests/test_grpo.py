"""GRPO: advantages and objective against slow loops, log-probabilities against full logits, runs that resume bit for bit."""

import json
import math
import shutil
import signal

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import SUMS, save_base, weights

import seekling
from seekling.errors import RecipeError
from seekling.kernels.log_prob import LinearLogProb
from seekling.lm import LM
from seekling.model import Decoder
from seekling.train.grpo import grpo, resume
from seekling.train.grpo_loss import GrpoSettings, advantages, policy_loss
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import read_log
from seekling.train.lora import LoraSettings, add_lora
from seekling.train.rollout import Drawn, plain_model, wilson
from seekling.train.rows import drawn_states, micro_batches


def test_advantages_are_rewards_against_their_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    assert torch.allclose(advantages(rewards, "std")[0], torch.tensor([1.0, -1.0, -1.0, 1.0]), atol=1e-4)
    assert torch.equal(advantages(rewards, "mean")[0], torch.tensor([0.5, -0.5, -0.5, 0.5]))
    assert not advantages(rewards, "std")[1].any() and not advantages(rewards, "mean")[1].any()


def drawn(seed, A=5, T=6):
    g = torch.Generator().manual_seed(seed)
    logp = -torch.rand(A, T, generator=g, dtype=torch.float64) * 3
    near = lambda: logp + 0.4 * torch.randn(A, T, generator=g, dtype=torch.float64)  # noqa: E731
    mask = torch.arange(T)[None] < torch.randint(1, T + 1, (A, 1), generator=g)
    return logp, near(), near(), near(), torch.randn(A, generator=g, dtype=torch.float64), mask


def slow(logp, old, sampler, ref, gain, mask, s, tokens, answers):
    """The formula, token by token."""
    total = 0.0
    for a in range(len(gain)):
        own = [t for t in range(mask.shape[1]) if mask[a, t]]
        mean = sum(float(logp[a, t] - old[a, t]) for t in own) / len(own)
        parts, drift = [], 0.0
        for t in own:
            log_ratio = mean if s.ratio == "sequence" else float(logp[a, t] - old[a, t])
            drift += log_ratio / len(own)
            r, A = math.exp(log_ratio), float(gain[a])
            part = min(r * A, min(max(r, 1 - s.clip), 1 + s.clip_high) * A)
            if s.truncate:
                part *= min(math.exp(float(old[a, t] - sampler[a, t])), s.truncate)
            if s.kl:
                d = float(ref[a, t] - logp[a, t])
                part -= s.kl * (math.exp(d) - d - 1) * (r if s.kl_kind == "unbiased" else 1)
            parts.append(part)
        if s.off_policy and gain[a] < 0 and drift < -s.off_policy:
            continue
        total += sum(parts) / len(own) if s.average == "sequence" else sum(parts)
    by = {"token": tokens, "sequence": answers, "constant": answers * s.longest}[s.average]
    return -total / by


@pytest.mark.parametrize("average", ["token", "sequence", "constant"])
@pytest.mark.parametrize(
    "more",
    [{}, {"ratio": "sequence"}, {"kl": 0.04}, {"kl": 0.1, "kl_kind": "unbiased"}, {"off_policy": 0.05}, {"truncate": 0.0},
     {"clip": 0.05, "clip_high": 0.05}],
)  # fmt: skip
def test_the_objective_equals_the_formula(average, more):
    s = GrpoSettings(average=average, longest=9, **more)
    for seed in range(5):
        logp, old, sampler, ref, gain, mask = drawn(seed)
        got = policy_loss(logp, old, sampler, gain, mask, s, tokens=17, answers=6, ref_AT=ref)
        assert float(got.loss) == pytest.approx(slow(logp, old, sampler, ref, gain, mask, s, 17, 6), abs=1e-6)


def test_on_policy_the_gradient_is_the_policy_gradient():
    logp, _, _, _, gain, mask = drawn(3)
    logp.requires_grad_()
    s = GrpoSettings(truncate=0.0)
    policy_loss(logp, logp.detach(), logp.detach(), gain, mask, s, tokens=10, answers=5).loss.backward()
    assert torch.allclose(logp.grad, -(gain[:, None] * mask) / 10)


def test_micro_batches_add_up():
    logp, old, sampler, ref, gain, mask = drawn(1)
    for average in ("token", "sequence", "constant"):
        s = GrpoSettings(average=average, kl=0.1)
        whole = policy_loss(logp, old, sampler, gain, mask, s, tokens=20, answers=5, ref_AT=ref).loss
        parts = sum(
            policy_loss(logp[p], old[p], sampler[p], gain[p], mask[p], s, tokens=20, answers=5, ref_AT=ref[p]).loss
            for p in (slice(0, 2), slice(2, 5))
        )
        assert torch.allclose(whole, parts)


def test_chunked_log_probabilities_equal_full_logits_with_gradient():
    g = torch.Generator().manual_seed(0)
    h, w = (torch.randn(n, 7, generator=g, dtype=torch.float64, requires_grad=True) for n in (11, 23))
    target = torch.randint(0, 23, (11,), generator=g)
    up = torch.randn(11, generator=g, dtype=torch.float64)
    logits = torch.log_softmax(h @ w.t() / 0.7, -1)
    want = logits.gather(1, target[:, None])[:, 0]
    expected = torch.autograd.grad((want * up).sum(), (h, w))
    got, entropy = LinearLogProb.apply(h, w, target, 0.7, 4)
    found = torch.autograd.grad((got * up).sum(), (h, w))
    assert torch.allclose(got, want) and torch.allclose(entropy, -(logits.exp() * logits).sum(-1))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), SUMS, max_position_embeddings=256)


def recipe(base, out, **more):
    values = dict(
        model=str(base), out=str(out), tasks=["letters"], steps=4, problems=4, group=6, max_tokens=6, eval_problems=4,
        tagged=False, save_every=2, eval_every=2, keep=0, dtype="float32", lr=1e-2,
    )  # fmt: skip
    return GrpoRecipe.of(**{**values, **more})


@pytest.fixture
def pays_for_e(monkeypatch):
    """Any reply that holds an e is paid, so that a random model earns something."""
    from seekling.tasks.base import Reward
    from seekling.train import judging

    def pays(task, problem, reply, **_):
        return Reward(float("e" in reply), 1.0, float("e" in reply))

    monkeypatch.setattr(judging, "reward_of", pays)


@pytest.mark.usefixtures("pays_for_e")
@pytest.mark.parametrize(
    "more",
    [{}, {"lora": 4, "kl": 0.05}, {"updates": 2, "kl": 0.05, "rollout": "torch"}, {"dtype": "bfloat16", "kl": 0.5}],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(base, tmp_path, more):
    run = grpo(recipe(base, tmp_path / "run", **more))
    final = run / "checkpoints" / "step-000004"
    want = weights(final)
    shutil.rmtree(final)
    resume(run)
    assert weights(final) == want and want
    assert weights(final) != weights(run / "checkpoints" / "step-000002")


def opened_policy(asked):
    from seekling.train.policy import Policy
    from seekling.train.rollout import Roller
    from seekling.train.teaching import open_student

    student = open_student(asked, None)
    return Policy(student, Roller(student.lm, asked), asked, print)


def test_on_resume_the_reference_is_the_model_the_run_began_with_bit_for_bit(base, tmp_path):
    asked = recipe(base, tmp_path, kl=0.5, dtype="bfloat16")
    first, resumed = opened_policy(asked), opened_policy(asked)
    first._move_reference(0)
    resumed._move_reference(2)
    a, b = first.reference.state_dict(), resumed.reference.state_dict()
    assert [n for n in a if a[n].dtype != b[n].dtype or not torch.equal(a[n], b[n])] == []


@pytest.mark.usefixtures("pays_for_e")
@pytest.mark.parametrize("tied", [False, True])
def test_a_reference_that_moves_is_what_it_was_after_a_resume(tmp_path, tied):
    base = save_base(tmp_path / "base", SUMS, tie_word_embeddings=tied)
    run = grpo(recipe(base, tmp_path / "run", steps=5, kl=5.0, refresh=2, save_every=1))  # moves at steps 2 and 4
    final = run / "checkpoints" / "step-000005"
    want = weights(final)
    for step in (3, 4):
        for later in range(step + 1, 6):
            shutil.rmtree(run / "checkpoints" / f"step-{later:06d}", ignore_errors=True)
        resume(run)
        assert weights(final) == want, step


@pytest.mark.usefixtures("pays_for_e")
def test_a_run_stopped_inside_a_roll_out_goes_on_bit_for_bit(base, tmp_path, monkeypatch):
    from seekling.train.loop import Loop
    from seekling.train.stopping import Interrupted

    asked = dict(steps=6, updates=3, save_every=6)
    want = weights(grpo(recipe(base, tmp_path / "whole", **asked)) / "checkpoints" / "step-000006")
    one_step = Loop.one_step

    def stopped(self):
        if self.step == 1:
            signal.raise_signal(signal.SIGTERM)
        one_step(self)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="saved at step 3 of 6"):
        patch.setattr(Loop, "one_step", stopped)
        grpo(recipe(base, tmp_path / "run", **asked))
    assert weights(resume(tmp_path / "run") / "checkpoints" / "step-000006") == want


def test_the_warm_up_of_a_single_step_fits_into_it(base, tmp_path):
    run = grpo(recipe(base, tmp_path / "run", steps=1, problems=1, group=2))
    assert GrpoRecipe.load(run).learn.warmup == 1


@pytest.mark.usefixtures("pays_for_e")
def test_every_step_logs_what_people_look_at(base, tmp_path):
    run = grpo(recipe(base, tmp_path / "run", updates=2, kl=0.01))
    lines = [line for line in read_log(run / "log.jsonl") if line["kind"] == "step"]
    wanted = {"reward", "accuracy", "format", "length", "cut", "zero_variance", "entropy", "clipped", "kl", "sampler_gap"}
    assert any(wanted <= line.keys() for line in lines)
    assert {"rollout", "reward", "reference", "update"} == set().union(*(line.get("speeds", {}) for line in lines))
    assert all(v > 0 for line in lines for v in line.get("speeds", {}).values())
    assert max(line["sampler_gap"] for line in lines if "sampler_gap" in line) < 0.05  # trainer and engine agree
    evals = [line for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
    assert evals[0]["step"] == 0 and evals[-1]["tasks"]["letters"]["problems"] == 4


@pytest.mark.usefixtures("pays_for_e")
def test_a_rewarded_habit_is_learned(base, tmp_path):
    run = grpo(recipe(base, tmp_path / "run", steps=24, problems=4, group=12, lr=2e-2, schedule="constant", max_tokens=8))
    shares = [line["reward"] for line in read_log(run / "log.jsonl") if line["kind"] == "step" and "reward" in line]
    assert sum(shares[-4:]) / 4 > sum(shares[:4]) / 4 + 0.2


def test_the_plain_model_of_a_lora_student_computes_the_same(base):
    lm = seekling.load(base, dtype="float64")
    add_lora(lm.model, LoraSettings(2))
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if name.endswith("lora_B"):
                p.fill_(0.05)
        ids = torch.tensor([[5, 6, 7, 8]])
        assert (plain_model(lm.model)(ids) - lm.model.eval()(ids)).abs().max() < 1e-5


LLAMA = dict(
    model_type="llama", vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["mla", "llama", "llama in torch", "gpt_oss", "minimax", "deepseek_v4"])
def test_a_stream_of_answers_gives_the_states_of_each_answer_alone(base, tmp_path, kind):
    from family_models import hf_family_model
    from family_v4 import hf_v4

    from seekling.formats.families import read_config

    if kind == "mla":
        model = seekling.load(base, dtype="float64").model.eval()
    elif kind.startswith("llama"):  # float32 takes the native kernel
        dtype = torch.float64 if "torch" in kind else torch.float32
        model = Decoder.build(read_config(LLAMA), seed=3, dtype=dtype).eval()
    else:
        more = dict(max_position_embeddings=64, sliding_window=8, index_topk=2)
        (hf_v4(1, **more) if kind == "deepseek_v4" else hf_family_model(kind, 3)).save_pretrained(tmp_path)
        model = seekling.load(tmp_path, dtype="float64").model.eval()
    config, g = model.config, torch.Generator().manual_seed(0)
    word = lambda n: tuple(torch.randint(3, config.vocab_size, (n,), generator=g).tolist())  # noqa: E731
    prompts = [word(5), word(7)]
    pairs = [(Drawn(i // 3, prompts[i // 3], word(1 + 2 * i), (0.0,) * (1 + 2 * i), "", False), 1.0) for i in range(6)]
    for most in (1000, 30, 1):
        parts = micro_batches(pairs, most, "cpu")
        assert most == 1000 or len(parts) > 1
        found = [drawn_states(model, rows) for rows in parts]
        at = 0
        for answer, _ in pairs:
            ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
            want = model.hidden(ids)[0, len(answer.prompt_ids) - 1 : -1]
            got = torch.cat([h for h, _ in found])[at : at + len(want)]
            assert torch.allclose(got, want, atol=1e-5)
            at += len(want)


def test_contradictions_are_named():
    with pytest.raises(RecipeError, match="temperature 1"):
        GrpoRecipe.of(temperature=0.7)
    with pytest.raises(RecipeError, match="has 2 groups"):
        GrpoRecipe.of(form=r"(\d+) or (\d+)")
    with pytest.raises(RecipeError, match="no regular expression"):
        GrpoRecipe.of(form="(")
    with pytest.raises(RecipeError, match="the base under the adapters"):
        GrpoRecipe.of(lora=4, kl=0.5, refresh=2)
    with pytest.raises(RecipeError, match="group must be at least 2"):
        GrpoRecipe.of(group=1)


def test_wilson_intervals_hold_the_share_and_stay_inside():
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0
    low, high = wilson(30, 100)
    assert low == pytest.approx(0.2189, abs=1e-3) and high == pytest.approx(0.3958, abs=1e-3)


# ---- roll-outs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [None, ("experts", "q_proj", "kv_b_proj")])
@pytest.mark.parametrize("quant", ["f32", "int8"])
def test_weights_packed_anew_in_place_equal_those_of_a_fresh_engine(base, targets, quant):
    from seekling.engine.native_runner import NativeRunner
    from seekling.engine.packed import PackedWeights
    from seekling.engine.runner import Chunk
    from seekling.train.rollout import EffectiveParts

    model = seekling.load(base).model.eval()
    if targets:
        add_lora(model, LoraSettings(2, targets=targets))
    held = NativeRunner(PackedWeights(EffectiveParts(model), quant))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not targets or "lora_" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    parts = EffectiveParts(model)
    held.refresh(parts, parts.adapted() or None)
    new = NativeRunner(PackedWeights(EffectiveParts(model), quant))
    for runner in (held, new):
        runner.allocate(1)
    chunk = [Chunk([5, 6, 7, 8], 0, [0], "all")]
    assert torch.equal(held.step(chunk), new.step(chunk))
    if quant == "f32":
        assert torch.allclose(new.step(chunk), plain_model(model)(torch.tensor([[5, 6, 7, 8]]))[0], atol=2e-2)


def answered(base, **more):
    from seekling.train.rollout import Roller

    lm = seekling.load(base)
    return lm, Roller(lm, recipe(base, "x", **more)).draw(0)


@pytest.mark.parametrize("rollout", ["native", "torch"])
def test_the_trainer_takes_the_samplers_experts_where_asked(base, rollout):
    from seekling.model import Trace
    from seekling.train.rows import agreement

    lm, answers = answered(base, rollout=rollout)
    rows = micro_batches([(a, 1.0) for a in answers], 4096, "cpu")[0]
    known = rows.experts_NLK[:, 0, 0] >= 0
    assert int(known.sum()) == len(rows.place_AT[rows.mask_AT].unique())
    trace = Trace()
    plain = drawn_states(lm.model, rows, trace)[0]
    same, count = agreement(rows, trace)
    assert count == int(known.sum()) and same / count > 0.95
    trace = Trace(given=rows.experts_NLK.unbind(1))
    replayed = drawn_states(lm.model, rows, trace)[0]
    assert torch.equal(trace.routings[0].indices_NK[known], rows.experts_NLK[known, 0])
    assert torch.allclose(plain, replayed, atol=1e-2) or same < count
    other = Trace(given=[torch.zeros_like(rows.experts_NLK[:, 0]) + torch.arange(2)])  # others than it would choose
    assert not torch.allclose(drawn_states(lm.model, rows, other)[0], plain, atol=1e-4)


@pytest.mark.usefixtures("pays_for_e")
@pytest.mark.parametrize("more", [{"replay": True}, {"replay": True, "rollout": "torch"}, {"refill": 2, "group": 2}])
def test_further_ways_of_rolling_out_resume_bit_for_bit(base, tmp_path, more):
    run = grpo(recipe(base, tmp_path / "run", **more))
    final = run / "checkpoints" / "step-000004"
    want = weights(final)
    shutil.rmtree(final)
    resume(run)
    assert weights(final) == want
    lines = [line for line in read_log(run / "log.jsonl") if line["kind"] == "step"]
    assert all(0 <= line["router_agreement"] <= 1 for line in lines if "router_agreement" in line)
    assert any("ratio_variance" in line for line in lines)


def test_a_teacher_moves_tokens_even_where_all_rewards_are_equal(base, tmp_path):
    teacher = tmp_path / "teacher"
    lm = seekling.load(base)
    sure = Decoder.build(lm.config, seed=7)
    sure.lm_head.weight.data *= 40
    LM(sure, lm.tokenizer).save(teacher)
    taught = grpo(recipe(base, tmp_path / "run", teacher=str(teacher), tasks=["countdown"]))
    alone = grpo(recipe(base, tmp_path / "alone", tasks=["countdown"]))
    lines = {run: [r for r in read_log(run / "log.jsonl") if r["kind"] == "step"] for run in (taught, alone)}
    assert all(line["zero_variance"] == 1.0 for some in lines.values() for line in some)
    assert all(line["teacher_gap"] > 0 and line["grad_norm"] > 0 for line in lines[taught])
    assert weights(taught / "checkpoints" / "step-000004") != weights(taught / "checkpoints" / "step-000002")
    assert weights(alone / "checkpoints" / "step-000004") == weights(alone / "checkpoints" / "step-000002")


def test_a_bonus_adds_to_the_advantage_of_each_token():
    logp, old, sampler, _, gain, mask = drawn(2)
    s, bonus = GrpoSettings(truncate=0.0), torch.randn(logp.shape, generator=torch.Generator().manual_seed(9), dtype=logp.dtype)
    got = policy_loss(logp, old, sampler, gain, mask, s, tokens=10, answers=5, bonus_AT=bonus)
    ratio, each = (logp - old).exp(), gain[:, None] + bonus
    want = torch.minimum(ratio * each, ratio.clamp(1 - s.clip, 1 + s.clip_high) * each)
    assert float(got.loss) == pytest.approx(-float((want * mask).sum()) / 10, rel=1e-5)


# ---- what can go wrong ---------------------------------------------------------------------------------------------------


def test_a_reward_that_raises_or_hangs_or_is_no_number_counts_as_nothing(monkeypatch):
    from seekling.tasks import get_task
    from seekling.tasks.base import Reward
    from seekling.train import judging

    told = []
    practice = GrpoRecipe.of(reward_seconds=1).practice
    judge, problem = judging.Judge(practice, told.append), get_task("addition").problem(0, 0, 1)

    def reward(task, problem, reply, **_):
        if reply == "raise":
            raise KeyError("oh")
        while reply == "hang":
            try:
                sum(range(1000))
            except Exception:
                continue
        return Reward(1.0, 1.0, math.nan if reply == "nan" else 1.0)

    monkeypatch.setattr(judging, "reward_of", reward)
    assert judge(problem, "fine").total == 1.0
    assert [judge(problem, reply).total for reply in ("raise", "raise", "hang", "nan")] == [0.0] * 4
    assert judge.faults == {"raised": 2, "hung": 1, "not a number": 1}
    assert len(told) == 3 and "KeyError" in told[0] and "--reward-seconds" in told[1]


def test_runs_that_cannot_learn_say_what_to_do(base, tmp_path, capsys):
    from rich.console import Console

    grpo(recipe(base, tmp_path / "run", max_tokens=2, tasks=["countdown"]), Console(soft_wrap=True))
    said = capsys.readouterr().out
    assert "lower --level" in said and "--max-tokens 2" in said
    noted = [line["text"] for line in read_log(tmp_path / "run" / "log.jsonl") if line.get("what") == "warning"]
    assert noted and all(line in said for line in noted)


def test_a_step_that_clips_most_tokens_says_what_to_do(base):
    from seekling.train.policy import Policy
    from seekling.train.rollout import Roller
    from seekling.train.teaching import open_student

    told, asked = [], recipe(base, "x")
    student = open_student(asked, None)
    policy = Policy(student, Roller(student.lm, asked), asked, told.append)
    policy.clipped = (6.0, 10)
    policy._warn(3, {"zero_variance": (0, 4), "cut": (0, 4), "accuracy": (1, 4)})
    assert "60% of the tokens were clipped" in told[0] and "--lr" in told[0] and policy.clipped == (0.0, 0)


def test_a_reward_in_a_process_of_its_own_is_killed_at_the_limit_told_and_counted(tmp_path):
    from seekling.tasks import get_task
    from seekling.train import judging

    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"question": f"say {i}", "answer": f"word {i}"}) for i in range(12)))
    (tmp_path / "r.py").write_text(
        "import time\ndef reward(answer, problem):\n    if answer == 'hang':\n        time.sleep(60)\n"
        "    return 1 / 0 if answer == 'raise' else float(answer == problem['answer'])\n"
    )
    name, told = f"{tmp_path / 'p.jsonl'}:{tmp_path / 'r.py'}", []
    judge = judging.Judge(GrpoRecipe.of(reward_seconds=2, tagged=False).practice, told.append)
    problem = get_task(name).problem(0, 0)
    replies = ["hang", problem.answer, "raise", "raise", problem.answer]
    assert [judge(problem, reply).total for reply in replies] == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert judge.faults == {"hung": 1, "raised": 2} == get_task(name).failures
    assert len(told) == 2 and "longer than 2 s (--reward-seconds)" in told[0]
    with pytest.raises(judging.TookTooLong), judging.at_most(0.2):  # stopped from outside while it waits
        get_task(name).judge.seconds = 30
        get_task(name).judge("hang", problem)
    assert judge(problem, problem.answer).total == 1.0  # and not what the stopped one would have said


@pytest.mark.usefixtures("pays_for_e")
def test_a_stage_reports_itself(base, tmp_path, capsys):
    from seekling.cli import main

    run = grpo(recipe(base, tmp_path / "run", lora=2))
    assert main(["report", str(run)]) == 0
    said, report = capsys.readouterr().out, (run / "report.md").read_text()
    assert "grpo: step 4 of 4" in said and "letters: accuracy" in said
    for part in ("LoRA of rank 2", "| letters: accuracy |", "| rollout |", "zero_variance", "## Samples", "reward 1.00"):
        assert part in report, part
    facts = json.loads((run / "report.json").read_text())
    assert facts["stage"] == "grpo" and len(facts["log"]["entropy"]) == 4 and (run / "figures" / "curves.png").is_file()


def test_replay_without_experts_is_refused(tmp_path, base):
    lm = seekling.load(base)
    folder = tmp_path / "dense"
    from seekling.formats.families import read_config

    LM(Decoder.build(read_config(LLAMA | {"vocab_size": 290}), seed=1), lm.tokenizer).save(folder)
    with pytest.raises(RecipeError, match="--replay"):
        grpo(recipe(folder, tmp_path / "run", replay=True))
