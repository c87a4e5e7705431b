"""What a model folder may hold of text: settings in many shapes, named templates, several end tokens, other vocabularies."""

import base64
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tiny import deepseek, model_folders, plain, tokenizer

from seekling.errors import DataError
from seekling.text import Tokenizer
from seekling.text import tiktoken_file as ranks_file
from seekling.text.pretokenizers import PRE_TOKENIZERS
from seekling.text.sentencepiece import convert, read_model
from seekling.text.special import BOS, Mark
from seekling.text.vocabulary import byte_letters

VARIED = [
    "Hello, world! 1234567 12 3.14", "  two  blanks   three    four\t\ttabs\n\n\n  x", "从前有一只小老鼠，住在河边。", "a" * 40,
    "🙂👩‍👩‍👧 é ü ö ÿ naïve \u0301 ﬁ", "def f(x):\n    return x ** 2  # comment\r\n\r\n", "а б в ÷ø Á <b>x</b> ' 's 'LL I'm",
    " lead", "trail ", "", " ", "\u3000全角 　空格", "한국어 ประเทศไทย العربية", "<0x0A><s></s><unk> x y", 
    "ＡＢＣ１２３ ①②½ ㍿", "=" * 37, "e\u0301 A\u030a",
]  # fmt: skip
anything = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("🙂👩‍👧你好 \n\t012ab"), max_size=30)


def folder(path: Path, tiny: Tokenizer, **files) -> Path:
    """A tokenizer's folder with further JSON files (or text)."""
    tiny.save(path)
    for name, content in files.items():
        target = path / name.replace("__", "/").replace("_json", ".json").replace("_jinja", ".jinja")
        target.parent.mkdir(exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


# ---- settings --------------------------------------------------------------------------------------------------------


def test_tokens_that_only_the_settings_declare_are_known(tmp_path):
    first = plain().vocab_size
    declared = {str(first): {"content": "<|im_end|>", "special": True}, "0": {"content": BOS, "special": True}}
    loaded = Tokenizer.load(folder(tmp_path, plain(), tokenizer_config_json={"added_tokens_decoder": declared}))
    assert loaded.special["<|im_end|>"] == first and loaded.vocab_size == first + 1
    assert first not in loaded.encode("<|im_end|>")
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").special == loaded.special


def test_tokens_and_names_may_stand_in_files_of_their_own(tmp_path):
    number = plain().vocab_size
    files = {"added_tokens_json": {"<|im_end|>": number}, "special_tokens_map_json": {"eos_token": {"content": "<|im_end|>"}}}
    loaded = Tokenizer.load(folder(tmp_path, plain(), tokenizer_config_json={}, **files))
    assert loaded.special["<|im_end|>"] == loaded.eos_id == number and number not in loaded.encode("<|im_end|>")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("tokenizer.json", {"added_tokens": [{}]}, "tokenizer.json: {} in added_tokens is not an id with a token: fetch"),
        ("tokenizer.json", {"added_tokens": True}, "tokenizer.json: True in added_tokens"),
        ("tokenizer.json", {"model": True}, "tokenizer.json cannot be used .*: fetch it again"),
        ("tokenizer.json", {"decoder": {"type": "Sequence"}}, "tokenizer.json cannot be .*: fetch it again"),
        ("tokenizer.json", {"post_processor": {"single": [1]}}, "tokenizer.json cannot be used .*: fetch it again"),
        ("tokenizer_config.json", {"eos_token": True}, "tokenizer_config.json: eos_token is True: give the text"),
        ("tokenizer_config.json", {"pad_token": {"content": [1]}}, r"tokenizer_config.json: pad_token is \[1\]: give the text"),
    ],
)
def test_values_of_no_sense_are_refused_with_their_file(file, change, words, tmp_path):
    plain().save(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(DataError, match=words):
        Tokenizer.load(tmp_path)


def test_a_panic_of_the_library_is_an_error_like_any_other(tmp_path):
    plain().save(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text("utf-8"))
    spec["model"]["continuing_subword_prefix"] = "🙂🙂"
    path.write_text(json.dumps(spec), "utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read: .*: fetch it again"):
        Tokenizer.load(tmp_path)


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    plain().save(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text("utf-8"), "utf-8-sig")
    assert Tokenizer.load(tmp_path).same_vocabulary(plain())


def test_settings_that_contradict_the_vocabulary_are_refused(tmp_path):
    declared = {"0": {"content": "<other>"}, "x": {"content": "<y>"}}
    with pytest.raises(DataError, match="2 problems"):
        Tokenizer.load(folder(tmp_path, plain(), tokenizer_config_json={"added_tokens_decoder": declared}))


def test_begin_and_end_tokens_may_be_objects(tmp_path):
    named = {"bos_token": {"content": "</think>"}, "eos_token": {"__type": "AddedToken", "content": "<think>"}}
    loaded = Tokenizer.load(folder(tmp_path, plain(), tokenizer_config_json=named))
    assert (loaded.bos_id, loaded.eos_id) == (loaded.special["</think>"], loaded.special["<think>"])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (1,)),
        ({"generation_config_json": {"eos_token_id": 7}}, (1, 7)),
        ({"generation_config_json": {"eos_token_id": [9, 1, 8]}}, (1, 9, 8)),
        ({"config_json": {"eos_token_id": [5]}}, (1, 5)),
    ],
)
def test_every_end_token_is_known(tmp_path, files, expected):
    assert Tokenizer.load(folder(tmp_path, plain(), **files)).end_ids == expected


