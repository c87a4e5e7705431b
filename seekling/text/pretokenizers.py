"""Pre-tokenizers by llama.cpp's names: how text is cut into words before byte pairs are merged.

A GGUF file names its pre-tokenizer instead of holding it.  Each is a list of patterns applied one after the other; matches and
what lies between them become pieces (Split, "isolated").  The patterns are those of the models' own tokenizer.json.
"""

from dataclasses import dataclass
from typing import Any

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = r"[\r\n]*|\s*[\r\n]+|" + _SPACES
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HAN_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_HAN_HANGUL = "[一-龥ࠀ-一가-\ud7ff]+"
# Letters with case, as DeepSeek-LLM's tokenizer.json lists them.
_CASED = (
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώ"
    "ᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏"
    "𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]"
)


def _words(digits: str) -> str:
    """Llama 3's and Qwen2's pattern; they differ in how many digits stay together."""
    return _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+" + _LINES


def _cased_words(digits: str, english: str) -> str:
    """GPT-4o's and Tekken's pattern: words end before a capital letter."""
    first, symbols = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + _SPACES
    return f"{first}{_UPPER}*{_LOWER}+{english}|{first}{_UPPER}+{_LOWER}*{english}|{digits}{symbols}"


_DEEPSEEK_V3 = (
    """[!"#$%&'""" + r"()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+" + _LINES
)
_QWEN35 = _ENGLISH + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _LINES


@dataclass(frozen=True)
class PreTokenizer:
    """``patterns`` in order; ``whole_words``: a word that is a token stays one, whatever the merges say; ``bos``: texts begin
    with the begin token unless the file says otherwise."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    bos: bool = False


_KINDS: tuple[tuple[str, PreTokenizer], ...] = (
    ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     PreTokenizer((_words(r"\p{N}{1,3}"),), whole_words=True, bos=True)),
    ("dbrx smaug-bpe chatglm-bpe", PreTokenizer((_words(r"\p{N}{1,3}"),))),
    ("glm4 glm5", PreTokenizer((_words(r"\p{N}{1,3}"),), whole_words=True)),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", PreTokenizer((_words(r"\p{N}"),))),
    ("qwen35", PreTokenizer((_QWEN35,))),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", PreTokenizer((r"\p{N}", GPT2))),
    ("gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum modern-bert exaone4", PreTokenizer((GPT2,))),
    ("deepseek-llm",
     PreTokenizer(("[\r\n]", r"\s?" + _CASED + "+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _HAN_HANGUL, r"\p{N}+"))),
    ("deepseek-coder", PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", PreTokenizer((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_V3))),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((_cased_words(r"\p{N}{1,3}", _ENGLISH + "?"),))),
    ("tekken", PreTokenizer((_cased_words(r"\p{N}", ""),), whole_words=True, bos=True)),
    ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"))),
    ("default", PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
)  # fmt: skip
PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: kind for names, kind in _KINDS for name in names.split()}


def splitter(kind: PreTokenizer) -> dict[str, Any]:
    """The ``pre_tokenizer`` of a tokenizer.json: the splits one after the other, then bytes."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in kind.patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, dict(BYTE_LEVEL)]}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
