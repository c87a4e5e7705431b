"""Runs of seconds to release: a tiny pretraining on generated text, and fine-tuning on top of it."""

import json

import pytest

from seekling.recipe import Recipe
from seekling.release.material import Options
from seekling.resolve import resolve
from seekling.train.pretrain import pretrain
from seekling.train.sft import sft
from seekling.train.sft_recipe import SftRecipe

TINY = dict(
    num_hidden_layers=2, hidden_size=32, num_attention_heads=2, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8,
    qk_rope_head_dim=8, v_head_dim=8, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
    vocab_size=300, seq_len=64, batch_size=2, micro_batch=2, steps=4, save_every=2, eval_every=2, sample_every=100,
    eval_tokens=200, threads=1, dtype="float32",
)  # fmt: skip
STORY = "The dog ran to the tree. It was a big tree, and the dog was glad. "
OFFLINE = Options(offline=True)
ABOUT = """
did_not_work = ["A learning rate of 1 did not work."]

[producer]
name = "A test"
contact = "test@example.org"

[sources.tales]
licence = "CC-BY-4.0"
attribution = "nobody"
about = "the same story again and again"

[sources.talks]
licence = "CC0-1.0"
"""


@pytest.fixture(scope="session")
def tales(tmp_path_factory):
    """A folder of text, the cache to prepare it in, and a finished run on it."""
    home = tmp_path_factory.mktemp("released")
    (home / "tales").mkdir()
    for i in range(40):
        (home / "tales" / f"{i}.txt").write_text(f"Story {i}. " + STORY * (3 + i % 5), "utf-8")
    patch = pytest.MonkeyPatch()
    patch.setenv("SEEKLING_CACHE", str(home / "cache"))
    recipe = Recipe.of(size="nano", out=str(home / "base"), data=[str(home / "tales")], heldout=0.2, **TINY)
    pretrain(resolve(recipe))
    (home / "about.toml").write_text(ABOUT, "utf-8")
    yield home
    patch.undo()


@pytest.fixture(scope="session")
def talks(tales):
    """Conversations, and a run fine-tuned on them from the tiny base."""
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}!"}]} for i in range(12)
    ]
    (tales / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = SftRecipe.of(
        model=str(tales / "base"), data=[str(tales / "talks.jsonl")], out=str(tales / "taught"), heldout=0.25, steps=2,
        batch_size=2, threads=1, dtype="float32", save_every=1,
    )  # fmt: skip
    sft(recipe)
    return tales
