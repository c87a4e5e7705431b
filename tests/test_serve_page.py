"""The page asks nobody but its own server and runs nothing but its own script."""

import base64
import hashlib
import re

import httpx
import pytest
from engine_tiny import one_thread  # noqa: F401
from serve_tiny import serving


@pytest.fixture(scope="module")
def page():
    with serving() as served:
        yield httpx.get(served.url + "/")


def test_the_policy_allows_its_own_script_and_style_only(page):
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode() in policy
    assert not re.search(r"\son\w+=|\sstyle=", page.text)


def test_it_names_no_other_place(page):
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|//[a-z]+\.|src=|<link|@import|url\(|innerHTML|eval\(", page.text)
