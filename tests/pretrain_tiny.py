"""A run of seconds: the smallest recipe, and text made in memory in place of the data room (its own tests cover that)."""

from pathlib import Path

import pytest

from seekling.data import stream_of
from seekling.data.prepare import Prepared
from seekling.recipe import Recipe
from seekling.text.bpe import SMALLEST, train_tokenizer
from seekling.train import pretrain as room

VOCAB = SMALLEST + 24
TINY = dict(
    num_hidden_layers=2, hidden_size=16, num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4,
    qk_rope_head_dim=4, v_head_dim=4, intermediate_size=32, moe_intermediate_size=8, n_routed_experts=4,
    num_experts_per_tok=2, max_position_embeddings=64, vocab_size=VOCAB, seq_len=16, batch_size=4, micro_batch=2,
    steps=6, lr=5e-3, save_every=2, eval_every=3, sample_every=4, eval_tokens=100, threads=1, dtype="float32",
)  # fmt: skip


def recipe(out, **changes) -> Recipe:
    return Recipe.of(size="nano", out=str(out), **{**TINY, **changes})


def stories(first: int, n: int) -> list[str]:
    return [
        f"The {i} little ducks saw {i + 1} big {('cats', 'dogs', 'frogs')[i % 3]} by the lake." for i in range(first, first + n)
    ]


def prepared():
    tokenizer = train_tokenizer(stories(0, 40), VOCAB)

    def stream(texts, name):
        ids = [tokenizer.encode(t, bos=True, eos=True) for t in texts]
        return stream_of(ids, [len(t.encode()) for t in texts], name)

    heldout = {
        "ducks": stream(stories(100, 6), "ducks"),
        "geese": stream([s.replace("ducks", "geese") for s in stories(50, 3)], "geese"),
    }
    return Prepared(
        tokenizer=tokenizer,
        folder=Path(),
        train=stream(stories(0, 14), "ducks"),
        heldout=heldout,
        manifest={"sources": ["made for the test"]},
    )


PREPARED = prepared()


@pytest.fixture
def made_text(monkeypatch):
    """Give every run the text above."""
    monkeypatch.setattr(room, "prepare_data", lambda recipe, run, say=None: PREPARED)
    return PREPARED
