"""Tiny models and a byte tokenizer for the engine's tests: every UTF-8 byte is a token, so characters split over tokens."""

from types import SimpleNamespace

import pytest
import torch

from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK = range(7)
FIRST_BYTE = 7
VOCAB = FIRST_BYTE + 256


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine threads that wait for each other cost thirty times what these models take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ByteStream:
    def __init__(self):
        self._held = b""

    def push(self, token_id):
        if token_id < FIRST_BYTE:
            return ""
        self._held += bytes([token_id - FIRST_BYTE])
        text = ""
        for cut in range(len(self._held), -1, -1):
            try:
                text = self._held[:cut].decode()
                break
            except UnicodeDecodeError:
                continue
        if text or len(self._held) > 3:
            text = text or self._held.decode(errors="replace")
            self._held = self._held[len(text.encode()) :] if "\ufffd" not in text else b""
        return text

    def flush(self):
        text, self._held = self._held.decode(errors="replace"), b""
        return text


class ByteTokenizer:
    bos_id, eos_id, pad_id, vocab_size = BOS, EOS, PAD, VOCAB
    special = {"<｜User｜>": USER, "<｜Assistant｜>": ASSISTANT, "<think>": THINK, "</think>": END_THINK}  # noqa: RUF012

    def encode(self, text, *, bos=False, eos=False):
        return [BOS] * bos + [FIRST_BYTE + b for b in text.encode()] + [EOS] * eos

    def encode_chat(self, messages, *, add_generation_prompt=True, thinking=False):
        ids = [BOS]
        for message in messages:
            mark = {"user": [USER], "assistant": [ASSISTANT], "system": []}[message["role"]]
            ids += mark + self.encode(message["content"]) + [EOS] * (message["role"] == "assistant")
        return ids + ([ASSISTANT, THINK if thinking else END_THINK] if add_generation_prompt else [])

    def decode(self, ids, *, skip_special=True):
        return bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode(errors="replace")

    def stream(self):
        return ByteStream()


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
    return SimpleNamespace(model=model, tokenizer=ByteTokenizer() if tokenizer else None, config=cfg)


class Script(torch.nn.Module):
    """A "model" that says a fixed list of tokens, whatever it is asked: after n generated tokens comes tokens[n].

    Prompts must all have the length given, so that a row's position tells how far its answer is.
    """

    def __init__(self, tokens, prompt_length, vocab=VOCAB):
        super().__init__()
        self.tokens, self.prompt_length, self.vocab = tokens, prompt_length, vocab
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def extend(self, ids_BT, cache, rows):
        out = []
        for row in rows:
            cache.lengths[row] += ids_BT.shape[1]
            out.append([cache.lengths[row] - self.prompt_length])
        return torch.tensor(out, dtype=torch.float32)[..., None]

    def head(self, h_BD):
        logits = torch.zeros(h_BD.shape[0], self.vocab)
        for b, n in enumerate(h_BD[:, 0].long().tolist()):
            logits[b, self.tokens[min(n, len(self.tokens) - 1)]] = 50.0
        return logits


def scripted_lm(text_or_ids, prompt_length=3, **changes):
    """An `lm` that always answers with this text (or these ids) and then the end token."""
    ids = ByteTokenizer().encode(text_or_ids) if isinstance(text_or_ids, str) else list(text_or_ids)
    return SimpleNamespace(model=Script([*ids, EOS], prompt_length), tokenizer=ByteTokenizer(), config=config(**changes))
