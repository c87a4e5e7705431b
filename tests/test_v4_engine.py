"""The engine over DeepSeek-V4: greedy answers equal recomputation, whatever runs beside them, is put back or taken back."""

from types import SimpleNamespace

import pytest
import torch
from family_v4 import hf_v4, ids_of
from oracle_models import one_thread  # noqa: F401

from seekling import Engine, Sampling
from seekling.engine.quant import quantised
from seekling.errors import SeeklingError
from seekling.formats import load_model
from seekling.formats.families import read_config
from seekling.model.decoder import Decoder

LONG = dict(max_position_embeddings=200, sliding_window=8, index_topk=2)


@pytest.fixture
def widened(monkeypatch):
    """Steps that are float32 by definition stay float64: another order of the sums then differs by nothing but rounding."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.double())


def engine_model(seed, tmp_path, **changes):
    hf_v4(seed, **LONG | changes).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float64")
    return SimpleNamespace(model=model, config=model.config, tokenizer=None)


def greedy(model, prompt, n):
    """By recomputing the whole row for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


PROMPTS = [[5, 7, 3, 8, 9], [2], [4, 1, 13] * 12, [11] * 9]


@pytest.mark.parametrize("seed", range(6))
def test_the_engine_answers_as_recomputation_does(seed, tmp_path, widened):
    """More prompts than rows, a long one computed in parts, rows that end and begin beside others."""
    lm = engine_model(seed, tmp_path)
    with Engine(lm, max_rows=3, step_tokens=16) as engine:
        settings = [Sampling(max_tokens=n, temperature=0, ignore_eos=True) for n in (40, 12, 25, 33)]
        answers = engine.generate(PROMPTS, settings)
        for prompt, setting, answer in zip(PROMPTS, settings, answers, strict=True):
            assert answer.token_ids == greedy(lm.model, prompt, setting.max_tokens)
        assert engine.stats()["prefix_hit"] == 0


def test_the_engine_recomputes_rows_it_had_to_put_back(tmp_path, widened):
    """A cache with room for hardly more than one answer."""
    lm = engine_model(1, tmp_path)
    with Engine(lm, max_rows=4, cache_tokens=96) as engine:
        answers = engine.generate(PROMPTS, Sampling(max_tokens=45, temperature=0, ignore_eos=True))
        assert [a.token_ids for a in answers] == [greedy(lm.model, p, 45) for p in PROMPTS]
        assert engine.stats()["preempted"] > 0


def test_the_engine_takes_back_wrong_drafts(tmp_path, widened):
    """A stranger drafts: nearly everything it says is wrong, and rows go back every step."""
    lm = engine_model(2, tmp_path)
    config = read_config({
        "model_type": "llama", "vocab_size": lm.config.vocab_size, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 200,
    })  # fmt: skip
    stranger = SimpleNamespace(model=Decoder.build(config, seed=3), config=config, tokenizer=None)
    with Engine(lm, speculate=stranger, draft_tokens=6) as engine:
        answers = engine.generate(PROMPTS, Sampling(max_tokens=30, temperature=0, ignore_eos=True))
        assert [a.token_ids for a in answers] == [greedy(lm.model, p, 30) for p in PROMPTS]
        assert engine.stats()["drafted"] > engine.stats()["accepted"] + 20


def test_several_answers_to_one_prompt(tmp_path):
    lm = engine_model(1, tmp_path)
    with Engine(lm) as engine:
        many = engine.generate([PROMPTS[0]], Sampling(max_tokens=8, n=3, seed=5, ignore_eos=True))
        again = engine.generate([PROMPTS[0]], Sampling(max_tokens=8, n=3, seed=5, ignore_eos=True))
    assert [a.token_ids for a in many] == [a.token_ids for a in again]


def test_drafts_the_engine_cannot_take_back_are_refused(tmp_path):
    lm = engine_model(1, tmp_path)
    with pytest.raises(SeeklingError, match="use speculate='ngram'"):
        Engine(lm, speculate="mtp")
    with pytest.raises(SeeklingError, match="go back 32 tokens"):
        Engine(lm, speculate="ngram", draft_tokens=40)


@torch.no_grad()
def test_an_int8_copy_is_close(tmp_path):
    """The clamp of the experts is not lost on the way."""
    lm = engine_model(1, tmp_path, swiglu_limit=0.5)
    lm.model.float()
    ids = ids_of(lm.config, 1)
    want, got = lm.model(ids), quantised(lm.model, "int8")(ids)
    assert (want - got).abs().mean() < 0.05 * want.std()