def test_a_broken_list_of_end_tokens_is_refused(tmp_path):
    with pytest.raises(DataError, match="eos_token_id"):
        Tokenizer.load(folder(tmp_path, plain(), generation_config_json={"eos_token_id": ["</s>"]}))


def test_whether_a_prompt_begins_with_the_begin_token_is_read_from_the_files():
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}
    for add, processor, expected in ((None, None, False), (True, None, True), (False, template, False), (None, template, True)):
        tiny = tokenizer("<s>", settings={"bos_token": "<s>"} | ({} if add is None else {"add_bos_token": add}))
        loaded = Tokenizer(tiny.spec | {"post_processor": processor}, tiny.settings)
        assert loaded.adds_bos is expected, (add, processor)
    assert plain().adds_bos and not tokenizer("<s>").adds_bos


def test_templates_by_name_come_from_a_list_or_from_files(tmp_path):
    listed = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    first = folder(tmp_path / "a", tokenizer("<s>"), tokenizer_config_json={"chat_template": listed})
    assert Tokenizer.load(first).templates == {"default": "A", "tool_use": "B"}
    Tokenizer.load(first).save(tmp_path / "b")
    assert Tokenizer.load(tmp_path / "b").templates == {"default": "A", "tool_use": "B"}
    third = folder(
        tmp_path / "c", tokenizer("<s>"), additional_chat_templates__rag_jinja="C", chat_template_json={"chat_template": "D"}
    )
    assert Tokenizer.load(third).templates == {"rag": "C", "default": "D"}
    (third / "chat_template.jinja").write_text("E")
    assert Tokenizer.load(third).chat_template == "E"


def test_a_template_of_no_known_form_is_refused(tmp_path):
    for value in (3, [3]):
        with pytest.raises(DataError, match="chat_template is a"):
            Tokenizer.load(folder(tmp_path, tokenizer("<s>"), tokenizer_config_json={"chat_template": value}))


# ---- text ------------------------------------------------------------------------------------------------------------


def test_plain_characters_among_the_added_tokens_are_text(tmp_path):
    """DeepSeek-Coder adds letters: they are tokens wherever they stand, while marks are not."""
    tiny = tokenizer("<s>")
    first = tiny.vocab_size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    spec = tiny.spec
    spec["added_tokens"].append({"id": first, "content": "ü", **flags})
    loaded = Tokenizer(spec)
    assert loaded.encode("aü<s>")[1] == first and loaded.decode(loaded.encode("aü<s>")) == "aü<s>"
    assert list(loaded.special) == ["<s>"]


def test_a_mark_that_merges_could_build_is_still_no_text():
    spec = tokenizer("<|>").spec
    number = len(spec["model"]["vocab"])
    spec["model"]["vocab"] |= {"<|": number, "<|>": number + 1}
    spec["model"]["merges"] = [["<", "|"], ["<|", ">"], *spec["model"]["merges"]]
    spec["added_tokens"][0]["id"] = number + 1
    loaded = Tokenizer(spec)
    assert loaded.encode("<|>") == [number, *loaded.encode(">")]
    assert loaded.encode_pieces(["a", Mark("<|>"), "<|>"]) == [*loaded.encode("a"), number + 1, *loaded.encode("<|>")]


MARKED = st.lists(st.sampled_from([Mark("<s>"), Mark("<|end|>"), "a b", "  ", "你好 ", "\n", " x", "🙂"]), max_size=8)
PREFIXES = {
    "bytes": {},
    "a blank before every part": {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}},
    "a blank at the beginning": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
}  # fmt: skip


