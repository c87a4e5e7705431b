"""`seekling eval`: items as lm-eval words them, log-likelihoods against whole softmaxes, scores beside chance, its JSON."""

import json
import math

import numpy as np
import pytest
import torch
from pretrain_tiny import PREPARED, made_text, recipe  # noqa: F401  made_text is a fixture

import seekling
from seekling import cli
from seekling.errors import DataError
from seekling.lm import LM
from seekling.model import Decoder
from seekling.tasks.suites import PACKAGED, Item, Suite, boolq, cloze, commonsense_qa, minimal_pairs, openbookqa, piqa, sums
from seekling.train.evaluate import byte_lengths
from seekling.train.evaluate import evaluate as stream_bits
from seekling.train.heldout import bits_per_byte, heldout_texts
from seekling.train.likelihood import encode_pair, log_likelihoods, score_suite
from seekling.train.pretrain import pretrain
from seekling.train.scores import bootstrap


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from pretrain_tiny import room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "prepare_data", lambda recipe, run, say=None: PREPARED)
        folder = pretrain(recipe(tmp_path_factory.mktemp("eval") / "run", steps=2, seq_len=128, max_position_embeddings=128))
        replaced = (folder / "data_manifest.json").write_text("{}")
        assert replaced
        yield folder


@pytest.fixture
def lm(run):
    return seekling.load(run, dtype="float64")


# ---- log-likelihoods ---------------------------------------------------------------------------------------------------------


def test_the_log_likelihood_is_the_sum_over_the_choice_alone(lm):
    pairs = [encode_pair(lm.tokenizer, "The little ducks", choice) for choice in (" saw a cat", " by the lake.", "x")]
    got = log_likelihoods(lm.model, pairs, 128)
    for (ids, n), value in zip(pairs, got, strict=True):
        logp = torch.log_softmax(lm.model(torch.tensor([ids]))[0].float(), -1)
        assert value == pytest.approx(sum(float(logp[i - 1, ids[i]].detach()) for i in range(n, len(ids))), abs=1e-4)


def test_a_context_and_its_choice_are_cut_as_the_whole_text_is(lm):
    ids, n = encode_pair(lm.tokenizer, "The ducks ", "saw")
    whole, _ = encode_pair(lm.tokenizer, "The ducks", " saw")
    assert ids == whole == lm.tokenizer.encode("The ducks saw") and n == len(lm.tokenizer.encode("The ducks"))
    ids, n = encode_pair(lm.tokenizer, "", "saw")
    assert n == 1 and ids == [lm.tokenizer.bos_id, *lm.tokenizer.encode("saw")]


def test_what_is_longer_than_the_context_loses_its_beginning(lm):
    ids, n = encode_pair(lm.tokenizer, "The little ducks saw big cats by the lake. " * 9, "Then")
    (value,) = log_likelihoods(lm.model, [(ids, n)], 32)
    (short,) = log_likelihoods(lm.model, [(ids[-33:], 33 - (len(ids) - n))], 32)
    assert value == pytest.approx(short)


def test_accuracy_counts_the_likeliest_choice_whole_and_by_length():
    suite = Suite("s", "", "acc_norm", "made", (Item("a", (" b", " bbbbbbbb"), 1), Item("a", (" b", " c"), 0)))
    model = Decoder.build(seekling.ModelConfig(**small()), seed=0)
    lm = LM(model, PREPARED.tokenizer)
    found = score_suite(lm, suite)
    pairs = [encode_pair(lm.tokenizer, i.context, c) for i in suite.items for c in i.choices]
    a, b, c, d = log_likelihoods(model, pairs, 64)
    assert found["acc"] == ((b > a) + (c >= d)) / 2
    assert found["acc_norm"] == ((b / 8 > a) + (c >= d)) / 2
    assert found["chance"] == 0.5 and found["items"] == 2
    low, high = found["acc_interval"]
    assert low <= found["acc"] <= high


def small():
    return dict(
        vocab_size=PREPARED.tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
        q_lora_rank=None, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_routed_experts=0,
        n_shared_experts=0, num_experts_per_tok=0, first_k_dense_replace=1, moe_intermediate_size=8, num_nextn_predict_layers=0,
        max_position_embeddings=64,
    )  # fmt: skip


