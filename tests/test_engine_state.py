"""Models whose layers keep more than keys and values a token: the engine answers as the whole row recomputed does."""

from types import SimpleNamespace

import pytest
import torch
from engine_tiny import TOKENIZER, VOCAB, one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.native_runner import unsupported
from seekling.engine.runner import Chunk
from seekling.engine.torch_runner import TorchRunner
from seekling.model.config import ModelConfig, NormResidual
from seekling.model.decoder import Decoder

COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=24, moe_intermediate_size=24, num_hidden_layers=3,
    num_attention_heads=4, n_routed_experts=4, num_experts_per_tok=2, max_position_embeddings=96, initializer_range=0.3,
)  # fmt: skip
LIGHTNING = ModelConfig(
    **COMMON, model_type="minimax", attention="gqa", num_key_value_heads=2, head_dim=8, v_head_dim=8, rope_interleave=False,
    layer_types=("linear_attention", "full_attention", "linear_attention"), linear_block=4, scoring_func="softmax",
    topk_method="greedy", router_float32=False, norm_residual=NormResidual(linear_alpha=1.5, mlp_beta=0.7),
)  # fmt: skip

SPARSE = ModelConfig(
    **COMMON, model_type="deepseek_v32", q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    n_shared_experts=1, first_k_dense_replace=1, index_topk=6, index_n_heads=3, index_head_dim=8, num_nextn_predict_layers=1,
)  # fmt: skip


def lm_of(config):
    return SimpleNamespace(model=Decoder.build(config, dtype=torch.float64, seed=2), tokenizer=TOKENIZER, config=config)


@pytest.fixture(scope="module", params=[LIGHTNING, SPARSE], ids=["lightning", "sparse"])
def lm(request):
    return lm_of(request.param)


def greedy(count):
    return Sampling(max_tokens=count, temperature=0, ignore_eos=True)


def recomputed(lm, ids, count):
    """The oracle: the whole row through the whole model for every token."""
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(lm.model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[-count:]


def test_greedy_answers_equal_full_recomputation(lm):
    prompts = [[5, 17, 99, 4], [200], [9] * 40]
    out = Engine(lm).generate(prompts, greedy(12))
    assert [o.token_ids for o in out] == [recomputed(lm, prompt, 12) for prompt in prompts]


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=6),
    st.integers(1, 9), st.integers(1, 4), st.integers(2, 4),
)  # fmt: skip
def test_chunked_prompts_preemption_and_reused_pages_change_nothing(lm, sizes, step_tokens, rows, pages):
    engine = Engine(lm, step_tokens=step_tokens, max_rows=rows, cache_tokens=32 * pages)
    prompts = [[(7 * i + j) % VOCAB for j in range(length)] for i, (length, _) in enumerate(sizes)]
    out = engine.generate(prompts, [greedy(count) for _, count in sizes])
    for prompt, (_, count), answer in zip(prompts, sizes, out, strict=True):
        assert answer.token_ids == recomputed(lm, prompt, count)


def test_several_answers_to_one_prompt(lm):
    alone = [Engine(lm).generate([[5, 6, 7]], Sampling(max_tokens=8, seed=3, ignore_eos=True))[0].token_ids]
    out = Engine(lm).generate([[5, 6, 7]], Sampling(max_tokens=8, seed=3, n=3, ignore_eos=True))
    assert out[0].token_ids == alone[0] and len({tuple(o.token_ids) for o in out}) == 3


# ---- running states --------------------------------------------------------------------------------------------------


def test_prompts_with_a_running_state_share_nothing_and_leave_nothing_behind():
    engine = Engine(lm_of(LIGHTNING))
    prompt = list(range(70))
    for _ in range(2):
        assert engine.generate([prompt], greedy(3))[0].cached_tokens == 0
    stats = engine.stats()
    assert stats["pages_cached"] == stats["pages_used"] == 0
    pool = TorchRunner(engine.model, LIGHTNING)
    pool.allocate(8)
    pool.step([Chunk([1], 0, [0])])
    pool.forget(0)
    assert pool.bytes() < 1.01 * engine._backend.runner.bytes()


def test_drafts_are_refused_where_a_state_cannot_go_back():
    with pytest.raises(SeeklingError, match="linear attention keeps a state"):
        Engine(lm_of(LIGHTNING), speculate="ngram")


def test_a_runner_does_not_go_on_from_a_state_of_other_tokens():
    runner = TorchRunner(lm_of(LIGHTNING).model, LIGHTNING)
    runner.allocate(4)
    runner.step([Chunk([1, 2, 3], 0, [1])])
    for chunk in (Chunk([4], 2, [1]), Chunk([4], 4, [1]), Chunk([4], 3, [0])):
        with pytest.raises(SeeklingError, match="compute the row from its beginning"):
            runner.step([chunk])
    assert runner.step([Chunk([4], 3, [1])]).shape == (1, VOCAB)


# ---- an indexer ------------------------------------------------------------------------------------------------------


def test_a_shared_prefix_brings_its_index_keys_along():
    lm = lm_of(SPARSE)
    engine = Engine(lm)
    prompt = list(range(40))
    engine.generate([prompt], greedy(2))
    out = engine.generate([[*prompt[:37], 99]], greedy(10))[0]
    assert out.cached_tokens == 37
    assert out.token_ids == recomputed(lm, [*prompt[:37], 99], 10)


@pytest.mark.parametrize("speculate", ["ngram", "mtp"])
def test_drafts_change_nothing(speculate):
    lm = lm_of(SPARSE)
    prompts = [[7, 8, 9] * 6, [5, 6]]
    out = Engine(lm, speculate=speculate).generate(prompts, greedy(16))
    assert [o.token_ids for o in out] == [recomputed(lm, prompt, 16) for prompt in prompts]


# ---- both ------------------------------------------------------------------------------------------------------------


def test_quantised_answers_come_from_the_quantised_weights(lm):
    engine = Engine(lm, quant="int8")
    small = SimpleNamespace(model=engine.model)
    assert engine.generate([[5, 17, 99]], greedy(8))[0].token_ids == recomputed(small, [5, 17, 99], 8)


def test_the_native_runner_says_what_it_does_not_compute():
    assert "linear attention" in unsupported(LIGHTNING) and "residuals of norms" in unsupported(LIGHTNING)
    assert "sparse attention behind an indexer" in unsupported(SPARSE)
