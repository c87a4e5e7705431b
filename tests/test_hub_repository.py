"""Pulling a repository: real HTTP against a stand-in hub that cuts, lies, refuses and redirects."""

import json
import multiprocessing
import os
import random
import shutil

import pytest
from hub_server import Hub, sha256, two_hubs

from seekling.errors import DataError, MachineError
from seekling.hub import find, pulled
from seekling.hub.names import RECORD, Repository, models_folder
from seekling.hub.progress import Quiet
from seekling.hub.repository import pull_repository

WEIGHTS = random.Random(0).randbytes(300_000)
LLAMA = json.dumps(
    dict(model_type="llama", vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
).encode()
FILES = {
    "config.json": LLAMA,
    "tokenizer.json": b'{"model": {}}',
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 300,
    "modeling_evil.py": b"raise SystemExit('it was run')",
    "onnx/model.onnx": b"x" * 5000,
    ".gitattributes": b"*.safetensors filter=lfs",
}
NAME = Repository("some", "model")


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in (
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "MODELSCOPE_ENDPOINT",
        "MODELSCOPE_DOMAIN",
        "MODELSCOPE_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: os.environ.get("HF_TOKEN"))
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))


def pull(hub, wanted=NAME, **options):
    return pull_repository(wanted, endpoint=hub.url, pause=0.01, **options)


def refused(hub, error=DataError, **options):
    with pytest.raises(error) as caught:
        pull(hub, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Heard(Quiet):
    def __init__(self):
        self.files, self.sizes, self.done, self.said = [], {}, {}, []

    def file(self, name, size, done=0):
        self.files.append(name)
        self.sizes[name], self.done[name] = size, done

    def advance(self, n):
        self.done[self.files[-1]] += n

    def say(self, text):
        self.said.append(text)


# ---- what is pulled --------------------------------------------------------------------------------------------------


def test_only_what_the_model_needs_is_fetched():
    with Hub(FILES) as hub:
        done = pull(hub)
    held = {path.name: path.read_bytes() for path in done.path.iterdir()}
    record = json.loads(held.pop(RECORD))
    assert held == {name: FILES[name] for name in ("config.json", "tokenizer.json", "README.md", "model.safetensors")}
    assert record["files"]["model.safetensors"] == {"bytes": len(WEIGHTS), "sha256": sha256(WEIGHTS)}
    assert (record["revision"], record["source"], done.licence) == ("c0ffee", "hf", "mit")
    assert any("Python" in note for note in done.notes)


def test_a_pulled_model_is_found_by_its_name_and_by_a_last_part_that_only_it_has():
    with Hub(FILES) as hub:
        path = pull(hub).path
        assert path == models_folder() / "some" / "model"
        assert find("some/model") == find("model") == path
        pull_repository(Repository("some", "model", "v1/x"), endpoint=hub.url)
    assert find("some/model@v1/x") == models_folder() / "some" / "model@v1+x"
    assert sorted(pulled()) == ["some/model", "some/model@v1/x"]
    assert find("other/model") is None and find("absent") is None and find("/tmp") is None


def test_every_shard_that_the_index_names_is_fetched_and_no_other():
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {
        "config.json": LLAMA,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"1" * 2000,
        "model-00002-of-00002.safetensors": b"2" * 2000,
        "consolidated.safetensors": b"3" * 4000,
    }
    with Hub(files) as hub:
        folder = pull(hub).path
    assert {p.name for p in folder.glob("*.safetensors")} == set(index["weight_map"].values())


@pytest.mark.parametrize("options", [{"quant": "q4_k_m"}, {"file": "tiny.Q4_K_M.gguf"}])
def test_one_gguf_file_is_chosen_by_quantisation_or_name(options):
    files = {
        "tiny.Q4_K_M.gguf": b"a" * 1500,
        "tiny.Q4_K_S.gguf": b"b" * 1500,
        "tiny.Q8_0.gguf": b"c" * 3000,
        "config.json": b"{}",
    }
    with Hub(files) as hub:
        done = pull(hub, **options)
    assert done.path.name == "tiny.Q4_K_M.gguf" and find("some/model") == done.path
    assert not (done.path.parent / "config.json").exists()


def test_all_parts_of_a_split_gguf_are_fetched():
    parts = {f"big-Q8_0-0000{i}-of-00003.gguf": bytes([i]) * 1200 for i in (1, 2, 3)}
    with Hub(parts) as hub:
        assert pull(hub).path.name == "big-Q8_0-00001-of-00003.gguf"
        hub.files.pop("big-Q8_0-00002-of-00003.gguf")
        assert "2 of the 3 parts" in refused(hub)


def test_several_gguf_files_are_listed_with_their_sizes_to_choose_from():
    with Hub({"m.Q4_0.gguf": b"a" * 1500, "m.Q8_0.gguf": b"b" * 3000}) as hub:
        message = refused(hub)
        assert "m.Q4_0.gguf (1.50 KB), m.Q8_0.gguf (3.00 KB)" in message and "--quant" in message
        assert "no GGUF files that fit --quant Q5_K" in refused(hub, quant="Q5_K")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b'{"model_type": "mamba"}', "'mamba' cannot be read"),
        (b"{", "not valid JSON"),
        (LLAMA[:-1] + b', "quantization_config": {"quant_method": "awq"}}', "quant_method 'awq' is not supported"),
        (LLAMA[:-1] + b', "one": 1, "two": 2}', "and 1 more reasons"),
    ],
)
def test_a_model_that_would_not_load_costs_no_download_of_its_weights(config, reason):
    with Hub({**FILES, "config.json": config}) as hub:
        message = refused(hub)
        assert reason in message and "--anyway" in message
        assert not hub.asked("model.safetensors") and find("some/model") is None
        assert (pull(hub, anyway=True).path / "model.safetensors").read_bytes() == WEIGHTS


