"""The page asks nobody but its own server, runs nothing but its own files, and speaks both its languages throughout."""

import re
from pathlib import Path

import httpx
import pytest
from engine_tiny import one_thread  # noqa: F401
from serve_tiny import serving

from seekling.serve import page as page_module
from seekling.serve.guard import Doors
from seekling.serve.keys import Keys

FOLDER = Path(page_module.__file__).with_name("page")
SCRIPTS = sorted(FOLDER.glob("*.js"))
STYLES = sorted(FOLDER.glob("*.css"))


@pytest.fixture(scope="module")
def served():
    with serving() as it:
        yield it


@pytest.fixture(scope="module")
def index(served):
    return httpx.get(served.url + "/")


def test_its_policy_allows_its_own_origin_only_and_no_markup_from_text(index):
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for rule in ("script-src 'self'", "style-src 'self'", "connect-src 'self'", "require-trusted-types-for 'script'"):
        assert rule in policy
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", index.text)


def test_every_file_it_names_is_there_with_its_type_and_may_be_kept(served, index):
    names = re.findall(r'(?:href|src)="(page/[^"]+)"', index.text)
    assert {Path(name).name for name in names} == {f.name for f in FOLDER.iterdir() if f.suffix != ".html"}
    for name in dict.fromkeys(names):
        file = httpx.get(f"{served.url}/{name}")
        assert file.status_code == 200 and "immutable" in file.headers["cache-control"]
        assert file.headers["content-type"] == page_module.TYPES[Path(name).suffix]
        assert file.headers["x-content-type-options"] == "nosniff"
    for wrong in (
        "page/0123456789abcdef/app.js",
        f"page/{page_module.stamp()}/nothing.js",
        f"page/{page_module.stamp()}/..%2Fpage.py",
    ):
        assert httpx.get(f"{served.url}/{wrong}").status_code == 404


def test_the_document_is_asked_for_anew_and_comes_only_where_it_changed(served, index):
    assert index.headers["cache-control"] == "no-cache"
    again = httpx.get(served.url + "/", headers={"If-None-Match": index.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_needs_no_key_and_what_it_asks_does(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    keys.add("anna")
    with serving(doors=Doors(keys)) as guarded:
        names = re.findall(r'src="(page/[^"]+\.js)"', httpx.get(guarded.url + "/").text)
        assert httpx.get(f"{guarded.url}/{names[0]}").status_code == 200
        assert httpx.get(f"{guarded.url}/v1/models").status_code == 401


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES, FOLDER / "index.html"], ids=lambda path: path.name)
def test_a_file_names_no_other_place_and_parses_no_text_as_markup(path):
    text = path.read_text("utf-8")
    places = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}  # names of XML namespaces
    assert not places and "url(" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text)
    assert len(text.splitlines()) < 400


def test_every_word_of_the_page_is_there_in_chinese():
    told = (FOLDER / "words-zh.js").read_text("utf-8")
    known = set(re.findall(r'(?:[{,]|\n)\s*"((?:[^"\\]|\\.)+)":', told)) | set(
        re.findall(r"(?:[{,]|\n)\s*([A-Za-z]\w*):", told)
    )
    used = set(re.findall(r'data-(?:t|label|hint)="([^"]+)"', (FOLDER / "index.html").read_text("utf-8")))
    for path in SCRIPTS:
        used |= set(re.findall(r'(?<![\w.])t\("((?:[^"\\]|\\.)+)"', path.read_text("utf-8")))
    assert len(used) > 150 and used - known == set()
    for english, chinese in re.findall(r'"((?:[^"\\]|\\.)+)":\s*"((?:[^"\\]|\\.)*)"', told):
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), english
