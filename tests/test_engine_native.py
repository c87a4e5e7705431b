"""The native runner behind the engine: a request's tokens and log-probabilities are bit for bit those of the request alone."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from engine_tiny import TOKENIZER, VOCAB, config, one_thread, tiny_lm  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling import Engine, Sampling, SeeklingError
from seekling.engine import backend
from seekling.engine.runner import PAGE
from seekling.errors import CheckpointError, MachineError
from seekling.formats.adapters import Adapter, LowRank
from seekling.kernels import infer
from seekling.lm import LM
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

pytestmark = pytest.mark.skipif(not infer.available(), reason="the kernels are not built")
GREEDY = Sampling(max_tokens=20, temperature=0, ignore_eos=True)


def gqa_lm():
    cfg = ModelConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, attention="gqa", model_type="llama", max_position_embeddings=192,
        initializer_range=0.2, moe_intermediate_size=0, kv_lora_rank=0, qk_nope_head_dim=0, qk_rope_head_dim=0, v_head_dim=0,
    )  # fmt: skip
    return SimpleNamespace(model=Decoder.build(cfg, seed=0), tokenizer=TOKENIZER, config=cfg)


MLA = tiny_lm(dtype=torch.float32, hidden_size=64, max_position_embeddings=192, num_nextn_predict_layers=1)
GQA = gqa_lm()
ENGINES = {}


def alone(name, quant, ids, s, index=0):
    """The oracle: the request by itself, no prefix cache, no drafts, its whole prompt in one step."""
    key = name, quant
    if key not in ENGINES:
        lm = MLA if name == "mla" else GQA
        ENGINES[key] = Engine(lm, quant, runner="native", prefix_cache=False, max_rows=1, step_tokens=4096)
    seed = None if s.seed is None else s.seed + index
    one = Sampling(max_tokens=s.max_tokens, temperature=s.temperature, seed=seed, ignore_eos=True)
    return ENGINES[key].generate(list(ids), one)[0]


# ---- bit for bit -----------------------------------------------------------------------------------------------------

HEAD = [10, 12, 11, 11] * 10  # more than a page
PROMPT = st.tuples(st.sampled_from([[], HEAD]), st.lists(st.integers(10, 12), min_size=1, max_size=80))
EVENT = st.tuples(
    PROMPT.map(lambda parts: parts[0] + parts[1]),
    st.integers(1, 30),  # max_tokens
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 2),  # priority
    st.one_of(st.none(), st.none(), st.integers(0, 10)),  # cancel after so many steps
    st.integers(0, 4),  # steps before the next arrives
    st.sampled_from([1, 1, 2]),  # n
)


@pytest.mark.parametrize("name, quant", [("mla", "int8"), ("mla", None), ("gqa", "int4")])
def test_bits_do_not_depend_on_company_chunks_prefix_hits_evictions_files_or_drafts(name, quant, tmp_path):
    hits, drafts, preempted, reloaded = [], [], [], []

    @settings(max_examples=25)
    @given(
        st.lists(EVENT, min_size=1, max_size=8),
        st.integers(6, 12),  # pages
        st.integers(1, 5),  # rows
        st.sampled_from([5, 16, 64]),  # tokens a step
        st.sampled_from([None, "ngram", "itself", *["mtp"] * (name == "mla")]),
        st.booleans(),  # pages in files
    )
    def check(events, pages, rows, step_tokens, speculate, files):
        lm = MLA if name == "mla" else GQA
        options = dict(runner="native", cache_tokens=pages * PAGE, max_rows=rows, step_tokens=step_tokens)
        options |= dict(speculate=lm if speculate == "itself" else speculate, cache_spill=tmp_path if files else None)
        with Engine(lm, quant, **options) as engine:
            run(engine, events)

    def run(engine, events):
        handles = []
        for number, (ids, count, temperature, priority, cancel, pause, n) in enumerate(events):
            s = Sampling(max_tokens=count, temperature=temperature, seed=number, ignore_eos=True, n=n)
            handles.append([ids, s, engine._loop.submit(engine._intake.requests([ids], s, priority=priority)[0]), cancel])
            for _ in range(pause):
                engine._loop.step()
                for entry in handles:
                    if entry[3] == 0:
                        entry[2].cancel()
                    entry[3] = None if entry[3] is None else entry[3] - 1
        for ids, s, handle, _ in handles:
            for answer in handle.results():
                expected, n = alone(name, quant, ids, s, answer.index), len(answer.token_ids)
                assert answer.finish_reason == "cancelled" or n == s.max_tokens
                assert answer.token_ids == expected.token_ids[:n]
                assert answer.logprobs == expected.logprobs[:n]
                hits.append(answer.cached_tokens)
                drafts.append(answer.accepted)
        preempted.append(engine.stats()["preempted"])
        reloaded.append(engine.stats().get("reloaded_pages"))
        engine._loop.cache.tree.spill_all()
        engine._loop.cache.tree.clear()
        assert engine.stats()["pages_used"] == 0

    check()
    assert any(hits) and any(drafts) and any(preempted) and any(reloaded)  # all of it took place


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("tokens", [128, 160])
@pytest.mark.parametrize("model", [GQA, MLA], ids=["gqa", "mla"])
def test_a_request_that_gave_its_pages_back_goes_on_as_if_it_had_not(model, tokens, prefix):
    prompts, s = [list(range(10, 50)), list(range(60, 100))], Sampling(max_tokens=50, temperature=0, ignore_eos=True)
    alone = [Engine(model, runner="native").generate([prompt], s)[0].token_ids for prompt in prompts]
    engine = Engine(model, runner="native", cache_tokens=tokens, prefix_cache=prefix)
    assert [one.token_ids for one in engine.generate(prompts, s)] == alone
    assert engine.stats()["preempted"] > 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(PROMPT, st.integers(20, 70)), min_size=2, max_size=4), st.integers(6, 9), st.booleans(), st.booleans()
)
def test_bits_do_not_depend_on_pages_given_back(events, pages, prefix, ngram):
    requests = [(head + rest, Sampling(max_tokens=count, temperature=0, ignore_eos=True)) for (head, rest), count in events]
    speculate = "ngram" if ngram else None
    engine = Engine(GQA, "int4", runner="native", cache_tokens=pages * PAGE, prefix_cache=prefix, speculate=speculate)
    answers = engine.generate([ids for ids, _ in requests], [s for _, s in requests])
    assert [one.token_ids for one in answers] == [alone("gqa", "int4", *one).token_ids for one in requests]


@pytest.mark.parametrize("runner", ["native", "torch"])
@pytest.mark.parametrize("options", [{"max_rows": 1}, {"cache_tokens": 192}])
def test_a_prompt_that_needs_every_page_is_answered_again_though_the_cache_is_full_of_it(runner, options):
    engine = Engine(MLA, runner=runner, **options)
    first, again = [10 + n % 90 for n in range(180)], [10 + n % 90 for n in range(170)] + [3] * 10
    s = Sampling(max_tokens=6, temperature=0, ignore_eos=True)
    answers = [engine.generate([ids], s)[0].token_ids for ids in (first, first, again)]
    assert answers[0] == answers[1] and len(answers[2]) == 6
    assert engine.stats()["pages"] == 6  # no page is left over


@pytest.mark.parametrize("cache", ["bf16", "int8"])
@pytest.mark.parametrize("make", [gqa_lm, lambda: tiny_lm(dtype=torch.float32)], ids=["gqa", "mla"])
def test_pages_of_a_request_whose_numbers_are_damaged_harm_nobody_else(make, cache):
    lm = make()
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[200] = float("inf")
    engine, good = Engine(lm, runner="native", cache_dtype=cache), list(range(10, 30))
    with pytest.raises(SeeklingError, match="not a number"):
        engine.generate([[200, *range(10, 40)]], GREEDY)
    assert engine.generate([good], GREEDY) == Engine(lm, runner="native", cache_dtype=cache).generate([good], GREEDY)


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_rounded_to_some(quant, value):
    lm = tiny_lm(dtype=torch.float32)
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.o_proj.weight[3, 5] = value
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\.o_proj\.weight is damaged: 1 of its rows"):
        Engine(lm, quant)


def weights_of(make):
    return [name for name, tensor in make().model.state_dict().items() if tensor.dim() < 3 and "mtp" not in name]


@pytest.mark.parametrize(
    "make, name",
    [
        pytest.param(make, name, id=name)
        for make in (gqa_lm, lambda: tiny_lm(dtype=torch.float32))
        for name in weights_of(make)
        if name.startswith(("model.layers.1.", "model.norm", "lm_head")) and not name.endswith("e_score_correction_bias")
    ],
)
def test_a_weight_that_is_no_number_is_told_and_never_answered_with(make, name):
    lm = make()
    with torch.no_grad():
        lm.model.state_dict()[name].flatten()[3] = float("nan")
    for runner in ("torch", "native"):
        with pytest.raises(SeeklingError, match="not a number"):
            Engine(lm, runner=runner).generate([list(range(10, 50))], GREEDY)


def test_drawing_has_the_threads_of_the_runner(monkeypatch):
    monkeypatch.setattr("seekling.engine.native_runner.usable_cores", lambda: 1)
    torch.set_num_threads(2)
    assert Engine(MLA, runner="native")._loop._threads() == 1


def test_a_request_that_gave_its_pages_back_has_to_be_computed_again():
    engine = Engine(MLA, runner="native", prefix_cache=False)
    handle = engine._loop.submit(engine._intake.requests([list(range(10, 60))], GREEDY)[0])
    engine._loop.step()
    (request,) = engine._loop.scheduler.running
    assert request.prefilled
    engine._loop.scheduler._preempt(request)
    assert not request.prefilled and request.remaining > 1
    assert len(handle.results()[0].token_ids) == 20


def test_threads_are_no_more_than_the_process_may_use(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr("seekling.engine.native_runner.usable_cores", lambda: 1)
    assert Engine(MLA, runner="native")._backend.runner.team() == 1
    assert Engine(MLA, runner="native", threads=2)._backend.runner.team() == 2  # asked for


@pytest.mark.parametrize("model", [GQA, MLA], ids=["gqa", "mla"])
def test_the_number_of_threads_changes_no_bit(model):
    prompts = [list(range(10, 90)), [5, 6, 7]]
    for group in (prompts, prompts[:1]):  # one alone shares even its attention among them
        one, two, three = (Engine(model, "int8", runner="native", threads=n).generate(group, GREEDY) for n in (1, 2, 3))
        assert one == two == three


def test_prompt_logprobs_are_the_same_bits_however_the_prompt_is_cut():
    s = Sampling(max_tokens=2, temperature=0, prompt_logprobs=True, top_logprobs=2, ignore_eos=True)
    prompt = list(range(10, 90))
    whole = Engine(MLA, "int8", runner="native").generate(prompt, s)[0]
    assert Engine(MLA, "int8", runner="native", step_tokens=7).generate(prompt, s)[0] == whole


def test_a_repeated_prompt_is_repeated_exactly_with_and_without_the_cache():
    engine = Engine(MLA, "int8", runner="native")
    prompt = list(range(10, 90))
    first, again = (engine.generate(prompt, GREEDY)[0] for _ in range(2))
    assert again.cached_tokens == 79 and first == again


@pytest.mark.parametrize("quant", [None, "int8"])
def test_a_tied_head_with_a_bias_of_its_own_is_read_from_a_folder(quant, tmp_path):
    from family_models import hf_family_model

    tied = (m for m in (hf_family_model("ernie4_5_moe", seed, torch.float32) for seed in range(100, 160)))
    theirs = next(m for m in tied if m.config.tie_word_embeddings and m.config.use_bias)
    theirs.save_pretrained(tmp_path)
    natively, torchly = (Engine(tmp_path, quant, runner=runner) for runner in ("native", "torch"))
    prompt = [3, 1, 4]
    answer = natively.generate([prompt], GREEDY)[0]
    assert "torch" not in natively.stats()["runner"]
    for place in range(3):  # the same logits up to rounding: the likelier of two tokens may differ later
        assert answer.logprobs[place] == pytest.approx(torchly.generate([prompt], GREEDY)[0].logprobs[place], abs=0.05)
        if answer.token_ids[place] != torchly.generate([prompt], GREEDY)[0].token_ids[place]:
            break


# ---- which runner runs -----------------------------------------------------------------------------------------------


def test_the_native_runner_agrees_with_torch_up_to_its_rounding():
    prompt = list(range(10, 60))
    s = Sampling(max_tokens=1, temperature=0, prompt_logprobs=True)
    for lm in (MLA, GQA):
        exact, near = (
            torch.tensor(e.generate(prompt, s)[0].prompt_logprobs[1:]) for e in (Engine(lm), Engine(lm, runner="native"))
        )
        assert (exact - near).abs().median() < 0.03  # the cache is bfloat16; a router may choose another expert


def test_a_path_runs_natively_and_a_model_in_memory_with_its_own_weights(tmp_path):
    LM(MLA.model, TOKENIZER).save(tmp_path)
    path = Engine(tmp_path)
    assert path.model is None and "native" in path.stats()["runner"]
    assert Engine(tmp_path, runner="torch").stats()["runner"] == "torch"
    assert Engine(MLA).model is MLA.model
    assert "int8" in Engine(tmp_path, "int8").stats()["runner"]
    assert "bf16" in Engine(tmp_path, dtype="bfloat16").stats()["runner"]
    assert len(path.generate("abc", GREEDY)[0].token_ids) == 20


def test_where_the_kernels_are_missing_torch_runs_and_one_line_says_so(tmp_path, monkeypatch, caplog):
    LM(MLA.model, TOKENIZER).save(tmp_path)
    monkeypatch.setattr(infer, "available", lambda: False)
    monkeypatch.setattr(backend, "_told", set())
    with caplog.at_level(logging.WARNING, "seekling"):
        engines = [Engine(tmp_path), Engine(tmp_path)]
    assert [e.stats()["runner"] for e in engines] == ["torch", "torch"]
    assert len(caplog.records) == 1 and "generating with torch" in caplog.text
    with pytest.raises(MachineError, match="use runner='torch'"):
        Engine(tmp_path, runner="native")


def test_what_the_native_runner_cannot_take_is_refused_by_name():
    with pytest.raises(MachineError, match=r"weights of torch\.float64 on cpu"):
        Engine(tiny_lm(), runner="native")
    with pytest.raises(SeeklingError, match="runner is 'gpu'"):
        Engine(MLA, runner="gpu")


# ---- beside generation -----------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_weights_and_quantisation_and_with_nothing_else(tmp_path):
    LM(MLA.model, TOKENIZER).save(tmp_path / "a")
    LM(GQA.model, TOKENIZER).save(tmp_path / "b")
    prints = [
        Engine(tmp_path / "a").fingerprint,
        Engine(tmp_path / "b").fingerprint,
        Engine(tmp_path / "a", "int8").fingerprint,
    ]
    prints.append(Engine(MLA).fingerprint)
    assert len(set(prints)) == 4 and all(p.startswith("seekling-") for p in prints)
    assert Engine(tmp_path / "a").fingerprint == prints[0] and Engine(MLA).fingerprint == prints[3]
    assert Engine(MLA, "int8").fingerprint == prints[2]  # the same numbers, packed from memory


def test_a_fingerprint_changes_with_the_config_biases_and_adapters(tmp_path):
    LM(MLA.model, TOKENIZER).save(tmp_path / "a")
    before = Engine(tmp_path / "a").fingerprint
    config_file = tmp_path / "a" / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"rope_theta": 77.0}))
    assert Engine(tmp_path / "a").fingerprint != before
    for quant in (None, "int8"):
        lm = tiny_lm(dtype=torch.float32, attention_bias=True)
        plain = Engine(lm, quant, runner="native").fingerprint
        with torch.no_grad():
            lm.model.model.layers[0].self_attn.o_proj.bias.add_(1)
        assert Engine(lm, quant, runner="native").fingerprint != plain
    name = "model.layers.0.self_attn.o_proj.weight"
    one, other = (Adapter({name: LowRank(torch.ones(2, 16), torch.full((64, 2), by), 1.0)}) for by in (1.0, 2.0))
    engine = Engine(MLA, runner="native", adapters={"a": one})
    prints = [Engine(MLA, runner="native").fingerprint, engine.fingerprint]
    engine.set_adapter("a", other)
    assert len({*prints, engine.fingerprint}) == 3


def test_a_fingerprint_follows_the_weights_of_a_model_in_training():
    lm = tiny_lm(dtype=torch.float32)
    engine = Engine(lm)
    before = engine.fingerprint
    with torch.no_grad():
        lm.model.lm_head.weight.add_(1)
    assert engine.fingerprint != before


def counted(engine, monkeypatch):
    """The answers' tokens there were when each piece of a text was computed."""
    runner, seen = engine._backend.runner, []
    states = runner.states
    monkeypatch.setattr(runner, "states", lambda chunks: (seen.append(engine.stats()["tokens"]), states(chunks))[1])
    return seen