def test_pickles_are_never_pulled():
    with Hub({"config.json": b"{}", "pytorch_model.bin": b"x" * 2000}) as hub:
        message = refused(hub)
        assert "pytorch_model.bin" in message and "run code" in message and ".safetensors" in message
        assert not hub.asked("/resolve/")


def test_modelscope_speaks_another_dialect():
    with Hub(FILES) as hub:
        done = pull(hub, source="modelscope")
        assert done.licence == "apache-2.0"  # from the card
        assert (done.path / "model.safetensors").read_bytes() == WEIGHTS
        assert hub.asked("Revision=master")


def test_modelscope_needs_an_address(monkeypatch):
    with pytest.raises(DataError, match="MODELSCOPE_ENDPOINT"):
        pull_repository(NAME, source="modelscope")
    with Hub(FILES) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        pull_repository(NAME, source="modelscope")


# ---- pulling again ---------------------------------------------------------------------------------------------------


def test_a_second_pull_fetches_nothing():
    with Hub(FILES) as hub:
        assert pull(hub).fetched > len(WEIGHTS)
        hub.requests.clear()
        assert pull(hub).fetched == 0
        assert not hub.asked("/resolve/")


def test_a_damaged_file_is_fetched_again_and_only_it():
    with Hub(FILES) as hub:
        folder = pull(hub).path
        (folder / "model.safetensors").write_bytes(b"0" * len(WEIGHTS))
        hub.requests.clear()
        assert pull(hub).fetched == len(WEIGHTS)
        assert [path.rsplit("/", 1)[1] for path, _ in hub.asked("/resolve/")] == ["model.safetensors"]
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_new_commit_replaces_what_changed_and_removes_what_went():
    with Hub(FILES) as hub:
        folder = pull(hub).path
        hub.commit = "beef"
        hub.files.pop("tokenizer.json")
        hub.files["model.safetensors"] = WEIGHTS[::-1]
        assert pull(hub).revision == "beef"
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
        assert not (folder / "tokenizer.json").exists()