@settings(max_examples=100)
@given(
    pieces=MARKED, kind=st.sampled_from(sorted(PREFIXES)), flags=st.sets(st.sampled_from(["lstrip", "rstrip", "normalized"])),
)  # fmt: skip
def test_marks_among_text_give_the_ids_of_the_library(pieces, kind, flags):
    """With all that a mark's flags and a normalizer do to the text beside it."""
    import tokenizers

    spec = {**tokenizer("<s>", "<|end|>").spec, **PREFIXES[kind]}
    if kind == "a blank before every part":  # there the library loses every mark but the first
        flags = flags - {"normalized"}
    spec["added_tokens"] = [{**token, **dict.fromkeys(flags, True)} for token in spec["added_tokens"]]
    if kind != "bytes":
        words = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *"▁abx"]
        spec["model"] = {"type": "BPE", "vocab": {w: i for i, w in enumerate(words)}, "merges": [], "unk_token": "<unk>",
                         "byte_fallback": True, "fuse_unk": True}  # fmt: skip
        spec["decoder"] = {"type": "ByteFallback"}
        spec["pre_tokenizer"] = PREFIXES[kind].get("pre_tokenizer")
        spec["added_tokens"] = [{**token, "id": len(words) + n} for n, token in enumerate(spec["added_tokens"])]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(spec))
    assert Tokenizer(spec).encode_pieces(pieces) == theirs.encode("".join(pieces), add_special_tokens=False).ids


@pytest.mark.parametrize("name", [path.name for path in model_folders()] or ["none at hand"])
@pytest.mark.slow
def test_real_vocabularies_give_the_ids_of_the_library(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from text_tiny import model_folder

    real = model_folder(name, tmp_path)
    if real is None:
        pytest.skip("set SEEKLING_MODEL_FOLDERS to a folder of model folders")
    loaded, theirs = Tokenizer.load(real), tokenizers.Tokenizer.from_file(str(real / "tokenizer.json"))
    for text in VARIED:
        if not any(mark in text for mark in loaded.special):  # the library makes marks of text, this project does not
            assert loaded.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


# ---- SentencePiece ---------------------------------------------------------------------------------------------------

LEARN = [*VARIED, *(line for line in Path(__file__).read_text("utf-8").split("\n") if line.strip())]
KINDS = {
    "bpe, byte fallback, as Llama": dict(
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    ),
    "bpe, unknown characters": dict(model_type="bpe", character_coverage=0.98),
    "bpe, no prefix, as Yi": dict(
        model_type="bpe", byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
        user_defined_symbols=["@@"],
    ),
    "unigram, byte fallback": dict(model_type="unigram", byte_fallback=True),
    "unigram, identity": dict(model_type="unigram", normalization_rule_name="identity", character_coverage=0.98),
    "unigram, nfkc": dict(model_type="unigram", normalization_rule_name="nfkc", remove_extra_whitespaces=False),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def sentencepiece(request):
    """(SentencePiece's own object, the file's content)."""
    spm = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARN), model_writer=out, minloglevel=2, vocab_size=700, hard_vocab_limit=False, num_threads=1,
        **KINDS[request.param],
    )  # fmt: skip
    return spm.SentencePieceProcessor(model_proto=out.getvalue()), out.getvalue()


def test_a_sentencepiece_file_gives_the_ids_of_sentencepiece(sentencepiece, tmp_path, request):
    theirs, data = sentencepiece
    (tmp_path / "tokenizer.model").write_bytes(data)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.source.startswith("tokenizer.model (SentencePiece")
    assert (loaded.bos_id, loaded.eos_id, loaded.adds_bos) == (theirs.bos_id(), theirs.eos_id(), True)
    for text in [*VARIED, *LEARN]:
        ours, expected = loaded.encode(text), theirs.encode(text)
        if ours != expected and "unigram" in request.node.name:  # among splits of one score either may be taken
            scores = [sum(theirs.get_score(i) for i in ids) for ids in (ours, expected)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4) and theirs.decode(ours) == theirs.decode(expected), text
        else:
            assert ours == expected, text


def test_a_stream_of_sentencepiece_tokens_is_what_decode_gives(sentencepiece):
    theirs, data = sentencepiece
    loaded = Tokenizer(*convert(data, "x"))

    @settings(max_examples=40)
    @given(text=anything)
    def holds(text):
        ids = loaded.encode(text)
        stream = loaded.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == loaded.decode(ids)
        if theirs.unk_id() not in ids:
            assert loaded.decode(ids) == theirs.decode(ids)

    holds()


