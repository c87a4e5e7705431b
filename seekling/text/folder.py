"""What of a model folder concerns text: the vocabulary in whichever file it comes, its settings, templates and end tokens.

tokenizer.json              read as it is
tokenizer.model             SentencePiece (BPE or unigram), or Llama-3's list of ranks: converted in memory
*.tiktoken, tiktoken.model  lists of ranks: converted in memory
vocab.json + merges.txt     GPT-2's byte-level BPE: converted in memory
"""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekling.errors import DataError, raise_all

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"


@dataclass
class TextFiles:
    """The content of a folder's text files.

    Attributes:
        spec: tokenizer.json, or what another file was converted to.
        settings: tokenizer_config.json.
        templates: chat templates by name; the main one is called "default".
        end_ids: end tokens that generation_config.json (or config.json) names.
        model_type: config.json's, "" without one.
        source: the file the vocabulary came from and how it was read, for people.
    """

    spec: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()
    model_type: str = ""
    source: str = TOKENIZER


def read_folder(folder: Path) -> TextFiles:
    """All text files of a folder.

    Raises:
        DataError: there is no vocabulary, or a file is damaged or of an unknown kind.
    """
    settings = _optional(folder / SETTINGS)
    named = _optional(folder / "special_tokens_map.json")
    settings |= {key: value for key, value in named.items() if key in _NAMED and key not in settings}
    spec, source, ends = _vocabulary(folder, settings)
    _add_tokens(spec, settings, _optional(folder / "added_tokens.json"))
    config = _optional(folder / "config.json")
    return TextFiles(
        spec,
        settings,
        _templates(folder, settings),
        _end_ids(_optional(folder / "generation_config.json"), config) or tuple(ends),
        str(config.get("model_type") or ""),
        source,
    )


def has_vocabulary(folder: Path) -> bool:
    """Whether `read_folder` would find a vocabulary of any kind."""
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    names = (TOKENIZER, "tokenizer.model", "tiktoken.model")
    return pair or any((folder / name).is_file() for name in names) or any(folder.glob("*.tiktoken"))


def run_tokenizer(path: Path) -> list[Path]:
    """The tokenizer's files of the run that a checkpoint without its own lies in."""
    home = path.resolve().parent
    folder = home.parent / "tokenizer"
    if (path / "tokenizer.json").is_file() or home.name != "checkpoints" or not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in (".json", ".jinja", ".model"))


def write_folder(folder: Path, spec: dict[str, Any], settings: dict[str, Any], templates: Mapping[str, str]) -> None:
    """The files that `read_folder` and transformers' AutoTokenizer read."""
    folder.mkdir(parents=True, exist_ok=True)
    raise_all(DataError, (f"chat template name {n!r} is no file name" for n in templates if not _is_name(n)), "save")
    (folder / TOKENIZER).write_text(json.dumps(spec, ensure_ascii=False, indent=1), "utf-8")
    if len(templates) > 1:  # the settings' list would hide the files
        settings = {key: value for key, value in settings.items() if key != "chat_template"}
    (folder / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", "utf-8")
    for name, text in templates.items():
        path = folder / TEMPLATE if name == "default" else folder / MORE_TEMPLATES / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


# ---- the vocabulary --------------------------------------------------------------------------------------------------


def _vocabulary(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], str, list[int]]:
    """(tokenizer.json, where it is from, end tokens known of such files); adds to the settings what the file says."""
    if (folder / TOKENIZER).is_file():
        return read_json(folder / TOKENIZER), TOKENIZER, []
    model = folder / "tokenizer.model"
    ranks = [folder / "tiktoken.model", *sorted(folder.glob("*.tiktoken"))]
    if model.is_file():
        from seekling.text.tiktoken_file import looks_like_ranks

        data = model.read_bytes()
        if not looks_like_ranks(data):
            from seekling.text.sentencepiece import convert

            spec, tokens = convert(data, str(model), legacy=settings.get("legacy") is not False)
            settings.update((key, token) for key, token in tokens.items() if key not in settings)
            return spec, f"tokenizer.model (SentencePiece {spec['model']['type']}, converted)", []
        ranks.insert(0, model)
    for path in ranks:
        if path.is_file():
            from seekling.text.tiktoken_file import convert_file

            spec, tokens, turn_end = convert_file(path, settings)
            settings.update((key, token) for key, token in tokens.items() if key not in settings)
            ends = [token["id"] for token in spec["added_tokens"] if token["content"] == turn_end]
            return spec, f"{path.name} (tiktoken ranks, converted)", ends
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from seekling.text.tiktoken_file import convert_gpt2

        return convert_gpt2(folder / "vocab.json", folder / "merges.txt"), "vocab.json + merges.txt (converted)", []
    raise DataError(
        f"{folder} has no tokenizer.json (nor tokenizer.model, *.tiktoken, or vocab.json with merges.txt): "
        "name a run, checkpoint or tokenizer folder"
    )