def test_a_pull_that_stopped_leaves_no_model_and_goes_on_where_it_was():
    with Hub(FILES) as hub:
        hub.cut["model.safetensors"] = [100_000]
        with pytest.raises(DataError, match="goes on where it stopped"):
            pull(hub, tries=1)
        assert find("some/model") is None
        hub.requests.clear()
        heard = Heard()
        pull(hub, bar=heard)
        (_, headers), = hub.asked("model.safetensors")  # fmt: skip
        assert headers["Range"] == "bytes=100000-"
        assert heard.done["model.safetensors"] == heard.sizes["model.safetensors"] == len(WEIGHTS)
        assert (find("some/model") / "model.safetensors").read_bytes() == WEIGHTS
        assert not (find("some/model") / ".seekling-partial").exists()


# ---- bad links -------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_again_and_again_is_resumed():
    with Hub(FILES) as hub:
        hub.cut["model.safetensors"] = [50_000, 1, 70_000, 0, 90_000]
        folder = pull(hub).path
        ranges = [headers.get("Range") for _, headers in hub.asked("model.safetensors")]
    assert ranges == [None, "bytes=50000-", "bytes=50001-", "bytes=120001-", "bytes=120001-", "bytes=210001-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("ranges", [False, "lie"])
def test_a_server_that_does_not_continue_is_read_from_the_start(ranges):
    with Hub(FILES) as hub:
        hub.cut["model.safetensors"] = [100_000]
        hub.ranges = ranges
        heard = Heard()
        folder = pull(hub, bar=heard).path
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert heard.done["model.safetensors"] == len(WEIGHTS)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(status):
    with Hub(FILES) as hub:
        hub.statuses = [(status, {"Retry-After": "0"}), (status, {})]
        pull(hub)
        hub.statuses, hub.only = [(status, {"Retry-After": "0"})], "/resolve/"
        shutil.rmtree(models_folder())
        pull(hub)


def test_a_hub_that_stays_broken_is_given_up_with_the_remedy():
    with Hub(FILES) as hub:
        hub.statuses = [(500, {})] * 9
        message = refused(hub)
        assert "status 500" in message and len(hub.requests) == 5
        hub.statuses = [(429, {"Retry-After": "3600"})]
        assert "asks to wait 3600 s" in refused(hub)
    assert "no connection" in refused(hub)  # the server is gone


def test_a_wrong_hash_is_fetched_once_more_and_then_refused():
    with Hub(FILES) as hub:
        hub.wrong["model.safetensors"] = 1
        assert (pull(hub).path / "model.safetensors").read_bytes() == WEIGHTS
        shutil.rmtree(models_folder())
        hub.wrong["model.safetensors"] = 9
        assert "do not trust it" in refused(hub)
        assert find("some/model") is None and not (models_folder() / "some" / "model" / "model.safetensors").exists()


def test_small_files_are_checked_by_their_git_name():
    with Hub(FILES) as hub:
        hub.wrong["config.json"] = 9
        assert "config.json is not the file that the hub lists" in refused(hub)


def test_a_file_of_another_length_than_listed_is_refused():
    with Hub(FILES) as hub:
        listing = hub.hf()
        listing["siblings"][3]["lfs"]["size"] -= 1
        hub.hf = lambda: listing
        assert f"lists {len(WEIGHTS) - 1} bytes and sends {len(WEIGHTS)}" in refused(hub)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "accept its terms"), (404, "does not exist")])
def test_refusals_say_what_to_do(status, words):
    with Hub(FILES) as hub:
        hub.statuses = [(status, {})]
        message = refused(hub)
        assert words in message and f"{status} (as the test asked)" in message
        hub.statuses, hub.only = [(status, {})], "/resolve/"
        assert words in refused(hub)


def test_the_token_of_the_environment_opens_a_gated_repository(monkeypatch):
    with Hub(FILES) as hub:
        hub.token = "secret"
        assert "restricted" in refused(hub)
        monkeypatch.setenv("HF_TOKEN", "secret")
        pull(hub)