def test_a_damaged_sentencepiece_file_is_refused(tmp_path):
    for data in (b"", b"\x00\x01", b"\x0a\xff", bytes(range(256))):
        with pytest.raises(DataError, match="fetch it again"):
            convert(data, "tokenizer.model")


@settings(max_examples=60)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        read_model(data)
    except (IndexError, ValueError):
        pass
    except Exception as error:
        assert type(error).__name__ == "error"  # struct.error


# ---- ranks -----------------------------------------------------------------------------------------------------------


def ranks_of(tiny: Tokenizer) -> dict[bytes, int]:
    letters = byte_letters()
    words = sorted(tiny.spec["model"]["vocab"].items(), key=lambda item: item[1])
    return {b"".join(letters[c] for c in word): rank for rank, (word, _) in enumerate(words) if word not in tiny.special}


def ranks_text(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


@pytest.mark.parametrize("cut", ["qwen2", "llama3"])
def test_ranks_give_the_ids_of_tiktoken(cut):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = ranks_of(tokenizer())
    ranks |= {token: len(ranks) + n for n, token in enumerate((b"aa", b"aaa", b"aaaa", b"  ", b"   ", "你好".encode(), b"=="))}
    converted = Tokenizer(ranks_file.convert_ranks(ranks, PRE_TOKENIZERS[cut], ["<|end|>"]))
    assert converted.special == {"<|end|>": len(ranks)}
    theirs = tiktoken.Encoding(cut, pat_str=PRE_TOKENIZERS[cut].patterns[0], mergeable_ranks=ranks, special_tokens={})

    @settings(max_examples=60)
    @given(text=anything | st.text(st.sampled_from("a =1\n"), max_size=30))
    def holds(text):
        assert converted.encode(text) == theirs.encode_ordinary(text)
        stream = converted.stream()
        assert (
            "".join(map(stream.push, converted.encode(text))) + stream.flush()
            == converted.decode(converted.encode(text))
            == text
        )

    holds()


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tokenizer.model"])
def test_a_folder_with_ranks_only_is_read(name, tmp_path, monkeypatch):
    ranks = ranks_of(tokenizer())
    (tmp_path / name).write_bytes(ranks_text(ranks))
    with pytest.raises(DataError, match=f"{len(ranks)} tokens; how such text is cut is known for 151643"):
        Tokenizer.load(tmp_path)
    family = ranks_file.Family("qwen2", ["<|begin|>", "<|end|>", "<|turn|>"], "<|begin|>", "<|end|>", "<|turn|>")
    monkeypatch.setitem(ranks_file.KNOWN, len(ranks), family)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.source == f"{name} (tiktoken ranks, converted)"
    first = len(ranks)
    assert loaded.special == {"<|begin|>": first, "<|end|>": first + 1, "<|turn|>": first + 2}
    assert (loaded.bos_id, loaded.eos_id, loaded.end_ids, loaded.adds_bos) == (first, first + 1, (first + 1, first + 2), True)
    declared = {"added_tokens_decoder": {str(len(ranks)): {"content": "<|other|>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(declared))
    assert Tokenizer.load(tmp_path).special == {"<|other|>": len(ranks)}


@pytest.mark.parametrize("text", [b"IQ== 1\n", b"IQ== 0\nIQ== 0\n", b"IQ== x\n", b"IQ== 0\n"])
def test_damaged_ranks_are_refused(text, tmp_path):
    (tmp_path / "qwen.tiktoken").write_bytes(text)
    with pytest.raises(DataError, match="fetch it again"):
        Tokenizer.load(tmp_path)


def test_llama_3s_control_tokens_have_their_published_ids():
    marks = ranks_file.KNOWN[128000].marks
    published = {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eot_id|>": 9,
    }
    assert {mark: marks.index(mark) for mark in published} == published
    assert len(marks) == len(set(marks)) == 256 and marks[-1] == "<|reserved_special_token_247|>"


def test_gpt2s_pair_of_files_is_read(tmp_path):
    spec = tokenizer().spec["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(spec["vocab"]), "utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.source == "vocab.json + merges.txt (converted)"
    assert loaded.decode(loaded.encode(VARIED[4])) == VARIED[4]
    assert len(loaded.encode("weather")) == len(tokenizer().encode("weather"))


def test_reading_a_plain_folder_needs_no_other_library(tmp_path):
    """SentencePiece and tiktoken are test dependencies only."""
    before = set(sys.modules)
    Tokenizer.load(folder(tmp_path, deepseek()))
    assert not {"sentencepiece", "tiktoken", "transformers"} & (set(sys.modules) - before)