def test_bits_per_byte_of_text_are_those_of_its_tokens(run, made_text):  # noqa: F811
    lm = seekling.load(run)
    got = bits_per_byte(lm, heldout_texts(run))
    want = stream_bits(lm.model, PREPARED.heldout, 128, byte_lengths(PREPARED.tokenizer))
    assert set(got) == {"ducks", "geese", ""} and got["ducks"]["bytes"] == sum(PREPARED.heldout["ducks"].text_bytes)
    assert got[""]["bits_per_byte"] == pytest.approx(want.total.bits_per_byte, rel=0.15)  # there rows hold several documents


# ---- items -------------------------------------------------------------------------------------------------------------------


def test_public_sets_are_worded_as_lm_eval_words_them():
    row = {"question": "how?", "options": "A. one way\nB. another: A. B. way", "answer": "B. another: A. B. way"}
    assert piqa(row) == Item("Question: how?\nAnswer:", (" one way", " another: A. B. way"), 1)
    assert openbookqa(row).context == "how?"
    row = {"question": "Where?", "options": "\nA. bank\nB. mall\nC. new york", "answer": "A. bank"}
    assert commonsense_qa(row) == Item("Question: Where?\nA. bank\nB. mall\nC. new york\nAnswer:", (" A", " B", " C"), 0)
    row = {"passage": "P.", "question": "is it", "answer": "False"}
    assert boolq(row) == Item("P.\nQuestion: is it?\nAnswer:", (" no", " yes"), 0)


@pytest.mark.parametrize("suite", [minimal_pairs(300), sums(200)], ids=lambda s: s.name)
def test_generated_items_are_different_seeded_and_balanced(suite):
    assert all(len(set(i.choices)) == len(i.choices) for i in suite.items)
    golds = np.bincount([i.gold for i in suite.items])
    assert golds.min() > 0.7 * golds.mean() and suite.majority < suite.chance + 0.1
    assert (minimal_pairs if suite.name == "pairs" else sums)(len(suite.items)).items == suite.items


def test_sums_are_right():
    for item in sums(60).items:
        said = item.context.rsplit("\n", 1)[1].removesuffix(" =")
        assert eval(said) == int(item.choices[item.gold])


def test_cloze_hides_the_last_word_of_a_sentence():
    words = "garden river window kitten basket yellow silver candle forest mirror".split()
    texts = [f"There was once a very small and friendly {w} near a very old {v}. " for w in words for v in words if v != w]
    suite = cloze(texts, 20)
    for item in suite.items:
        assert item.context.endswith("very old") and any(item.context + item.choices[item.gold] + "." in t for t in texts)
    with pytest.raises(DataError, match="too few sentences"):
        cloze(["Short."])


def test_bootstrap_holds_the_mean():
    values = np.array([0.0, 1.0] * 200)
    low, high = bootstrap(values)
    assert low < 0.5 < high and high - low == pytest.approx(4 * 0.5 / math.sqrt(400), rel=0.2)


# ---- the verb ----------------------------------------------------------------------------------------------------------------


