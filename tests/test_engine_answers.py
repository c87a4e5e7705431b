"""What an answer can be asked for: penalties, log-probabilities of the prompt, bounded reasoning, the end of a loop."""

import pytest
import torch
from engine_tiny import END_THINK, EOS, TOKENIZER, one_thread, scripted_lm, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def engine(lm):
    return Engine(lm)


def greedy(**kw):
    return Sampling(**({"max_tokens": 20, "temperature": 0, "ignore_eos": True} | kw))


# ---- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_tokens", [512, 7])
def test_prompt_logprobs_equal_those_of_one_forward_pass(lm, step_tokens):
    engine, prompt = Engine(lm, step_tokens=step_tokens), list(range(10, 80))
    engine.generate(prompt, greedy(max_tokens=2))  # the prefix cache must not swallow them
    out = engine.generate(prompt, greedy(max_tokens=3, prompt_logprobs=True, top_logprobs=2))[0]
    with torch.no_grad():
        expected = lm.model(torch.tensor([prompt]))[0].float().log_softmax(-1)
    assert out.prompt_logprobs[0] is None and len(out.prompt_logprobs) == len(out.prompt_top_logprobs) == len(prompt)
    assert out.prompt_logprobs[1:] == pytest.approx([expected[t, prompt[t + 1]].item() for t in range(69)], abs=1e-5)
    best = expected[10].topk(2)
    assert [t for t, _ in out.prompt_top_logprobs[11]] == best.indices.tolist()
    assert out.token_ids == engine.generate(prompt, greedy(max_tokens=3))[0].token_ids


def test_prompt_logprobs_survive_preemption(lm):
    prompts = [[i] * 30 for i in (10, 20, 30, 40)]
    s = greedy(max_tokens=60, prompt_logprobs=True)
    expected = [Engine(lm).generate(p, s)[0] for p in prompts]
    small = Engine(lm, cache_tokens=128, step_tokens=16)
    found = small.generate(prompts, s)
    assert small.stats()["preempted"] > 0
    for a, b in zip(found, expected, strict=True):
        assert a.token_ids == b.token_ids
        assert a.prompt_logprobs[1:] == pytest.approx(b.prompt_logprobs[1:], abs=1e-5)


def test_top_logprobs_stand_beside_each_token_of_answer_and_stream(engine):
    s = greedy(max_tokens=5, top_logprobs=3)
    out = engine.generate("abc", s)[0]
    assert [len(top) for top in out.top_logprobs] == [3] * 5
    assert [top[0][0] for top in out.top_logprobs] == out.token_ids  # greedy
    assert [top[0][1] for top in out.top_logprobs] == pytest.approx(out.logprobs, abs=1e-6)
    streamed = [top for d in engine.stream("abc", s) for top in d.top_logprobs]
    assert [[t for t, _ in top] for top in streamed] == [[t for t, _ in top] for top in out.top_logprobs]
    assert engine.generate("abc", greedy())[0].top_logprobs is None


# ---- settings --------------------------------------------------------------------------------------------------------


def test_a_frequency_penalty_keeps_an_answer_from_repeating_itself(engine):
    plain = engine.generate("abc", greedy(max_tokens=60))[0].token_ids
    varied = engine.generate("abc", greedy(max_tokens=60, frequency_penalty=2.0, presence_penalty=2.0))[0].token_ids
    assert len(set(varied)) > len(set(plain))


def test_a_bias_beyond_the_vocabulary_is_refused_by_name(engine):
    with pytest.raises(SeeklingError, match=r"logit_bias names tokens outside.*99999"):
        engine.generate("abc", Sampling(logit_bias={99999: 1.0}))


def test_a_forbidden_token_never_comes(engine):
    first = engine.generate("abc", greedy())[0].token_ids
    other = engine.generate("abc", greedy(logit_bias={first[0]: -100}))[0].token_ids
    assert first[0] not in other


# ---- reasoning -------------------------------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "hi"}]


def thinking(engine, **kw):
    return engine.generate(QUESTION, Sampling(max_tokens=60, **kw), thinking=True)[0]


def test_a_thinking_budget_closes_the_reasoning_at_the_end_of_a_sentence():
    text = "One two three. Four five. Six seven eight nine ten"
    prompt = TOKENIZER.encode_chat(QUESTION, thinking=True)
    engine = Engine(scripted_lm(text, prompt_length=len(prompt)))
    out = thinking(engine, thinking_budget=28)
    assert out.text.startswith("One two three. Four five.</think>")
    assert out.token_ids.count(END_THINK) == 1


def test_the_budget_is_never_exceeded():
    prompt = TOKENIZER.encode_chat(QUESTION, thinking=True)
    for budget in (0, 1, 17):
        out = thinking(Engine(scripted_lm("a" * 50, prompt_length=len(prompt))), thinking_budget=budget)
        assert out.token_ids.index(END_THINK) == budget


def test_a_budget_leaves_an_answer_without_reasoning_alone():
    prompt = TOKENIZER.encode_chat(QUESTION)
    out = Engine(scripted_lm("a" * 50, prompt_length=len(prompt))).generate(QUESTION, Sampling(thinking_budget=3))[0]
    assert out.text == "a" * 50


def test_a_model_without_the_mark_refuses_a_budget():
    with pytest.raises(SeeklingError, match="no such token"):
        Engine(tiny_lm(tokenizer=False)).generate([5], Sampling(thinking_budget=3))


def test_an_answer_in_a_loop_ends_when_asked_to():
    engine = Engine(scripted_lm("abc" * 40, max_position_embeddings=400))
    assert engine.generate([1, 2, 3])[0].finish_reason == "stop"
    out = engine.generate([1, 2, 3], Sampling(stop_loops=True))[0]
    assert out.finish_reason == "loop" and 48 <= len(out.token_ids) < 60
    assert out.token_ids[-1] != EOS
