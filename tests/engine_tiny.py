"""Tiny models and a tokenizer for the engine's tests: every UTF-8 byte is a token, so characters split over tokens."""

from types import SimpleNamespace

import pytest
import torch

from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.text.bpe import SMALLEST, train_tokenizer

TOKENIZER = train_tokenizer(["a b"], SMALLEST)  # control marks and the 256 bytes, no merges
VOCAB = TOKENIZER.vocab_size
BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK = range(7)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine threads that wait for each other cost thirty times what these models take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(**changes) -> ModelConfig:
    settings = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        first_k_dense_replace=1,
        max_position_embeddings=96,
        initializer_range=0.2,
    )
    return ModelConfig(**(settings | changes))


def tiny_lm(dtype=torch.float64, seed=0, tokenizer=True, **changes):
    """What `seekling.load` returns, random: .model, .tokenizer, .config."""
    cfg = config(**changes)
    model = Decoder.build(cfg, dtype=dtype, seed=seed)
    return SimpleNamespace(model=model, tokenizer=TOKENIZER if tokenizer else None, config=cfg)


class Script(torch.nn.Module):
    """A "model" that says a fixed list of tokens, whatever it is asked: after n generated tokens comes tokens[n].

    Prompts must all have the length given, so that a row's position tells how far its answer is.
    """

    def __init__(self, tokens, prompt_length, vocab=VOCAB):
        super().__init__()
        self.tokens, self.prompt_length, self.vocab = tokens, prompt_length, vocab
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def extend(self, ids_BT, cache, rows, trace=None):
        out = []
        for row in rows:
            first = cache.lengths[row] - self.prompt_length + 1
            cache.lengths[row] += ids_BT.shape[1]
            out.append([first + t for t in range(ids_BT.shape[1])])
        return torch.tensor(out, dtype=torch.float32)[..., None]

    def head(self, h_BD):
        logits = torch.zeros(h_BD.shape[0], self.vocab)
        for b, n in enumerate(h_BD[:, 0].long().tolist()):
            logits[b, self.tokens[max(0, min(n, len(self.tokens) - 1))]] = 50.0
        return logits


def scripted_lm(text_or_ids, prompt_length=3, **changes):
    """An `lm` that always answers with this text (or these ids) and then the end token."""
    ids = TOKENIZER.encode(text_or_ids) if isinstance(text_or_ids, str) else list(text_or_ids)
    return SimpleNamespace(model=Script([*ids, EOS], prompt_length), tokenizer=TOKENIZER, config=config(**changes))
