"""What READMEs and docs tell people to type is true: every command parses, the Python example runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from engine_tiny import TOKENIZER, config

from seekling.cli import parse
from seekling.lm import LM
from seekling.model import Decoder

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "\nseekling " in page.read_text("utf-8")]


def commands(text: str) -> list[str]:
    """Every `seekling …` command of the text, those chained by && included."""
    found = re.findall(r"`(seekling [^`\n]+)`", text) + re.findall(r"^(?:.*&& )?(seekling .*)$", text, re.MULTILINE)
    return [c for c in found if not c.endswith(("seekling doctor", "FILE"))]


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)
def test_every_command_of_the_readme_parses(readme):
    lines = commands(readme.read_text("utf-8"))
    assert len(lines) >= 10
    for line in lines:
        parse(shlex.split(line)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_in_a_block_of_the_docs_parses(page):
    for block in re.findall(r"```(?:ba)?sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["seekling"]:
                    parse(words[1:])


def test_both_readmes_name_the_same_verbs():
    verbs = [{shlex.split(c)[1] for c in commands(r.read_text("utf-8"))} for r in READMES]
    assert verbs[0] == verbs[1]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model_config = config(bos_token_id=TOKENIZER.bos_id, eos_token_id=TOKENIZER.eos_id, max_position_embeddings=256)
    LM(Decoder.build(model_config), TOKENIZER).save(tmp_path / "runs" / "nano-1")
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {"ids": torch.tensor([[1, 2, 3]])})
    assert (tmp_path / "my-model" / "config.json").exists()
    assert capsys.readouterr().out.strip()