def test_texts_and_answers_take_turns_and_are_what_they_are_alone(monkeypatch):
    lm = tiny_lm(dtype=torch.float32, max_position_embeddings=1024)
    texts = [[number] * count for number, count in ((5, 700), (6, 300), (7, 1), (8, 300))]  # 512, 188 and 300, 1 and 300
    asked = Sampling(max_tokens=400, temperature=0, ignore_eos=True, top_logprobs=1)
    with Engine(lm, "int8") as engine:
        vectors, answer = engine.embed(texts), engine.generate("hello", asked)[0]
        seen = counted(engine, monkeypatch)
        handle = engine.submit("hello", asked)
        next(iter(handle))
        assert torch.equal(engine.embed(texts), vectors)
        assert len(seen) == 5 and len(set(seen)) == 3
        assert handle.result().token_ids == answer.token_ids


def test_cancelled_vectors_are_computed_no_further(monkeypatch):
    engine = Engine(tiny_lm(dtype=torch.float32, max_position_embeddings=1024), "int8")
    seen = counted(engine, monkeypatch)
    with pytest.raises(SeeklingError, match="cancelled"):
        engine.embed([[5] * 300] * 9, cancelled=lambda: len(seen) == 2)
    assert len(seen) == 2
    asked = iter([False, False, True])
    with pytest.raises(SeeklingError, match="cancelled"):
        Engine(MLA).embed([[5] * count for count in range(1, 9)], cancelled=lambda: next(asked))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_pooled_final_states_of_length_one(tmp_path, pooling):
    LM(MLA.model, TOKENIZER).save(tmp_path)
    texts = ["ab", "c d e f", "yz"]
    out = Engine(MLA).embed(texts, pooling)
    assert out.shape == (3, 64) and torch.allclose(out.norm(dim=-1), torch.ones(3))
    with torch.no_grad():
        h = MLA.model.hidden(torch.tensor([TOKENIZER.encode(texts[1], bos=True)]))[0]
    expected = h.mean(0) if pooling == "mean" else h[-1]
    assert torch.allclose(out[1], expected / expected.norm(), atol=1e-5)
    assert torch.allclose(Engine(tmp_path).embed(texts, pooling), out, atol=5e-3)  # natively, over a bfloat16 cache
    with pytest.raises(SeeklingError, match="pooling"):
        Engine(MLA).embed("a", "max")
