"""A headless Chromium for tests of the page: one a module, its storage empty for every test."""

import importlib.util
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PACKAGE = importlib.util.find_spec("axe_playwright_python")  # brings axe-core as a file; of the rest nothing is used
AXE = os.environ.get("SEEKLING_AXE") or (PACKAGE and Path(PACKAGE.origin).with_name("axe.min.js"))  # or a newer one, from npm
with_axe = pytest.mark.skipif(not AXE, reason="needs axe-core (pip install axe-playwright-python)")


def missing():
    """Why there is no browser here, or None."""
    if shutil.which("chromium") is None:
        return "needs Debian's chromium"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs playwright's library (pip install playwright)"
    return None


PATIENCE = 120_000  # milliseconds: a loaded machine is slow, a page that hangs stays so


@contextmanager
def chromium():
    """The browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(browser, url, **options):
    """A page with empty storage that has found its server; ``asked`` are the addresses it asked, ``sent`` its chat requests.

    Errors in its scripts and breaches of its policy fail the test.
    """
    options = {"viewport": {"width": 1200, "height": 800}, "locale": "en-GB", "reduced_motion": "reduce", **options}
    context = _context(browser, options)  # one for all tests with the same options: it keeps the page's files
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
    page.asked, page.sent = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("request", lambda request: page.sent.append(request.post_data) if request.url.endswith("/completions") else None)
    page.goto(url)
    page.locator("#model:not(:empty)").wait_for(state="attached")
    try:
        yield page
        assert problems == []
    finally:
        tools = context.new_cdp_session(page)
        page.goto("about:blank")
        tools.send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "indexeddb,local_storage"})
        page.close()


def _context(browser, options):
    kept = browser.__dict__.setdefault("seekling_contexts", {})
    name = json.dumps(options, sort_keys=True)
    if name not in kept:
        kept[name] = browser.new_context(**options)
        kept[name].set_default_timeout(PATIENCE)
    return kept[name]


def ask(page, text, answers=1):
    """Send a message and wait until so many answers are complete."""
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.locator(f"article.assistant >> nth={answers - 1}").wait_for()
    complete(page)


def complete(page):
    """Wait until no answer is on its way."""
    page.locator("article[aria-busy=true]").first.wait_for(state="detached")


def violations(page):
    """What axe finds wrong with what is shown now."""
    tools = page.context.new_cdp_session(page)
    if not page.evaluate("() => 'axe' in window"):
        tools.send("Runtime.evaluate", {"expression": Path(AXE).read_text("utf-8")})
    run = (
        "axe.run(document).then(r => JSON.stringify(r.violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 200))])))"
    )
    answer = tools.send("Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True})
    return answer["result"]["value"]