def test_the_default_is_the_projects_own_suites_each_beside_chance(run, made_text, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("seekling.tasks.suites.cloze", lambda texts: Suite("cloze", "", "acc_norm", "", sums(5).items))
    assert cli.main(["eval", str(run), "--limit", "12"]) == 0
    out = capsys.readouterr().out
    assert "bits/ducks" in out and "pairs" in out and "(chance 50.0%" in out and "(chance 25.0%" in out


def test_the_json_has_lm_evals_shape(run, capsys, tmp_path):
    asked = ["eval", str(run), "--suite", "pairs", "--tasks", "addition@1", "--drawn", "2", "--limit", "4", "--max-tokens", "4"]
    assert cli.main([*asked, "--json", "--out", str(tmp_path / "r.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "r.json").read_text()) == found
    pairs, task = found["results"]["pairs"], found["results"]["task/addition@1"]
    assert {"alias", "acc,none", "acc_stderr,none", "acc_norm,none", "acc_interval,none", "chance,none"} <= set(pairs)
    assert {"accuracy,none", "pass@1,none", "maj@2,none", "pass@2,none", "pass@2_interval,none"} <= set(task)
    assert found["n-samples"]["pairs"] == {"original": 4, "effective": 4}
    assert {"group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "config"} <= set(found)


def test_the_place_of_the_scores_is_made_or_refused_before_anything_is_scored(run, capsys, tmp_path, monkeypatch):
    asked = ["eval", str(run), "--suite", "pairs", "--limit", "4", "--out"]
    assert cli.main([*asked, str(tmp_path / "new" / "r.json")]) == 0 and (tmp_path / "new" / "r.json").is_file()
    monkeypatch.setattr("seekling.train.likelihood.score_suite", lambda *_: pytest.fail("it was scored"))
    assert cli.main([*asked, str(tmp_path / "new")]) == 2 and "is a folder" in capsys.readouterr().err
    assert cli.main([*asked, str(tmp_path / "new" / "r.json" / "s.json")]) == 2 and "cannot be made" in capsys.readouterr().err


def test_a_stage_is_asked_about_its_runs_text(run, tmp_path):
    from seekling.verbs.eval import run_of

    assert run_of(run / "checkpoints") == run and run_of(run / "grpo") == run and run_of(tmp_path) is None


def test_a_stage_on_files_of_the_user_has_no_text_of_its_own_but_its_runs(run, capsys, tmp_path):
    import shutil

    from seekling.train.sft import sft
    from seekling.train.sft_recipe import SftRecipe
    from seekling.verbs.eval import run_of

    talks = tmp_path / "talks.jsonl"
    talks.write_text('{"prompt": "Who swims?", "completion": "The ducks."}\n' * 4)
    taught = sft(SftRecipe.of(model=str(run), data=[str(talks)], out=str(tmp_path / "taught"), steps=1, dtype="float32"))
    assert (taught / "data_manifest.json").is_file() and run_of(taught) is None
    assert cli.main(["eval", str(taught), "--limit", "4"]) == 0, capsys.readouterr().err
    assert "bits" not in capsys.readouterr().out
    stage = shutil.copytree(taught, run / "sft")
    assert run_of(stage) == run and run_of(stage / "checkpoints" / "step-000001") == run
    shutil.rmtree(stage)


def test_text_suites_of_a_model_that_is_no_run_need_a_run(run, capsys, tmp_path):
    seekling.load(run).save(tmp_path / "copy")
    assert cli.main(["eval", str(tmp_path / "copy"), "--suite", "bits"]) == 2
    assert "give --text RUN" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "copy"), "--text", str(tmp_path)]) == 2


# ---- the real thing ----------------------------------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGED)
def test_public_sets_have_the_items_they_are_known_for(name):
    from seekling.tasks.suites import packaged

    suite = packaged(name)
    count, chance = {
        "piqa": (1500, 0.5), "openbookqa": (500, 0.25), "commonsense_qa": (1221, 0.2), "boolq": (3270, 0.5),
        "mmlu": (2850, 0.25),
    }[name]  # fmt: skip
    assert len(suite.items) == count and suite.chance == pytest.approx(chance, abs=1e-3)
    assert all(0 <= i.gold < len(i.choices) and all(c.strip() for c in i.choices) for i in suite.items)


@pytest.mark.network
@pytest.mark.slow
def test_smollm2_scores_as_lm_eval_scores_it_on_the_same_items():
    """lm-eval's own code makes the requests' token pairs and the accuracies; the model behind it is transformers'."""
    lm_eval = pytest.importorskip("lm_eval")
    import tempfile

    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from seekling.tasks.suites import packaged

    lm = seekling.load("smollm2")
    with tempfile.TemporaryDirectory() as temporary:
        lm.save(temporary)
        theirs = HFLM(
            pretrained=transformers.AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32),
            tokenizer=transformers.AutoTokenizer.from_pretrained(temporary), batch_size=8,
        )  # fmt: skip
        suite = packaged("piqa")
        items = suite.items[:40]
        requests = [
            Instance("loglikelihood", {}, (item.context, choice), i, metadata=("piqa", i, 1))
            for i, item in enumerate(items) for choice in item.choices
        ]  # fmt: skip
        values = [score for score, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    ours = log_likelihoods(lm.model, [encode_pair(lm.tokenizer, i.context, c) for i in items for c in i.choices], 8192)
    assert np.allclose(values, ours, atol=2e-2), lm_eval.__version__
    by_length = np.array(values).reshape(-1, 2) / np.array([[len(c) - 1 for c in i.choices] for i in items])
    want = float(np.mean(by_length.argmax(1) == [i.gold for i in items]))
    assert score_suite(lm, suite, 40)["acc_norm"] == pytest.approx(want)