def test_modelscope_gets_its_token_as_its_clients_send_it(monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    with two_hubs(FILES) as (hub, _):
        pull(hub, source="modelscope")
        assert {(h.get("Authorization"), h.get("Cookie")) for _, h in hub.requests} == {
            ("Bearer secret", "m_session_id=secret")
        }


def test_the_token_never_reaches_another_origin(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with two_hubs(FILES) as (hub, cdn):
        hub.token = "secret"
        folder = pull(hub).path
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert cdn.requests and not any({"Authorization", "Cookie"} & headers.keys() for _, headers in cdn.requests)


def test_a_cut_transfer_from_the_content_network_is_resumed_there():
    with two_hubs(FILES) as (hub, cdn):
        cdn.cut["model.safetensors"] = [123_456]
        folder = pull(hub).path
        assert [headers.get("Range") for _, headers in cdn.requests] == [None, "bytes=123456-"]
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_redirect_to_a_file_of_this_machine_is_refused():
    with Hub(FILES) as hub:
        hub.statuses, hub.only = [(302, {"Location": "file:///etc/passwd"})], "/resolve/"
        assert "answered 302" in refused(hub)


def test_no_token_is_sent_without_encryption_to_another_machine(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(DataError, match="not encrypted"):
        pull_repository(NAME, endpoint="http://hub.example")


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with Hub(FILES) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        pull_repository(NAME, endpoint="http://hub.example", pause=0.01)
        assert all(path.startswith("/proxied/") for path, _ in proxy.requests)


def test_offline_means_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with Hub(FILES) as hub:
        assert "HF_HUB_OFFLINE" in refused(hub)
        assert not hub.requests


@pytest.mark.parametrize("path", ["../x.safetensors", "/etc/x", "a/../../x", "..\\x", "C:x", "a\0b"])
def test_a_listing_with_a_hostile_path_is_refused_whole(path):
    with Hub(FILES) as hub:
        hub.listed = [{"rfilename": path, "size": 1, "blobId": "0"}]
        assert "path that is refused" in refused(hub)
        assert not hub.asked("/resolve/")


def test_an_index_that_names_a_path_outside_is_refused():
    index = {"weight_map": {"a": "../../model.safetensors"}}
    with Hub({"model.safetensors.index.json": json.dumps(index).encode(), "a.safetensors": b"x"}) as hub:
        assert "'../../model.safetensors'" in refused(hub)


def test_a_symbolic_link_in_the_folder_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").symlink_to(victim)
    with Hub(FILES) as hub:
        assert pull(hub, out=folder).path == folder
    assert victim.read_bytes() == b"mine" and not (folder / "config.json").is_symlink()


@pytest.mark.parametrize(
    "answer", [[], {}, {"sha": "x", "siblings": [{"rfilename": 3}]}, {"sha": "x", "siblings": [{"rfilename": "a", "size": -1}]}]
)
def test_an_answer_that_makes_no_sense_is_one_line(answer):
    with Hub(FILES) as hub:
        hub.hf = lambda: answer
        assert "does not answer as this hub does" in refused(hub)


def test_the_disk_is_looked_at_before_anything_is_fetched(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with Hub(FILES) as hub:
        message = refused(hub, MachineError)
        assert "300." in message and "1.00 KB free" in message and not hub.asked("/resolve/")


def _pull_in_process(url, cache, results):
    os.environ["SEEKLING_CACHE"] = cache
    results.put(pull_repository(NAME, endpoint=url, pause=0.01).fetched)


def test_two_processes_pull_the_same_model_once():
    with Hub(FILES) as hub:
        context = multiprocessing.get_context("spawn")  # the hub's threads may hold locks
        results = context.Queue()
        each = [
            context.Process(target=_pull_in_process, args=(hub.url, os.environ["SEEKLING_CACHE"], results)) for _ in range(2)
        ]
        for process in each:
            process.start()
        fetched = sorted(results.get(timeout=120) for _ in each)
        for process in each:
            process.join()
        assert fetched[0] == 0 and fetched[1] > len(WEIGHTS)
        assert len(hub.asked("model.safetensors")) == 1
