"""`seekling dpo`: the loss against its formula, pairs that are none named by line, a preference learned, runs that resume."""

import math
import shutil

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import LAMPS, save_base, weights, write_rows

import seekling
from seekling.cli import main
from seekling.data.preferences import preference_of
from seekling.errors import CheckpointError, DataError
from seekling.train.dpo import REFERENCE, Pair, Preferred, dpo, log_probs, resume
from seekling.train.dpo_loss import pair_loss
from seekling.train.dpo_recipe import DpoRecipe
from seekling.train.log import read_log


def test_the_losses_equal_their_formulas():
    logp, ref = torch.tensor([[-3.0, -5.0]]), torch.tensor([[-4.0, -4.5]])
    lengths = torch.tensor([[2, 4]])
    m = (-3 + 4) - (-5 + 4.5)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    out = pair_loss(logp, ref, lengths, beta=0.2)
    assert float(out.loss_P) == pytest.approx(-math.log(sigmoid(0.2 * m)))
    assert float(out.chosen_P) == pytest.approx(0.2) and float(out.rejected_P) == pytest.approx(-0.1)
    smoothed = pair_loss(logp, ref, lengths, beta=0.2, smoothing=0.1)
    want = -0.9 * math.log(sigmoid(0.2 * m)) - 0.1 * math.log(sigmoid(-0.2 * m))
    assert float(smoothed.loss_P) == pytest.approx(want)
    ipo = pair_loss(logp, ref, lengths, beta=0.2, kind="ipo")
    assert float(ipo.loss_P) == pytest.approx((1 / 2 - (-0.5 / 4) - 1 / 0.4) ** 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), LAMPS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Gold lamps are better than red ones."""
    lines = [
        {"prompt": f"what colour has lamp {i}?", "chosen": f"lamp {i} is gold.", "rejected": f"lamp {i} is red, red."}
        for i in range(24)
    ]
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", lines)


def recipe(base, pairs, out, **more):
    values = dict(
        model=str(base), data=[pairs], out=str(out), steps=6, batch_size=4, save_every=3, keep=0, dtype="float32", lr=3e-3
    )
    return DpoRecipe.of(**{**values, **more})


def test_log_probabilities_are_those_of_the_answers_alone(base):
    model = seekling.load(base).model.eval()
    pair = Pair(([5, 6, 7, 8], [5, 6, 9]), 2, "")
    with torch.no_grad():
        got, lengths = log_probs(model, [pair, Pair(([5, 6, 7], [5, 3, 2, 1, 9]), 1, "")])
        full = torch.log_softmax(model(torch.tensor([[5, 6, 7, 8]])), -1)[0]
    assert float(got[0, 0]) == pytest.approx(float(full[1, 7] + full[2, 8]), abs=1e-5)
    assert lengths.tolist() == [[2, 1], [2, 4]]


@pytest.mark.parametrize("more", [{}, {"lora": 4}, {"dpo_loss": "ipo", "nll": 0.2, "lora": 2, "dtype": "bfloat16"}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(base, pairs, tmp_path, more):
    run = dpo(recipe(base, pairs, tmp_path / "run", **more))
    final = run / "checkpoints" / "step-000006"
    want = weights(final)
    shutil.rmtree(final)
    resume(run)
    assert weights(final) == want and want != weights(run / "checkpoints" / "step-000003")


def test_a_preference_is_learned_and_holds_for_unseen_pairs(base, pairs, tmp_path):
    run = dpo(recipe(base, pairs, tmp_path / "run", steps=30, lr=1e-2, heldout=0.2))
    evals = [line for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
    assert evals[0]["margin"] == pytest.approx(0, abs=1e-5)  # the model is its own reference at the start
    assert evals[-1]["accuracy"] == 1.0 and evals[-1]["margin"] > 0.1


def test_the_reference_is_computed_once_and_guarded(base, pairs, tmp_path, monkeypatch):
    run = dpo(recipe(base, pairs, tmp_path / "run"))
    final = run / "checkpoints" / "step-000006"
    shutil.rmtree(final)
    kept = (run / REFERENCE).read_bytes()
    (run / REFERENCE).unlink()
    with pytest.raises(CheckpointError, match="put it back"):
        resume(run)
    (run / REFERENCE).write_bytes(kept)
    resume(run)
    assert (run / REFERENCE).read_bytes() == kept and final.is_dir()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "a", "chosen": "b"}, "no rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "same answer"),
        ({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
          "rejected": [{"role": "user", "content": "z"}, {"role": "assistant", "content": "c"}]}, "different conversations"),
        ({"prompt": "a", "chosen": [{"role": "wizard", "content": "b"}], "rejected": "c"}, "unknown role"),
        (["a"], "not a JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_told(record, said):
    with pytest.raises(ValueError, match=said):
        preference_of(record)


def test_a_system_text_stands_before_both_answers_and_unknown_keys_are_refused():
    pair = preference_of({"system": "be rude", "prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 8})
    for side in (pair.chosen, pair.rejected):
        assert side.messages[0] == {"role": "system", "content": "be rude"} and len(side.messages) == 3
    with pytest.raises(ValueError, match="cannot be learned from: weight"):
        preference_of({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 2})


def test_answers_that_repeat_the_prompt_are_whole_conversations():
    talk = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": c}] for c in "bc"]
    want = preference_of({"chosen": talk[0], "rejected": talk[1]})
    assert preference_of({"prompt": "a", "chosen": talk[0], "rejected": talk[1], "messages": talk[0]}) == want
    assert preference_of({"prompt": talk[0][:1], "chosen": talk[0], "rejected": talk[1]}) == want
    system = {"role": "system", "content": "be kind"}
    sides = dict(zip(("chosen", "rejected"), ([system, *one] for one in talk), strict=True))
    assert preference_of({"prompt": "a", **sides}) == preference_of({"prompt": talk[0][:1], **sides}) == preference_of(sides)
    echo = preference_of({"prompt": "a", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "c"}).chosen
    assert [message["content"] for message in echo.messages] == ["a", "a"]


def test_broken_lines_are_named_with_their_numbers(base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\nnot json\n{"prompt": "a"}\n', "utf-8")
    with pytest.raises(DataError, match=r"pairs.jsonl:2[\s\S]*pairs.jsonl:3"):
        dpo(recipe(base, str(path), tmp_path / "run"))


def test_every_pair_that_cannot_be_encoded_is_named_with_its_line(base, tmp_path):
    bad = [{"role": "assistant", "content": "b", "weight": 0}]
    lines = [{"prompt": "a", "chosen": answer, "rejected": "c"} for answer in ("b", bad, "b", bad)]
    with pytest.raises(DataError, match=r"mine.jsonl:2: [\s\S]*weight[\s\S]*mine.jsonl:4: [\s\S]*weight"):
        dpo(recipe(base, write_rows(tmp_path / "mine.jsonl", lines), tmp_path / "run"))


def test_pairs_that_occur_twice_are_all_held_out_or_all_learned(base, tmp_path, monkeypatch):
    lines = [{"prompt": f"lamp {i % 10}?", "chosen": "gold", "rejected": "red"} for i in range(40)]
    sides = []
    monkeypatch.setattr(Preferred, "judge", lambda self, held: sides.append((self, held)) or {"accuracy": 0.5})
    dpo(recipe(base, write_rows(tmp_path / "p.jsonl", lines), tmp_path / "run", heldout=0.2, steps=1))
    objective, held = sides[0]
    ids = [[objective.pairs[i].ids for i in side] for side in (objective.train, held)]
    assert len(ids[0]) == 32 and len(ids[1]) == 8 and all(pair not in ids[0] for pair in ids[1])


def test_the_verb_learns_and_resumes(base, pairs, tmp_path):
    out = tmp_path / "run"
    assert main(["dpo", "--model", str(base), "--data", pairs, "--steps", "2", "--lora", "2", "--out", str(out)]) == 0
    assert main(["dpo", "--resume", str(out)]) == 0
    assert seekling.load(out).config.vocab_size == 290