_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def _add_tokens(spec: dict[str, Any], settings: dict[str, Any], more: dict[str, Any]) -> None:
    """Bring tokens into the spec that only tokenizer_config.json declares (``added_tokens_decoder``), or added_tokens.json.

    Raises:
        DataError: the two files give one id to two tokens, or one token two ids.
    """
    declared = settings.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict):
        raise DataError(f"{SETTINGS}: added_tokens_decoder is no object: fetch the file again")
    declared = {str(number): {"content": token} for token, number in more.items()} | declared
    added: list[dict[str, Any]] = spec.setdefault("added_tokens", []) or []
    odd = [token for token in added if not _is_token(token)] if isinstance(added, list) else [added]
    if odd:
        raise DataError(f"{TOKENIZER}: {reprlib.repr(odd[0])} in added_tokens is not an id with a token: fetch the file again")
    by_id, by_text = {t["id"]: t for t in added}, {t["content"]: t for t in added}
    problems = []
    for key, value in declared.items():
        if not re.fullmatch("[0-9]{1,9}", str(key)) or not isinstance(value, dict) or not isinstance(value.get("content"), str):
            problems.append(f"added_tokens_decoder[{key!r}] is not an id with a token")
            continue
        number, text = int(key), value["content"]
        known = by_id.get(number) or by_text.get(text)
        if known is None:
            flags = {flag: bool(value.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            added.append({"id": number, "content": text, **flags})
        elif (known["id"], known["content"]) != (number, text):
            problems.append(
                f"token {text!r} has id {number} in {SETTINGS}, but {TOKENIZER} has {known['content']!r} at {known['id']}"
            )
    raise_all(DataError, problems, "tokenizer")
    spec["added_tokens"] = sorted(added, key=lambda token: token["id"])


def _is_token(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        return False
    number = value.get("id")
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 10**9


# ---- templates and end tokens ----------------------------------------------------------------------------------------


def _templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name: those of the settings, over them the files beside it."""
    found: dict[str, str] = {}
    written = settings.get("chat_template")
    if written is None:
        written = _optional(folder / "chat_template.json").get("chat_template")
    if isinstance(written, str):
        found["default"] = written
    elif isinstance(written, list):
        for entry in written:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "template")):
                raise DataError(f"{folder / SETTINGS}: chat_template is a list of something else than name and template")
            found[entry["name"]] = entry["template"]
    elif written is not None:
        raise DataError(f"{folder / SETTINGS}: chat_template is a {type(written).__name__}, not text or a list of templates")
    more = sorted((folder / MORE_TEMPLATES).glob("*.jinja"))
    files = [(path.stem, path) for path in more] + [("default", folder / TEMPLATE)]
    found.update((name, _text(path)) for name, path in files if path.is_file())
    return found


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[\w-]+", name) is not None


def _end_ids(generation: dict[str, Any], config: dict[str, Any]) -> tuple[int, ...]:
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    values: Iterable[Any] = value if isinstance(value, list) else [] if value is None else [value]
    ids = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
    if len(ids) != len(list(values)):
        raise DataError(f"generation_config.json: eos_token_id {value!r} is not an id or a list of ids: fetch the file again")
    return ids


# ---- files -----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. DataError when the file is anything else."""
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch or write it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object: fetch or write it again")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch or write it again") from None
