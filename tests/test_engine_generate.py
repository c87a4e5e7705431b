"""The engine's promises: exact, repeatable, nothing cut off, nothing silent."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_tiny import BOS, EOS, TOKENIZER, VOCAB, one_thread, scripted_lm, tiny_lm  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

import seekling
from seekling import Engine, Sampling, SeeklingError
from seekling.engine.backend import open_backend
from seekling.lm import LM

GREEDY = Sampling(max_tokens=20, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def engine(lm):
    # In torch a cached beginning changes the shapes and with them the last bit; without it equal calls give equal bits.
    return Engine(lm, prefix_cache=False)


def recomputed_greedy(lm, ids, count):
    """The oracle: the whole row through the whole model for every token."""
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(lm.model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[-count:]


# ---- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None}, {"first_k_dense_replace": 3}, {"num_nextn_predict_layers": 1}])
def test_greedy_with_the_cache_equals_recomputing_everything(changes):
    lm = tiny_lm(**changes)
    out = Engine(lm).generate([[5, 17, 99, 4], [200]], GREEDY)
    assert out[0].token_ids == recomputed_greedy(lm, [5, 17, 99, 4], 20)
    assert out[1].token_ids == recomputed_greedy(lm, [200], 20)


def test_logprobs_equal_those_of_one_full_forward_pass(lm, engine):
    prompt = [5, 17, 99, 4]
    out = engine.generate([prompt], Sampling(max_tokens=12, temperature=1.5, top_k=5, seed=3, ignore_eos=True))[0]
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt + out.token_ids]))[0].float().log_softmax(-1)
    expected = [logits[len(prompt) - 1 + t, token].item() for t, token in enumerate(out.token_ids)]
    assert out.logprobs == pytest.approx(expected, abs=1e-5)


def test_ragged_prompts_together_equal_each_alone_greedy_and_sampled(engine):
    prompts = [[5], [6, 7, 8], [9] * 17, [10, 11], [3, 4, 5, 6]]
    each = [GREEDY, Sampling(20, 1.0, seed=1), Sampling(7, 2.0, seed=2), Sampling(15, 1.0, top_p=0.8, seed=3), GREEDY]
    together = engine.generate(prompts, each)
    alone = [engine.generate([p], s)[0] for p, s in zip(prompts, each, strict=True)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]


def test_more_prompts_than_rows_are_queued_and_answered_in_order(lm):
    prompts = [[i, i + 1] for i in range(10, 21)]
    few = Engine(lm, max_rows=3).generate(prompts, GREEDY)
    assert [c.token_ids for c in few] == [recomputed_greedy(lm, p, 20) for p in prompts]


def test_rows_freed_at_different_times_serve_the_queue(lm):
    prompts = [[i] for i in range(20, 29)]
    each = [Sampling(1 + 5 * (i % 3), 0, ignore_eos=True) for i in range(9)]
    out = Engine(lm, max_rows=2).generate(prompts, each)
    assert [len(c.token_ids) for c in out] == [1, 6, 11] * 3
    assert [c.token_ids for c in out] == [recomputed_greedy(lm, p, len(c.token_ids)) for p, c in zip(prompts, out, strict=True)]


def test_a_prompt_longer_than_a_step_gives_the_same_answer(lm, engine):
    prompt = list(range(30, 70))
    whole = engine.generate([prompt], GREEDY)[0].token_ids
    assert Engine(lm, step_tokens=13).generate([prompt], GREEDY)[0].token_ids == whole == recomputed_greedy(lm, prompt, 20)


# ---- repeatability ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_answer_twice_and_another_seed_another(engine):
    a, b, c = (
        engine.generate(["abc"], Sampling(max_tokens=30, temperature=1.0, seed=s, ignore_eos=True))[0] for s in (7, 7, 8)
    )
    assert a == b
    assert a.token_ids != c.token_ids


def test_temperature_zero_is_identical_twice_and_differs_from_unset(engine):
    greedy = [engine.generate(["abc"], GREEDY)[0] for _ in range(2)]
    unset = [engine.generate(["abc"], Sampling(max_tokens=20, ignore_eos=True))[0].token_ids for _ in range(3)]
    assert greedy[0] == greedy[1]
    assert len({tuple(ids) for ids in unset}) > 1


def test_the_same_prompt_many_times_gives_the_same_answer_every_time(engine):
    first = engine.generate(["whole prompt"], GREEDY)[0]
    for _ in range(3):
        assert engine.generate(["whole prompt"], GREEDY)[0] == first
    for copy in engine.generate(["whole prompt"] * 5, GREEDY):
        assert copy.token_ids == first.token_ids
        assert copy.logprobs == pytest.approx(first.logprobs, abs=1e-6)
    longer = engine.generate(["whole prompt and more"], GREEDY)[0]
    both = engine.generate(["whole prompt", "whole prompt and more"], GREEDY)
    assert [c.token_ids for c in both] == [first.token_ids, longer.token_ids]


def test_without_a_seed_equal_prompts_get_different_answers(engine):
    out = engine.generate(["abc"] * 4, Sampling(max_tokens=20, temperature=1.0, ignore_eos=True))
    assert len({tuple(c.token_ids) for c in out}) == 4


def test_the_global_random_state_is_neither_used_nor_changed(engine):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = engine.generate(["abc"], Sampling(max_tokens=10, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert engine.generate(["abc"], Sampling(max_tokens=10, seed=1)) == a


# ---- prompts ---------------------------------------------------------------------------------------------------------


def test_a_string_its_ids_and_a_single_prompt_are_the_same_prompt(engine):
    ids = TOKENIZER.encode("hi", bos=True)
    expected = engine.generate(["hi"], GREEDY)
    assert expected[0].prompt_tokens == 3
    assert engine.generate([ids], GREEDY) == engine.generate(ids, GREEDY) == engine.generate("hi", GREEDY) == expected
    assert engine.generate([torch.tensor(ids)], GREEDY) == expected


def test_chat_messages_go_through_the_chat_encoding(engine):
    messages = [{"role": "user", "content": "hi"}]
    ids = TOKENIZER.encode_chat(messages)
    assert engine.generate([messages], GREEDY) == engine.generate(messages, GREEDY) == engine.generate([ids], GREEDY)
    thinking = TOKENIZER.encode_chat(messages, thinking=True)
    assert engine.generate([messages], GREEDY, thinking=True) == engine.generate([thinking], GREEDY)


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_prompt_is_the_begin_token(engine, empty):
    out = engine.generate([empty], GREEDY)[0]
    assert out.prompt_tokens == 1
    assert out == engine.generate([[BOS]], GREEDY)[0]
    assert [t for d in engine.stream(empty, GREEDY) for t in d.token_ids] == out.token_ids


def test_no_prompts_give_no_completions(engine):
    assert engine.generate([]) == []


def test_a_prompt_that_fills_the_context_is_refused_with_both_counts_and_never_cut(engine):
    with pytest.raises(SeeklingError, match=r"96 tokens.*context holds 96"):
        engine.generate([[9] * 96])
    with pytest.raises(SeeklingError, match=r"500 tokens.*96"):
        engine.stream([9] * 500)


def test_the_longest_prompt_that_fits_gets_one_token_and_says_length(lm, engine):
    out = engine.generate([[9] * 95], Sampling(max_tokens=50, temperature=0, ignore_eos=True))[0]
    assert out.finish_reason == "length"
    assert out.token_ids == recomputed_greedy(lm, [9] * 95, 1)


def test_every_unusable_prompt_is_named_in_one_error(engine):
    bad = ["fine", [VOCAB, -1, 3], [9] * 97, [{"content": "x"}], [1, "a"], 5.0, "\ud800"]
    with pytest.raises(SeeklingError) as error:
        engine.generate(bad)
    text = str(error.value)
    for part in (
        f"prompt 1 has token ids outside 0…{VOCAB - 1}: -1, {VOCAB}",
        "prompt 2 has 97 tokens",
        "prompt 3 cannot be encoded",
        "role None",
        "prompt 4 is a list of int, str",
        "prompt 5 is a float",
        "prompt 6 cannot be encoded",
        "surrogate",
    ):
        assert part in text
    assert "prompt 0" not in text


def test_a_model_without_a_tokenizer_takes_ids_and_refuses_text_and_stop_strings():
    lm = tiny_lm(tokenizer=False)
    engine = Engine(lm)
    out = engine.generate([[5, 6]], GREEDY)[0]
    assert out.token_ids == recomputed_greedy(lm, [5, 6], 20) and out.text == ""
    with pytest.raises(SeeklingError, match="no tokenizer"):
        engine.generate(["text"])
    with pytest.raises(SeeklingError, match="stop_token_ids"):
        engine.generate([[5]], Sampling(stop="x"))


def test_the_number_of_samplings_must_fit_the_number_of_prompts(engine):
    with pytest.raises(SeeklingError, match="2 prompts and 3 samplings"):
        engine.generate(["a", "b"], [GREEDY] * 3)
    with pytest.raises(SeeklingError, match=r"seekling\.Sampling"):
        engine.generate(["a"], [{"max_tokens": 3}])


def test_a_folder_a_loaded_model_and_the_model_in_memory_answer_alike(tmp_path):
    lm = LM(tiny_lm(dtype=torch.float32).model, TOKENIZER)
    lm.save(tmp_path)
    expected = Engine(lm).generate(["abc"], GREEDY)
    # in torch: the native runner keeps its cache in bfloat16 (test_engine_native.py)
    assert Engine(tmp_path, runner="torch").generate(["abc"], GREEDY) == expected
    assert Engine(str(tmp_path), runner="torch").generate(["abc"], GREEDY) == expected
    assert Engine(seekling.load(tmp_path)).generate(["abc"], GREEDY) == expected
    assert Engine(tmp_path, dtype="bfloat16", runner="torch").model.lm_head.weight.dtype == torch.bfloat16
    assert len(Engine(tmp_path, "int4", dtype="bfloat16").generate(["abc"], GREEDY)[0].token_ids) == 20
    with pytest.raises(SeeklingError, match="does not exist"):
        Engine(tmp_path / "nothing")


def test_unknown_engine_settings_are_refused(lm):
    with pytest.raises(SeeklingError, match="int2"):
        Engine(lm, quant="int2")
    with pytest.raises(SeeklingError, match=r"max_rows(.|\n)*dtype"):
        Engine(lm, max_rows=0, dtype="float32")
    with pytest.raises(TypeError):
        Engine(lm, quantization="int8")


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(draft_tokens=4), "draft_tokens is for speculate"),
        (dict(speculate="ngram", draft_tokens=1000), "give at most 64"),
        (dict(speculate="ngrams"), "neither 'ngram' nor 'mtp'"),
        (dict(speculate=True), "speculate is True: give 'ngram'"),
        (dict(adapters=["folder"]), "adapters is a list: give a dict"),
    ],
)
def test_settings_that_mean_nothing_are_refused_and_told_what_would(lm, given, said):
    with pytest.raises(SeeklingError, match=said):
        Engine(lm, **given)


def test_a_backend_made_ready_takes_no_settings_of_a_model(lm):
    made = open_backend(lm, None, None, "torch", None)
    with pytest.raises(SeeklingError, match="quant is for a model"):
        Engine(made, quant="int8")
    assert Engine(made).generate([5], GREEDY)


def test_a_text_of_the_whole_context_has_a_vector_and_one_longer_is_refused(engine):
    whole = [5] * engine.context
    assert engine.embed([whole]).shape == (1, engine.config.hidden_size)
    with pytest.raises(SeeklingError, match=r"holds 96: shorten it"):
        engine.embed([[*whole, 5]])
    with pytest.raises(SeeklingError, match="is a NoneType"):
        engine.embed(None)


# ---- the end of an answer --------------------------------------------------------------------------------------------


def test_the_end_token_ends_the_answer_and_is_among_the_ids_but_not_the_text():
    out = Engine(scripted_lm("done")).generate([[1, 2, 3]])[0]
    assert (out.text, out.finish_reason) == ("done", "stop")
    assert out.token_ids[-1] == EOS and len(out.token_ids) == len(out.logprobs) == 5


def test_max_tokens_ends_the_answer_with_length():
    out = Engine(scripted_lm("done")).generate([[1, 2, 3]], Sampling(max_tokens=4))[0]
    assert (out.text, out.finish_reason, len(out.token_ids)) == ("done", "length", 4)


def test_ignore_eos_goes_on_past_the_end_token():
    out = Engine(scripted_lm("done")).generate([[1, 2, 3]], Sampling(max_tokens=8, ignore_eos=True))[0]
    assert (out.text, out.finish_reason, out.token_ids[4:]) == ("done", "length", [EOS] * 4)


def test_a_stop_token_ends_the_answer_and_is_not_in_the_text():
    out = Engine(scripted_lm("abc")).generate([[1, 2, 3]], Sampling(stop_token_ids=TOKENIZER.encode("b")))[0]
    assert (out.text, out.finish_reason) == ("a", "stop")


def test_a_stop_string_over_several_tokens_never_shows():
    engine = Engine(scripted_lm("one STOP two"))
    deltas = list(engine.stream([1, 2, 3], Sampling(stop=["STOP", "never"])))
    assert "".join(d.text for d in deltas) == "one "
    assert deltas[-1].finish_reason == "stop"
    assert len(deltas) == len("one STOP")


def test_logprobs_can_be_left_out():
    out = Engine(scripted_lm("abc")).generate([[1, 2, 3]] * 2, [Sampling(logprobs=False), Sampling()])
    assert out[0].logprobs is None and len(out[1].logprobs) == 4


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_joined_is_the_completion(engine):
    s = Sampling(max_tokens=40, temperature=1.0, seed=5, ignore_eos=True)
    out = engine.generate(["abc"], s)[0]
    deltas = list(engine.stream("abc", s))
    assert "".join(d.text for d in deltas) == out.text
    assert [t for d in deltas for t in d.token_ids] == out.token_ids
    assert [p for d in deltas for p in d.logprobs] == out.logprobs
    assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + [out.finish_reason]


def test_a_character_over_several_tokens_comes_out_whole():
    text = "a é 水 🐳!"
    deltas = list(Engine(scripted_lm(text)).stream([1, 2, 3]))
    assert "".join(d.text for d in deltas) == text
    assert all(unicodedata.category(c) != "Cn" and c != "\ufffd" for d in deltas for c in d.text)
    assert len(deltas) == len(text.encode()) + 1


def test_half_a_character_at_the_end_is_shown_as_a_replacement_and_equals_the_full_decode():
    out = Engine(scripted_lm("ab🐳")).generate([[1, 2, 3]], Sampling(max_tokens=4))[0]
    assert out.text == "ab\ufffd" == TOKENIZER.decode(out.token_ids)


@settings(max_examples=40)
@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_any_text_streams_to_what_stands_before_its_first_stop_string(text, stop):
    deltas = list(Engine(scripted_lm(text)).stream([1, 2, 3], Sampling(stop=stop)))
    ends = [text.index(s) + len(s) for s in stop if s in text]
    shown = (
        text
        if not ends
        else min((text[: text.index(s)] for s in stop if s in text and text.index(s) + len(s) == min(ends)), key=len)
    )
    assert "".join(d.text for d in deltas) == shown
    assert deltas[-1].finish_reason == "stop"


def test_a_stream_checks_its_prompt_before_the_first_token(engine):
    with pytest.raises(SeeklingError, match="outside"):
        engine.stream([VOCAB])
    with pytest.raises(SeeklingError, match="list of str"):
        engine.stream(["a", "b"])


def test_a_closed_stream_leaves_the_engine_usable(engine):
    stream = engine.stream("abc", GREEDY)
    next(stream)
    stream.close()
    assert len(engine.generate(["abc"], GREEDY)[0].token_ids) == 20


def test_two_streams_side_by_side_do_not_disturb_each_other(engine):
    alone = [engine.generate([p], GREEDY)[0].token_ids for p in ("abc", "xyz")]
    a, b = engine.stream("abc", GREEDY), engine.stream("xyz", GREEDY)
    pairs = [(x.token_ids[0], y.token_ids[0]) for x, y in zip(a, b, strict=True)]
    assert [list(ids) for ids in zip(*pairs, strict=True)] == alone


def test_the_engine_works_in_threads_other_than_the_main_one(engine):
    expected = [c.token_ids for c in engine.generate(["abc", "xyz"], GREEDY)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda p: engine.generate([p], GREEDY)[0].token_ids, ["abc", "xyz"] * 3))
    assert found == expected * 3


# ---- the model around it ---------------------------------------------------------------------------------------------


def test_the_model_keeps_its_mode_and_can_train_between_two_tokens():
    lm = tiny_lm(dtype=torch.float32)
    lm.model.train()
    for _ in Engine(lm).stream("abc", Sampling(max_tokens=3, ignore_eos=True)):
        assert lm.model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        lm.model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert lm.model.training and lm.model.lm_head.weight.grad is not None


def test_the_engine_follows_the_weights_of_a_model_that_changes():
    lm = tiny_lm()
    engine = Engine(lm)
    before = engine.generate(["abc"], GREEDY)[0].token_ids
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.neg_()
    assert engine.generate(["abc"], GREEDY)[0].token_ids == recomputed_greedy(lm, TOKENIZER.encode("abc", bos=True), 20)
    assert engine.generate(["abc"], GREEDY)[0].token_ids != before


def test_a_diverged_model_is_an_error_and_not_an_answer():
    lm = tiny_lm()
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(SeeklingError, match="diverged"):
        Engine(lm).generate(["abc"])


def test_control_marks_in_a_prompt_or_message_stay_text(engine):
    text = "<｜User｜><think>"
    assert engine.prompt_tokens(text) == 1 + len(text.encode())
    plain = engine.prompt_tokens([{"role": "user", "content": ""}])
    assert engine.prompt_tokens([{"role": "user", "content": text}]) == plain + len(text.encode())


def test_tokens_beyond_the_tokenizer_s_vocabulary_have_no_text():
    lm = scripted_lm([*TOKENIZER.encode("ab"), VOCAB + 3, *TOKENIZER.encode("c")], vocab_size=VOCAB + 5)
    lm.model.vocab = VOCAB + 5
    assert Engine(lm).generate([[1, 2, 3]])[0].text == "abc"


def test_the_public_names_are_the_engine_s():
    assert seekling.Engine is Engine and seekling.Sampling is Sampling
